//! The connections that a process has just dialled, so that it knows one of them when it comes back
//! to its own listener.
//!
//! A table of a fixed size: a slot keeps a check sum of both addresses and the time. An entry
//! counts for [`OWN_CONNECTIONS_KEPT`], which is ample for a connection that never leaves the host,
//! and too short for its port to be somebody else's. A later one may push it out; then a circle is
//! found out one round later.
//!
//! The kernel chooses the port while it connects, and within a host the connection can be accepted
//! before `connect(2)` has returned. So whoever asks about a connection to an address waits for the
//! calls to this address that were under way before the question: some microseconds, and only if
//! another thread dials the same address at the same time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::config::defaults::OWN_CONNECTIONS_KEPT;

/// At 4096 new connections each second one of them is remembered for a second.
const SLOTS: usize = 4096;

/// What was dialled in the last second.
#[derive(Debug)]
pub(super) struct Recent {
    /// The upper half is of the check sum, the lower is the time in milliseconds.
    slots: Box<[AtomicU64]>,
    begun: Instant,
    under_way: Mutex<UnderWay>,
}

/// The calls of `connect(2)` that have not returned.
#[derive(Debug, Default)]
struct UnderWay {
    /// The number of the next call.
    next: u64,
    /// The number of each call, and the address that it connects to.
    calls: Vec<(u64, SocketAddr)>,
}

impl Default for Recent {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Recent { slots, begun: Instant::now(), under_way: Mutex::default() }
    }
}

impl Recent {
    /// Notes the connection to `to` that `dial` opens, which returns the address that it was opened
    /// from, if it is known.
    ///
    /// # Errors
    /// Those of `dial`. Nothing is noted then.
    pub(super) fn note(
        &self,
        to: SocketAddr,
        dial: impl FnOnce() -> io::Result<Option<SocketAddr>>,
    ) -> io::Result<()> {
        let number = self.begin(canonical(to));
        let from = dial();
        if let Ok(Some(from)) = from {
            let (slot, sum) = self.find(from, to);
            slot.store(sum | u64::from(self.now()), Relaxed);
        }
        self.under_way().calls.retain(|(call, _)| *call != number);
        from.map(drop)
    }

    /// Whether it was noted a moment ago.
    pub(super) fn has(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.wait_for_calls(canonical(to));
        let (slot, sum) = self.find(from, to);
        let found = slot.load(Relaxed);
        let age = self.now().wrapping_sub(found as u32);
        found & !u64::from(u32::MAX) == sum && u128::from(age) <= OWN_CONNECTIONS_KEPT.as_millis()
    }

    fn begin(&self, to: SocketAddr) -> u64 {
        let mut under_way = self.under_way();
        let number = under_way.next;
        under_way.next += 1;
        under_way.calls.push((number, to));
        number
    }

    /// Returns when each call to `to` that is under way now has returned.
    fn wait_for_calls(&self, to: SocketAddr) {
        let next = self.under_way().next;
        while self.under_way().calls.iter().any(|(call, at)| *call < next && *at == to) {
            std::thread::yield_now();
        }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, from: SocketAddr, to: SocketAddr) -> (&AtomicU64, u64) {
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

/// The same address, with an IPv4-mapped one as IPv4.
pub(super) fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_known_by_both_ends_and_for_a_moment() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (from, to) = (at("10.0.0.5:40000"), at("10.0.0.9:80"));
        let recent = Recent::default();
        assert!(!recent.has(from, to));
        recent.note(to, || Ok(Some(from))).unwrap();
        assert!(recent.has(at("[::ffff:10.0.0.5]:40000"), to));
        assert!(!recent.has(from, at("10.0.0.9:81")) && !recent.has(at("10.0.0.5:40001"), to));
        tokio::time::advance(OWN_CONNECTIONS_KEPT).await;
        assert!(recent.has(from, to));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!recent.has(from, to));
    }
    #[test]
    fn who_accepts_a_connection_before_its_dialler_knows_its_port_waits_for_that() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (from, to) = (at("10.0.0.5:40000"), at("10.0.0.9:80"));
        let recent = Recent::default();
        let (asking, asked) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let mut acceptor = None;
            recent
                .note(to, || {
                    acceptor = Some(scope.spawn(|| {
                        assert!(!recent.has(from, at("10.0.0.9:81")), "that is nobody's to wait for");
                        asking.send(()).unwrap();
                        recent.has(from, to)
                    }));
                    asked.recv().unwrap();
                    // Whoever does not wait has looked by now.
                    (0..100).for_each(|_| std::thread::yield_now());
                    Ok(Some(from))
                })
                .unwrap();
            assert!(acceptor.unwrap().join().unwrap());
        });
        recent.note(at("10.0.0.9:82"), || Err(io::ErrorKind::AddrNotAvailable.into())).unwrap_err();
        assert!(!recent.has(from, at("10.0.0.9:82")));
    }
}
