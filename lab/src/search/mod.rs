//! The search for metastable failures: a trigger comes and goes, and the mesh does not recover by
//! itself.
//!
//! Bronson et al., "Metastable failures in distributed systems" (HotOS 2021): a load that the mesh
//! carries, a short trigger, and a feedback (mostly retries of work that nobody waits for any more)
//! that keeps it down long after the trigger. Whether this happens depends on the settings of the
//! mesh, so the search runs a scenario under every combination of load, retries, time limits and
//! ejection, and draws the map of the outcomes (`map`). A setting that does not recover is tried
//! with ever smaller triggers ([`Search::smallest_trigger`]), because the smallest is the one to be
//! afraid of.
//!
//! The scenario brings the mesh, the usual load and the trigger, which is its whole timeline.
//! Virtual time makes an hour of this a few minutes; the scenario that comes out runs on the kernel
//! as well.

use std::rc::Rc;
use std::time::Duration;

use toml::{Table, Value};

use crate::fault;
use crate::history;
use crate::load::{Outcome, Record};
use crate::plan::{Plan, SidecarKind};
use crate::run::Silent;
use crate::scenario::{self, Scenario};
use crate::sim::{Mesh, SimFailure, Simulation};
use crate::syntax::settings::merge;
use crate::syntax::units::{Rate, Span};

pub(crate) mod map;

/// The built-in scenario: three replicas at four fifths of their capacity, unreachable for a second
/// and a half.
pub const USUAL: &str = include_str!("../../../scenarios/metastable.toml");

/// Shares of the scenario's own load.
pub const LOADS: [f64; 5] = [0.5, 0.75, 1.0, 1.1, 1.2];

/// A choice of one knob: what the map calls it, and keys for the policy of every service that is
/// called.
pub type Choice = (&'static str, &'static str);

/// What the map calls the scenario's own choice, always the first row.
const AS_IT_IS: Choice = ("as it is", "");
/// What limits retries.
pub const RETRIES: [Choice; 3] = [
    AS_IT_IS,
    ("no budget", "retry_budget = { share = \"100%\", per_second = 100000, reserve = 100000 }"),
    ("none", "retry = { attempts = 0 }"),
];
/// How long one attempt may take.
pub const TIMEOUTS: [Choice; 3] = [
    AS_IT_IS,
    ("400ms", "timeouts = { per_try = \"400ms\" }"),
    ("150ms", "timeouts = { per_try = \"150ms\" }"),
];
/// Whether endpoints that fail are ejected.
pub const EJECTION: [Choice; 2] =
    [AS_IT_IS, ("off", "outlier_detection = { consecutive_failures = 0, success_rate = \"0%\" }")];

/// The share of requests that must succeed for the mesh to count as healthy.
const WELL: f64 = 0.95;
/// Width of the windows in which that is looked at.
const WINDOW: Duration = Duration::from_millis(500);
/// A mesh that is healthy for no longer than this at the end of the run may be so by chance.
const SURE: Duration = Duration::from_secs(1);
/// How finely triggers are told apart, in shares of the scenario's own.
const FINENESS: f64 = 0.02;

/// A setting: rows of the tables above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SearchPoint {
    /// Of [`RETRIES`].
    pub retries: usize,
    /// Of [`TIMEOUTS`].
    pub timeout: usize,
    /// Of [`EJECTION`].
    pub ejection: usize,
    /// Of [`LOADS`].
    pub load: usize,
}

impl SearchPoint {
    /// Every setting, in the order of the map.
    pub fn all() -> Vec<SearchPoint> {
        let mut all = Vec::new();
        for retries in 0..RETRIES.len() {
            for timeout in 0..TIMEOUTS.len() {
                for ejection in 0..EJECTION.len() {
                    all.extend((0..LOADS.len()).map(|load| SearchPoint { retries, timeout, ejection, load }));
                }
            }
        }
        all
    }

    /// Whether it is the scenario's own but for the load.
    pub fn is_own(self) -> bool {
        (self.retries, self.timeout, self.ejection) == (0, 0, 0)
    }

    fn rows(self) -> [Choice; 3] {
        [RETRIES[self.retries], TIMEOUTS[self.timeout], EJECTION[self.ejection]]
    }
}

/// How a mesh fared in a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MeshOutcome {
    /// It was not healthy before the trigger, so the load is too high for it.
    Overloaded,
    /// It was healthy again so long after the end of the trigger, and stayed so.
    Recovered(Duration),
    /// It was not healthy again when the run ended, so long after the end of the trigger.
    Stuck(Duration),
}

impl MeshOutcome {
    /// The worse of two.
    pub fn worst(self, other: MeshOutcome) -> MeshOutcome {
        let rank = |mesh_outcome: MeshOutcome| match mesh_outcome {
            MeshOutcome::Recovered(after) => (0, after),
            MeshOutcome::Stuck(for_) => (1, for_),
            MeshOutcome::Overloaded => (2, Duration::ZERO),
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

/// The smallest trigger after which a mesh does not recover.
#[derive(Debug)]
pub struct SmallestTrigger {
    /// How long it lasts, in shares of the scenario's own.
    pub share: f64,
    /// How long the scenario's faults last then, together.
    pub lasts: Duration,
    /// The scenario, with the setting and this trigger.
    pub text: String,
}

/// A scenario to search.
pub struct Search {
    file: Table,
    /// Names of the services that are called.
    called: Vec<String>,
    /// Requests a second of all load generators together.
    rate: f64,
}

impl Search {
    /// Takes the mesh, the load and the trigger of a scenario, whose file has this `text`.
    ///
    /// # Errors
    /// If it has no load or no trigger, or one that does not end.
    ///
    /// # Panics
    /// If the text is not that of a scenario.
    pub fn new(scenario: &Scenario, text: &str) -> Result<Search, String> {
        let plan = scenario.plan(SidecarKind::Ours);
        let file = toml::from_str(text).expect("a scenario is TOML");
        if plan.loads.is_empty() {
            return Err("there is no load, so there is nothing to recover".into());
        }
        if plan.timeline.is_empty() {
            return Err("there is no [[timeline]], so nothing can trigger a failure".into());
        }
        if let Some(entry) = plan.timeline.iter().find(|entry| entry.until.is_none()) {
            return Err(format!(
                "`{}` does not end, so nothing can be said about the time after it",
                entry.name
            ));
        }
        let mut called: Vec<String> = plan.loads.iter().map(|load| load.target.host.clone()).collect();
        called.sort();
        called.dedup();
        called.retain(|name| plan.services.iter().any(|service| service.name == *name));
        Ok(Search { file, called, rate: plan.loads.iter().map(|load| load.rate).sum() })
    }

    /// Requests a second at a share of the scenario's load.
    pub fn rate(&self, load: usize) -> f64 {
        self.rate * LOADS[load]
    }

    /// The scenario with a setting, and with faults that last for a share of their time.
    pub fn text(&self, point: SearchPoint, trigger: f64) -> String {
        let mut file = self.file.clone();
        for name in &self.called {
            let service = file["service"][name].as_table_mut().expect("a service is a table");
            let policy = service.entry("policy").or_insert_with(|| Table::new().into());
            for (_, keys) in point.rows() {
                let keys = toml::from_str(keys).expect("the rows are TOML");
                merge(policy.as_table_mut().expect("a policy is a table"), keys);
            }
        }
        for (_, load) in file["load"].as_table_mut().expect("loads are a table") {
            scale(&mut load["rate"], |rate: Rate| Rate(rate.0 * LOADS[point.load]));
        }
        for entry in file["timeline"].as_array_mut().expect("a timeline is a list") {
            let shorter = |span: Span| Span(shorter(span.0, trigger));
            let entry = entry.as_table_mut().expect("an entry is a table");
            if let Some(lasts) = entry.get_mut("for") {
                scale(lasts, shorter);
            }
            for kind in fault::KINDS {
                for key in kind.times {
                    if let Some(time) = entry.get_mut(kind.key).and_then(|table| table.get_mut(*key)) {
                        scale(time, shorter);
                    }
                }
            }
        }
        file.to_string()
    }

    /// The outcome of a run with a setting.
    ///
    /// # Errors
    /// If the run did not come to its end.
    pub fn mesh_outcome(
        &self,
        point: SearchPoint,
        trigger: f64,
        seed: u64,
    ) -> Result<MeshOutcome, SimFailure> {
        let text = self.text(point, trigger);
        let scenario = scenario::parse("a setting", &text)
            .unwrap_or_else(|errors| panic!("{:?}\n{text}", miette::Report::new(errors)));
        // The same that `lab sim` would run, or what is found could not be replayed.
        let mut plan = history::plan(&scenario, SidecarKind::Ours, seed);
        plan.expectations.clear();
        let simulation = Simulation::new(&plan, seed, Mesh::default());
        let seen = history::observe(simulation, &plan, Rc::new(Silent))?.value;
        Ok(mesh_outcome(&plan, seen.records.iter().flatten()))
    }

    /// The smallest trigger with which a setting does not recover. `None` if it does even with the
    /// scenario's own.
    ///
    /// # Errors
    /// As [`Search::mesh_outcome`].
    pub fn smallest_trigger(
        &self,
        point: SearchPoint,
        seed: u64,
    ) -> Result<Option<SmallestTrigger>, SimFailure> {
        let is_enough =
            |trigger| Ok(matches!(self.mesh_outcome(point, trigger, seed)?, MeshOutcome::Stuck(_)));
        if !is_enough(1.0)? {
            return Ok(None);
        }
        let (mut too_little, mut enough) = (0.0, 1.0);
        while enough - too_little > FINENESS {
            let middle = f64::midpoint(too_little, enough);
            *if is_enough(middle)? { &mut enough } else { &mut too_little } = middle;
        }
        let text = with_seed(&self.text(point, enough), seed);
        let plan =
            scenario::parse("the smallest trigger", &text).expect("it has just run").plan(SidecarKind::Ours);
        let lasts = plan.timeline.iter().filter_map(|entry| Some(entry.until? - entry.at)).sum();
        Ok(Some(SmallestTrigger { share: enough, lasts, text }))
    }
}

/// A scenario's text with another seed.
fn with_seed(text: &str, seed: u64) -> String {
    let mut file: Table = toml::from_str(text).expect("a scenario is TOML");
    let header = file["scenario"].as_table_mut().expect("the header is a table");
    header.insert("seed".into(), (seed as i64).into());
    file.to_string()
}

/// In whole milliseconds, and never nothing.
fn shorter(span: Duration, share: f64) -> Duration {
    Duration::from_millis((span.as_millis() as f64 * share).round().max(1.0) as u64)
}

/// Replaces a value with a unit by another.
fn scale<T: std::str::FromStr<Err = String> + std::fmt::Display>(value: &mut Value, to: impl FnOnce(T) -> T) {
    if let Some(now) = value.as_str().and_then(|text| text.parse().ok()) {
        *value = Value::String(to(now).to_string());
    }
}

/// The outcome of a run, from when its requests were due and how they ended.
fn mesh_outcome<'a>(plan: &Plan, records: impl Iterator<Item = &'a Record>) -> MeshOutcome {
    let window = WINDOW.as_micros() as i64;
    let windows = (plan.duration.as_micros() as i64 / window).max(1) as usize;
    let mut counts = vec![(0_u64, 0_u64); windows];
    for record in records.filter(|record| record.due_us >= 0) {
        let Some((all, ok)) = counts.get_mut((record.due_us / window) as usize) else { continue };
        *all += 1;
        *ok += u64::from(record.outcome == Outcome::Ok);
    }
    let is_well = |(all, ok): &(u64, u64)| *ok as f64 >= *all as f64 * WELL;
    let begin = plan.timeline.iter().map(|entry| entry.at).min().unwrap_or_default();
    let end = plan.timeline.iter().filter_map(|entry| entry.until).max().unwrap_or_default();
    let before = (begin.as_micros() as i64 / window) as usize;
    if !counts[..before.min(windows)].iter().all(is_well) {
        return MeshOutcome::Overloaded;
    }
    // The first window from which on all is well.
    let well_from = counts.iter().rposition(|count| !is_well(count)).map_or(0, |last| last + 1);
    let well_at = WINDOW * well_from as u32;
    if well_at + SURE > plan.duration {
        return MeshOutcome::Stuck(plan.duration.saturating_sub(end));
    }
    MeshOutcome::Recovered(well_at.saturating_sub(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> (Search, Scenario) {
        let scenario = scenario::parse("usual", USUAL).expect("a scenario");
        (Search::new(&scenario, USUAL).expect("it can be searched"), scenario)
    }

    const AS_IT_IS: SearchPoint = SearchPoint { retries: 0, timeout: 0, ejection: 0, load: 2 };

    #[test]
    fn every_setting_is_a_scenario_without_a_mistake() {
        let (search, _) = usual();
        for point in SearchPoint::all() {
            let text = search.text(point, 0.3);
            if let Err(errors) = scenario::parse("a setting", &text) {
                panic!("{point:?}: {:?}\n{text}", miette::Report::new(errors));
            }
        }
    }

    #[test]
    fn a_setting_changes_the_policy_the_rate_and_the_length_of_the_trigger() {
        let (search, scenario) = usual();
        let own = scenario.plan(SidecarKind::Ours);
        let point = SearchPoint { retries: 2, load: 0, ..AS_IT_IS };
        let plan =
            scenario::parse("setting", &search.text(point, 0.5)).expect("a scenario").plan(SidecarKind::Ours);
        assert_eq!(plan.loads[0].rate, own.loads[0].rate * 0.5);
        let lasts = |plan: &Plan| plan.timeline[0].until.expect("an end") - plan.timeline[0].at;
        assert_eq!(lasts(&plan), lasts(&own) / 2);
        let orders = plan.services.iter().find(|service| service.name == "orders").expect("orders");
        assert_eq!(orders.policy["retry"]["attempts"], Value::Integer(0));
    }

    #[test]
    fn an_outcome_follows_from_when_requests_were_due() {
        let (_, scenario) = usual();
        let plan = scenario.plan(SidecarKind::Ours);
        let end = plan.timeline[0].until.expect("an end");
        let outcome_of = |is_ok: &dyn Fn(Duration) -> bool| {
            let records: Vec<Record> = (0..plan.duration.as_millis() as i64 / 10)
                .map(|n| {
                    let ok = is_ok(Duration::from_millis(n as u64 * 10));
                    let outcome = if ok { Outcome::Ok } else { Outcome::Timeout };
                    Record { due_us: n * 10_000, latency_us: 1, late_us: 0, outcome }
                })
                .collect();
            mesh_outcome(&plan, records.iter())
        };
        assert_eq!(outcome_of(&|_| true), MeshOutcome::Recovered(Duration::ZERO));
        assert_eq!(outcome_of(&|at| at > WINDOW), MeshOutcome::Overloaded);
        assert!(matches!(outcome_of(&|at| at < plan.timeline[0].at), MeshOutcome::Stuck(_)));
        let late = end + Duration::from_secs(2);
        let MeshOutcome::Recovered(after) = outcome_of(&|at| at < plan.timeline[0].at || at > late) else {
            panic!("it recovers");
        };
        assert!(after >= Duration::from_secs(2) && after < Duration::from_secs(2) + 2 * WINDOW, "{after:?}");
    }
}
