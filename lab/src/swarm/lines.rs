//! Reads the log of a run. Here, and nowhere else, a line becomes an event.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use proxy::config::Snapshot;
use proxy::telemetry::LogEvent;

use super::facts::{
    AvailabilityChange, Call, EndpointChange, Facts, LogPosition, LoggedEvent, Request, RequestStep, RunEvent,
};
use crate::app::http::malformed::Malformation;
use crate::fault::{Action, Configure};
use crate::plan::Plan;
use crate::run::{self, Seen};
use crate::sim::{Chaos, LogLine};
use crate::traffic::TrafficEvent;

/// The process that [`Note`]s are from.
const LAB: &str = "lab";

/// What the lab itself writes into the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// A part of the run has begun: the words of [`crate::run::Progress::phase`].
    Phase(String),
    /// The fault of this name is in force.
    Applied(String),
    /// It is not any more.
    Reverted(String),
}

const APPLIED: &str = " applied";
const REVERTED: &str = " reverted";

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Phase(what) => f.write_str(what),
            Note::Applied(fault) => write!(f, "{fault}{APPLIED}"),
            Note::Reverted(fault) => write!(f, "{fault}{REVERTED}"),
        }
    }
}

impl Note {
    fn read(text: &str) -> Self {
        match (text.strip_suffix(APPLIED), text.strip_suffix(REVERTED)) {
            (Some(fault), _) => Note::Applied(fault.to_owned()),
            (_, Some(fault)) => Note::Reverted(fault.to_owned()),
            _ => Note::Phase(text.to_owned()),
        }
    }
}

impl RunEvent {
    /// The event that a line tells of, if it does.
    pub fn read(line: &LogLine) -> Option<Self> {
        if &*line.process == LAB {
            return Some(RunEvent::Lab(Note::read(&line.text)));
        }
        let sidecar = || LogEvent::read(&line.text, line).map(RunEvent::Sidecar);
        sidecar().or_else(|| TrafficEvent::read(&line.text, line).map(RunEvent::Traffic))
    }

    /// The endpoint or the request that it is about.
    pub fn subject(&self) -> Option<&str> {
        match self {
            RunEvent::Sidecar(
                LogEvent::EndpointPicked { endpoint, .. }
                | LogEvent::EndpointAnswered { endpoint, .. }
                | LogEvent::AttemptFailed { endpoint, .. }
                | LogEvent::Connected { endpoint, .. }
                | LogEvent::ConnectionEnded { endpoint, .. }
                | LogEvent::WaitingForConnection { endpoint, .. }
                | LogEvent::WaitingForStream { endpoint, .. },
            ) => Some(endpoint),
            RunEvent::Sidecar(event) => change(event).map(|(_, endpoint, _)| endpoint),
            RunEvent::Traffic(event) => event.id(),
            RunEvent::Lab(_) => None,
        }
    }
}

impl Facts {
    /// Reads the log of a run.
    pub(crate) fn new(plan: Plan, log: Vec<LogLine>, seen: Seen, tick: Duration, chaos: Chaos) -> Self {
        let read = |(position, line): (usize, &LogLine)| {
            let when = LogPosition { at: line.at_us, line: position };
            Some(LoggedEvent { when, process: line.process.clone(), event: RunEvent::read(line)? })
        };
        let events: Vec<LoggedEvent> = log.iter().enumerate().filter_map(read).collect();
        let mut calls: BTreeMap<String, Call> = BTreeMap::new();
        let mut requests: Vec<Request> = Vec::new();
        let mut availability = Vec::new();
        let mut latest: BTreeMap<(Rc<str>, u64), usize> = BTreeMap::new();
        let mut t0_us = 0;
        for LoggedEvent { when, process, event } in &events {
            let (when, process) = (*when, process.clone());
            match event {
                RunEvent::Lab(Note::Phase(what)) if what == run::MEASURING => t0_us = when.at,
                RunEvent::Lab(_) => {}
                RunEvent::Traffic(event) => {
                    if let Some(id) = event.id() {
                        calls.entry(id.to_owned()).or_default().hear(when.at, &process, event);
                    }
                }
                RunEvent::Sidecar(LogEvent::RequestBegins { request, cluster, .. }) => {
                    latest.insert((process.clone(), *request), requests.len());
                    let (cluster, begun) = (cluster.clone(), when.at);
                    requests.push(Request { process, cluster, begun, steps: Vec::new() });
                }
                RunEvent::Sidecar(event) => {
                    if let Some((cluster, endpoint, change)) = change(event) {
                        let (cluster, endpoint) = (cluster.to_owned(), endpoint.to_owned());
                        availability.push(AvailabilityChange { when, process, cluster, endpoint, change });
                    } else if let Some((request, step)) = step(event)
                        && let Some(&request) = latest.get(&(process, request))
                    {
                        requests[request].steps.push((when, step));
                    }
                }
            }
        }
        let snapshots = snapshots(&plan, &events, &requests);
        let tick_us = tick.as_micros() as u64;
        let crossings = Vec::new();
        Facts {
            plan,
            log,
            events,
            crossings,
            seen,
            t0_us,
            tick_us,
            chaos,
            calls,
            requests,
            availability,
            snapshots,
        }
    }
}

/// The configurations of each sidecar that carried a request, and since when.
fn snapshots(
    plan: &Plan,
    events: &[LoggedEvent],
    requests: &[Request],
) -> BTreeMap<Rc<str>, Vec<(u64, Snapshot)>> {
    let mut snapshots = BTreeMap::new();
    for (position, instance) in plan.instances.iter().enumerate() {
        let process: Rc<str> = format!("{}/sidecar", instance.name).into();
        if instance.sidecar.is_none() || !requests.iter().any(|request| request.process == process) {
            continue;
        }
        let in_force = |logged: &&LoggedEvent| {
            logged.process == process && logged.event == RunEvent::Sidecar(LogEvent::ConfigurationInForce)
        };
        let since = std::iter::once(0).chain(events.iter().filter(in_force).map(|logged| logged.when.at));
        let configs = configurations(plan, events, position);
        let parsed = configs.iter().filter_map(|text| proxy::config::parse("sidecar.toml", text).ok());
        let in_turn: Vec<_> = since.zip(parsed).collect();
        snapshots.insert(process, in_turn);
    }
    snapshots
}

/// The configurations that an instance's sidecar was given, one after another. An entry of the
/// timeline may be late, so the order is that in which the lab logs that they are applied and
/// reverted.
fn configurations<'a>(plan: &'a Plan, events: &[LoggedEvent], instance: usize) -> Vec<&'a str> {
    let base = plan.instances[instance].sidecar.as_deref().unwrap_or_default();
    let mut all = vec![base];
    for logged in events {
        let RunEvent::Lab(note) = &logged.event else { continue };
        let told = plan.timeline.iter().find_map(|entry| {
            let Action::Configure(Configure { configs, .. }) = &entry.action else { return None };
            match note {
                Note::Applied(fault) if *fault == entry.name => configs.get(instance).map(String::as_str),
                Note::Reverted(fault) if *fault == entry.name => Some(base),
                _ => None,
            }
        });
        // A sidecar that gets the configuration that it has logs no change.
        all.extend(told.filter(|told| all.last() != Some(told)));
    }
    all
}

impl Call {
    /// Takes an event of a load generator or an app.
    fn hear(&mut self, at: u64, process: &Rc<str>, event: &TrafficEvent) {
        match event {
            TrafficEvent::RequestSent { .. } => self.sent.push(at),
            TrafficEvent::RequestEnded { outcome, .. } => self.ended.push((at, outcome.clone())),
            TrafficEvent::RequestArrived { nth, method, left, .. } => {
                self.arrived.push((at, process.clone()));
                self.nths.push(nth.clone());
                self.left.push(left.map(Duration::from_micros));
                self.method = Some(method.clone());
            }
            TrafficEvent::RefusesStream { nth, .. } => self.refused.push((at, process.clone(), nth.clone())),
            TrafficEvent::RequestComplete { length, .. } => self.lengths.push(*length),
            TrafficEvent::Answers { status, .. } => self.answered.push((at, *status)),
            TrafficEvent::AnswerComplete { length, by, .. } => self.got = Some((*length, by.clone())),
            TrafficEvent::BreaksHttp { malformation, .. } => {
                self.malformations.extend(Malformation::named(malformation));
            }
            TrafficEvent::ResetsStream { .. }
            | TrafficEvent::SaysGoaway { .. }
            | TrafficEvent::RegistryChanged { .. } => {}
        }
    }
}

/// The change of an endpoint's availability that an event tells of, if it does: of which cluster,
/// which endpoint, and what.
fn change(event: &LogEvent) -> Option<(&str, &str, EndpointChange)> {
    Some(match event {
        LogEvent::EndpointEjected { cluster, endpoint, time, reason } => {
            (cluster, endpoint, EndpointChange::Ejected(*time, reason.clone()))
        }
        LogEvent::Probing { cluster, endpoint } => (cluster, endpoint, EndpointChange::Probing),
        LogEvent::ProbeTaughtNothing { cluster, endpoint } => (cluster, endpoint, EndpointChange::Unanswered),
        LogEvent::EndpointRestored { cluster, endpoint } => {
            (cluster, endpoint, EndpointChange::Restored(false))
        }
        LogEvent::EndpointRestoredByCheck { cluster, endpoint } => {
            (cluster, endpoint, EndpointChange::Restored(true))
        }
        LogEvent::EndpointUnhealthy { cluster, endpoint, .. } => {
            (cluster, endpoint, EndpointChange::Healthy(false))
        }
        LogEvent::EndpointHealthy { cluster, endpoint } => (cluster, endpoint, EndpointChange::Healthy(true)),
        LogEvent::CheckFailed { cluster, endpoint, .. } => (cluster, endpoint, EndpointChange::CheckFailed),
        LogEvent::CheckPassed { cluster, endpoint } => (cluster, endpoint, EndpointChange::CheckPassed),
        LogEvent::EndpointFound { cluster, endpoint } => (cluster, endpoint, EndpointChange::Found),
        LogEvent::EndpointGone { cluster, endpoint } => (cluster, endpoint, EndpointChange::Gone),
        _ => return None,
    })
}

/// The step of a request that an event tells of, if it does, and of which request.
fn step(event: &LogEvent) -> Option<(u64, RequestStep)> {
    Some(match event {
        LogEvent::EndpointPicked { request, endpoint, panic, .. } => {
            (*request, RequestStep::Picked { endpoint: endpoint.clone(), panic: *panic })
        }
        LogEvent::EndpointAnswered { request, endpoint, status, last, grpc, average_us } => {
            let grpc = grpc.as_ref().and_then(|code| code.parse().ok());
            // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS
            let failed = [2, 4, 8, 13, 14, 15].map(Some).contains(&grpc);
            let answered = RequestStep::Answered {
                endpoint: endpoint.clone(),
                status: *status,
                last: *last,
                grpc,
                succeeded: *status < 500 && *status != 429 && !failed,
                average: *average_us,
            };
            (*request, answered)
        }
        LogEvent::AttemptFailed { request, endpoint, error, unsent, reused } => {
            let (endpoint, error) = (endpoint.clone(), error.clone());
            (*request, RequestStep::Failed { endpoint, error, unsent: *unsent, reused: *reused })
        }
        LogEvent::TryingAgain { request, reason, wait, budget, .. } => {
            (*request, RequestStep::Again { reason: reason.clone(), wait: *wait, budget: *budget })
        }
        LogEvent::NotTryingAgain { request, why } => (*request, RequestStep::GivenUp(why.clone())),
        LogEvent::RequestAnswered { request, status, .. } => (*request, RequestStep::Done(*status)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        for note in [
            Note::Phase(run::MEASURING.to_owned()),
            Note::Applied("kill-1".to_owned()),
            Note::Reverted("kill-1".to_owned()),
        ] {
            assert_eq!(Note::read(&note.to_string()), note);
        }
    }
}
