//! The shutdown protocol: one signal, many watchers, and the signaller learns when the last of them has gone.
//!
//! Every listener and every connection holds a [`Watch`]. On [`Signal::drain`] listeners stop accepting, connections
//! finish the request they carry and close, and each drops its watch. When all are gone, or the deadline has passed,
//! the process may exit; whatever is left then is cut.

use tokio::sync::watch;
use tokio::time::Instant;

/// Starts a drain and waits for its end.
#[derive(Debug)]
pub struct Signal(watch::Sender<bool>);

/// Learns that a drain has begun; while it lives, the drain is not over.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<bool>);

/// A signal and the first of its watchers.
pub fn channel() -> (Signal, Watch) {
    let (send, receive) = watch::channel(false);
    (Signal(send), Watch(receive))
}

impl Signal {
    /// Tells every watcher, then waits until all are gone or `deadline` has passed. Returns how many were left.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.0.send_replace(true);
        let _ = tokio::time::timeout_at(deadline, self.0.closed()).await;
        self.0.receiver_count()
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
    async fn a_drain_gives_up_at_its_deadline() {
        let (signal, watch) = channel();
        assert_eq!(signal.drain(Instant::now() + Duration::from_secs(5)).await, 1);
        assert!(watch.is_draining());
    }
}
