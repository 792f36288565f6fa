//! What the HTTP echo is, whatever it is spoken to in: how it behaves now, what that costs a
//! request, and what it counts.
//!
//! How long it works on requests, which of them fail and which answers break HTTP can be changed
//! while it runs. With a limit of concurrency the rest wait in a queue without an end, which is how
//! real servers are overloaded. A caller that gives up takes its request with it, unless
//! `finish_abandoned` says that work which has been accepted is done, as where each request has a
//! thread of its own.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use proxy::config::units;
use proxy::grpc::timeout as grpc_timeout;
use proxy::http::deadline::X_REQUEST_TIMEOUT;
use proxy::http::headers::X_RETRY_ATTEMPT;
use proxy::world::RngTree;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::behaviour::{Behaviour, BehaviourChange};
use super::malformed::Malformation;
use super::table::HttpEcho;
use crate::app::metrics::{AppCounters, bump};
use crate::traffic::emit;

/// The load generator's own name for a request. Unlike `x-request-id`, no proxy makes or replaces
/// it.
pub const REQUEST: HeaderName = HeaderName::from_static("x-lab-request");
/// Which instance has answered.
pub const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// The app, shared by its connections.
pub struct Echo {
    instance: HeaderValue,
    spec: HttpEcho,
    behaviour: Cell<Behaviour>,
    /// Places for requests that are worked on, if they are few.
    places: Option<Arc<Semaphore>>,
    /// Starts work in the background.
    spawn: Box<dyn Fn(Work)>,
    started: Instant,
    close_idle: RefCell<StdRng>,
    fail: RefCell<StdRng>,
    malformed: RefCell<StdRng>,
    unhealthy: RefCell<StdRng>,
    streams: RefCell<StdRng>,
    counters: Rc<AppCounters>,
}

/// What a request costs.
pub(super) type Work = Pin<Box<dyn Future<Output = ()>>>;

impl Echo {
    /// An echo that says `instance` and starts now. When it closes idle connections and which
    /// requests fail follows from `rng`; `spawn` begins work that outlives its request.
    ///
    /// # Errors
    /// If the instance's name cannot stand in a header.
    pub fn new(
        instance: &str,
        spec: &HttpEcho,
        rng: &RngTree,
        spawn: impl Fn(Work) + 'static,
        counters: Rc<AppCounters>,
    ) -> io::Result<Self> {
        let instance = HeaderValue::from_str(instance).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the instance's name is not printable")
        })?;
        Ok(Echo {
            instance,
            behaviour: Cell::new(spec.behaviour),
            places: (spec.concurrency > 0).then(|| Arc::new(Semaphore::new(spec.concurrency as usize))),
            spawn: Box::new(spawn),
            started: Instant::now(),
            close_idle: RefCell::new(rng.child("close-idle", 0).rng()),
            fail: RefCell::new(rng.child("fail", 0).rng()),
            malformed: RefCell::new(rng.child("malformed", 0).rng()),
            unhealthy: RefCell::new(rng.child("unhealthy", 0).rng()),
            streams: RefCell::new(rng.child("streams", 0).rng()),
            spec: spec.clone(),
            counters,
        })
    }

    /// Changes how requests are answered from now on: the scenario's own behaviour, with what
    /// `query` says instead (`work=200ms&fail=0.3&status=500`).
    ///
    /// # Errors
    /// If a word of it means nothing.
    pub(super) fn behave(&self, query: &str) -> Result<(), String> {
        self.behaviour.set(BehaviourChange::parse(query)?.of(self.spec.behaviour));
        Ok(())
    }

    /// How requests are answered now.
    pub(super) fn behaviour(&self) -> Behaviour {
        self.behaviour.get()
    }

    /// How the scenario describes it.
    pub(super) fn spec(&self) -> &HttpEcho {
        &self.spec
    }

    /// Notes that a request has come, and says which attempt it is.
    pub(super) fn hears<'a>(&self, head: &'a Parts, id: &str) -> &'a str {
        bump(&self.counters.requests);
        let nth = nth(&head.headers);
        // How long its caller still waits, microseconds.
        let of_any = || units::duration(head.headers.get(X_REQUEST_TIMEOUT)?.to_str().ok()?).ok();
        let left = grpc_timeout(&head.headers).or_else(of_any).map(|left| left.as_micros() as u64);
        emit!(RequestArrived { id, nth, method: head.method.as_str(), left });
        nth
    }

    /// Does what a request costs.
    pub(super) async fn works(&self) {
        let working = work(self.places.clone(), self.behaviour.get().work);
        if self.spec.finish_abandoned {
            let (done, finished) = oneshot::channel();
            self.spawn(Box::pin(async move {
                working.await;
                // The caller may be gone.
                let _ = done.send(());
            }));
            // It ends without an answer only together with the app.
            let _ = finished.await;
        } else {
            working.await;
        }
    }

    /// Whether the next call fails.
    pub(super) fn fails(&self) -> bool {
        let behaviour = self.behaviour.get();
        let fails = self.draws(&self.fail, behaviour.fail);
        self.count_changed(behaviour, fails);
        fails
    }

    /// Whether an answer that behaves so fails, and what is wrong with it, if anything is.
    pub(super) fn ails(&self, behaviour: Behaviour) -> (bool, Option<Malformation>) {
        let fails = self.draws(&self.fail, behaviour.fail);
        let malformation = self.malformation(behaviour.malformed);
        self.count_changed(behaviour, fails || malformation.is_some());
        (fails, malformation)
    }

    /// Whether the next stream is refused before anything of it was looked at.
    pub(super) fn refuses_stream(&self) -> bool {
        self.does_to_streams(self.behaviour.get().refuse_streams)
    }

    /// Whether a connection ends with the next call.
    pub(super) fn ends_connection(&self) -> bool {
        self.does_to_streams(self.behaviour.get().goaway)
    }

    /// With which code the next answer breaks off, if it does: one of those that clients could take
    /// for its end.
    pub(super) fn resets_stream(&self) -> Option<Reason> {
        let resets = self.does_to_streams(self.behaviour.get().reset_streams);
        let codes = [Reason::NO_ERROR, Reason::CANCEL];
        resets.then(|| codes[self.streams.borrow_mut().random_range(0..codes.len())])
    }

    /// Whether the next stream is among the `share` to which something is done.
    fn does_to_streams(&self, share: f64) -> bool {
        let does = self.draws(&self.streams, share);
        if does {
            bump(&self.counters.changed);
        }
        does
    }

    /// Starts work in the background.
    pub(super) fn spawn(&self, work: Work) {
        (self.spawn)(work);
    }

    /// The name of the instance.
    pub(super) fn name(&self) -> HeaderValue {
        self.instance.clone()
    }

    /// How long a connection that falls idle is kept, if not for ever.
    pub(super) fn keeps_idle(&self) -> Option<Duration> {
        let most = self.spec.close_idle;
        (!most.is_zero()).then(|| self.close_idle.borrow_mut().random_range(Duration::ZERO..=most))
    }

    /// Counts a connection that was closed because it was idle.
    pub(super) fn closes_idle(&self) {
        bump(&self.counters.closed_idle);
    }

    /// Whether the next question after its health gets a yes: at once, whatever else it does.
    /// `None` if that is not what the path asks for.
    pub(super) fn is_well(&self, path: &str) -> Option<bool> {
        match path {
            "/healthz" => Some(!self.is_sick()),
            "/ready" => Some(self.started.elapsed() >= self.spec.ready_after),
            _ => None,
        }
    }

    fn is_sick(&self) -> bool {
        let share = self.behaviour.get().unhealthy;
        let is_sick = self.draws(&self.unhealthy, share);
        if is_sick && share != self.spec.behaviour.unhealthy {
            bump(&self.counters.changed);
        }
        is_sick
    }

    fn draws(&self, rng: &RefCell<StdRng>, share: f64) -> bool {
        share > 0.0 && rng.borrow_mut().random_bool(share.min(1.0))
    }

    /// Counts an answer if it is another one than usual.
    fn count_changed(&self, behaviour: Behaviour, is_bad: bool) {
        let usual = self.spec.behaviour;
        if behaviour.work != usual.work || is_bad && behaviour != usual {
            bump(&self.counters.changed);
        }
    }

    /// What is wrong with the next answer, if anything is.
    fn malformation(&self, share: f64) -> Option<Malformation> {
        let mut rng = self.malformed.borrow_mut();
        (share > 0.0 && rng.random_bool(share.min(1.0))).then(|| Malformation::any(&mut rng))
    }
}

/// Which attempt a request says that it is.
pub(super) fn nth(headers: &HeaderMap) -> &str {
    headers.get(&X_RETRY_ATTEMPT).and_then(|nth| nth.to_str().ok()).unwrap_or("0")
}

/// Waits for a place, if they are few, and works there.
async fn work(places: Option<Arc<Semaphore>>, time: Duration) {
    let _place = match places {
        Some(places) => Some(places.acquire_owned().await.expect("nobody closes it")),
        None => None,
    };
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
