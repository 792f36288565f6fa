//! Scenarios as text, run for many seeds in the simulator.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::history::{History, Keep, history, replay};
use lab::plan::SidecarKind;
use lab::run::Report;
use lab::scenario::builder::ScenarioBuilder;
use lab::scenario::{self, Scenario};
use lab::sim::{SimFailure, jobs, sweep};

/// Milliseconds.
pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Every scenario file of the workspace, in the order of their names.
pub fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let entries = std::fs::read_dir(&folder).expect("the folder of scenarios");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    files.sort();
    assert!(!files.is_empty(), "no scenario in {}", folder.display());
    files
}

/// Reads a scenario file.
pub fn read(path: &Path) -> Scenario {
    let text = std::fs::read_to_string(path).expect("a scenario file");
    parse(&path.display().to_string(), &text)
}

/// Parses a scenario's text.
pub fn parse(name: &str, text: &str) -> Scenario {
    scenario::parse(name, text).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// Runs `count` seeds from the scenario's own on, on every CPU, and hands each history to `each` in
/// the order of seeds.
///
/// # Panics
/// With the command that replays it, at the first history that does not come to its end or of which
/// `each` complains.
pub fn for_seeds(
    path: &Path,
    scenario: &Scenario,
    kind: SidecarKind,
    count: u64,
    mut each: impl FnMut(&History) -> Result<(), String>,
) {
    let mut failed = None;
    sweep(
        scenario.seed..scenario.seed + count,
        jobs(),
        |seed| history(scenario, kind, seed, Keep::default()),
        |seed, result| {
            let judged = match result {
                Ok(history) => each(&history).map_err(|complaint| (complaint, Some(history))),
                Err(failure) => Err((failure.to_string(), None)),
            };
            match judged {
                Ok(()) => ControlFlow::Continue(()),
                Err((complaint, history)) => {
                    failed = Some((seed, complaint, history));
                    ControlFlow::Break(())
                }
            }
        },
    );
    if let Some((seed, complaint, history)) = failed {
        let events = history.iter().flat_map(|history| &history.events);
        let events: String = events.map(|e| format!("\n  {e:?}")).collect();
        let command = replay(path, Some(kind), seed);
        panic!("{} fails at seed {seed}: {complaint}\nreplay: {command}{events}", path.display());
    }
}

/// Whether the simulator can run a scenario; says so if it cannot.
pub fn supported(path: &Path, scenario: &Scenario, kind: SidecarKind) -> bool {
    match lab::sim::SimWorld::supports(&scenario.plan(kind)) {
        Ok(()) => true,
        Err(why) => {
            eprintln!("skipped: {}: {}", path.display(), SimFailure::Unsupported(why));
            false
        }
    }
}

/// All expectations held.
pub fn passed(history: &History) -> Result<(), String> {
    if history.passed() { Ok(()) } else { Err(history.reasons().join("; ")) }
}

/// A scenario that is written to a file only if it fails, so that the replay command has something
/// to read.
pub struct Story {
    text: String,
    scenario: Scenario,
}

impl Story {
    /// `web` calls three `orders` by HTTP; `rest` adds what is special: first keys of
    /// `[load.calls]`, then tables.
    pub fn http(name: &'static str, rate: &str, duration: &str, rest: &str) -> Self {
        Story::new(
            name,
            format!(
                "[scenario]\nname = \"{name}\"\nduration = \"{duration}\"\n\n[service.web]\n\n[service.orders]\nreplicas = 3\n\
                 port = 8080\nprotocol = \"http\"\napp = {{ http = {{ work = \"5ms\" }} }}\n\n[load.calls]\n\
                 from = \"web\"\nurl = \"http://orders:8080/\"\nrate = \"{rate}\"\n{rest}"
            ),
        )
    }

    /// A whole scenario.
    pub fn new(name: &'static str, text: String) -> Self {
        let scenario = parse(name, &text);
        Story { text, scenario }
    }

    /// A scenario that a test has built.
    pub fn of(builder: &ScenarioBuilder) -> Self {
        let scenario = builder.build().unwrap_or_else(|errors| panic!("{errors:#?}"));
        Story { text: builder.to_toml(), scenario }
    }

    /// Every expectation holds for `count` seeds.
    pub fn holds(&self, count: u64) {
        self.check(count, |_| Ok(()));
    }

    /// Every expectation holds for `count` seeds, and `each` has nothing to say against any report.
    pub fn check(&self, count: u64, mut each: impl FnMut(&Report) -> Result<(), String>) {
        let path = std::env::temp_dir().join(format!("{}.toml", self.scenario.name.replace(' ', "-")));
        let judge = |history: &History| {
            passed(history).and_then(|()| history.result.as_ref().map_or(Ok(()), &mut each)).inspect_err(
                |_| {
                    // Best effort: without the file the test still fails with its seed and reasons.
                    let _ = std::fs::write(&path, &self.text);
                },
            )
        };
        for_seeds(&path, &self.scenario, SidecarKind::Ours, count, judge);
    }
}

/// A counter over a whole run, summed over every process whose name ends like this.
pub fn total(report: &Report, process: &str, counter: &str) -> f64 {
    let of = report.totals.iter().filter(|(name, _)| name.ends_with(process));
    of.filter_map(|(_, counters)| counters.get(counter)).sum()
}
