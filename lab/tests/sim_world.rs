//! The simulated world as load, faults and verdict use it, and the promise that one seed is one
//! history.

mod sim_kit;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use lab::app::{AppKind, AppSpec, CommandApp};
use lab::fabric::LinkProfile;
use lab::fault::{Action, Impair, Kill, Pause};
use lab::load::{LoadJob, LoadTimes, Outcome, Record, RecordSink};
use lab::mesh::{ProcessId, Role};
use lab::plan::SidecarKind;
use lab::sim::{Main, Programs, SimFailure, SimNet, SimRun, SimWorld, Simulation, Term, Who};
use lab::world::World as _;
use proxy::world::{Net, World};
use sim_kit::*;
use tokio::sync::watch;
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A run in which much happens: load through sidecars over a slow and lossy link, a kill with a
/// restart, a pause, a cut.
fn eventful(seed: u64, trace: bool) -> SimRun<Vec<Record>> {
    let mut plan = plan(SidecarKind::Ours, 3);
    plan.links = both(LinkProfile { delay: 3 * MS, jitter: 2 * MS, loss: 0.05, bandwidth: 0 });
    let simulation = Simulation::new(&plan, seed, Kit).trace(trace);
    let run = simulation.run(|world| async move {
        world.up().await.expect("up");
        let records = Rc::new(RefCell::new(Vec::new()));
        let sink = {
            let records = records.clone();
            Rc::new(move |record| records.borrow_mut().push(record)) as RecordSink
        };
        let t0 = Instant::now() + 500 * MS;
        let calls = load(100.0);
        let load = world.load(&calls, LoadTimes { t0, end: t0 + 4 * SECOND }, sink);
        let faults = async {
            let kill = entry("kill", Action::Kill(Kill { processes: vec![app(2)], hard: true }));
            let pause = entry("pause", Action::Pause(Pause { processes: vec![app(3)] }));
            let cut = entry("cut", Action::Impair(Impair { links: both(LinkProfile::CUT) }));
            for fault in [kill, pause, cut] {
                tokio::time::sleep(SECOND).await;
                world.apply(&fault).await.expect("applied");
                tokio::time::sleep(300 * MS).await;
                world.revert(&fault).await.expect("reverted");
            }
        };
        tokio::join!(load, faults).0.expect("load");
        world.down().await.expect("down");
        records.take()
    });
    run.expect("the simulation ends")
}

#[test]
fn one_seed_is_one_history_in_one_process() {
    let first = eventful(7, true);
    assert!(first.trace.lines().len() > 2_000, "{} lines", first.trace.lines().len());
    for seed in [7, 8, 7] {
        // Whatever ran before on this thread must not matter.
        let other = eventful(seed, true);
        let difference = first.trace.first_difference(&other.trace);
        assert_eq!(difference.is_none(), seed == 7, "seed {seed}: {}", difference.unwrap_or_default());
        assert_eq!(first.value == other.value, seed == 7);
    }
}

#[test]
fn one_seed_is_one_history_on_every_thread() {
    let hashes = |jobs| {
        let mut hashes = Vec::new();
        lab::sim::sweep(
            0..6,
            jobs,
            |seed| eventful(seed, true).trace.hash(),
            |_, hash| {
                hashes.push(hash);
                ControlFlow::Continue(())
            },
        );
        hashes
    };
    let serial = hashes(1);
    assert_eq!(serial, hashes(3));
    let distinct: std::collections::BTreeSet<u64> = serial.iter().copied().collect();
    assert_eq!(distinct.len(), 6, "different seeds differ");
}

const CHILD: &str = "LAB_SIM_TRACE_CHILD";

#[test]
fn one_seed_is_one_history_in_two_processes() {
    let trace = || eventful(11, true).trace.lines().join("\n");
    if let Some(path) = std::env::var_os(CHILD) {
        std::fs::write(path, trace()).expect("the parent's folder takes the trace");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let traces = ["a", "b"].map(|name| {
        let path = folder.path().join(name);
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "one_seed_is_one_history_in_two_processes"])
            .env(CHILD, &path)
            .output()
            .expect("it runs");
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
        std::fs::read_to_string(path).expect("the child wrote its trace")
    });
    assert!(traces[0].lines().count() > 2_000);
    assert!(traces[0] == traces[1], "two processes gave two histories");
    assert!(traces[0] == trace(), "a third one, that ran other tests before, gave another");
}

#[test]
fn load_keeps_its_pace_and_times_count_from_the_drivers_t0() {
    let records = eventful(1, false).value;
    assert_eq!(records.first().map(|r| r.due_us), Some(0));
    assert!(records.windows(2).all(|pair| pair[1].due_us - pair[0].due_us == 10_000));
    assert_eq!(records.len(), 400);
    let ok = records.iter().filter(|r| r.outcome == Outcome::Ok).count();
    assert!((200..400).contains(&ok), "{ok} of 400: the faults bite, and not all is lost");
}

#[test]
fn metrics_come_from_every_living_process_and_from_the_world() {
    let run = Simulation::new(&plan(SidecarKind::Ours, 2), 1, Kit).run(|world| async move {
        world.up().await.expect("up");
        let pause = entry("pause", Action::Pause(Pause { processes: vec![app(1)] }));
        let kill = entry("kill", Action::Kill(Kill { processes: vec![app(2)], hard: true }));
        world.apply(&pause).await.expect("applied");
        world.apply(&kill).await.expect("applied");
        let names = |samples: Vec<lab::metrics::Sample>| {
            let mut names: Vec<_> =
                samples.into_iter().map(|s| format!("{} {} {}", s.process, s.name, s.value)).collect();
            names.retain(|name| !name.starts_with("fabric lab_link"));
            names
        };
        let during = names(lab::metrics::samples(world.metrics().await));
        world.revert(&pause).await.expect("reverted");
        world.revert(&kill).await.expect("reverted");
        let after = names(lab::metrics::samples(world.metrics().await));
        let fidelity = world.fidelity().await;
        assert_eq!(fidelity.link_backend, "simulated");
        (during, after)
    });
    let (during, after) = run.expect("the simulation ends").value;
    let has = |names: &[String], name: &str| names.iter().any(|n| n == name);
    for sidecar in ["web", "orders-0", "orders-1"] {
        assert!(has(&during, &format!("{sidecar}/sidecar proxy_up 1")), "{during:#?}");
    }
    assert!(!during.iter().any(|n| n.contains("app_up")), "one is stopped and one is dead: {during:#?}");
    assert!(has(&after, "orders-0/app app_up 1") && has(&after, "orders-1/app app_up 1"), "{after:#?}");
    assert!(has(&after, "fabric process_starts_total 2"), "{after:#?}");
}

#[test]
fn sigterm_ends_an_app_at_once_and_a_sidecar_by_its_own_hand() {
    let run = Simulation::new(&plan(SidecarKind::Ours, 1), 1, Kit).trace(true).run(|world| async move {
        world.up().await.expect("up");
        let sidecar = ProcessId { instance: 1, role: Role::Sidecar };
        let term = entry("term", Action::Kill(Kill { processes: vec![app(1), sidecar], hard: false }));
        world.apply(&term).await.expect("applied");
        tokio::time::sleep(5 * MS).await;
        world.evidence(&term).await["killed"]
    });
    let run = run.expect("the simulation ends");
    assert_eq!(run.value, 2.0);
    let has = |text: &str| run.trace.lines().iter().any(|line| line.ends_with(text));
    assert!(has("exit orders-0/app was killed"));
    assert!(has("term orders-0/sidecar") && has("exit orders-0/sidecar ended"));
}

#[test]
fn overlapping_link_faults_uncover_each_other() {
    let run = Simulation::new(&plan(SidecarKind::None, 1), 1, Kit).run(|world| async move {
        world.up().await.expect("up");
        let slow = |ms: u32| both(LinkProfile { delay: MS * ms, ..LinkProfile::default() });
        let (a, b) = (
            entry("a", Action::Impair(Impair { links: slow(20) })),
            entry("b", Action::Impair(Impair { links: slow(50) })),
        );
        let mut times = Vec::new();
        for step in 0..4 {
            match step {
                0 => world.apply(&a).await,
                1 => world.apply(&b).await,
                2 => world.revert(&b).await,
                _ => world.revert(&a).await,
            }
            .expect("done");
            // Packets keep their order, so a faster link first lets out what a slower one still
            // holds.
            tokio::time::sleep(200 * MS).await;
            let time = world.inside(0, Who::Load, "client", |world| async move {
                let start = Instant::now();
                world.net.connect(at(1), None).await.map(|_| start.elapsed())
            });
            times.push(time.await.expect("ends").expect("connects"));
        }
        times
    });
    assert_eq!(run.expect("the simulation ends").value, [40 * MS, 100 * MS, 40 * MS, Duration::ZERO]);
}

/// An app that does something else than to serve.
struct Broken(fn(World<SimNet>) -> Main);

impl Programs for Broken {
    fn app(&self, world: World<SimNet>, _: AppSpec) -> Main {
        (self.0)(world)
    }

    fn sidecar(&self, world: World<SimNet>, config: watch::Receiver<String>, term: Term) -> Main {
        Kit.sidecar(world, config, term)
    }

    fn load(&self, world: World<SimNet>, job: LoadJob) -> Main {
        Kit.load(world, job)
    }
}

fn up_with(app: fn(World<SimNet>) -> Main) -> Result<Result<(), String>, SimFailure> {
    let simulation = Simulation::new(&plan(SidecarKind::None, 1), 1, Broken(app));
    let run =
        simulation.run(|world: Rc<SimWorld>| async move { world.up().await.map_err(|e| e.to_string()) });
    run.map(|run| run.value)
}

#[test]
fn a_process_that_never_listens_is_named() {
    let idle = up_with(|_| Box::pin(std::future::pending()));
    assert_eq!(idle, Ok(Err("orders-0/app was not ready after 10 s: nothing listens on port 8080".into())));
}

#[test]
fn a_process_that_ends_early_is_named_with_its_reason() {
    let error = up_with(|_| Box::pin(async { Err(std::io::Error::other("no such file")) }));
    let text = "orders-0/app ended with an error: no such file before it was ready";
    assert_eq!(error, Ok(Err(text.into())));
}

#[test]
fn a_panic_in_any_task_of_a_process_fails_the_run() {
    let panic = up_with(|world| {
        Box::pin(async move {
            world.net.spawn("worker", async {
                tokio::time::sleep(5 * MS).await;
                panic!("out of cheese");
            });
            std::future::pending().await
        })
    });
    match panic {
        Err(SimFailure::Panic { process, task, message, at }) => {
            assert_eq!(
                (process.as_str(), task.as_str(), message.as_str()),
                ("orders-0/app", "worker", "out of cheese")
            );
            assert!(at >= 5 * MS && at <= 8 * MS, "{at:?}");
        }
        other => panic!("not noticed: {other:?}"),
    }
}

#[test]
fn a_panic_of_the_driver_fails_the_run_with_its_words() {
    let simulation = Simulation::new(&plan(SidecarKind::None, 1), 1, Kit);
    let run = simulation.run(|_| async { panic!("expected {}", 42) });
    match run.map(|run: SimRun<()>| run.value) {
        Err(SimFailure::Panic { process, message, .. }) => {
            assert_eq!((process.as_str(), message.as_str()), ("lab", "expected 42"));
        }
        other => panic!("not noticed: {other:?}"),
    }
}

#[test]
fn a_driver_that_never_ends_is_stopped() {
    let simulation = Simulation::new(&plan(SidecarKind::None, 1), 1, Kit).limit(SECOND);
    let run = simulation.run(|_| std::future::pending::<()>());
    assert_eq!(run.map(|run| run.value), Err(SimFailure::Stuck(SECOND)));
}

#[test]
fn what_only_the_kernel_can_run_is_named() {
    let mut plan = plan(SidecarKind::None, 1);
    plan.instances[1].app.as_mut().expect("an app").kind =
        AppKind::Command(CommandApp(vec!["nginx".into(), "-g".into()]));
    let reasons = SimWorld::supports(&plan).expect_err("a program");
    assert_eq!(reasons, ["orders-0 runs the program `nginx`; the simulator has only the built-in apps"]);
    let run = Simulation::new(&plan, 1, Kit).run(|_| async {});
    assert_eq!(run.map(|run| run.value), Err(SimFailure::Unsupported(reasons)));
}
