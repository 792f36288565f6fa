//! What the wire did and how well: the numbers that a report's fidelity section is made of.
//!
//! Nothing is subtracted or smoothed. Times count from the kernel's own timestamp of the arriving
//! frame, so a frame that waited in a socket because the engine was not running counts as late.

use hdrhistogram::Histogram;
use serde::Serialize;

/// A snapshot of all counters since the wire was started.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WireStats {
    /// Unicast packets that the wire took from an instance for another, lost ones included. A large
    /// frame is one.
    pub packets: u64,
    /// The MTU-sized segments that those packets stood for.
    pub segments: u64,
    /// Packets that were handed on later than they came, because a profile said so.
    pub delayed_packets: u64,
    /// Segments lost because a profile said so.
    pub lost_packets: u64,
    /// Frames lost outside the model: full queues of the kernel, refused sends, unreadable frames.
    pub overflow: u64,
    /// Frames for a hardware address that no port has.
    pub unroutable: u64,
    /// Broadcast and multicast frames. They are drawn apart and counted in no other number.
    pub flooded: u64,
    /// How late delayed frames were handed on, microseconds: median.
    pub lateness_p50_us: f64,
    /// How late delayed frames were handed on, microseconds: 99th percentile.
    pub lateness_p99_us: f64,
    /// How late delayed frames were handed on, microseconds: worst.
    pub lateness_max_us: f64,
    /// Time that undelayed frames spent in the wire, microseconds: median.
    pub transit_p50_us: f64,
    /// Time that undelayed frames spent in the wire, microseconds: 99th percentile.
    pub transit_p99_us: f64,
    /// Time that undelayed frames spent in the wire, microseconds: worst.
    pub transit_max_us: f64,
    /// Processor time that the wire's thread used, milliseconds.
    pub cpu_ms: f64,
    /// The part of it that was spent watching the clock, milliseconds.
    pub spin_ms: f64,
    /// Each direction that carried anything, by sender and receiver.
    pub pairs: Vec<PairStats>,
    /// Anything else that the reader should know, one sentence each.
    pub notes: Vec<String>,
}

impl WireStats {
    /// The counters of one direction; zeros if it carried nothing.
    pub fn pair(&self, from: usize, to: usize) -> PairStats {
        let found = self.pairs.iter().find(|pair| (pair.from, pair.to) == (from, to));
        found.cloned().unwrap_or(PairStats { from, to, ..PairStats::default() })
    }
}

/// The counters of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PairStats {
    /// Position of the sender's port.
    pub from: usize,
    /// Position of the receiver's port.
    pub to: usize,
    /// Packets, lost ones included.
    pub packets: u64,
    /// MTU-sized segments.
    pub segments: u64,
    /// Segments lost on purpose.
    pub lost_segments: u64,
    /// Packets that arrive later than they were sent.
    pub delayed_packets: u64,
}

/// A histogram of durations up to a minute.
#[derive(Debug)]
pub(super) struct Spread(Histogram<u64>);

impl Spread {
    pub(super) fn new() -> Spread {
        Spread(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order"))
    }

    pub(super) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Median, 99th percentile and maximum, microseconds. Zeros if there is nothing.
    pub(super) fn summary_us(&self) -> [f64; 3] {
        if self.0.is_empty() {
            return [0.0; 3];
        }
        [self.0.value_at_quantile(0.5), self.0.value_at_quantile(0.99), self.0.max()]
            .map(|ns| ns as f64 / 1e3)
    }
}
