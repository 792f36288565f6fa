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

/// Learns that a drain has begun, the one or the other if there are two; while it lives, neither is
/// over.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<bool>, Option<watch::Receiver<bool>>);

/// Makes watchers, without being one that the drain waits for.
#[derive(Debug, Clone)]
pub struct Source(watch::Sender<bool>);

/// A signal and the first of its watchers.
pub fn channel() -> (Signal, Watch) {
    let (send, receive) = watch::channel(false);
    (Signal(send), Watch(receive, None))
}

impl Signal {
    /// Tells every watcher, then waits until all are gone or `deadline` has passed. Returns how
    /// many were left.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.begin();
        let _ = tokio::time::timeout_at(deadline, self.0.closed()).await;
        self.0.receiver_count()
    }

    /// Tells every watcher, and does not wait. Says whether this was the first time.
    pub fn begin(&self) -> bool {
        !self.0.send_replace(true)
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// What makes watchers of this drain.
    pub fn source(&self) -> Source {
        Source(self.0.clone())
    }
}

impl Source {
    /// One more watcher; it may learn that the drain has begun already.
    pub fn watch(&self) -> Watch {
        Watch(self.0.subscribe(), None)
    }
}

impl Watch {
    /// The same, which also learns that `other` has begun.
    pub fn or(self, other: Watch) -> Watch {
        Watch(self.0, Some(other.0))
    }

    /// Waits until the drain begins. For ever, if the signal is dropped first.
    pub async fn signaled(&mut self) {
        let Watch(one, other) = self;
        tokio::select! {
            biased;
            () = begun(Some(one)) => {}
            () = begun(other.as_mut()) => {}
        }
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() || self.1.as_ref().is_some_and(|other| *other.borrow())
    }
}

/// Waits until the drain of `watched` begins. For ever, if there is none.
async fn begun(watched: Option<&mut watch::Receiver<bool>>) {
    if let Some(watched) = watched
        && watched.wait_for(|draining| *draining).await.is_ok()
    {
        return;
    }
    std::future::pending().await
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
    async fn who_watches_two_drains_learns_of_either_and_holds_up_both() {
        for second in [false, true] {
            let ((one, first_watch), (other, other_watch)) = (channel(), channel());
            let mut watch = first_watch.or(other_watch);
            assert!(!watch.is_draining());
            let begins = if second { &other } else { &one };
            assert!(begins.begin() && !begins.begin() && begins.has_begun());
            watch.signaled().await;
            assert!(watch.is_draining());
            assert_eq!(one.drain(Instant::now() + Duration::from_secs(1)).await, 1);
            assert_eq!(other.drain(Instant::now() + Duration::from_secs(1)).await, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_gives_up_at_its_deadline() {
        let (signal, watch) = channel();
        assert_eq!(signal.drain(Instant::now() + Duration::from_secs(5)).await, 1);
        assert!(watch.is_draining());
    }
}
