//! `lab sim --hunt metastable`

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use super::tally::Tally;
use super::{FAILED, INVALID, PASSED, Sim};
use crate::hunt::{Course, EJECTION, Hunt, Point, RETRIES, Smallest, TIMEOUTS, USUAL, map};
use crate::scenario;
use crate::sim::{SimFailure, jobs, sweep};

/// Hunts in each scenario, or in the hunt's own.
pub(super) fn run(args: &Sim) -> ExitCode {
    if args.scenarios.is_empty() {
        let scenario = scenario::parse("scenarios/metastable.toml", USUAL).expect("a test parses it");
        return ExitCode::from(hunt(args, None, &scenario, USUAL));
    }
    super::each(&args.scenarios, |path| match super::read_with_text(path) {
        Ok((scenario, text)) => hunt(args, Some(path), &scenario, &text),
        Err(code) => code,
    })
}

fn hunt(args: &Sim, path: Option<&Path>, scenario: &scenario::Scenario, text: &str) -> u8 {
    let hunt = match Hunt::new(scenario, text) {
        Ok(hunt) => hunt,
        Err(why) => {
            errln!("{}: {why}", path.map_or("the scenario".into(), |path| path.display().to_string()));
            return INVALID;
        }
    };
    let first = args.from.unwrap_or(scenario.seed);
    let courses = match explore(args, &hunt, first) {
        Ok(courses) => courses,
        Err(failure) => return super::broken(&failure),
    };
    outln!("how long after the trigger all is well again, by load:\n\n{}", map::draw(&hunt, &courses));
    let is_stuck = |course: &Course| matches!(course, Course::Stuck(_));
    let stuck: Vec<Point> = courses.iter().filter(|(_, course)| is_stuck(course)).map(|(p, _)| *p).collect();
    let Some(&worst) = stuck.iter().min_by_key(|point| (point.load, **point)) else {
        outln!("PASSED: no setting stays down");
        return PASSED;
    };
    // The lowest load that does not recover is the most dangerous one.
    match (first..first + args.seeds).find_map(|seed| hunt.smallest(worst, seed).transpose()) {
        Some(Ok(smallest)) => tell(args, &hunt, worst, &smallest),
        Some(Err(failure)) => errln!("{failure}"),
        None => {}
    }
    match stuck.iter().find(|point| point.is_own()) {
        None => {
            outln!("PASSED: the scenario's own setting recovers at every load that it can carry");
            PASSED
        }
        Some(point) => {
            outln!("FAILED: the scenario's own setting does not recover at {:.0}/s", hunt.rate(point.load));
            FAILED
        }
    }
}

/// What becomes of every setting: the worst of its seeds.
fn explore(args: &Sim, hunt: &Hunt, first: u64) -> Result<BTreeMap<Point, Course>, SimFailure> {
    let points = Point::all();
    let runs = points.len() as u64 * args.seeds;
    let mut tally = Tally::new(runs);
    let mut courses = BTreeMap::new();
    let mut failed = None;
    let what = |run: u64| (points[(run / args.seeds) as usize], first + run % args.seeds);
    sweep(
        0..runs,
        args.jobs.map_or_else(jobs, NonZeroUsize::get),
        |run| {
            let (point, seed) = what(run);
            hunt.course(point, 1.0, seed)
        },
        |run, course| match course {
            Ok(course) => {
                tally.done();
                let worst = courses.entry(what(run).0).or_insert(course);
                *worst = worst.worst(course);
                ControlFlow::Continue(())
            }
            Err(failure) => {
                failed = Some(failure);
                ControlFlow::Break(())
            }
        },
    );
    match failed {
        Some(failure) => Err(failure),
        None => Ok(courses),
    }
}

fn tell(args: &Sim, hunt: &Hunt, point: Point, smallest: &Smallest) {
    outln!(
        "the smallest trigger that is enough at {:.0}/s (retries {}, per try {}, ejection {}): {:.0} % of the \
         scenario's, {:?} of faults",
        hunt.rate(point.load),
        RETRIES[point.retries].0,
        TIMEOUTS[point.timeout].0,
        EJECTION[point.ejection].0,
        smallest.share * 100.0,
        smallest.lasts,
    );
    let Some(folder) = &args.corpus else {
        outln!("\n{}", smallest.text);
        return;
    };
    let file = folder.join("metastable.toml");
    let kept = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, &smallest.text));
    match kept {
        Ok(()) => outln!("kept as {0}; replay: lab sim {0}", file.display()),
        Err(error) => errln!("cannot keep it in {}: {error}", folder.display()),
    }
}
