//! The audit log: a line of JSON for every request and every opaque connection that reached this
//! sidecar on its way to the app, and for every peer that could not prove who it is: who, what,
//! when, allowed or denied by which rule, and what came of it.
//!
//! A line is begun before the request goes on and is written when the answer has ended, whichever
//! way it ends. Between the workers and the [`writer`] is a queue. What counts against its size is
//! the lines that wait there, and not what is still under way, or idle connections would hold all
//! of it. What happens when the disk is slow or full is the operator's choice ([`WhenFull`]): what
//! begins waits until there is room, so that nothing passes unseen, and what has begun puts its
//! line in although there is none; or requests go on, and the log says how many of its lines are
//! missing.
//!
//! No line has a header, a query or a body, so secrets do not get into it.

mod record;
pub mod verify;
pub mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::config::{Audit, WhenFull};
use crate::connection::{Connection, Ending};
use crate::error::Kind;
pub use record::{AuditDecision, AuditEvent, AuditRecord};

/// Where records are put. One for each sidecar, shared by its workers.
pub struct AuditLog {
    queue: mpsc::UnboundedSender<Item>,
    when_full: WhenFull,
    /// Lines that may wait before the queue is full.
    size: usize,
    /// What has not ended is cut, since the sidecar ends.
    is_cut: AtomicBool,
    shared: Arc<Shared>,
}

/// What both ends of the queue know.
#[derive(Default)]
struct Shared {
    /// Records that are in the queue.
    waiting: AtomicUsize,
    /// Told whenever some were taken out.
    taken: Notify,
    /// Records for which there was no room, and of which the log does not know yet.
    lost: AtomicU64,
    /// Why the log cannot be written; `None` if it can.
    trouble: ArcSwapOption<String>,
}

/// What is in the queue.
enum Item {
    Record(Box<Pending>),
    /// Somebody waits until everything before is written.
    Flush(oneshot::Sender<()>),
}

/// A record, and the log that it is for until it is put in there.
struct Pending {
    record: AuditRecord,
    begun: Instant,
    log: Option<Arc<AuditLog>>,
}

/// The other end of the queue, for the [`writer`].
pub struct AuditQueue {
    items: mpsc::UnboundedReceiver<Item>,
    shared: Arc<Shared>,
    config: Audit,
}

/// An audit log and its queue.
pub fn channel(config: Audit) -> (Arc<AuditLog>, AuditQueue) {
    let (queue, items) = mpsc::unbounded_channel();
    let shared = Arc::<Shared>::default();
    let (when_full, size, is_cut) = (config.when_full, config.queue, AtomicBool::default());
    let log = AuditLog { queue, when_full, size, is_cut, shared: shared.clone() };
    (Arc::new(log), AuditQueue { items, shared, config })
}

impl AuditLog {
    /// Begins a record at the time of day `now`: once there is room for it, if it is to wait.
    pub async fn begin(
        self: &Arc<Self>,
        event: AuditEvent,
        ends: (SocketAddr, SocketAddr),
        now: SystemTime,
    ) -> AuditEntry {
        if self.when_full == WhenFull::Block && !self.has_room() {
            // Boxed: most requests have no use for it.
            Box::pin(self.room()).await;
        }
        self.entry(event, ends, now)
    }

    /// Begins a record of what has been refused, which nothing can wait for. `None`: there is no
    /// room, and it is lost.
    pub fn begin_refused(
        self: &Arc<Self>,
        event: AuditEvent,
        ends: (SocketAddr, SocketAddr),
        now: SystemTime,
    ) -> Option<AuditEntry> {
        if !self.has_room() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.entry(event, ends, now))
    }

    fn entry(
        self: &Arc<Self>,
        event: AuditEvent,
        (peer, dst): (SocketAddr, SocketAddr),
        now: SystemTime,
    ) -> AuditEntry {
        let record = AuditRecord::new(event, now, peer, dst);
        let pending = Pending { record, begun: Instant::now(), log: Some(self.clone()) };
        AuditEntry { pending: Some(Box::new(pending)), ending: Ending::default() }
    }

    fn has_room(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) < self.size
    }

    /// Waits until there is room, or the sidecar is ending.
    async fn room(&self) {
        loop {
            // Before the look, or what is taken out in between is not heard of.
            let taken = self.shared.taken.notified();
            if self.has_room() {
                return;
            }
            tokio::select! {
                biased;
                () = taken => {}
                () = self.queue.closed() => return,
            }
        }
    }

    /// Puts a record in. Where nothing may pass unseen it goes in although there is no room: it had
    /// some when it began.
    fn put(&self, pending: Box<Pending>) {
        let waiting = self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let fits = self.when_full == WhenFull::Block || waiting < self.size;
        if !fits || self.queue.send(Item::Record(pending)).is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Why requests would wait: the log cannot be written, and none may pass unseen.
    pub fn unready(&self) -> Option<String> {
        let why = self.shared.trouble.load_full().filter(|_| self.when_full == WhenFull::Block)?;
        Some(format!("the audit log cannot be written: {why}"))
    }

    /// What has not ended yet does so because the sidecar ends.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Waits until everything that is in the queue is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).is_ok() {
            let _ = written.await;
        }
    }
}

/// A record that is not complete yet. It is written when this is dropped.
pub struct AuditEntry {
    pending: Option<Box<Pending>>,
    ending: Ending,
}

impl AuditEntry {
    /// What is known of it.
    pub fn record(&mut self) -> &mut AuditRecord {
        &mut self.pending().record
    }

    fn pending(&mut self) -> &mut Pending {
        self.pending.as_mut().expect("it is only taken when it is dropped")
    }

    /// Of whose connection it is: who asks, as its certificate proves.
    pub fn of(mut self, connection: &Connection) -> Self {
        self.record().identity.clone_from(&connection.peer_identity);
        self.ending.on(connection);
        self
    }

    /// It began earlier: at this time of day.
    pub fn since(mut self, begun: Instant, time: SystemTime) -> Self {
        self.pending().begun = begun;
        self.record().time = time.into();
        self
    }

    /// Notes why it was refused before policies were asked.
    pub fn refused(&mut self, kind: Kind) {
        self.record().decide(false, None);
        self.failed(kind);
    }

    /// Notes why it failed. The first reason stays.
    pub fn failed(&mut self, kind: Kind) {
        self.ending.failed(kind);
    }

    /// Notes that it is over as it should be.
    pub fn ended(&mut self) {
        self.ending.ended();
    }
}

impl Drop for AuditEntry {
    fn drop(&mut self) {
        let Some(mut pending) = self.pending.take() else { return };
        let Some(log) = pending.log.take() else { return };
        let reason = self.ending.reason(log.is_cut.load(Ordering::Relaxed));
        pending.record.reason = reason.map(|kind| kind.label().into());
        pending.record.duration_us = pending.begun.elapsed().as_micros() as u64;
        log.put(pending);
    }
}

#[cfg(test)]
mod tests;
