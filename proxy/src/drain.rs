//! The shutdown protocol: one signal, many watchers, and the signaller learns when the last of them
//! has gone.
//!
//! Every listener and every connection holds a [`Watch`]. On [`Signal::drain`] listeners stop
//! accepting, connections finish the request they carry and close, and each drops its watch. When
//! all are gone, or the deadline has passed, the process may exit; whatever is left then is cut.

use tokio::sync::watch;
use tokio::time::Instant;

/// Starts a drain and waits for its end.
#[derive(Debug)]
pub struct Signal(watch::Sender<bool>);

/// Learns that a drain has begun; while it lives, the drain is not over.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<bool>);

/// Makes watchers, without being one that the drain waits for.
#[derive(Debug, Clone)]
pub struct Source(watch::Sender<bool>);

/// A signal and the first of its watchers.
pub fn channel() -> (Signal, Watch) {
    let (send, receive) = watch::channel(false);
    (Signal(send), Watch(receive))
}

impl Signal {
    /// Tells every watcher, then waits until all are gone or `deadline` has passed. Returns how
    /// many were left.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.0.send_replace(true);
        let _ = tokio::time::timeout_at(deadline, self.0.closed()).await;
        self.0.receiver_count()
    }

    /// What makes watchers of this drain.
    pub fn source(&self) -> Source {
        Source(self.0.clone())
    }
}

impl Source {
    /// One more watcher; it may learn that the drain has begun already.
    pub fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }
}

impl Watch {
    /// Waits until the drain begins. For ever, if the signal is dropped first.
    pub async fn signaled(&mut self) {
        if self.0.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_the_last_watcher_is_gone() {
        let (signal, watch) = channel();
        let mut other = watch.clone();
        let end = async {
            other.signaled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop((watch, other));
        };
        let (left, ()) = tokio::join!(signal.drain(Instant::now() + Duration::from_secs(5)), end);
        assert_eq!(left, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_does_not_hold_up_a_drain_and_what_it_makes_later_does() {
        let (signal, watch) = channel();
        let source = signal.source();
        let end = async {
            watch.clone().signaled().await;
            let late = source.watch();
            drop(watch);
            assert!(late.is_draining());
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(late);
            Instant::now()
        };
        let (left, ended) = tokio::join!(signal.drain(Instant::now() + Duration::from_secs(5)), end);
        assert_eq!((left, Instant::now()), (0, ended));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_gives_up_at_its_deadline() {
        let (signal, watch) = channel();
        assert_eq!(signal.drain(Instant::now() + Duration::from_secs(5)).await, 1);
        assert!(watch.is_draining());
    }
}
