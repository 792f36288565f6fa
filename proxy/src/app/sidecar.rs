//! What all threads of a sidecar share: the configuration in force, what is known of endpoints and
//! of the app, and whether the sidecar is ready.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::admin::{PageResponse, TEXT};
use crate::audit::{self, AuditLog, AuditQueue};
use crate::balance::Table;
use crate::config::{Snapshot, Timeouts, defaults};
use crate::discovery::EndpointStore;
use crate::endpoint::{Endpoint, Health};
use crate::health::app::{AppHealth, ProbeKind};
use crate::telemetry::access::{self, AccessLog, AccessQueue};
use crate::telemetry::{Metrics, emit};
use crate::tls::TlsStore;
use crate::world::Wall;

/// What all threads of a sidecar share.
pub struct Sidecar {
    pub(super) table: Arc<ArcSwap<Table>>,
    /// The configuration as it was given; the table's has the endpoints that were discovered in it.
    pub(super) given: Mutex<Arc<Snapshot>>,
    pub(super) discovered: Arc<EndpointStore>,
    /// Until when this sidecar is not ready unless every source of endpoints has answered.
    pub(super) first_discovery: Instant,
    /// Whether all workers listen and no drain has begun, and whether the app stands in the
    /// registry.
    pub(super) open: watch::Sender<bool>,
    pub(super) registered: watch::Sender<bool>,
    /// The certificate of this workload; `None` if it has no identity.
    pub(super) tls: Option<Arc<TlsStore>>,
    pub(super) metrics: Arc<Metrics>,
    /// The access log, if there is one, and its queue until the control thread has taken it.
    pub(super) access: Option<Arc<AccessLog>>,
    pub(super) access_queue: Mutex<Option<AccessQueue>>,
    /// The audit log, if there is one, and its queue until the control thread has taken it.
    pub(super) audit: Option<Arc<AuditLog>>,
    pub(super) audit_queue: Mutex<Option<AuditQueue>>,
    /// Workers that do not listen yet; [`DRAINING`] once the sidecar is on its way out.
    pub(super) unready: AtomicUsize,
    pub(super) stop: Notify,
    /// All workers listen.
    pub(super) started: Notify,
    /// What the probes of the local app say.
    pub(super) app: watch::Sender<AppHealth>,
}

const DRAINING: usize = usize::MAX;

impl Sidecar {
    /// A sidecar with this configuration that will have `workers` workers. Call it on a tokio
    /// runtime: endpoints remember when they were made.
    pub fn new(snapshot: Snapshot, workers: usize) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        let (snapshot, now) = (Arc::new(snapshot), Instant::now());
        let discovered = Arc::new(EndpointStore::default());
        discovered.want(&snapshot, &metrics);
        let (app, _) = watch::channel(AppHealth::beginning(&snapshot.app));
        let tls = snapshot.identity.is_some().then(Arc::default);
        let (access, access_queue) = snapshot.access_log.clone().map(access::channel).unzip();
        let (audit, audit_queue) = snapshot.audit.clone().map(audit::channel).unzip();
        let table = Table::new(snapshot.clone(), None, &metrics, now);
        Arc::new(Sidecar {
            tls,
            access: access.map(Arc::new),
            access_queue: Mutex::new(access_queue),
            audit,
            audit_queue: Mutex::new(audit_queue),
            app,
            given: Mutex::new(snapshot),
            discovered,
            first_discovery: now + defaults::FIRST_DISCOVERY,
            open: watch::Sender::new(false),
            registered: watch::Sender::new(false),
            table: Arc::new(ArcSwap::from_pointee(table)),
            metrics,
            unready: AtomicUsize::new(workers),
            stop: Notify::new(),
            started: Notify::new(),
        })
    }

    /// Notes that the configuration in force was read now.
    pub(super) fn loaded(&self, wall: &dyn Wall) {
        self.metrics.loaded(wall.now());
    }

    /// Puts a new configuration in force. Requests under way keep the one that they began with.
    pub fn apply(&self, snapshot: Arc<Snapshot>, wall: &dyn Wall) {
        self.discovered.want(&snapshot, &self.metrics);
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.prepare();
        self.metrics.reloaded(true);
        self.loaded(wall);
    }

    /// Watches what the probes of the local app say.
    pub fn app_health(&self) -> watch::Receiver<AppHealth> {
        self.app.subscribe()
    }

    /// Time limits in force.
    pub(super) fn timeouts(&self) -> Timeouts {
        self.table.load().snapshot.timeouts
    }

    /// Puts the configuration in force with the endpoints that are known now.
    pub(super) fn prepare(&self) {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let filled = self.discovered.fill(&given);
        let table = Table::new(filled, Some(&self.table.load()), &self.metrics, Instant::now());
        table.put_in_force(&self.table);
    }

    pub(super) fn drain(&self) {
        emit!(Draining);
        self.unready.store(DRAINING, Ordering::Release);
        self.open.send_replace(false);
    }

    /// What is dropped from now on without an end is cut, since the sidecar ends.
    pub(super) fn cut(&self) {
        if let Some(audit) = &self.audit {
            audit.cut();
        }
        if let Some(access) = &self.access {
            access.cut();
        }
    }

    /// Waits until the audit log and the access log are written, but not for ever.
    pub(super) async fn write_last_lines(&self) {
        let audit = async {
            if let Some(audit) = &self.audit {
                audit.flush().await;
            }
        };
        let access = async {
            if let Some(access) = &self.access {
                access.flush().await;
            }
        };
        let limit = defaults::LAST_LINES;
        let (audit, access) = tokio::join!(timeout(limit, audit), timeout(limit, access));
        for (log, written) in [("audit", audit), ("access", access)] {
            if written.is_err() {
                tracing::error!("the last lines of the {log} log could not be written in time");
            }
        }
    }

    /// Waits until the registry has forgotten the app, but not for long.
    pub(super) async fn deregistered(&self) {
        let mut registered = self.registered.subscribe();
        let gone = registered.wait_for(|registered| !registered);
        if tokio::time::timeout(defaults::DEREGISTER_TIMEOUT, gone).await.is_err() {
            tracing::warn!("the registry does not answer; callers see this app until its lease ends");
        }
    }

    pub(super) fn listening(&self) {
        // Never counts up again after a drain has begun.
        let before = self.unready.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            (n != DRAINING).then(|| n.saturating_sub(1))
        });
        if before == Ok(1) {
            self.open.send_replace(true);
            self.started.notify_one();
        }
    }

    pub(super) fn readiness(&self) -> PageResponse {
        match self.unready.load(Ordering::Acquire) {
            0 if !self.discovered.has_heard_of_all() && Instant::now() < self.first_discovery => {
                let text = "endpoints are not discovered yet; see /clusters\n";
                (StatusCode::SERVICE_UNAVAILABLE, TEXT, text.into())
            }
            0 => match self.app.borrow().unready() {
                None if let Some(why) = self.tls.as_ref().and_then(|tls| tls.unready()) => {
                    (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
                }
                None if let Some(why) = self.audit.as_ref().and_then(|audit| audit.unready()) => {
                    (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
                }
                None => self.keys_readiness(),
                Some((kind, status)) => {
                    let text = format!("the app's {} probe does not pass: {}\n", kind.label(), status.why);
                    (StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
                }
            },
            DRAINING => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n".into()),
            n => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{n} workers do not listen yet\n")),
        }
    }

    /// Ready, unless there is an issuer of tokens whose keys are not known: all of its tokens would
    /// be refused. Of keys that are only older than they should be it says so, and the same of
    /// roots and revocations.
    fn keys_readiness(&self) -> PageResponse {
        let (mut status, mut text) = (StatusCode::OK, String::from("ready\n"));
        if self.metrics.is_trust_stale() {
            text += "roots and revocations may be old: the authority cannot be asked; the log says why\n";
        }
        for issuer in self.table.load().authorization.issuers.iter() {
            let (name, trouble) = (&issuer.config.name, issuer.keys.in_trouble());
            let why = trouble.as_ref().map_or("nobody has looked yet", |why| why.as_str());
            if issuer.keys.set().is_none() {
                status = StatusCode::SERVICE_UNAVAILABLE;
                text = format!("the keys of the issuer {name} are not known: {why}\n");
                break;
            }
            if trouble.is_some() {
                text += &format!("the keys of the issuer {name} may be old: {why}\n");
            }
        }
        (status, TEXT, text)
    }

    /// What a probe of the app said last.
    pub(super) fn probe(&self, kind: ProbeKind) -> PageResponse {
        match self.app.borrow().get(kind) {
            None => (StatusCode::NOT_FOUND, TEXT, format!("there is no [app.{}]\n", kind.label())),
            Some(status) if status.passes => (StatusCode::OK, TEXT, "passes\n".into()),
            Some(status) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{}\n", status.why)),
        }
    }

    /// Everything that is counted. What is read off a state and not counted up is brought up to
    /// date first.
    pub(super) fn scrape(&self) -> String {
        let table = self.table.load();
        for cluster in &table.clusters {
            let name = &cluster.config.name;
            let count = |wanted: &dyn Fn(&Endpoint) -> bool| {
                cluster.endpoints.iter().filter(|endpoint| wanted(endpoint)).count()
            };
            let metrics = &self.metrics;
            metrics.set_endpoints(name, "known", cluster.endpoints.len());
            metrics.set_endpoints(name, "ejected", count(&Endpoint::is_ejected));
            metrics.set_endpoints(name, "unhealthy", count(&|e| e.health() == Health::Unhealthy));
            let (in_flight, limit) = (cluster.concurrency.in_flight(), cluster.concurrency.limit());
            metrics.set_concurrency("outbound", name, in_flight, limit);
        }
        for (port, concurrency) in &table.app {
            let (in_flight, limit) = (concurrency.in_flight(), concurrency.limit());
            self.metrics.set_concurrency("inbound", &port.to_string(), in_flight, limit);
        }
        let app = self.app.borrow();
        for kind in ProbeKind::ALL {
            if let Some(status) = app.get(kind) {
                self.metrics.set_probe(kind.label(), status.passes);
            }
        }
        self.metrics.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_whose_app_is_not_ready_is_not_ready_and_says_why() {
        let text = "service = 'web'\n[app.readiness]\naddress = '127.0.0.1:8080'\nhttp = '/ready'";
        let sidecar = Sidecar::new(config::parse("sidecar.toml", text).unwrap(), 1);
        sidecar.listening();
        let (status, _, why) = sidecar.readiness();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(why, "the app's readiness probe does not pass: it has not been asked yet\n");
        assert_eq!(sidecar.probe(ProbeKind::Readiness).0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(sidecar.probe(ProbeKind::Liveness).0, StatusCode::NOT_FOUND);
        assert!(!sidecar.app_health().borrow().is_ready());
        assert!(sidecar.scrape().contains("proxy_app_probe{probe=\"readiness\"} 0"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_whose_revocations_may_be_old_says_so_and_is_ready() {
        let sidecar = Sidecar::new(config::parse("sidecar.toml", "service = 'web'").unwrap(), 1);
        sidecar.listening();
        assert_eq!((sidecar.readiness().0, &*sidecar.readiness().2), (StatusCode::OK, "ready\n"));
        sidecar.metrics.set_trust_stale(true);
        let (status, _, text) = sidecar.readiness();
        assert_eq!(status, StatusCode::OK);
        assert!(text.starts_with("ready\nroots and revocations may be old: "), "{text}");
    }
}
