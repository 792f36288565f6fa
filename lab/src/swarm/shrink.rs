//! From a day that breaks a law to the smallest one that does: proptest's search over the same tree that the day was
//! drawn from. Every random choice in a day hangs on an entity and not on a position in a stream, so what is left when a
//! fault is taken out happens as before, and the search is not led astray.

use super::{Day, Drawn, Options, Schedule, Violation, scheduled};

/// Days to try at most; a search takes a few dozen.
const RUNS: u32 = 400;

/// The smallest day found, and what it breaks.
pub struct Shrunk {
    /// The day.
    pub schedule: Schedule,
    /// What it was like; `None` if it did not come to its end.
    pub day: Option<Day>,
    /// What is against it.
    pub complaint: String,
    /// How many days were tried.
    pub runs: u32,
}

/// What is wrong with a day: the law that it breaks first, or that it did not come to its end.
fn wrong(schedule: &Schedule, options: Options) -> Option<(&'static str, String, Option<Day>)> {
    match scheduled(schedule, options) {
        Ok(day) => {
            let Violation { law, .. } = day.violations.first()?;
            let complaint = day.violations[0].to_string();
            Some((law, complaint, Some(day)))
        }
        Err(failure) => Some(("end", failure.to_string(), None)),
    }
}

/// Makes a day as small as it can be while it breaks the same law. `None` if it breaks none.
pub fn shrink(mut drawn: Drawn, options: Options) -> Option<Shrunk> {
    let schedule = drawn.schedule();
    let (law, complaint, day) = wrong(&schedule, options)?;
    let mut best = Shrunk { schedule, day, complaint, runs: 0 };
    let mut more = drawn.simplify();
    while more && best.runs < RUNS {
        let schedule = drawn.schedule();
        best.runs += 1;
        match wrong(&schedule, options) {
            Some((same, complaint, day)) if same == law => {
                best = Shrunk { schedule, day, complaint, runs: best.runs };
                more = drawn.simplify();
            }
            _ => more = drawn.complicate(),
        }
    }
    Some(best)
}
