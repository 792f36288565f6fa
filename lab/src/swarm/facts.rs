//! What happened in a run, read from the log once: every request as its caller, the sidecars and
//! the apps saw it, every change of an endpoint's availability, and all other events. Invariants
//! use this and do not read lines themselves; `lines.rs` does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;

use proxy::config::defaults::CONNECT_TIMEOUT;
use proxy::config::{Cluster, Snapshot, units};
use proxy::error::Kind;
use proxy::grpc;
use proxy::http::deadline::X_REQUEST_TIMEOUT;
use proxy::retry::AttemptOutcome;
use proxy::telemetry::LogEvent;

use crate::app::http::http1::size;
use crate::app::http::malformed::Malformation;
use crate::app::{AppKind, HttpEcho};
use crate::fault::{Action, Entry};
use crate::load::{CallKind, Load};
use crate::mesh::ProcessId;
use crate::plan::Plan;
use crate::run::Seen;
use crate::sim::{Chaos, Crossing, LogLine};
use crate::traffic::TrafficEvent;

use super::identity::{DENIED, REVOKED};
use super::lines::Note;
use super::schedule::LIVELY_MS;

/// All facts of a run.
pub struct Facts {
    /// The plan that was run.
    pub plan: Plan,
    /// All lines of the log, in order.
    pub log: Vec<LogLine>,
    /// What programs read in it, in order.
    pub events: Vec<LoggedEvent>,
    /// Every connection between two instances, as the network knows it.
    pub crossings: Vec<Crossing>,
    pub(crate) seen: Seen,
    /// Virtual time at which the measured part began, microseconds.
    pub t0_us: u64,
    /// Virtual time of one step: nothing is known more exactly.
    pub tick_us: u64,
    /// How streams behaved.
    pub chaos: Chaos,
    /// What the load generators asked for, by the id that each request carries.
    pub calls: BTreeMap<String, Call>,
    /// What sidecars carried for their apps, in order.
    pub requests: Vec<Request>,
    /// Changes of the availability of endpoints, in order.
    pub availability: Vec<AvailabilityChange>,
    /// The configurations that a sidecar has had, and since when.
    pub(super) snapshots: BTreeMap<Rc<str>, Vec<(u64, Snapshot)>>,
}

/// A position in the log. Events at one virtual time have an order too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Virtual time, microseconds.
    pub at: u64,
    /// Which line.
    pub line: usize,
}

/// A request as its caller and the apps saw it.
#[derive(Debug, Default)]
pub struct Call {
    /// How often it was sent; anything but once is a mistake of the generator.
    pub sent: Vec<u64>,
    /// How it ended, and when.
    pub ended: Vec<(u64, String)>,
    /// When it reached which app.
    pub arrived: Vec<(u64, Rc<str>)>,
    /// Which attempt it was then, by its own header.
    pub nths: Vec<String>,
    /// When which app refused it unprocessed, and as which attempt.
    pub refused: Vec<(u64, Rc<str>, String)>,
    /// How long its caller would still wait then, if it was told.
    pub left: Vec<Option<Duration>>,
    /// Its method, as the apps saw it.
    pub method: Option<String>,
    /// Bytes of its body, each time that one came to its end at an app.
    pub lengths: Vec<u64>,
    /// When an app answered it with valid HTTP, and with which status.
    pub answered: Vec<(u64, u64)>,
    /// What was wrong with answers that broke HTTP.
    pub(crate) malformations: Vec<Malformation>,
    /// The answer that its caller got in full: bytes of the body, and who says to have sent it.
    pub got: Option<(u64, String)>,
}

/// A request as the sidecar of its caller saw it.
#[derive(Debug)]
pub struct Request {
    /// Whose sidecar: `web/sidecar`.
    pub process: Rc<str>,
    /// Which cluster.
    pub cluster: String,
    /// When it began.
    pub begun: u64,
    /// Everything that was done for it, in order.
    pub steps: Vec<(LogPosition, RequestStep)>,
}

/// What a sidecar did for a request.
#[derive(Debug, PartialEq)]
pub enum RequestStep {
    /// Picked an endpoint; with `panic`, regardless of its availability.
    Picked {
        /// Its address.
        endpoint: String,
        /// Whether the cluster was in panic mode.
        panic: bool,
    },
    /// The endpoint answered so.
    Answered {
        /// Its address.
        endpoint: String,
        /// The status.
        status: u64,
        /// Whether it is the last response of its connection.
        last: bool,
        /// The gRPC status, if its head has one.
        grpc: Option<u64>,
        /// Whether that is a success, as far as its head can tell.
        succeeded: bool,
        /// Its average latency then, microseconds.
        average: u64,
    },
    /// An attempt failed.
    Failed {
        /// Its address.
        endpoint: String,
        /// `connect`, `terminated`, ...
        error: String,
        /// Whether not a byte of the request was sent.
        unsent: bool,
        /// Whether it went over a connection that had carried others.
        reused: bool,
    },
    /// There will be another attempt after a while.
    Again {
        /// Condition.
        reason: String,
        /// That while.
        wait: Duration,
        /// Whole tokens that are left in the budget.
        budget: u64,
    },
    /// There will not.
    GivenUp(String),
    /// The caller was answered.
    Done(u64),
}

impl RequestStep {
    /// How an attempt ended, if this is the end of one.
    pub fn ended(&self) -> Option<AttemptOutcome> {
        match self {
            RequestStep::Answered { status, .. } => {
                Some(AttemptOutcome::Answered { status: *status as u16, grpc: None })
            }
            RequestStep::Failed { error, unsent, .. } => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.label() == error);
                Some(AttemptOutcome::Failed { kind: kind.unwrap_or(Kind::Connect), unsent: *unsent })
            }
            _ => None,
        }
    }
}

/// A change of an endpoint's availability as a sidecar sees it.
#[derive(Debug)]
pub struct AvailabilityChange {
    /// When.
    pub when: LogPosition,
    /// Whose sidecar.
    pub process: Rc<str>,
    /// Which cluster.
    pub cluster: String,
    /// Which endpoint.
    pub endpoint: String,
    /// What changed.
    pub change: EndpointChange,
}

/// What changed.
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointChange {
    /// It is ejected for so long.
    Ejected(Duration, String),
    /// A request probes whether it is back.
    Probing,
    /// Its probe ended without a result that says anything about it.
    Unanswered,
    /// It is back in use; `true` because an active check passed.
    Restored(bool),
    /// Active checks turned.
    Healthy(bool),
    /// An active check failed, and changed nothing.
    CheckFailed,
    /// One passed, and changed nothing.
    CheckPassed,
    /// The registry has it.
    Found,
    /// The registry has it no more.
    Gone,
}

/// Something that was logged and that programs read.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedEvent {
    /// When.
    pub when: LogPosition,
    /// By which process: `web/sidecar`.
    pub process: Rc<str>,
    /// What.
    pub event: RunEvent,
}

/// What was logged, by whom it is.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// A sidecar's.
    Sidecar(LogEvent),
    /// A load generator's or an app's.
    Traffic(TrafficEvent),
    /// The lab's own.
    Lab(Note),
}

impl Facts {
    /// What sidecars logged, in order.
    pub fn sidecar_events(&self) -> impl DoubleEndedIterator<Item = (LogPosition, &Rc<str>, &LogEvent)> {
        self.events.iter().filter_map(|logged| match &logged.event {
            RunEvent::Sidecar(event) => Some((logged.when, &logged.process, event)),
            _ => None,
        })
    }

    /// What load generators and apps logged, in order, and when.
    pub fn traffic_events(&self) -> impl DoubleEndedIterator<Item = (u64, &TrafficEvent)> {
        self.events.iter().filter_map(|logged| match &logged.event {
            RunEvent::Traffic(event) => Some((logged.when.at, event)),
            _ => None,
        })
    }

    /// What the lab noted, in order.
    pub fn notes(&self) -> impl DoubleEndedIterator<Item = (LogPosition, &Note)> {
        self.events.iter().filter_map(|logged| match &logged.event {
            RunEvent::Lab(note) => Some((logged.when, note)),
            _ => None,
        })
    }

    /// The configuration of a request's cluster when it began; `None` while that changes.
    pub fn cluster_of(&self, request: &Request) -> Option<&Cluster> {
        let snapshots = self.snapshots.get(&request.process)?;
        let changes = |since: u64| since > 0 && since.abs_diff(request.begun) <= 2 * self.tick_us;
        if snapshots.iter().any(|(since, _)| changes(*since)) {
            return None;
        }
        let (_, snapshot) = snapshots.iter().rev().find(|(since, _)| *since <= request.begun)?;
        snapshot.clusters.iter().find(|c| c.name == request.cluster).map(|c| &**c)
    }

    /// The clusters of every sidecar that carried requests, each with that sidecar, as they are
    /// when the run begins.
    pub fn clusters(&self) -> impl Iterator<Item = (&Rc<str>, &Cluster)> {
        self.snapshots.iter().flat_map(|(process, snapshots)| {
            let first = snapshots.first().into_iter();
            first.flat_map(move |(_, s)| s.clusters.iter().map(move |cluster| (process, &**cluster)))
        })
    }

    /// Whether a part of a cluster's configuration is the same throughout the run.
    pub fn keeps<T: PartialEq>(&self, process: &str, cluster: &str, part: impl Fn(&Cluster) -> &T) -> bool {
        let snapshots = self.snapshots.get(process).into_iter().flatten();
        let clusters = snapshots.flat_map(|(_, snapshot)| &snapshot.clusters);
        let mut parts = clusters.filter(|c| c.name == cluster).map(|c| part(c));
        parts.next().is_some_and(|first| parts.all(|other| other == first))
    }

    /// The requests of one sidecar to one cluster.
    pub fn requests_to(&self, process: &str, cluster: &str) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(move |r| &*r.process == process && r.cluster == cluster)
    }

    /// The attempts of one sidecar at an endpoint, in order: when each began, and how it ended.
    pub fn attempts_at(
        &self,
        process: &str,
        cluster: &str,
        endpoint: &str,
    ) -> Vec<(LogPosition, Option<(LogPosition, &RequestStep)>)> {
        let mut attempts = Vec::new();
        for request in self.requests_to(process, cluster) {
            let picks = request.picks().filter(|(_, other, _)| *other == endpoint);
            attempts.extend(picks.map(|(when, ..)| (when, request.end_of_attempt(endpoint, when))));
        }
        attempts.sort_by_key(|(when, _)| *when);
        attempts
    }

    /// The availability changes of the endpoints of one cluster, as one sidecar sees them.
    pub fn availability_of(&self, process: &str, cluster: &str) -> impl Iterator<Item = &AvailabilityChange> {
        self.availability.iter().filter(move |s| &*s.process == process && s.cluster == cluster)
    }

    /// The instance that an endpoint's address belongs to.
    pub fn instance_of(&self, endpoint: &str) -> Option<usize> {
        let address = endpoint.parse::<SocketAddr>().ok()?;
        self.plan.instances.iter().position(|instance| address.ip() == instance.v4)
    }

    /// Whether the machine of an endpoint loses its power in this run.
    pub fn crashes(&self, endpoint: &str) -> bool {
        let of = |entry: &Entry, instance| {
            matches!(entry.action, Action::Crash(_)) && entry.action.touches(instance)
        };
        let instance = self.instance_of(endpoint);
        instance.is_some_and(|instance| self.plan.timeline.iter().any(|entry| of(entry, instance)))
    }

    /// A time of the plan, virtual microseconds.
    pub fn time_us(&self, at: Duration) -> u64 {
        self.t0_us + at.as_micros() as u64
    }

    /// When a fault was over, virtual microseconds: a process that is asked to end and started
    /// again takes its time; `None` if it stays.
    pub fn over(&self, entry: &Entry) -> Option<u64> {
        let until = self.time_us(entry.until?);
        let is_told =
            |(_, note): &(LogPosition, &Note)| matches!(note, Note::Reverted(fault) if *fault == entry.name);
        Some(self.notes().rfind(is_told).map_or(until, |(when, _)| when.at.max(until)))
    }

    /// When the last line was logged, virtual microseconds.
    pub fn end_us(&self) -> u64 {
        self.log.last().map_or(0, |line| line.at_us)
    }

    /// How many requests were given up so late that a sidecar may not have noticed it when its
    /// metrics were read. A request that waits for a connection notices the end of its client when
    /// it reads the body or when the dial has failed.
    pub fn given_up_at_last(&self) -> usize {
        let late = CONNECT_TIMEOUT.as_micros() as u64 + 3 * self.tick_us;
        let heard = self.end_us().saturating_sub(late);
        let ended = self.calls.values().flat_map(|call| &call.ended);
        ended.filter(|(at, outcome)| *at >= heard && outcome == "Timeout").count()
    }

    /// When the last part of the run begins, in which all requests must succeed again.
    /// Microseconds.
    pub fn lively_from(&self) -> u64 {
        self.t0_us + (self.plan.duration.as_micros() as u64).saturating_sub(LIVELY_MS * 1000)
    }

    /// Whether faults end early enough to leave time to recover.
    pub fn is_settled(&self) -> bool {
        let over = self.plan.timeline.iter().filter_map(|entry| entry.until).max().unwrap_or_default();
        let settled = over.as_micros() as u64 + 1_000 * (LIVELY_MS + 300);
        self.t0_us + settled <= self.lively_from()
    }

    /// The instances of the service that a cluster is called after.
    pub fn members(&self, cluster: &str) -> &[usize] {
        let service = self.plan.services.iter().find(|service| service.name == cluster);
        service.map_or(&[], |service| &service.instances)
    }

    /// The built-in HTTP app of an instance.
    pub fn app_of(&self, instance: &str) -> Option<&HttpEcho> {
        let instance = self.plan.instances.iter().find(|other| other.name == instance)?;
        match &instance.app.as_ref()?.kind {
            AppKind::Http(echo) => Some(echo),
            _ => None,
        }
    }

    /// Bytes in the answers of `app` to a load's requests.
    pub fn answer_of(&self, call: &str, app: &HttpEcho) -> Option<u64> {
        match &self.load_of(call)?.target.call {
            CallKind::Http(call) => Some(size(&call.path, app.size).into()),
            CallKind::Grpc(_) => Some(app.size.into()),
            _ => None,
        }
    }

    /// Whether a load's callers leave responses unread or calls open for a while.
    pub fn is_held(&self, call: &str) -> bool {
        self.load_of(call).is_some_and(|load| match &load.target.call {
            CallKind::Http(call) => !call.read_delay.is_zero(),
            CallKind::Grpc(call) => !call.end_delay.is_zero(),
            _ => false,
        })
    }

    /// Whether a request is of a caller that is revoked in the run.
    pub fn is_of_revoked(&self, call: &str) -> bool {
        call.rsplit_once(' ').is_some_and(|(load, _)| load == REVOKED)
    }

    /// Whether a request is one that must not reach an app.
    pub fn is_denied(&self, call: &str) -> bool {
        call.rsplit_once(' ').is_some_and(|(load, _)| DENIED.contains(&load))
    }

    /// Bytes in the bodies of a load's requests.
    pub fn body_of(&self, call: &str) -> Option<u64> {
        match &self.load_of(call)?.target.call {
            CallKind::Http(call) => Some(call.body.into()),
            CallKind::Grpc(call) => Some(call.body.into()),
            _ => None,
        }
    }

    /// The cluster that a load's requests go to, as the sidecar of its callers has it when the run
    /// begins.
    pub fn called_by(&self, call: &str) -> Option<&Cluster> {
        let load = self.load_of(call)?;
        let host = &load.target.host;
        let sidecar = format!("{}/sidecar", self.plan.instances[load.from].name);
        let mut clusters = self.clusters().filter(|(process, _)| ***process == *sidecar);
        clusters.find(|(_, cluster)| cluster.name == *host).map(|(_, cluster)| cluster)
    }

    /// The deadline that a load's callers send, if they do.
    pub fn limit_of(&self, call: &str) -> Option<Duration> {
        let headers = match &self.load_of(call)?.target.call {
            CallKind::Http(call) => &call.headers,
            CallKind::Grpc(call) => &call.headers,
            _ => return None,
        };
        match headers.get(grpc::TIMEOUT.as_str()) {
            Some(limit) => grpc::timeout(&HeaderMap::from_iter([(grpc::TIMEOUT, limit.parse().ok()?)])),
            None => units::duration(headers.get(X_REQUEST_TIMEOUT.as_str())?).ok(),
        }
    }

    /// Whether a request is a gRPC call.
    pub fn is_call(&self, call: &str) -> bool {
        self.load_of(call).is_some_and(|load| matches!(load.target.call, CallKind::Grpc(_)))
    }

    /// Whether requests of HTTP/1 to a cluster share connections of HTTP/2. Between workloads that
    /// can prove who they are they do, unless the configuration says otherwise.
    pub fn is_bridged(&self, cluster: &Cluster) -> bool {
        cluster.bridge.unwrap_or(!self.plan.authorities.is_empty())
    }

    /// Whether any load calls a cluster by gRPC.
    pub fn speaks_grpc(&self, cluster: &str) -> bool {
        let calls =
            |load: &Load| matches!(load.target.call, CallKind::Grpc(_)) && load.target.host == cluster;
        self.plan.loads.iter().any(calls)
    }

    /// The sidecar of a load's callers, and the instance that it belongs to.
    pub fn caller_of(&self, call: &str) -> Option<(usize, String)> {
        let from = self.load_of(call)?.from;
        Some((from, format!("{}/sidecar", self.plan.instances[from].name)))
    }

    fn load_of(&self, call: &str) -> Option<&Load> {
        let name = call.rsplit_once(' ')?.0;
        self.plan.loads.iter().find(|load| load.name == name)
    }

    /// A counter or gauge of a process when the run was over, summed over all label sets that have
    /// `labels`; `None` if there is none.
    pub fn last(&self, process: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.seen.series.last(process, name, &labels, i64::MIN, i64::MAX)
    }

    /// Whether a process runs undisturbed from the beginning of the run to its end, so that its
    /// counters are complete.
    pub fn is_steady(&self, process: &str) -> bool {
        !self.meets(process, Action::interrupts)
    }

    /// Whether a process is ended in this run, for a while or for ever.
    pub fn is_ended(&self, process: &str) -> bool {
        self.meets(process, Action::ends)
    }

    /// Whether any fault of the run concerns a process.
    fn meets(&self, process: &str, what: impl Fn(&Action, ProcessId) -> bool) -> bool {
        let mut of_it = self.plan.processes().filter(|id| self.plan.process_name(*id) == process);
        of_it.any(|id| self.plan.timeline.iter().any(|entry| what(&entry.action, id)))
    }
}

impl Request {
    /// The endpoints that were picked for it, in order.
    pub fn picks(&self) -> impl DoubleEndedIterator<Item = (LogPosition, &str, bool)> {
        self.steps.iter().filter_map(|(when, step)| match step {
            RequestStep::Picked { endpoint, panic } => Some((*when, endpoint.as_str(), *panic)),
            _ => None,
        })
    }

    /// When the attempt began at `endpoint` of which something is known at `when`.
    pub fn tried(&self, endpoint: &str, when: LogPosition) -> Option<u64> {
        let pick = self.picks().rev().find(|(pick, other, _)| *pick < when && *other == endpoint);
        pick.map(|(pick, ..)| pick.at)
    }

    /// The end of the attempt that began at `endpoint` at `begun`; `None` if that was given up.
    pub fn end_of_attempt(&self, endpoint: &str, begun: LogPosition) -> Option<(LogPosition, &RequestStep)> {
        let mut later = self.steps.iter().filter(|(when, _)| *when > begun);
        let end = later.find(|(_, step)| match step {
            RequestStep::Answered { endpoint: other, .. } | RequestStep::Failed { endpoint: other, .. } => {
                other == endpoint
            }
            _ => false,
        });
        end.map(|(when, step)| (*when, step))
    }

    /// When its caller was answered.
    pub fn done(&self) -> Option<u64> {
        self.steps.iter().find(|(_, step)| matches!(step, RequestStep::Done(_))).map(|(when, _)| when.at)
    }
}
