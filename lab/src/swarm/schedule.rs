//! The schedule of a swarm run: a small mesh, its configuration, its load and its faults, all drawn
//! from one seed.
//!
//! Swarm testing (Groce et al., ISSTA 2012): which kinds of fault may happen at all is drawn first,
//! so that some runs have nothing but partitions and others everything at once; a uniform mix would
//! hide what only many faults of one kind bring to light. The rest is drawn by proptest, which can
//! then shrink a run that fails: fewer faults, shorter, and every knob at its default.
//!
//! A schedule is kept as a scenario file, like those that people write: it can be read, stored,
//! replayed here and run on the kernel. Of two faults that would hold the same process or link at
//! one time, the later one is left out, because scenario files do not allow that.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::RngExt;

use proxy::world::RngTree;
use toml::{Table, Value};

use super::fault::{CONFIGURATION, Fault, FaultKind, LINK};
use super::identity;
use super::knobs::{self, Knobs};
use crate::app::AppKind;
use crate::plan::{Instance, Service, SidecarKind};
use crate::scenario::Scenario;

/// No fault begins later than this; from here on, load is judged only by whether it is answered.
pub const QUIESCE_MS: u64 = 1600;
/// The length of a run.
pub const DURATION_MS: u64 = 3200;
/// The last part of it, in which all requests must succeed again.
pub const LIVELY_MS: u64 = 500;
/// Faults in a run, at most.
const MOST_FAULTS: usize = 9;

/// The mesh of a run.
#[derive(Debug, Clone)]
pub enum MeshSource {
    /// One that is drawn too.
    Drawn(Knobs),
    /// That of a scenario.
    Given(Arc<GivenMesh>),
}

/// A scenario whose own faults are left out.
#[derive(Debug)]
pub struct GivenMesh {
    file: Table,
    /// Its instances that have an app, and whether that can be told how to answer.
    instances: Vec<(String, bool)>,
    /// The instances that send load.
    callers: Vec<String>,
    /// All of them.
    everybody: Vec<String>,
    /// A service that they call.
    called: String,
    /// In milliseconds.
    duration: u64,
}

impl GivenMesh {
    /// Takes the faults out of a scenario, whose file has this `text`, and what it expects of them.
    ///
    /// # Errors
    /// If there is nothing in it that faults could be drawn for; says what.
    ///
    /// # Panics
    /// If the text is not that of a scenario.
    pub fn new(scenario: &Scenario, text: &str) -> Result<Arc<Self>, String> {
        let plan = scenario.plan(SidecarKind::Ours);
        let mut file: Table = toml::from_str(text).expect("a scenario is TOML");
        file.remove("timeline");
        file.remove("expect");
        let is_registry = |kind: &AppKind| matches!(kind, AppKind::Registry(_));
        let with_app =
            plan.instances.iter().filter(|i| i.app.as_ref().is_some_and(|app| !is_registry(&app.kind)));
        let is_http =
            |instance: &Instance| matches!(&instance.app, Some(app) if matches!(app.kind, AppKind::Http(_)));
        let instances: Vec<_> = with_app.map(|instance| (instance.name.clone(), is_http(instance))).collect();
        if instances.is_empty() {
            return Err("no service has an app that could fail, only registries and senders of load".into());
        }
        let everybody = plan.instances.iter().map(|instance| instance.name.clone()).collect();
        let callers: BTreeSet<_> =
            plan.loads.iter().map(|load| plan.instances[load.from].name.clone()).collect();
        let duration = plan.duration.as_millis() as u64;
        let callable = |service: &&Service| {
            let apps = service.instances.iter().filter_map(|i| plan.instances[*i].app.as_ref());
            apps.map(|app| &app.kind).any(|kind| !is_registry(kind))
        };
        let called = &plan.services.iter().find(callable).expect("an instance with an app").name;
        let callers = callers.into_iter().collect();
        Ok(Arc::new(GivenMesh { file, instances, callers, everybody, called: called.clone(), duration }))
    }

    /// The other ends of the links of an instance that a fault breaks: the senders of load, or all
    /// others if only the instance itself sends load.
    fn others(&self, there: &str) -> Vec<String> {
        let others = |of: &[String]| of.iter().filter(|name| *name != there).cloned().collect::<Vec<_>>();
        Some(others(&self.callers)).filter(|callers| !callers.is_empty()).unwrap_or(others(&self.everybody))
    }
}

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What it was drawn from; also the seed of everything else that is left to chance in it.
    pub seed: u64,
    /// The mesh.
    pub mesh: MeshSource,
    /// The faults.
    pub faults: Vec<Fault>,
}

/// The schedule of a seed, and all the smaller ones that it can shrink to.
pub struct Drawn {
    seed: u64,
    given: Option<Arc<GivenMesh>>,
    tree: Box<dyn ValueTree<Value = (Knobs, Vec<Fault>)>>,
}

impl Drawn {
    /// Draws mesh and faults of `seed`.
    pub fn new(seed: u64) -> Self {
        Drawn::over(None, seed)
    }

    /// Draws faults for the mesh of a scenario.
    pub fn over(given: Option<&Arc<GivenMesh>>, seed: u64) -> Self {
        let tree = RngTree::new(seed);
        let mut rng = tree.child("kinds", 0).rng();
        let share = [0.1, 0.3, 0.5][rng.random_range(0..3)];
        let mut kinds: Vec<FaultKind> =
            FaultKind::FIRST.into_iter().filter(|_| rng.random_bool(share)).collect();
        if kinds.is_empty() {
            kinds.push(FaultKind::FIRST[rng.random_range(0..FaultKind::FIRST.len())]);
        }
        let kinds = kinds.into_iter().flat_map(|kind| std::iter::repeat_n(kind, kind.weight())).collect();
        let bytes: [u8; 32] = std::array::from_fn(|i| tree.child("draw", i as u64).seed() as u8);
        let chance = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), chance);
        let tree = runs(kinds).new_tree(&mut runner).expect("nothing is filtered");
        Drawn { seed, given: given.cloned(), tree: Box::new(tree) }
    }

    /// The current schedule.
    pub fn schedule(&self) -> Schedule {
        let (knobs, faults) = self.tree.current();
        let mesh = match &self.given {
            Some(given) => MeshSource::Given(given.clone()),
            None => MeshSource::Drawn(knobs),
        };
        Schedule { seed: self.seed, mesh, faults }
    }

    /// Makes it smaller. False: it cannot be made smaller.
    pub fn simplify(&mut self) -> bool {
        self.tree.simplify()
    }

    /// Takes a part of the last simplification back. False: there is nothing left to try.
    pub fn complicate(&mut self) -> bool {
        self.tree.complicate()
    }
}

fn runs(kinds: Vec<FaultKind>) -> impl Strategy<Value = (Knobs, Vec<Fault>)> {
    let fault = (
        0..kinds.len(),
        any::<u8>(),
        100..QUIESCE_MS as u16 - 200,
        20..700_u16,
        1..=100_u8,
        proptest::bool::weighted(0.35),
    );
    let fault = fault.prop_map(move |(kind, replica, at, lasts, strength, stays)| {
        let kind = kinds[kind];
        Fault { kind, replica, at, lasts, strength, stays: stays && kind.may_stay() }
    });
    // Longer than others: calls are few.
    let reset = (any::<u8>(), 100..QUIESCE_MS as u16 - 600, 200..800_u16, 30..=100_u8);
    let reset = reset.prop_map(|(replica, at, lasts, strength)| {
        let kind = FaultKind::ResetStreams;
        Fault { kind, replica, at, lasts, strength, stays: false }
    });
    let late = (knobs::late(), proptest::option::weighted(0.15, reset), identity::any());
    (knobs::any(), proptest::collection::vec(fault, 0..=MOST_FAULTS), late).prop_map(
        |(knobs, mut faults, (late, reset, identity))| {
            // The first of two that collide stays.
            faults.splice(0..0, reset);
            (knobs.with(late).of(identity), faults)
        },
    )
}

impl Schedule {
    /// The run as a scenario file.
    pub fn scenario(&self) -> String {
        let mut text = match &self.mesh {
            MeshSource::Drawn(knobs) => {
                // Without checks or HTTP/2, faults of these kinds would have no effect.
                let any = |kinds: &[FaultKind]| self.faults.iter().any(|fault| kinds.contains(&fault.kind));
                let knobs = if any(&[FaultKind::Unhealthy]) { knobs.asking() } else { *knobs };
                let calls = any(&[FaultKind::RefuseStreams, FaultKind::Goaway, FaultKind::ResetStreams]);
                let knobs = if calls { knobs.calling() } else { knobs };
                knobs.scenario(self.seed)
            }
            MeshSource::Given(given) => {
                let mut file = given.file.clone();
                if let Some(Value::Table(header)) = file.get_mut("scenario") {
                    header.insert("seed".into(), (self.seed as i64).into());
                }
                file.to_string()
            }
        };
        for fault in self.compatible() {
            text += &self.entry(fault);
        }
        text
    }

    /// The faults without those that collide with an earlier one, in the order of time.
    pub fn compatible(&self) -> Vec<Fault> {
        let mut kept: Vec<Fault> = Vec::new();
        let count = self.instances();
        for fault in &self.faults {
            let replica = (usize::from(fault.replica) % count) as u8;
            let may_stay = self.may_lose(replica);
            let kind = match fault.kind {
                // It would drain for longer than the run lasts, because a watcher never closes its
                // stream; and a watcher checks only every 10 s whether it is still there.
                FaultKind::Drain if self.is_registry(replica) => FaultKind::KillSidecar,
                FaultKind::Crash if self.is_registry(replica) => FaultKind::KillBoth,
                // It has no link.
                kind if kind.holds() == LINK && self.is_alone() => FaultKind::PauseApp,
                kind => kind,
            };
            let fault = Fault { kind, replica, stays: fault.stays && may_stay, ..*fault };
            let free = kept.iter().all(|other| {
                let shared = other.kind.holds() & fault.kind.holds();
                // A machine's links lead to the registry too, and where replicas call each other,
                // to the others.
                let crashes = [other, &fault].iter().filter(|f| f.kind == FaultKind::Crash).count();
                let strangers = self.may_lose(other.replica) && self.may_lose(fault.replica);
                let meet = crashes == 1 && shared & LINK != 0 && !strangers;
                let joined = shared & LINK != 0 && self.are_joined(other.replica, fault.replica);
                let apart = other.replica != fault.replica && shared & CONFIGURATION == 0 && !meet && !joined;
                apart
                    || shared == 0
                    || self.end(other) < u32::from(fault.at)
                    || self.end(&fault) < u32::from(other.at)
            });
            // At least one replica is free of faults after the end, or nothing could be asked of
            // the mesh.
            let staying = kept.iter().filter(|other| other.stays).map(|other| other.replica);
            let staying: BTreeSet<u8> = staying.chain(fault.stays.then_some(fault.replica)).collect();
            if free
                && (staying.is_empty() || (0..count as u8).any(|r| self.may_lose(r) && !staying.contains(&r)))
            {
                kept.push(fault);
            }
        }
        kept.sort_by_key(|fault| fault.at);
        kept
    }

    /// The end of a fault, with room for a process that takes its time to go or to come back.
    fn end(&self, fault: &Fault) -> u32 {
        // A sidecar that drains waits for its requests, and if it is registered for its callers to
        // hear of it.
        let room = if fault.kind == FaultKind::Drain { 1200 } else { 100 };
        if fault.stays { u32::MAX } else { u32::from(fault.at) + u32::from(fault.lasts) + room }
    }

    /// Whether a fault of an instance may be permanent: a drawn replica, neither the registry nor
    /// an instance of a scenario.
    fn may_lose(&self, instance: u8) -> bool {
        matches!(&self.mesh, MeshSource::Drawn(knobs) if instance < knobs.replicas())
    }

    /// Whether a fault of the links of one of two instances would hold some of the other's.
    fn are_joined(&self, one: u8, other: u8) -> bool {
        let MeshSource::Given(given) = &self.mesh else { return false };
        let name = |replica: u8| &given.instances[usize::from(replica)].0;
        let among = |one: &String, other| given.others(other).contains(one);
        among(name(one), name(other)) || among(name(other), name(one))
    }

    /// Whether there is one instance, and nothing to be linked to.
    fn is_alone(&self) -> bool {
        matches!(&self.mesh, MeshSource::Given(given) if given.everybody.len() == 1)
    }

    /// Whether an instance is the registry of a mesh that is drawn, the last one.
    fn is_registry(&self, instance: u8) -> bool {
        matches!(&self.mesh, MeshSource::Drawn(knobs) if instance >= knobs.replicas())
    }

    /// A service that is called.
    fn called(&self) -> &str {
        match &self.mesh {
            MeshSource::Drawn(_) => "orders",
            MeshSource::Given(given) => &given.called,
        }
    }

    /// How many instances faults choose from.
    fn instances(&self) -> usize {
        match &self.mesh {
            MeshSource::Drawn(knobs) => usize::from(knobs.replicas()) + usize::from(knobs.registry),
            MeshSource::Given(given) => given.instances.len(),
        }
    }

    fn entry(&self, fault: Fault) -> String {
        let Fault { kind, replica, at, lasts, strength, stays } = fault;
        let mut obeys = true;
        let (there, callers, duration) = match &self.mesh {
            MeshSource::Drawn(_) if self.is_registry(replica) => {
                obeys = false;
                ("registry".to_owned(), vec!["web".to_owned(), "orders".to_owned()], DURATION_MS)
            }
            MeshSource::Drawn(_) => (format!("orders-{replica}"), vec!["web".to_owned()], DURATION_MS),
            MeshSource::Given(given) => {
                let (there, is_http) = given.instances[usize::from(replica)].clone();
                obeys = is_http;
                let others = given.others(&there);
                (there, others, given.duration)
            }
        };
        let scaled = |time: u16| u64::from(time) * duration / DURATION_MS;
        let (at, lasts) = (scaled(at), scaled(lasts));
        let restart = if stays { String::new() } else { format!(", restart = \"{lasts}ms\"") };
        let action = match kind.is_of_http_app() && !obeys {
            true => format!("pause = {{ process = \"{there}/app\" }}"),
            false => action(kind, strength, (&there, &callers, self.called()), &restart),
        };
        let lasts =
            if kind.ends_processes() || stays { String::new() } else { format!("for = \"{lasts}ms\"\n") };
        format!("\n[[timeline]]\nat = \"{at}ms\"\n{lasts}{action}\n")
    }
}

/// What a fault does, as a key of its entry: to the instance `there`, to its links with `callers`,
/// or to how the service `called` is called. `restart` stands in the tables of faults that end
/// processes.
fn action(
    kind: FaultKind,
    strength: u8,
    (there, callers, called): (&str, &[String], &str),
    restart: &str,
) -> String {
    let kill = |process: &str, signal: &str| {
        format!("kill = {{ process = \"{there}{process}\", signal = \"{signal}\"{restart} }}")
    };
    let on = |key: &str, process: &str| format!("{key} = {{ process = \"{there}{process}\" }}");
    let behaves =
        |key: &str, value: &str| format!("app = {{ process = \"{there}/app\", {key} = \"{value}\" }}");
    let share = |key: &str| behaves(key, &format!("{strength}%"));
    // Both ways, from one entry: `between` takes no more than two names.
    let ways = |keys: &str| match callers {
        [caller] => format!("link = {{ between = [\"{caller}\", \"{there}\"], {keys} }}"),
        _ => format!("link = {{ from = {callers:?}, to = [\"{there}\"], {keys} }}"),
    };
    match kind {
        FaultKind::KillApp => kill("/app", "KILL"),
        FaultKind::KillSidecar => kill("/sidecar", "KILL"),
        FaultKind::KillBoth => kill("", "KILL"),
        FaultKind::Drain => kill("/sidecar", "TERM"),
        FaultKind::Crash => format!("crash = {{ instance = \"{there}\"{restart} }}"),
        FaultKind::RefuseApp => on("refuse", "/app"),
        FaultKind::RefuseSidecar => on("refuse", "/sidecar"),
        FaultKind::PauseApp => on("pause", "/app"),
        FaultKind::PauseBoth => on("pause", ""),
        FaultKind::Partition => format!("partition = {{ from = {callers:?}, to = [\"{there}\"] }}"),
        FaultKind::OneWay => format!("partition = {{ from = [\"{there}\"], to = {callers:?} }}"),
        FaultKind::Loss => ways(&format!("loss = \"{}%\"", strength.div_ceil(3))),
        FaultKind::Delay => ways(&format!("delay = \"+{strength}ms\"")),
        FaultKind::Narrow => ways(&format!("bandwidth = \"{}kbit/s\"", 200 * u32::from(strength))),
        FaultKind::Reload => reload(called, strength),
        FaultKind::Errors => share("fail"),
        FaultKind::Malformed => share("malformed"),
        FaultKind::Unhealthy => share("unhealthy"),
        FaultKind::RefuseStreams => share("refuse_streams"),
        FaultKind::Goaway => share("goaway"),
        FaultKind::ResetStreams => share("reset_streams"),
        FaultKind::Slow => behaves("work", &format!("{}ms", 3 * u32::from(strength))),
    }
}

/// Another configuration for the sidecars. Every other one leaves requests all their time. No mesh
/// has this back-off already, so the reload changes something.
fn reload(called: &str, strength: u8) -> String {
    let policy = if strength.is_multiple_of(2) {
        let (attempts, max) = (1 + strength % 3, 900 + u32::from(strength));
        format!("retry = {{ attempts = {attempts}, max = \"{max}ms\" }}")
    } else {
        let limit = 20 + 2 * u32::from(strength);
        format!("timeouts = {{ request = \"{limit}ms\", per_try = \"0s\" }}")
    };
    format!("configure = {{ service = \"{called}\", policy = {{ {policy} }} }}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn every_schedule_is_a_scenario_without_a_mistake() {
        for seed in 0..300 {
            let text = Drawn::new(seed).schedule().scenario();
            if let Err(errors) = scenario::parse(&format!("seed {seed}"), &text) {
                panic!("{:?}\n{text}", miette::Report::new(errors));
            }
        }
    }

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another_one() {
        let text = |seed| Drawn::new(seed).schedule().scenario();
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8).replace('8', "7"));
    }

    #[test]
    fn a_scenario_keeps_its_mesh_and_gets_other_faults() {
        let text = Drawn::new(3).schedule().scenario();
        draws_are_scenarios(&text);
    }

    /// Asserts that whatever is drawn for this mesh is a valid scenario.
    fn draws_are_scenarios(text: &str) {
        let scenario =
            scenario::parse("given", text).unwrap_or_else(|e| panic!("{:?}", miette::Report::new(e)));
        let given = GivenMesh::new(&scenario, text).expect("something can fail");
        for seed in 0..100 {
            let drawn = Drawn::over(Some(&given), seed).schedule().scenario();
            if let Err(errors) = scenario::parse(&format!("seed {seed}"), &drawn) {
                panic!("{:?}\n{drawn}", miette::Report::new(errors));
            }
        }
    }

    #[test]
    fn any_mesh_of_a_file_gets_faults_or_a_word_why_not() {
        let header = "[scenario]\nname = \"given\"\nduration = \"3s\"\n";
        let registry = "[service.names]\nport = 2379\napp = { registry = {} }\n";
        let load = "[load.calls]\nfrom = \"web\"\nurl = \"http://web:80/\"\nrate = \"10/s\"\n";
        let web = |more: &str| format!("[service.web]\nport = 80\napp = {{ http = {{}} }}\n{more}");
        // A caller that calls itself, alone and with another, a registry before the app that is
        // called, no load at all.
        for mesh in [
            web("") + load,
            web("replicas = 2\n") + load,
            web("registry = \"names\"\n") + registry + load,
            web(""),
            web("") + "[service.talk]\nport = 81\napp = { tcp = {} }\n" + load,
        ] {
            draws_are_scenarios(&format!("{header}{mesh}"));
        }
        let text = format!("{header}{registry}");
        let scenario = scenario::parse("given", &text).expect("a scenario");
        assert!(
            GivenMesh::new(&scenario, &text).expect_err("nothing to break").contains("no service has an app")
        );
    }

    #[test]
    fn every_scenario_that_comes_with_the_lab_gets_faults() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        for entry in std::fs::read_dir(folder).expect("the folder of scenarios") {
            let path = entry.expect("an entry").path();
            draws_are_scenarios(&std::fs::read_to_string(path).expect("a scenario"));
        }
    }

    #[test]
    fn a_schedule_can_be_shrunk_until_no_fault_is_left() {
        let mut drawn = (0..).map(Drawn::new).find(|d| d.schedule().faults.len() > 3).expect("a swarm run");
        while drawn.simplify() {}
        let least = drawn.schedule();
        assert!(matches!(least.mesh, MeshSource::Drawn(knobs) if knobs == Knobs::default()));
        assert_eq!(least.faults, []);
    }
}
