//! The connections that a process has just dialled, so that it knows one of them when it comes back to its own listener.
//!
//! A fixed table without locks: a slot keeps a check sum of both addresses and the time. An entry counts for
//! [`REMEMBERED`], which is ample for a connection that never leaves the host, and too short for its port to be somebody
//! else's. A later one may push it out; then a circle is found out one round later.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// How long a connection that was dialled may take to be accepted.
const REMEMBERED: Duration = Duration::from_secs(1);
/// At 4096 new connections each second one of them is remembered for a second.
const SLOTS: usize = 4096;

/// What was dialled in the last second.
#[derive(Debug)]
pub(super) struct Recent {
    /// The upper half is of the check sum, the lower is the time in milliseconds.
    slots: Box<[AtomicU64]>,
    begun: Instant,
}

impl Default for Recent {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Recent { slots, begun: Instant::now() }
    }
}

impl Recent {
    /// Notes a connection.
    pub(super) fn note(&self, from: SocketAddr, to: SocketAddr) {
        let (slot, sum) = self.find(from, to);
        slot.store(sum | u64::from(self.now()), Relaxed);
    }

    /// Whether it was noted a moment ago.
    pub(super) fn has(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let (slot, sum) = self.find(from, to);
        let found = slot.load(Relaxed);
        let age = self.now().wrapping_sub(found as u32);
        found & !u64::from(u32::MAX) == sum && u128::from(age) <= REMEMBERED.as_millis()
    }

    fn find(&self, from: SocketAddr, to: SocketAddr) -> (&AtomicU64, u64) {
        let canonical = |at: SocketAddr| (at.ip().to_canonical(), at.port());
        let mut hasher = DefaultHasher::new();
        (canonical(from), canonical(to)).hash(&mut hasher);
        let hash = hasher.finish();
        // An empty slot must not look like one that was used.
        let sum = (hash | 1 << 63) & !u64::from(u32::MAX);
        (&self.slots[hash as usize % SLOTS], sum)
    }

    fn now(&self) -> u32 {
        self.begun.elapsed().as_millis() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_known_by_both_ends_and_for_a_moment() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (from, to) = (at("10.0.0.5:40000"), at("10.0.0.9:80"));
        let recent = Recent::default();
        assert!(!recent.has(from, to));
        recent.note(from, to);
        assert!(recent.has(at("[::ffff:10.0.0.5]:40000"), to));
        assert!(!recent.has(from, at("10.0.0.9:81")) && !recent.has(at("10.0.0.5:40001"), to));
        tokio::time::advance(REMEMBERED).await;
        assert!(recent.has(from, to));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!recent.has(from, to));
    }
}
