//! What single lines of the log say.

use std::time::Duration;

use super::facts::{Change, Step};
use crate::readable;
use crate::sim::Line;

/// A field that is text; empty if it is missing.
pub(super) fn word(line: &Line, field: &str) -> String {
    line.word(field).unwrap_or_default().to_owned()
}

/// A field that is a number; 0 if it is missing.
pub(super) fn number(line: &Line, field: &str) -> u64 {
    line.number(field).unwrap_or_default()
}

/// What a line says of an endpoint's standing, if it does.
pub(super) fn change(line: &Line) -> Option<Change> {
    Some(match line.text.as_str() {
        "endpoint ejected" => Change::Ejected(duration(&word(line, "time")), word(line, "reason")),
        "probing" => Change::Probing,
        "the probe has taught nothing" => Change::Unanswered,
        "endpoint back in use" => Change::Restored(false),
        "endpoint back in use: its check passed" => Change::Restored(true),
        "endpoint unhealthy" => Change::Healthy(false),
        "endpoint healthy" => Change::Healthy(true),
        "check failed" => Change::CheckFailed,
        "check passed" => Change::CheckPassed,
        "endpoint found" => Change::Found,
        "endpoint gone" => Change::Gone,
        _ => return None,
    })
}

/// What a line says was done for a request, if it does.
pub(super) fn step(line: &Line) -> Option<Step> {
    let endpoint = || word(line, "endpoint");
    Some(match line.text.as_str() {
        "endpoint picked" => Step::Picked { endpoint: endpoint(), panic: line.flag("panic") },
        "endpoint answered" => {
            let (status, average) = (number(line, "status"), number(line, "average_us"));
            let grpc = line.word("grpc").and_then(|code| code.parse().ok());
            // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS
            let failed = [2, 4, 8, 13, 14, 15].map(Some).contains(&grpc);
            let succeeded = status < 500 && status != 429 && !failed;
            Step::Answered { endpoint: endpoint(), status, last: line.flag("last"), grpc, succeeded, average }
        }
        "attempt failed" => Step::Failed {
            endpoint: endpoint(),
            error: word(line, "error"),
            unsent: line.flag("unsent"),
            reused: line.flag("reused"),
        },
        "trying again" => Step::Again {
            reason: word(line, "reason"),
            wait: duration(&word(line, "wait")),
            budget: number(line, "budget"),
        },
        "not trying again" => Step::GivenUp(word(line, "why")),
        "request answered" => Step::Done(number(line, "status")),
        _ => return None,
    })
}

/// As `{:?}` writes a duration: `1.5ms`, `250.25µs`.
fn duration(text: &str) -> Duration {
    if let Some(exact) = readable::parse(text) {
        return exact;
    }
    let (number, scale) = [("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9), ("s", 1.0)]
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))
        .unwrap_or((text, 1.0));
    Duration::try_from_secs_f64(number.parse::<f64>().unwrap_or(0.0) * scale).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for nanos in [0, 1, 999, 1_500, 1_234_567, 250_000_000, 1_023_456_789, 61_000_000_000] {
            let time = Duration::from_nanos(nanos);
            let read = duration(&format!("{time:?}"));
            assert!(read.abs_diff(time) < Duration::from_nanos(2), "{time:?} is read as {read:?}");
        }
    }
}
