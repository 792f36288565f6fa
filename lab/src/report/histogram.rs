//! How latency was spread, in buckets whose bounds have two digits: an error of a tenth at most.

use std::collections::BTreeMap;

use crate::load::{Outcome, Record};

/// Upper bounds in microseconds, in order, and how many requests are in each bucket. Empty ones are
/// left out.
pub type Histogram = Vec<(u64, u64)>;

/// The latencies of what was sent in the measured part.
pub(super) fn histogram(records: &[Record]) -> Histogram {
    let sent = records.iter().filter(|r| r.due_us >= 0 && r.outcome != Outcome::Dropped);
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    for record in sent {
        *buckets.entry(bound(record.latency_us)).or_default() += 1;
    }
    buckets.into_iter().collect()
}

/// The least number of two digits, and zeros, that is not smaller.
fn bound(us: u64) -> u64 {
    let unit = 10_u64.pow(us.max(1).ilog10().saturating_sub(1));
    us.div_ceil(unit).saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_has_two_digits_and_is_no_smaller() {
        for (us, expected) in
            [(0, 0), (1, 1), (99, 99), (100, 100), (101, 110), (999, 1_000), (1_001, 1_100), (12_345, 13_000)]
        {
            assert_eq!(bound(us), expected, "{us}");
        }
    }

    #[test]
    fn what_was_sent_in_the_measured_part_counts() {
        let record = |due_us, latency_us, outcome| Record { due_us, latency_us, late_us: 0, outcome };
        let records = [
            record(-1, 5, Outcome::Ok),
            record(0, 101, Outcome::Ok),
            record(1, 110, Outcome::Timeout),
            record(2, 7, Outcome::Ok),
            record(3, 0, Outcome::Dropped),
        ];
        assert_eq!(histogram(&records), [(7, 1), (110, 2)]);
    }
}
