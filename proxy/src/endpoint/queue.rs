//! Those that wait for a stream at an endpoint: in turn, so many and for so long as may, counted.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::pool::PoolLimits;
use crate::error::{Error, Kind};
use crate::telemetry::{EndpointMetrics, LimitReason, Open, emit};

/// Those that wait at one endpoint.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Cell<usize>,
    /// Wakes the first of them.
    free: Notify,
}

/// A request that waits, until it is dropped.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    queue: Rc<Queue>,
    endpoint: SocketAddr,
    until: Instant,
    limit: Duration,
    _counted: [Open; 2],
}

impl Queue {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    /// There may be room: lets the first look.
    pub(super) fn call(&self) {
        if !self.is_empty() {
            self.free.notify_one();
        }
    }

    /// Waits as well, for no longer than connecting may take.
    ///
    /// # Errors
    /// [`Kind::PoolFull`] if as many wait as may.
    pub(super) fn join(
        self: &Rc<Self>,
        endpoint: SocketAddr,
        limits: PoolLimits,
        metrics: &EndpointMetrics,
    ) -> Result<QueuedRequest, Error> {
        if metrics.waiting_in_cluster() >= limits.cluster.pending.into() {
            metrics.limited(LimitReason::Pending);
            let cause = "as many requests of the cluster wait as may (limits.pending)";
            return Err(Error::at(Kind::PoolFull, endpoint, cause));
        }
        if self.waiting.get() >= limits.pending {
            return Err(Error::at(Kind::PoolFull, endpoint, "as many requests wait for a stream as may"));
        }
        self.waiting.set(self.waiting.get() + 1);
        let _counted = metrics.waiting();
        emit!(WaitingForStream { endpoint, waiting: metrics.waiting_in_cluster() });
        let limit = limits.connect;
        Ok(QueuedRequest { queue: self.clone(), endpoint, until: Instant::now() + limit, limit, _counted })
    }
}

impl QueuedRequest {
    /// Waits until it is the first in the queue and there may be room.
    ///
    /// # Errors
    /// [`Kind::PoolTimeout`] if that takes too long.
    pub(super) async fn called(&self) -> Result<(), Error> {
        timeout_at(self.until, self.queue.free.notified()).await.map_err(|_| {
            let cause = format!("no stream was free within {:?}", self.limit);
            Error::at(Kind::PoolTimeout, self.endpoint, cause)
        })
    }
}

impl Drop for QueuedRequest {
    fn drop(&mut self) {
        self.queue.waiting.set(self.queue.waiting.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{address, limits, metrics};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_counts_until_it_waits_no_more() {
        let (queue, metrics) = (Rc::new(Queue::default()), metrics());
        let two = [(); 2].map(|()| queue.join(address(), limits(), &metrics).unwrap());
        assert_eq!(queue.waiting.get(), 2);
        drop(two);
        assert!(queue.is_empty());
    }
}
