//! The audit log: a line of JSON for every request and every opaque connection that reached this
//! sidecar on its way to the app, and for every peer that could not prove who it is: who, what,
//! when, allowed or denied by which rule, and what came of it.
//!
//! A line is begun before the request goes on and is written when the answer has ended, whichever
//! way it ends. Between the workers and the [`writer`] is a queue with a limit. What happens when
//! the disk is slow or full is the operator's choice ([`WhenFull`]): requests wait until there is
//! room, so that nothing passes unseen, or they go on and the log says how many of its lines are
//! missing.
//!
//! No line has a header, a query or a body, so secrets do not get into it.

mod record;
pub mod verify;
pub mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::{Audit, WhenFull};
use crate::spiffe_id::SpiffeId;
pub use record::{AuditDecision, AuditEvent, AuditRecord};

/// Where records are put. One for each sidecar, shared by its workers.
pub struct AuditLog {
    queue: mpsc::Sender<Item>,
    when_full: WhenFull,
    /// Records for which there was no room, and of which the log does not know yet.
    lost: Arc<AtomicU64>,
    /// Why the last write failed; `None` if it did not.
    trouble: Arc<ArcSwapOption<String>>,
}

/// What is in the queue.
enum Item {
    Record(Box<Pending>),
    /// Somebody waits until everything before is written.
    Flush(oneshot::Sender<()>),
}

/// A record with its place in the queue.
struct Pending {
    record: AuditRecord,
    begun: Instant,
    place: Option<mpsc::OwnedPermit<Item>>,
}

/// The other end of the queue, for the [`writer`].
pub struct AuditQueue {
    items: mpsc::Receiver<Item>,
    lost: Arc<AtomicU64>,
    trouble: Arc<ArcSwapOption<String>>,
    config: Audit,
}

/// An audit log and its queue.
pub fn channel(config: Audit) -> (AuditLog, AuditQueue) {
    let (queue, items) = mpsc::channel(config.queue);
    let (lost, trouble) = (Arc::<AtomicU64>::default(), Arc::<ArcSwapOption<String>>::default());
    let log = AuditLog { queue, when_full: config.when_full, lost: lost.clone(), trouble: trouble.clone() };
    (log, AuditQueue { items, lost, trouble, config })
}

impl AuditLog {
    /// Begins a record at the time of day `now`, once there is room for it. `None`: there is none,
    /// and it is lost; or the sidecar is ending.
    pub async fn begin(
        &self,
        event: AuditEvent,
        (peer, dst): (SocketAddr, SocketAddr),
        now: SystemTime,
    ) -> Option<AuditEntry> {
        let permit = match self.when_full {
            WhenFull::Block => self.queue.clone().reserve_owned().await.ok(),
            WhenFull::Drop => self.queue.clone().try_reserve_owned().ok(),
        };
        if permit.is_none() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let record = AuditRecord::new(event, now, peer, dst);
        Some(AuditEntry(Some(Box::new(Pending { record, begun: Instant::now(), place: permit }))))
    }

    /// Why requests would wait: the log cannot be written, and none may pass unseen.
    pub fn unready(&self) -> Option<String> {
        let why = self.trouble.load_full().filter(|_| self.when_full == WhenFull::Block)?;
        Some(format!("the audit log cannot be written: {why}"))
    }

    /// Waits until everything that is in the queue is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }
}

/// A record that is not complete yet. It is written when this is dropped.
pub struct AuditEntry(Option<Box<Pending>>);

impl AuditEntry {
    /// What is known of it.
    pub fn record(&mut self) -> &mut AuditRecord {
        &mut self.0.as_mut().expect("it is only taken when it is dropped").record
    }

    /// Who asks, as its certificate proves.
    pub fn of(mut self, identity: Option<&SpiffeId>) -> Self {
        self.record().identity = identity.cloned();
        self
    }
}

impl Drop for AuditEntry {
    fn drop(&mut self) {
        let Some(mut pending) = self.0.take() else { return };
        pending.record.duration_us = pending.begun.elapsed().as_micros() as u64;
        if let Some(place) = pending.place.take() {
            place.send(Item::Record(pending));
        }
    }
}

#[cfg(test)]
mod tests;
