//! The access log: a line for every request and every opaque connection that this sidecar carries,
//! on its way in and on its way out.
//!
//! An [`AccessEntry`] is begun with the request and sent to the queue when it is dropped, at the
//! end of the answer, whichever way that comes. It keeps handles and numbers; a line is made of
//! them on the control thread. No request ever waits for it: if the queue is full, the line is
//! lost, which is counted.
//!
//! Left out: the disk, which `crate::access_log` writes to.

mod line;
mod record;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Request, StatusCode};
use rand::{Rng, RngExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use record::{AccessEvent, AccessRecord};

use super::Direction;
use super::request_log::Attempts;
use crate::config::{self, LogFilter, LogFormat};
use crate::connection::{Connection, Ending};
use crate::error::Kind;
use crate::spiffe_id::SpiffeId;

/// Where records are put. One for each sidecar, shared by its workers.
pub struct AccessLog {
    queue: mpsc::Sender<LogItem>,
    format: LogFormat,
    filter: LogFilter,
    /// What has not ended is cut, since the sidecar ends.
    is_cut: AtomicBool,
    /// Lines for which there was no room, and which are not counted yet.
    lost: Arc<AtomicU64>,
}

/// What is in the queue.
pub enum LogItem {
    /// What a line is made of.
    Record(Box<AccessRecord>),
    /// Somebody waits until everything before is written.
    Flush(oneshot::Sender<()>),
}

/// The other end of the queue.
pub struct AccessQueue {
    /// What is to be written.
    pub items: mpsc::Receiver<LogItem>,
    /// Lines for which there was no room since this was read last.
    pub lost: Arc<AtomicU64>,
    /// Where and how lines are written.
    pub config: config::AccessLog,
}

/// An access log and its queue.
pub fn channel(config: config::AccessLog) -> (AccessLog, AccessQueue) {
    let (queue, items) = mpsc::channel(config.queue);
    let lost = Arc::<AtomicU64>::default();
    let (format, filter) = (config.format.clone(), config.filter);
    let log = AccessLog { queue, format, filter, is_cut: AtomicBool::default(), lost: lost.clone() };
    (log, AccessQueue { items, lost, config })
}

impl AccessLog {
    /// Begins the record of a request or a connection of a client to an address at the time of day
    /// `now`. `None`: there will be no line, whatever comes of it.
    pub fn begin(
        self: &Arc<Self>,
        event: AccessEvent,
        direction: Direction,
        from: (SocketAddr, Option<&SpiffeId>),
        to: SocketAddr,
        now: SystemTime,
        rng: &mut impl Rng,
    ) -> Option<AccessEntry> {
        let is_chosen = self.filter.share.is_some_and(|share| rng.random_bool(share.clamp(0.0, 1.0)));
        let filter = self.filter;
        let is_certain = is_chosen || filter.is_everything();
        if !is_certain && !filter.errors && filter.slower_than.is_none() {
            return None;
        }
        let record = Box::new(AccessRecord::new(event, direction, from, to, now));
        Some(AccessEntry {
            log: self.clone(),
            record: Some(record),
            begun: Instant::now(),
            is_certain,
            ending: Ending::default(),
            body: None,
        })
    }

    /// What has not ended yet does so because the sidecar ends.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Waits until everything that is in the queue is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(LogItem::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }

    fn is_wanted(&self, record: &AccessRecord) -> bool {
        self.filter.errors && record.has_failed()
            || self.filter.slower_than.is_some_and(|limit| record.duration > limit)
    }
}

/// A record that is not complete yet. Its line is written when this is dropped.
pub struct AccessEntry {
    log: Arc<AccessLog>,
    /// `None` once it is sent.
    record: Option<Box<AccessRecord>>,
    begun: Instant,
    /// Whether there will be a line, whatever comes of it.
    is_certain: bool,
    ending: Ending,
    /// Knows how much of the request's body has come.
    body: Option<Rc<dyn BodyBytes>>,
}

/// Counts the bytes of a body.
pub trait BodyBytes {
    /// How many there were until now.
    fn bytes(&self) -> u64;
}

impl std::fmt::Debug for AccessEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AccessEntry").field(&self.record).finish()
    }
}

impl AccessEntry {
    fn record(&mut self) -> &mut AccessRecord {
        self.record.as_mut().expect("it is only taken when it is dropped")
    }

    /// Lets it know why its connection is cut, if it is.
    pub fn cut_with(mut self, connection: &Connection) -> Self {
        self.ending.on(connection);
        self
    }

    /// Notes what is asked for.
    pub fn describe<B>(mut self, request: &Request<B>) -> Self {
        let headers = wanted(request.headers(), self.log.format.request_headers());
        self.record().describe(request, headers);
        self
    }

    /// Notes the request's id, which the sidecar may have made itself.
    pub(super) fn identify(&mut self, headers: &HeaderMap) {
        let name = HeaderName::from_static("x-request-id");
        let place = self.log.format.request_headers().iter().position(|wanted| *wanted == name);
        if let (Some(place), Some(request)) = (place, &mut self.record().request) {
            request.headers[place] = headers.get(name).cloned();
        }
    }

    /// Notes the cluster, and the route that led there.
    pub fn routed(mut self, cluster: &Arc<config::Cluster>, route: Option<&str>) -> Self {
        self.record().cluster = Some(cluster.clone());
        self.record().route = route.map(Into::into);
        self
    }

    /// Notes where it goes that has no cluster: to the app, say.
    pub fn to(mut self, endpoint: SocketAddr) -> Self {
        self.record().endpoint = Some(endpoint);
        self
    }

    /// Notes why it failed. The first reason stays.
    pub fn failed(&mut self, kind: Kind) {
        self.ending.failed(kind);
    }

    /// Notes that it was refused, with an answer of so many bytes.
    pub fn refused(&mut self, kind: Kind, status: StatusCode, bytes: usize) {
        self.failed(kind);
        self.record().status = Some(status);
        self.sent(bytes as u64);
        self.ended();
    }

    /// Asks for the bytes of the request's body at its end.
    pub fn receives(&mut self, body: Option<Rc<dyn BodyBytes>>) {
        self.body = body;
    }

    /// Notes the head of the answer.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap, attempts: &Attempts) {
        let (begun, now) = (self.begun, Instant::now());
        let kept = wanted(headers, self.log.format.response_headers());
        let record = self.record();
        record.status = Some(status);
        record.response_headers = kept;
        record.grpc_status(headers);
        record.head = Some(now.saturating_duration_since(begun));
        record.tried(attempts, begun);
    }

    /// Notes what came of a request that is over without an answer.
    pub(super) fn abandoned(&mut self, attempts: &Attempts) {
        let begun = self.begun;
        self.record().tried(attempts, begun);
    }

    /// Counts bytes of a request's body.
    pub fn received(&mut self, bytes: u64) {
        self.record().bytes_in += bytes;
    }

    /// Counts bytes of an answer's body.
    pub fn sent(&mut self, bytes: u64) {
        self.record().bytes_out += bytes;
    }

    /// Notes the trailers of an answer.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        self.record().grpc_status(trailers);
    }

    /// Notes that it is over as it should be.
    pub fn ended(&mut self) {
        self.ending.ended();
    }
}

/// Ends the line of what has failed, if there is to be one.
pub fn fail(access: Option<AccessEntry>, kind: Kind) {
    if let Some(mut access) = access {
        access.failed(kind);
    }
}

/// Those of `headers` that have one of `names`, in their order.
fn wanted(headers: &HeaderMap, names: &[http::HeaderName]) -> Vec<Option<http::HeaderValue>> {
    names.iter().map(|name| headers.get(name).cloned()).collect()
}

impl Drop for AccessEntry {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.duration = self.begun.elapsed();
        record.bytes_in += self.body.as_ref().map_or(0, |body| body.bytes());
        record.kind = self.ending.reason(self.log.is_cut.load(Ordering::Relaxed));
        if !self.is_certain && !self.log.is_wanted(&record) {
            return;
        }
        if self.log.queue.try_send(LogItem::Record(record)).is_err() {
            self.log.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
