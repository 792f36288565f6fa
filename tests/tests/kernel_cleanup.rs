//! Whatever happens to a lab, it leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use lab::scenario::Scenario;
use lab::scenario::builder::{ExpectSpec, FaultSpec, HttpSpec, LoadSpec, ServiceSpec};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tests::left::{self, Outside};
use tests::testbed::{Ended, Lab, Testbed, WITHIN, counter, load, number, total, wait_until};
use tokio::time::Instant;

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");
const RUNS: usize = 20;
const KILLED: usize = 5;
/// Of the moments at which labs are killed.
const SEED: u64 = 2;

/// A scenario with everything that a run can leave behind: sidecars, the wire, a process that is
/// killed and started again, one that is stopped, and a link that is cut.
fn with_everything(duration: Duration) -> String {
    let ms = Duration::from_millis;
    let scenario = Scenario::builder("with everything that a run can leave behind")
        .warmup(Duration::ZERO)
        .duration(duration)
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").replicas(2).http(8080, HttpSpec::default()))
        .load(LoadSpec::new("calls", "web", "http://orders:8080/", 50))
        .fault(FaultSpec::kill("orders-0").at(ms(200)).restart(ms(200)))
        .fault(FaultSpec::pause("orders-1/app").at(ms(300)).lasts(ms(500)))
        .fault(FaultSpec::partition(&["web", "orders-0"]).at(ms(400)).lasts(ms(100)))
        .expect(ExpectSpec::that(&["calls.requests > 25"]));
    scenario.to_toml()
}

/// A part of a lab's life, and what it says when the part begins.
#[derive(Debug, Clone, Copy)]
enum Part {
    SetUp,
    Load,
    TearDown,
}

impl Part {
    fn begins(self, lab: &Lab) -> bool {
        match self {
            Part::SetUp => true,
            Part::Load => lab.said().contains("\nwarming up\n"),
            Part::TearDown => lab.said().contains("\ntaking the mesh down\n"),
        }
    }
}

/// Which runs to kill, and when: at a random share of a part of its life.
fn moments() -> Vec<Option<(Part, f64)>> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let parts = [Part::SetUp, Part::SetUp, Part::Load, Part::TearDown, Part::TearDown];
    let mut moments: Vec<_> = parts.iter().map(|part| Some((*part, rng.random()))).collect();
    assert_eq!(moments.len(), KILLED);
    // The first run is timed, and the last one must clear away what the one before it may have
    // left.
    moments.resize(RUNS - 2, None);
    moments.shuffle(&mut rng);
    moments.insert(0, None);
    moments.push(None);
    moments
}

/// It came to its end. A busy machine is no matter here.
fn ran(ended: &Ended) {
    assert!([0, 4].contains(&ended.code()), "{}", ended.said);
}

/// Runs a lab to its end and says how long each part of its life took.
fn timed(lab: Lab) -> [Duration; 3] {
    let mut begin = Vec::new();
    for part in [Part::SetUp, Part::Load, Part::TearDown] {
        wait_until("the lab gets on", || part.begins(&lab));
        begin.push(Instant::now());
    }
    ran(&lab.end(WITHIN));
    [begin[1] - begin[0], begin[2] - begin[1], begin[2].elapsed()]
}

#[test]
fn of_twenty_runs_five_are_killed_at_any_moment_and_nothing_is_left_of_them() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    testbed.clean();
    let before = Outside::now();
    let scenario = testbed.write("short", &with_everything(Duration::from_secs(1)));
    let mut lengths = None;
    let mut killed = Vec::new();
    for time_us in moments() {
        let earlier = testbed.runs();
        let lab = testbed.start(&scenario, &[]);
        match (time_us, lengths) {
            (Some((part, share)), Some(lengths)) => {
                let lengths: [Duration; 3] = lengths;
                wait_until("the lab gets on", || part.begins(&lab));
                let over = lab.ends_within(lengths[part as usize].mul_f64(share));
                let runs = lab.kill().runs;
                let Some(run) = runs.first().filter(|_| !over).map(|dir| id(dir)) else { continue };
                wait_until("its processes die with it", || left::processes(&run).is_empty());
                eprintln!(
                    "{run}, killed after {share:.2} of its {part:?}, left {}",
                    left::of_run(&run).len()
                );
                killed.push((left::of_run(&run), run));
            }
            _ => {
                // By now it has cleared away what it found.
                lab.run_dir();
                for run in &earlier {
                    assert_eq!(left::of_run(run), Vec::<String>::new());
                }
                match lengths {
                    None => lengths = Some(timed(lab)),
                    Some(_) => ran(&lab.end(WITHIN)),
                }
            }
        }
    }
    // A lab that is killed in its first milliseconds has not made a run yet, and one may be over
    // before its time.
    assert!(killed.len() >= KILLED - 2, "only {killed:?} were killed");
    assert!(killed.iter().any(|(left, _)| !left.is_empty()), "no lab left anything to clear away");
    testbed.clean();
    for run in testbed.runs() {
        assert_eq!(left::of_run(&run), Vec::<String>::new());
    }
    assert_eq!(Outside::now(), before);
}

/// The id of the run in a run directory.
fn id(dir: &Path) -> String {
    dir.file_name().expect("a run has a name").to_string_lossy().into_owned()
}

#[test]
fn the_check_for_what_is_left_sees_a_run_that_is_up_and_clean_removes_a_dead_one() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let before = Outside::now();
    let lab = testbed.start(&testbed.write("long", &with_everything(Duration::from_secs(60))), &[]);
    let run = id(&lab.under_load());
    let up = left::of_run(&run);
    for kind in ["process", "directory", "mount", "control group"] {
        assert!(up.iter().any(|l| l.starts_with(kind)), "no {kind} in {up:?}");
    }
    // Five processes and a load, a namespace for each instance and the fabric.
    assert!(left::processes(&run).len() >= 5, "{up:?}");
    assert_eq!(up.iter().filter(|l| l.starts_with("mount")).count(), 4, "{up:?}");
    // All of it in namespaces of its own.
    assert_eq!(Outside::now(), before);

    // Cleaning spares it while it lives.
    testbed.clean();
    assert!(left::of_run(&run).len() >= up.len() - 2, "{:?}", left::of_run(&run));

    lab.kill();
    wait_until("its processes die with it", || left::processes(&run).is_empty());
    testbed.clean();
    assert_eq!(left::of_run(&run), Vec::<String>::new());
}

#[test]
fn a_run_that_is_interrupted_still_reports_and_leaves_nothing() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let before = Outside::now();
    let text = std::fs::read_to_string(tests::scenario("hello")).unwrap();
    let text =
        text.replace("duration = \"5s\"", "duration = \"60s\"").replace("warmup = \"1s\"", "warmup = \"0s\"");
    let lab = testbed.start(&testbed.write("hello", &text), &[]);
    let dir = lab.under_load();
    let run = id(&dir);
    wait_until("requests have crossed", || counter(&dir, "web", 15020, "proxy_requests_total", &[]) >= 100.0);
    lab.signal(Signal::SIGINT);
    let ended = lab.end(Duration::from_secs(20));

    ended.expect(130);
    let results = ended.results(0);
    assert_eq!(results["verdict"], "interrupted");
    assert!(ended.said.contains("INTERRUPTED"), "{}", ended.said);
    // What was measured until then is not lost.
    assert!(number(&load(&results, "checkout")["ok"]) > 0.0, "{}", ended.said);
    assert!(total(&results, "web/sidecar", "proxy_requests_total") >= 100.0, "{}", ended.said);
    assert_eq!(left::of_run(&run), Vec::<String>::new());
    assert_eq!(Outside::now(), before);
}
