use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;
use crate::fault::{Action, Kill, Restart};
use crate::load::{Load, LoadTimes, Outcome, Record, RecordSink};
use crate::mesh::ProcessId;
use crate::metrics::Scrape;
use crate::scenario::Scenario;
use crate::scenario::builder::{ExpectSpec, FaultSpec, HttpSpec, LoadSpec, ServiceSpec};
use crate::world::{Fidelity, WorldKind};

/// A world that does as it is told, and writes down what it was asked.
#[derive(Default)]
struct Fake {
    up: Option<fn() -> Error>,
    load: Option<fn() -> Error>,
    /// Entries whose `apply` never returns.
    hangs: &'static [&'static str],
    apply: Option<fn() -> Error>,
    revert: Option<fn() -> Error>,
    ended: RefCell<Vec<ProcessExit>>,
    fidelity: Fidelity,
    left_behind: Option<fn() -> Error>,
    said: RefCell<Vec<String>>,
    downs: Cell<u32>,
}

impl Fake {
    fn say(&self, what: impl Into<String>) {
        self.said.borrow_mut().push(what.into());
    }
}

fn or(error: Option<fn() -> Error>) -> Result<(), Error> {
    error.map_or(Ok(()), |error| Err(error()))
}

impl World for Fake {
    fn kind(&self) -> WorldKind {
        WorldKind::Simulator
    }

    async fn up(&self) -> Result<(), Error> {
        or(self.up)
    }

    async fn apply(&self, entry: &Entry) -> Result<(), Error> {
        self.say(format!("apply {}", entry.name));
        if self.hangs.contains(&entry.name.as_str()) {
            std::future::pending::<()>().await;
        }
        or(self.apply)
    }

    async fn revert(&self, entry: &Entry) -> Result<(), Error> {
        self.say(format!("revert {}", entry.name));
        or(self.revert)
    }

    async fn evidence(&self, _: &Entry) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }

    async fn load(&self, load: &Load, times: LoadTimes, sink: RecordSink) -> Result<(), Error> {
        or(self.load)?;
        let every = Duration::from_secs_f64(1.0 / load.rate);
        while Instant::now() + every < times.end {
            sink(Record { due_us: since(times.t0), latency_us: 1_000, late_us: 0, outcome: Outcome::Ok });
            sleep(every).await;
        }
        Ok(())
    }

    async fn metrics(&self) -> Vec<Scrape> {
        Vec::new()
    }

    async fn ended(&self) -> Vec<ProcessExit> {
        assert_eq!(self.downs.get(), 0, "afterwards every process has ended");
        self.ended.take()
    }

    async fn fidelity(&self) -> Fidelity {
        self.fidelity.clone()
    }

    async fn down(&self) -> Result<(), Error> {
        self.downs.set(self.downs.get() + 1);
        or(self.left_behind)
    }
}

/// A caller, a server, 50 requests a second for 10 s, a pause and a kill, and the expectation
/// `that`.
fn plan(that: &str) -> Plan {
    let second = Duration::from_secs(1);
    let scenario = Scenario::builder("test")
        .duration(10 * second)
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").http(8080, HttpSpec::default()))
        .load(LoadSpec::new("calls", "web", "http://orders:8080/", 50))
        .fault(FaultSpec::pause("orders/app").name("sleep").at(2 * second).lasts(3 * second))
        .fault(FaultSpec::kill("orders/sidecar").name("death").at(4 * second).restart(2 * second))
        .expect(ExpectSpec::that(&[that]).set("name", "fine"));
    let scenario = scenario.build().expect("the scenario is right");
    scenario.plan(scenario.sidecars()[0])
}

/// What is true of every run of [`Fake`].
const TRUE: &str = "calls.errors == 0";
const FALSE: &str = "calls.errors > 0";

/// Runs it in virtual time on this thread.
fn run_it(plan: &Plan, world: &Fake, stop: impl Future<Output = ()>) -> Result<Report, Error> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    let result = runtime.block_on(async {
        run(plan, world, &EventLog::new(std::time::SystemTime::UNIX_EPOCH), Rc::new(Silent), stop).await
    });
    assert_eq!(world.downs.get(), 1, "a world is taken down once, however the run ends");
    result
}

fn undisturbed(plan: &Plan, world: &Fake) -> Report {
    run_it(plan, world, std::future::pending()).expect("a report")
}

/// A timer that needs no runtime before it is awaited.
async fn after(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

fn broken() -> Error {
    Error::Failed("something broke".into())
}

fn crash() -> ProcessExit {
    ProcessExit {
        process: "orders/app".into(),
        at: None,
        how: "exit status: 7".into(),
        log_tail: vec!["oh no".into()],
    }
}

#[test]
fn a_run_in_which_all_went_well_passes() {
    let report = undisturbed(&plan(TRUE), &Fake::default());
    assert_eq!((report.verdict, report.reasons), (Verdict::Passed, vec![]));
    assert_eq!(report.loads[0].requests, report.loads[0].ok);
    assert!(report.faults.iter().all(|f| f.start_us.is_some() && f.end_us.is_some()), "{:?}", report.faults);
}

#[test]
fn an_expectation_that_does_not_hold_fails_the_run_and_says_what_it_was() {
    let report = undisturbed(&plan(FALSE), &Fake::default());
    assert_eq!(report.verdict, Verdict::Failed);
    assert_eq!(report.reasons, ["fine: expected calls.errors > 0, was 0"]);
}

#[test]
fn a_mesh_that_does_not_come_up_is_taken_down_and_is_an_error() {
    let world = Fake { up: Some(broken), ..Fake::default() };
    let error = run_it(&plan(TRUE), &world, std::future::pending()).expect_err("an error");
    assert_eq!(error.to_string(), "something broke");
    assert!(world.said.borrow().is_empty(), "no fault is injected into a mesh that is not up");
}

#[test]
fn what_is_left_behind_of_a_mesh_that_did_not_come_up_is_told_too() {
    let left: fn() -> Error = || Error::Failed("a mount stayed".into());
    let world = Fake { up: Some(broken), left_behind: Some(left), ..Fake::default() };
    let error = run_it(&plan(TRUE), &world, std::future::pending()).expect_err("an error");
    assert_eq!(error.to_string(), "something broke; and not everything could be taken down: a mount stayed");
}

#[test]
fn a_load_generator_that_fails_makes_the_run_inconclusive_even_if_expectations_fail_too() {
    let report = undisturbed(&plan(TRUE), &Fake { load: Some(broken), ..Fake::default() });
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert_eq!(report.reasons[0], "load calls: something broke");
    assert_eq!(report.reasons[1], "fine: expected calls.errors == 0, but no requests in this window");
}

#[test]
fn a_process_that_ends_by_itself_fails_the_run_whatever_else_is_wrong() {
    let world = Fake { ended: RefCell::new(vec![crash()]), ..Fake::default() };
    let report = undisturbed(&plan(TRUE), &world);
    assert_eq!(report.verdict, Verdict::Failed);
    assert_eq!(report.reasons, ["orders/app ended although nothing asked it to: exit status: 7"]);
    assert_eq!(report.unexpected_exits[0].log_tail, ["oh no"]);

    let late = Fidelity { packets: 1, lateness_p99_us: 1e6, ..Fidelity::default() };
    let world = Fake { ended: RefCell::new(vec![crash()]), fidelity: late, ..Fake::default() };
    assert_eq!(undisturbed(&plan(TRUE), &world).verdict, Verdict::Failed);
}

#[test]
fn a_world_that_was_not_good_enough_gives_neither_red_nor_green() {
    let late = || Fidelity { packets: 1, lateness_p99_us: 1e6, ..Fidelity::default() };
    for that in [TRUE, FALSE] {
        let report = undisturbed(&plan(that), &Fake { fidelity: late(), ..Fake::default() });
        assert_eq!(report.verdict, Verdict::Inconclusive, "{that}");
    }
}

#[test]
fn a_fault_that_could_not_be_applied_makes_the_run_inconclusive() {
    let report = undisturbed(&plan(TRUE), &Fake { apply: Some(broken), ..Fake::default() });
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert_eq!(report.reasons[0], "fault sleep could not be carried out: something broke");
}

#[test]
fn a_process_that_does_not_come_back_fails_the_run_and_one_that_cannot_go_on_is_our_fault() {
    let world = Fake { revert: Some(broken), ..Fake::default() };
    let report = undisturbed(&plan(TRUE), &world);
    assert_eq!(report.verdict, Verdict::Failed);
    assert_eq!(
        report.reasons,
        [
            "not everything came back after death: something broke",
            "fault sleep could not be taken back: something broke",
        ]
    );
    let mut only_the_pause = plan(TRUE);
    only_the_pause.timeline.retain(|entry| matches!(entry.action, Action::Pause(_)));
    let report = undisturbed(&only_the_pause, &Fake { revert: Some(broken), ..Fake::default() });
    assert_eq!(report.verdict, Verdict::Inconclusive);
}

#[test]
fn a_fault_that_hangs_delays_no_other_and_does_not_keep_the_run_from_ending() {
    let world = Fake { hangs: &["sleep"], ..Fake::default() };
    let report = undisturbed(&plan(TRUE), &world);
    assert_eq!(*world.said.borrow(), ["apply sleep", "apply death", "revert death"]);
    let death = &report.faults[1];
    assert_eq!((death.start_us, death.end_us), (Some(4_000_000), Some(6_000_000)));
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert_eq!(report.reasons, ["fault sleep could not be carried out: still not done 60 s after the end"]);
}

#[test]
fn a_rollout_that_outlasts_the_run_is_in_doubt_and_one_that_fails_is_not() {
    let roll = |at| {
        let mut plan = plan(TRUE);
        plan.timeline.truncate(1);
        let id = |role| ProcessId { instance: 0, role };
        let processes = vec![id(Role::App), id(Role::Sidecar), ProcessId { instance: 1, role: Role::App }];
        let action =
            Action::Restart(Restart { kill: Kill { processes, hard: false }, wait: Duration::from_secs(2) });
        plan.timeline[0] =
            Entry { at: Duration::from_secs(at), until: None, action, ..plan.timeline[0].clone() };
        plan
    };
    assert_eq!(undisturbed(&roll(2), &Fake::default()).verdict, Verdict::Passed);
    let late = undisturbed(&roll(9), &Fake::default());
    assert_eq!(late.verdict, Verdict::Inconclusive);
    assert!(late.reasons[0].starts_with("sleep outlasted the run: the run was over"), "{:?}", late.reasons);
    let broken = undisturbed(&roll(9), &Fake { revert: Some(broken), ..Fake::default() });
    assert_eq!(broken.verdict, Verdict::Failed);
    // The last of 60 s after the end is the end of patience.
    let endless = undisturbed(&roll(2), &Fake { hangs: &["sleep"], ..Fake::default() });
    assert_eq!(endless.verdict, Verdict::Inconclusive);
}

#[test]
fn a_run_that_is_interrupted_says_when_and_judges_nothing() {
    let report = run_it(&plan(FALSE), &Fake::default(), after(4_000)).expect("a report");
    assert_eq!(report.verdict, Verdict::Interrupted);
    assert_eq!(report.reasons, ["interrupted after 3.0 s of 10.0 s"]);
    assert_eq!(report.faults[1].start_us, None, "it was due later");
    let report = run_it(&plan(TRUE), &Fake::default(), after(10)).expect("a report");
    assert_eq!(report.reasons, ["interrupted during the warm-up"]);
}

#[test]
fn an_interruption_while_the_mesh_comes_up_is_an_error() {
    let error = run_it(&plan(TRUE), &Fake::default(), std::future::ready(())).expect_err("an error");
    assert!(matches!(error, Error::Interrupted));
}

#[test]
fn what_is_left_behind_is_never_passed_over() {
    let left_behind = "not everything could be taken down: something broke";
    let world = || Fake { left_behind: Some(broken), ..Fake::default() };
    let report = undisturbed(&plan(TRUE), &world());
    assert_eq!((report.verdict, report.reasons), (Verdict::Failed, vec![left_behind.to_owned()]));
    let report = run_it(&plan(TRUE), &world(), after(4_000)).expect("a report");
    assert_eq!(report.reasons[1], left_behind);
}
