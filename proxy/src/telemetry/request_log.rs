//! The log of one request: begun before anything is done with it, and finished when it is dropped.
//! What is counted of requests is counted here.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use super::access::{AccessEntry, BodyBytes};
use super::{ClusterMetrics, emit};
use crate::error::Kind;

/// A request of a client. If it is dropped before it was answered, the client has abandoned it.
#[derive(Debug)]
pub struct RequestLog<'a> {
    metrics: &'a ClusterMetrics,
    /// Which request of its worker it is; 0 for one whose lines are not followed.
    number: u64,
    begun: Instant,
    attempts: Cell<Attempts>,
    decided: OnceCell<Decided>,
    answered: bool,
    /// Nobody gets its answer.
    unheard: Cell<bool>,
    /// Its line in the access log, until its answer takes it along.
    access: RefCell<Option<AccessEntry>>,
}

/// What was decided about a request, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Whether it may pass.
    pub allowed: bool,
    /// The policy and the rule of it, from 1; `None`: no rule matches.
    pub rule: Option<(Arc<str>, u32)>,
}

/// What is known of the attempts of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attempts {
    pub(super) count: u32,
    /// When the first began: until then the request was routed, limited and held up on purpose.
    pub(super) first: Option<Instant>,
    /// When the last began, and where it went.
    pub(super) last: Option<(Instant, SocketAddr)>,
}

impl ClusterMetrics {
    /// Begins the log of a request to the cluster, which is the `number`-th of its worker; 0 for
    /// one that leaves no lines.
    pub fn request_log(&self, number: u64) -> RequestLog<'_> {
        self.requests.inc();
        let (begun, attempts, decided) = (Instant::now(), Cell::default(), OnceCell::new());
        RequestLog {
            metrics: self,
            number,
            begun,
            attempts,
            decided,
            answered: false,
            unheard: Cell::default(),
            access: RefCell::default(),
        }
    }
}

impl RequestLog<'_> {
    /// The same with a line in the access log, if there is to be one.
    pub fn with_access(self, entry: Option<AccessEntry>) -> Self {
        self.access.replace(entry);
        self
    }

    /// When the request began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Notes that an attempt begins now, at `endpoint`.
    pub fn attempt(&self, endpoint: SocketAddr, now: Instant) {
        let Attempts { count, first, .. } = self.attempts.get();
        let first = first.or(Some(now));
        self.attempts.set(Attempts { count: count + 1, first, last: Some((now, endpoint)) });
    }

    /// Notes what was decided about it. The first decision stays.
    pub fn decide(&self, decided: Decided) {
        let _ = self.decided.set(decided);
    }

    /// What was decided about it; `None` if there is nothing to decide.
    pub fn decided(&self) -> Option<&Decided> {
        self.decided.get()
    }

    /// Notes the request's id, which the sidecar may have made itself.
    pub fn identify(&self, headers: &HeaderMap) {
        if let Some(access) = &mut *self.access.borrow_mut() {
            access.identify(headers);
        }
    }

    /// Counts the failure that the request is answered with.
    pub fn failed(&self, kind: Kind) {
        if self.number > 0 {
            emit!(NoAnswer { request: self.number, error: kind.label() });
        }
        self.metrics.failed(kind);
        self.refused(kind);
    }

    /// Notes why it gets no answer of an app, without counting it. The first reason stays.
    pub fn refused(&self, kind: Kind) {
        if let Some(access) = &mut *self.access.borrow_mut() {
            access.failed(kind);
        }
    }

    /// Notes that its client does not get the answer.
    pub fn unheard(&self) {
        self.unheard.set(true);
    }

    /// Its line in the access log, which from now on the body of the answer completes, if its
    /// client gets one.
    pub fn access<B>(&self, response: &Response<B>) -> Option<AccessEntry> {
        let mut access = self.access.take()?;
        if self.unheard.get() {
            access.abandoned(&self.attempts.get());
            return None;
        }
        access.answered(response.status(), response.headers(), &self.attempts.get());
        Some(access)
    }

    /// Lets its line in the access log count the body of the request.
    pub fn receives(&self, body: impl FnOnce() -> Option<Rc<dyn BodyBytes>>) {
        if let Some(access) = &mut *self.access.borrow_mut() {
            access.receives(body());
        }
    }

    /// Counts the response, whose head is about to be sent.
    pub fn answered(mut self, status: StatusCode) {
        let now = Instant::now();
        if self.number > 0 {
            let Attempts { count, first, last } = self.attempts.get();
            let micros = |from: Instant| now.saturating_duration_since(from).as_micros() as u64;
            emit!(RequestAnswered {
                request: self.number,
                status: status.as_u16(),
                attempts: count,
                endpoint: last.map(|(_, endpoint)| endpoint),
                duration_us: micros(self.begun),
                since_first_attempt_us: first.map(micros),
                since_last_attempt_us: last.map(|(begun, _)| micros(begun)),
            });
        }
        let class = usize::from(status.as_u16() / 100);
        self.metrics.responses[class.clamp(1, 5) - 1].inc();
        self.metrics.duration.observe(now.saturating_duration_since(self.begun).as_secs_f64());
        self.answered = true;
    }
}

impl Drop for RequestLog<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.metrics.abandoned.inc();
            if let Some(access) = self.access.get_mut() {
                access.abandoned(&self.attempts.get());
            }
        }
    }
}
