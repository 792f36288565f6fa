//! A bad day: a small mesh, how it is configured, what is asked of it and what goes wrong, all drawn from one seed.
//!
//! Swarm testing (Groce et al., ISSTA 2012): which kinds of fault may happen at all is drawn first, so that some days
//! have nothing but partitions and others everything at once; a uniform mix would hide what only many faults of one kind
//! bring to light. The rest is drawn by proptest, which can then make a day that ends badly smaller: fewer faults,
//! shorter, and every knob at its default.
//!
//! A schedule's one lasting form is a scenario file, the same that people write: it can be read, kept, replayed here and
//! run on the kernel. Faults that would hold the same process or link at one time are left out of it, the later one of
//! each two, because scenario files do not allow that.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::RngExt;

use proxy::world::RngTree;
use toml::{Table, Value};

use super::fault::{CONFIGURATION, Fault, Kind, LINK};
use super::knobs::{self, Knobs};
use crate::plan::{AppKind, Instance, Service, SidecarKind};
use crate::scenario::Scenario;

/// When load begins to be judged for nothing but being answered: faults strike before.
pub const QUIESCE_MS: u64 = 1600;
/// The length of a day.
pub const DURATION_MS: u64 = 3200;
/// The last part of it, in which all must be well again.
pub const LIVELY_MS: u64 = 500;
/// Faults in a day, at most.
const MOST_FAULTS: usize = 9;

/// The mesh of a day.
#[derive(Debug, Clone)]
pub enum Mesh {
    /// One that is drawn too.
    Drawn(Knobs),
    /// That of a scenario.
    Given(Arc<Given>),
}

/// A scenario whose own faults are left out.
#[derive(Debug)]
pub struct Given {
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

impl Given {
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
        let with_app =
            plan.instances.iter().filter(|i| matches!(&i.app, Some(app) if app.kind != AppKind::Registry));
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
            apps.map(|app| &app.kind).any(|kind| *kind != AppKind::Registry)
        };
        let called = &plan.services.iter().find(callable).expect("an instance with an app").name;
        let callers = callers.into_iter().collect();
        Ok(Arc::new(Given { file, instances, callers, everybody, called: called.clone(), duration }))
    }

    /// Those between whom and an instance links are broken: who sends load, or if only it does itself, everybody else.
    fn others(&self, there: &str) -> Vec<String> {
        let others = |of: &[String]| of.iter().filter(|name| *name != there).cloned().collect::<Vec<_>>();
        Some(others(&self.callers)).filter(|callers| !callers.is_empty()).unwrap_or(others(&self.everybody))
    }
}

/// A day.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What it was drawn from; also the seed of everything else that is left to chance in it.
    pub seed: u64,
    /// The mesh.
    pub mesh: Mesh,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// The day of a seed, and all the smaller days below it.
pub struct Drawn {
    seed: u64,
    given: Option<Arc<Given>>,
    tree: Box<dyn ValueTree<Value = (Knobs, Vec<Fault>)>>,
}

impl Drawn {
    /// Draws the day of `seed`, mesh and all.
    pub fn new(seed: u64) -> Self {
        Drawn::over(None, seed)
    }

    /// Draws what goes wrong in the mesh of a scenario.
    pub fn over(given: Option<&Arc<Given>>, seed: u64) -> Self {
        let tree = RngTree::new(seed);
        let mut rng = tree.child("kinds", 0).rng();
        let share = [0.1, 0.3, 0.5][rng.random_range(0..3)];
        let mut kinds: Vec<Kind> = Kind::FIRST.into_iter().filter(|_| rng.random_bool(share)).collect();
        if kinds.is_empty() {
            kinds.push(Kind::FIRST[rng.random_range(0..Kind::FIRST.len())]);
        }
        let kinds = kinds.into_iter().flat_map(|kind| std::iter::repeat_n(kind, kind.weight())).collect();
        let bytes: [u8; 32] = std::array::from_fn(|i| tree.child("draw", i as u64).seed() as u8);
        let chance = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), chance);
        let tree = days(kinds).new_tree(&mut runner).expect("nothing is filtered");
        Drawn { seed, given: given.cloned(), tree: Box::new(tree) }
    }

    /// The day as it stands.
    pub fn schedule(&self) -> Schedule {
        let (knobs, faults) = self.tree.current();
        let mesh = match &self.given {
            Some(given) => Mesh::Given(given.clone()),
            None => Mesh::Drawn(knobs),
        };
        Schedule { seed: self.seed, mesh, faults }
    }

    /// Makes it smaller. False: it cannot be.
    pub fn simplify(&mut self) -> bool {
        self.tree.simplify()
    }

    /// Takes a part of the last simplification back. False: there is nothing left to try.
    pub fn complicate(&mut self) -> bool {
        self.tree.complicate()
    }
}

fn days(kinds: Vec<Kind>) -> impl Strategy<Value = (Knobs, Vec<Fault>)> {
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
        let kind = Kind::ResetStreams;
        Fault { kind, replica, at, lasts, strength, stays: false }
    });
    let late = (knobs::late(), proptest::option::weighted(0.15, reset));
    (knobs::any(), proptest::collection::vec(fault, 0..=MOST_FAULTS), late).prop_map(
        |(knobs, mut faults, (late, reset))| {
            // The first of two that collide stays.
            faults.splice(0..0, reset);
            (knobs.with(late), faults)
        },
    )
}

impl Schedule {
    /// The day as a scenario file.
    pub fn scenario(&self) -> String {
        let mut text = match &self.mesh {
            Mesh::Drawn(knobs) => {
                // What apps say to checks would not be heard without any, nor what they do to HTTP/2.
                let any = |kinds: &[Kind]| self.faults.iter().any(|fault| kinds.contains(&fault.kind));
                let knobs = if any(&[Kind::Unhealthy]) { knobs.asking() } else { *knobs };
                let calls = any(&[Kind::RefuseStreams, Kind::Goaway, Kind::ResetStreams]);
                let knobs = if calls { knobs.calling() } else { knobs };
                knobs.scenario(self.seed)
            }
            Mesh::Given(given) => {
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
                // It would drain for longer than the day lasts, since who follows it never lets go of it; and who follows it asks
                // only every 10 s whether it is still there.
                Kind::Drain if self.is_registry(replica) => Kind::KillSidecar,
                Kind::Crash if self.is_registry(replica) => Kind::KillBoth,
                // It has no link.
                kind if kind.holds() == LINK && self.is_alone() => Kind::PauseApp,
                kind => kind,
            };
            let fault = Fault { kind, replica, stays: fault.stays && may_stay, ..*fault };
            let free = kept.iter().all(|other| {
                let shared = other.kind.holds() & fault.kind.holds();
                // A machine's links lead to the registry too, and where replicas call each other, to the others.
                let crashes = [other, &fault].iter().filter(|f| f.kind == Kind::Crash).count();
                let strangers = self.may_lose(other.replica) && self.may_lose(fault.replica);
                let meet = crashes == 1 && shared & LINK != 0 && !strangers;
                let joined = shared & LINK != 0 && self.are_joined(other.replica, fault.replica);
                let apart = other.replica != fault.replica && shared & CONFIGURATION == 0 && !meet && !joined;
                apart
                    || shared == 0
                    || self.end(other) < u32::from(fault.at)
                    || self.end(&fault) < u32::from(other.at)
            });
            // One replica at least is left alone after the end, or nothing could be asked of the mesh.
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
        // A sidecar that drains waits for its requests, and if it is registered for its callers to hear of it.
        let room = if fault.kind == Kind::Drain { 1200 } else { 100 };
        if fault.stays { u32::MAX } else { u32::from(fault.at) + u32::from(fault.lasts) + room }
    }

    /// Whether an instance may be broken for ever: a replica, not the registry, and nothing of a scenario's own.
    fn may_lose(&self, instance: u8) -> bool {
        matches!(&self.mesh, Mesh::Drawn(knobs) if instance < knobs.replicas())
    }

    /// Whether a fault of the links of one of two instances would hold some of the other's.
    fn are_joined(&self, one: u8, other: u8) -> bool {
        let Mesh::Given(given) = &self.mesh else { return false };
        let name = |replica: u8| &given.instances[usize::from(replica)].0;
        let among = |one: &String, other| given.others(other).contains(one);
        among(name(one), name(other)) || among(name(other), name(one))
    }

    /// Whether there is one instance, and nothing to be linked to.
    fn is_alone(&self) -> bool {
        matches!(&self.mesh, Mesh::Given(given) if given.everybody.len() == 1)
    }

    /// Whether an instance is the registry of a mesh that is drawn, the last one.
    fn is_registry(&self, instance: u8) -> bool {
        matches!(&self.mesh, Mesh::Drawn(knobs) if instance >= knobs.replicas())
    }

    /// A service that is called.
    fn called(&self) -> &str {
        match &self.mesh {
            Mesh::Drawn(_) => "orders",
            Mesh::Given(given) => &given.called,
        }
    }

    /// How many instances faults choose from.
    fn instances(&self) -> usize {
        match &self.mesh {
            Mesh::Drawn(knobs) => usize::from(knobs.replicas()) + usize::from(knobs.registry),
            Mesh::Given(given) => given.instances.len(),
        }
    }

    fn entry(&self, fault: Fault) -> String {
        let Fault { kind, replica, at, lasts, strength, stays } = fault;
        let mut obeys = true;
        let (there, callers, duration) = match &self.mesh {
            Mesh::Drawn(_) if self.is_registry(replica) => {
                obeys = false;
                ("registry".to_owned(), vec!["web".to_owned(), "orders".to_owned()], DURATION_MS)
            }
            Mesh::Drawn(_) => (format!("orders-{replica}"), vec!["web".to_owned()], DURATION_MS),
            Mesh::Given(given) => {
                let (there, is_http) = given.instances[usize::from(replica)].clone();
                obeys = is_http;
                let others = given.others(&there);
                (there, others, given.duration)
            }
        };
        let scaled = |time: u16| u64::from(time) * duration / DURATION_MS;
        let (at, lasts) = (scaled(at), scaled(lasts));
        let (app, sidecar) = (format!("{there}/app"), format!("{there}/sidecar"));
        let restart = if stays { String::new() } else { format!(", restart = \"{lasts}ms\"") };
        let kill = |process: &str, signal: &str| {
            format!("kill = {{ process = \"{process}\", signal = \"{signal}\"{restart} }}")
        };
        // Both ways, from one entry: `between` takes no more than two names.
        let ways = |keys: &str| match &callers[..] {
            [caller] => format!("link = {{ between = [\"{caller}\", \"{there}\"], {keys} }}"),
            _ => format!("link = {{ from = {callers:?}, to = [\"{there}\"], {keys} }}"),
        };
        let action = match kind {
            Kind::KillApp => kill(&app, "KILL"),
            Kind::KillSidecar => kill(&sidecar, "KILL"),
            Kind::KillBoth => kill(&there, "KILL"),
            Kind::Crash => format!("crash = {{ instance = \"{there}\"{restart} }}"),
            Kind::RefuseApp => format!("refuse = {{ process = \"{app}\" }}"),
            Kind::RefuseSidecar => format!("refuse = {{ process = \"{sidecar}\" }}"),
            Kind::Drain => kill(&sidecar, "TERM"),
            Kind::Errors
            | Kind::Slow
            | Kind::Malformed
            | Kind::Unhealthy
            | Kind::RefuseStreams
            | Kind::Goaway
            | Kind::ResetStreams
                if !obeys =>
            {
                format!("pause = {{ process = \"{app}\" }}")
            }
            Kind::PauseApp => format!("pause = {{ process = \"{app}\" }}"),
            Kind::PauseBoth => format!("pause = {{ process = \"{there}\" }}"),
            Kind::Partition => format!("partition = {{ from = {callers:?}, to = [\"{there}\"] }}"),
            Kind::OneWay => format!("partition = {{ from = [\"{there}\"], to = {callers:?} }}"),
            Kind::Loss => ways(&format!("loss = \"{}%\"", strength.div_ceil(3))),
            Kind::Delay => ways(&format!("delay = \"+{strength}ms\"")),
            Kind::Narrow => ways(&format!("bandwidth = \"{}kbit/s\"", 200 * u32::from(strength))),
            // Every other one leaves requests all their time. No mesh has this longest wait already.
            Kind::Reload if strength % 2 == 0 => {
                let (called, attempts, max) = (self.called(), 1 + strength % 3, 900 + u32::from(strength));
                format!(
                    "configure = {{ service = \"{called}\", policy = {{ retry = {{ attempts = {attempts}, max = \"{max}ms\" }} }} }}"
                )
            }
            Kind::Reload => {
                let (called, limit) = (self.called(), 20 + 2 * u32::from(strength));
                format!(
                    "configure = {{ service = \"{called}\", policy = {{ timeouts = {{ request = \"{limit}ms\", per_try = \"0s\" }} }} }}"
                )
            }
            Kind::Errors => format!("app = {{ process = \"{app}\", fail = \"{strength}%\" }}"),
            Kind::Malformed => format!("app = {{ process = \"{app}\", malformed = \"{strength}%\" }}"),
            Kind::Unhealthy => format!("app = {{ process = \"{app}\", unhealthy = \"{strength}%\" }}"),
            Kind::RefuseStreams => {
                format!("app = {{ process = \"{app}\", refuse_streams = \"{strength}%\" }}")
            }
            Kind::Goaway => format!("app = {{ process = \"{app}\", goaway = \"{strength}%\" }}"),
            Kind::ResetStreams => format!("app = {{ process = \"{app}\", reset_streams = \"{strength}%\" }}"),
            Kind::Slow => {
                format!("app = {{ process = \"{app}\", work = \"{}ms\" }}", 3 * u32::from(strength))
            }
        };
        let is_kill =
            matches!(kind, Kind::KillApp | Kind::KillSidecar | Kind::KillBoth | Kind::Crash | Kind::Drain);
        let lasts = if is_kill || stays { String::new() } else { format!("for = \"{lasts}ms\"\n") };
        format!("\n[[timeline]]\nat = \"{at}ms\"\n{lasts}{action}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn every_day_is_a_scenario_without_a_mistake() {
        for seed in 0..300 {
            let text = Drawn::new(seed).schedule().scenario();
            if let Err(errors) = scenario::parse(&format!("seed {seed}"), &text) {
                panic!("{:?}\n{text}", miette::Report::new(errors));
            }
        }
    }

    #[test]
    fn a_seed_gives_one_day_and_another_seed_another_day() {
        let day = |seed| Drawn::new(seed).schedule().scenario();
        assert_eq!(day(7), day(7));
        assert_ne!(day(7), day(8).replace('8', "7"));
    }

    #[test]
    fn a_scenario_keeps_its_mesh_and_gets_other_faults() {
        let text = Drawn::new(3).schedule().scenario();
        days_are_scenarios(&text);
    }

    /// Whatever is drawn for this scenario's mesh is a scenario.
    fn days_are_scenarios(text: &str) {
        let scenario =
            scenario::parse("given", text).unwrap_or_else(|e| panic!("{:?}", miette::Report::new(e)));
        let given = Given::new(&scenario, text).expect("something can fail");
        for seed in 0..100 {
            let day = Drawn::over(Some(&given), seed).schedule().scenario();
            if let Err(errors) = scenario::parse(&format!("seed {seed}"), &day) {
                panic!("{:?}\n{day}", miette::Report::new(errors));
            }
        }
    }

    #[test]
    fn any_mesh_of_a_file_gets_faults_or_a_word_why_not() {
        let header = "[scenario]\nname = \"given\"\nduration = \"3s\"\n";
        let registry = "[service.names]\nport = 2379\napp = { registry = {} }\n";
        let load = "[load.calls]\nfrom = \"web\"\nurl = \"http://web:80/\"\nrate = \"10/s\"\n";
        let web = |more: &str| format!("[service.web]\nport = 80\napp = {{ http = {{}} }}\n{more}");
        // A caller that calls itself, alone and with another, a registry before the app that is called, no load at all.
        for mesh in [
            web("") + load,
            web("replicas = 2\n") + load,
            web("registry = \"names\"\n") + registry + load,
            web(""),
            web("") + "[service.talk]\nport = 81\napp = { tcp = {} }\n" + load,
        ] {
            days_are_scenarios(&format!("{header}{mesh}"));
        }
        let text = format!("{header}{registry}");
        let scenario = scenario::parse("given", &text).expect("a scenario");
        assert!(
            Given::new(&scenario, &text).expect_err("nothing to break").contains("no service has an app")
        );
    }

    #[test]
    fn every_scenario_that_comes_with_the_lab_gets_faults() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        for entry in std::fs::read_dir(folder).expect("the folder of scenarios") {
            let path = entry.expect("an entry").path();
            days_are_scenarios(&std::fs::read_to_string(path).expect("a scenario"));
        }
    }

    #[test]
    fn a_day_can_be_made_smaller_until_nothing_is_left_of_it() {
        let mut drawn = (0..).map(Drawn::new).find(|d| d.schedule().faults.len() > 3).expect("a bad day");
        while drawn.simplify() {}
        let least = drawn.schedule();
        assert!(matches!(least.mesh, Mesh::Drawn(knobs) if knobs == Knobs::default()));
        assert_eq!(least.faults, []);
    }
}
