//! `lab sim --search metastable`

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use super::tally::Tally;
use super::{FAILED, INVALID, PASSED, Sim};
use crate::scenario;
use crate::search::{
    EJECTION, MeshOutcome, RETRIES, Search, SearchPoint, SmallestTrigger, TIMEOUTS, USUAL, map,
};
use crate::sim::{SimFailure, jobs, sweep};

/// Searches each scenario, or the built-in one.
pub(super) fn run(args: &Sim) -> ExitCode {
    if args.scenarios.is_empty() {
        let scenario = scenario::parse("scenarios/metastable.toml", USUAL).expect("a test parses it");
        return ExitCode::from(search(args, None, &scenario, USUAL));
    }
    super::each(&args.scenarios, |path| match super::read_with_text(path) {
        Ok((scenario, text)) => search(args, Some(path), &scenario, &text),
        Err(code) => code,
    })
}

fn search(args: &Sim, path: Option<&Path>, scenario: &scenario::Scenario, text: &str) -> u8 {
    let search = match Search::new(scenario, text) {
        Ok(search) => search,
        Err(why) => {
            errln!("{}: {why}", path.map_or("the scenario".into(), |path| path.display().to_string()));
            return INVALID;
        }
    };
    let first = args.from.unwrap_or(scenario.seed);
    let outcomes = match explore(args, &search, first) {
        Ok(outcomes) => outcomes,
        Err(failure) => return super::broken(&failure),
    };
    outln!("time to recover after the trigger, by load:\n\n{}", map::draw(&search, &outcomes));
    let is_stuck = |mesh_outcome: &MeshOutcome| matches!(mesh_outcome, MeshOutcome::Stuck(_));
    let stuck: Vec<SearchPoint> =
        outcomes.iter().filter(|(_, mesh_outcome)| is_stuck(mesh_outcome)).map(|(p, _)| *p).collect();
    let Some(&worst) = stuck.iter().min_by_key(|point| (point.load, **point)) else {
        outln!("PASSED: no setting stays down");
        return PASSED;
    };
    // The lowest load that does not recover is the most dangerous one.
    match (first..first + args.seeds).find_map(|seed| search.smallest_trigger(worst, seed).transpose()) {
        Some(Ok(smallest_trigger)) => tell(args, &search, worst, &smallest_trigger),
        Some(Err(failure)) => errln!("{failure}"),
        None => {}
    }
    match stuck.iter().find(|point| point.is_own()) {
        None => {
            outln!("PASSED: the scenario's own setting recovers at every load that it can carry");
            PASSED
        }
        Some(point) => {
            outln!("FAILED: the scenario's own setting does not recover at {:.0}/s", search.rate(point.load));
            FAILED
        }
    }
}

/// The outcome of every setting: the worst of its seeds.
fn explore(
    args: &Sim,
    search: &Search,
    first: u64,
) -> Result<BTreeMap<SearchPoint, MeshOutcome>, SimFailure> {
    let points = SearchPoint::all();
    let runs = points.len() as u64 * args.seeds;
    let mut tally = Tally::new(runs);
    let mut outcomes = BTreeMap::new();
    let mut failed = None;
    let what = |run: u64| (points[(run / args.seeds) as usize], first + run % args.seeds);
    sweep(
        0..runs,
        args.jobs.map_or_else(jobs, NonZeroUsize::get),
        |run| {
            let (point, seed) = what(run);
            search.mesh_outcome(point, 1.0, seed)
        },
        |run, mesh_outcome| match mesh_outcome {
            Ok(mesh_outcome) => {
                tally.done();
                let worst = outcomes.entry(what(run).0).or_insert(mesh_outcome);
                *worst = worst.worst(mesh_outcome);
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
        None => Ok(outcomes),
    }
}

fn tell(args: &Sim, search: &Search, point: SearchPoint, smallest_trigger: &SmallestTrigger) {
    outln!(
        "the smallest sufficient trigger at {:.0}/s (retries {}, per try {}, ejection {}): {:.0} % of the \
         scenario's, {:?} of faults",
        search.rate(point.load),
        RETRIES[point.retries].0,
        TIMEOUTS[point.timeout].0,
        EJECTION[point.ejection].0,
        smallest_trigger.share * 100.0,
        smallest_trigger.lasts,
    );
    let Some(folder) = &args.corpus else {
        outln!("\n{}", smallest_trigger.text);
        return;
    };
    let file = folder.join("metastable.toml");
    let kept = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, &smallest_trigger.text));
    match kept {
        Ok(()) => outln!("kept as {0}; replay: lab sim {0}", file.display()),
        Err(error) => errln!("cannot keep it in {}: {error}", folder.display()),
    }
}
