//! Reads single lines of the log.

use std::time::Duration;

use super::facts::{EndpointChange, RequestStep};
use crate::readable;
use crate::sim::LogLine;

/// A field that is text; empty if it is missing.
pub(super) fn word(line: &LogLine, field: &str) -> String {
    line.word(field).unwrap_or_default().to_owned()
}

/// A field that is a number; 0 if it is missing.
pub(super) fn number(line: &LogLine, field: &str) -> u64 {
    line.number(field).unwrap_or_default()
}

/// The change of an endpoint's availability that a line tells of, if it does.
pub(super) fn change(line: &LogLine) -> Option<EndpointChange> {
    Some(match line.text.as_str() {
        "endpoint ejected" => EndpointChange::Ejected(duration(&word(line, "time")), word(line, "reason")),
        "probing" => EndpointChange::Probing,
        "the probe has taught nothing" => EndpointChange::Unanswered,
        "endpoint back in use" => EndpointChange::Restored(false),
        "endpoint back in use: its check passed" => EndpointChange::Restored(true),
        "endpoint unhealthy" => EndpointChange::Healthy(false),
        "endpoint healthy" => EndpointChange::Healthy(true),
        "check failed" => EndpointChange::CheckFailed,
        "check passed" => EndpointChange::CheckPassed,
        "endpoint found" => EndpointChange::Found,
        "endpoint gone" => EndpointChange::Gone,
        _ => return None,
    })
}

/// The step of a request that a line tells of, if it does.
pub(super) fn step(line: &LogLine) -> Option<RequestStep> {
    let endpoint = || word(line, "endpoint");
    Some(match line.text.as_str() {
        "endpoint picked" => RequestStep::Picked { endpoint: endpoint(), panic: line.flag("panic") },
        "endpoint answered" => {
            let (status, average) = (number(line, "status"), number(line, "average_us"));
            let grpc = line.word("grpc").and_then(|code| code.parse().ok());
            // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS
            let failed = [2, 4, 8, 13, 14, 15].map(Some).contains(&grpc);
            let succeeded = status < 500 && status != 429 && !failed;
            RequestStep::Answered {
                endpoint: endpoint(),
                status,
                last: line.flag("last"),
                grpc,
                succeeded,
                average,
            }
        }
        "attempt failed" => RequestStep::Failed {
            endpoint: endpoint(),
            error: word(line, "error"),
            unsent: line.flag("unsent"),
            reused: line.flag("reused"),
        },
        "trying again" => RequestStep::Again {
            reason: word(line, "reason"),
            wait: duration(&word(line, "wait")),
            budget: number(line, "budget"),
        },
        "not trying again" => RequestStep::GivenUp(word(line, "why")),
        "request answered" => RequestStep::Done(number(line, "status")),
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
