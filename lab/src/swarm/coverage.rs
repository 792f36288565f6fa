//! Coverage points: rare states that a sweep must reach, because an invariant that no run exercises
//! proves nothing. A test fails when one of them was not reached.

use std::time::Duration;

use proxy::telemetry::LogEvent;

use crate::load::{CallKind, Load};

use crate::traffic::TrafficEvent;

use super::facts::{EndpointChange, Facts, LogPosition, RequestStep};
use super::identity::REVOKED;

/// A state that some run of a sweep must reach.
pub struct CoveragePoint {
    /// What it is, in a few words.
    pub name: &'static str,
    reached: fn(&Facts) -> bool,
}

impl CoveragePoint {
    /// Whether a run has reached it.
    pub fn is_in(&self, facts: &Facts) -> bool {
        (self.reached)(facts)
    }
}

fn steps(facts: &Facts) -> impl Iterator<Item = &RequestStep> {
    facts.requests.iter().flat_map(|request| &request.steps).map(|(_, step)| step)
}

fn changes(facts: &Facts) -> impl Iterator<Item = &EndpointChange> {
    facts.availability.iter().map(|update| &update.change)
}

fn sidecars(facts: &Facts, say: fn(&LogEvent) -> bool) -> bool {
    facts.sidecar_events().any(|(_, _, event)| say(event))
}

fn traffic(facts: &Facts, says: fn(&TrafficEvent) -> bool) -> bool {
    facts.traffic_events().any(|(_, event)| says(event))
}

fn failed(facts: &Facts, kind: &str) -> bool {
    steps(facts).any(|step| matches!(step, RequestStep::Failed { error, .. } if error == kind))
}

fn given_up(facts: &Facts, why: &str) -> bool {
    steps(facts).any(|step| matches!(step, RequestStep::GivenUp(reason) if reason == why))
}

/// How long a load's callers leave a response unread.
fn read_delay(load: &Load) -> Duration {
    if let CallKind::Http(call) = &load.target.call { call.read_delay } else { Duration::ZERO }
}

/// How long a load's callers leave a call open.
fn end_delay(load: &Load) -> Duration {
    if let CallKind::Grpc(call) = &load.target.call { call.end_delay } else { Duration::ZERO }
}

/// Whether a response stayed unread, or a call open, for as long as its load asks for.
fn held(facts: &Facts, delay: fn(&Load) -> Duration) -> bool {
    let loads = facts.plan.loads.iter().filter(|load| !delay(load).is_zero());
    let mut of_it = loads.flat_map(|load| {
        let name = &load.name;
        let calls =
            facts.calls.iter().filter(move |(id, _)| id.rsplit_once(' ').is_some_and(|(n, _)| n == name));
        calls.map(move |(_, call)| (call, delay(load).as_micros() as u64))
    });
    of_it.any(|(call, delay)| {
        let ended = call.ended.first().filter(|(_, outcome)| outcome == "Ok");
        ended.zip(call.answered.first()).is_some_and(|((ended, _), (answered, _))| *ended >= answered + delay)
    })
}

macro_rules! coverage_points {
    ($($name:literal: $reached:expr,)*) => {
        /// All of them.
        pub const ALL: &[CoveragePoint] = &[$(CoveragePoint { name: $name, reached: $reached }),*];
    };
}

coverage_points! {
    "a retry succeeds at another endpoint after the first had the whole request": |facts| {
        facts.calls.values().any(|call| {
            call.arrived.len() > 1
                && call.arrived[0].1 != call.arrived[1].1
                && call.ended.iter().any(|(_, outcome)| outcome == "Ok")
        })
    },
    "a sidecar finds out by itself that its clients speak HTTP": |facts| {
        facts.clusters().any(|(process, _)| {
            let found = facts.last(process, "proxy_detections_total", &[("result", "http1")]);
            found.is_some_and(|times| times > 0.0)
        })
    },
    "an attempt fails because nobody listens": |facts| failed(facts, "connect"),
    "an attempt fails because a connection does not open in time": |facts| failed(facts, "connect_timeout"),
    "a request succeeds after an app has broken HTTP in answering it": |facts| {
        facts.calls.values().any(|call| {
            call.malformations.iter().any(|malformation| !malformation.is_answered())
                && call.ended.iter().any(|(_, outcome)| outcome == "Ok")
        })
    },
    "an app sends a response that nobody has asked for": |facts| {
        facts.calls.values().any(|call| call.malformations.iter().any(|malformation| malformation.is_answered()))
    },
    "a connection ends before the answer": |facts| failed(facts, "terminated"),
    "an attempt times out": |facts| failed(facts, "try_timeout"),
    "a request times out": |facts| {
        sidecars(facts, |event| matches!(event, LogEvent::NoAnswer { error, .. } if error == "request_timeout"))
    },
    "a request that was never sent is retried": |facts| {
        facts.requests.iter().any(|request| {
            let unsent = |pair: &[(LogPosition, RequestStep)]| {
                matches!(pair, [(_, RequestStep::Failed { unsent: true, .. }), (_, RequestStep::Again { .. })])
            };
            request.steps.windows(2).any(unsent)
        })
    },
    "a request is attempted at every endpoint": |facts| {
        facts.requests.iter().any(|request| request.picks().count() >= 3)
    },
    "a request with a body is retried": |facts| {
        facts.calls.iter().any(|(id, call)| id.starts_with("put") && call.lengths.len() > 1)
    },
    "no retry because it is not safe": |facts| given_up(facts, "unsafe"),
    "no retry because there have been enough": |facts| given_up(facts, "attempts"),
    "no retry because the budget is spent": |facts| given_up(facts, "budget"),
    "no retry because too many are under way": |facts| given_up(facts, "limit"),
    "no retry because the body was not kept": |facts| given_up(facts, "body"),
    "no retry because time is up": |facts| given_up(facts, "wait"),
    "a request is hedged": |facts| {
        facts.requests.iter().any(|request| {
            let beside = |pair: &[(LogPosition, RequestStep)]| {
                matches!(pair, [(_, RequestStep::Picked { .. }), (_, RequestStep::Picked { .. })])
            };
            request.steps.windows(2).any(beside)
        })
    },
    "an endpoint is ejected for a run of failures": |facts| {
        changes(facts).any(|change| matches!(change, EndpointChange::Ejected(_, why) if why == "consecutive_failures"))
    },
    "an endpoint is ejected for its success rate": |facts| {
        changes(facts).any(|change| matches!(change, EndpointChange::Ejected(_, why) if why == "success_rate"))
    },
    "a half-open probe fails": |facts| {
        changes(facts).any(|change| matches!(change, EndpointChange::Ejected(_, why) if why == "failed_probe"))
    },
    "a half-open probe succeeds": |facts| changes(facts).any(|change| *change == EndpointChange::Restored(false)),
    "a check that passes ends an ejection": |facts| {
        changes(facts).any(|change| *change == EndpointChange::Restored(true))
    },
    "as many endpoints are out as the cap allows": |facts| {
        facts.clusters().any(|(process, cluster)| {
            let most = ((cluster.endpoints.len() as f64 * cluster.outlier_detection.cap) as i32).max(1);
            let mut out = 0;
            facts.availability_of(process, &cluster.name).any(|update| {
                match &update.change {
                    EndpointChange::Ejected(_, why) if why != "failed_probe" => out += 1,
                    EndpointChange::Restored(_) => out -= 1,
                    _ => {}
                }
                out >= most
            })
        })
    },
    "a cluster is in panic mode": |facts| {
        steps(facts).any(|step| matches!(step, RequestStep::Picked { panic: true, .. }))
    },
    "a check turns an endpoint unhealthy": |facts| changes(facts).any(|c| *c == EndpointChange::Healthy(false)),
    "a check turns an endpoint healthy again": |facts| changes(facts).any(|c| *c == EndpointChange::Healthy(true)),
    "a sidecar drains with a request in flight": |facts| {
        facts.sidecar_events().any(|(when, process, event)| {
            *event == LogEvent::Draining
                && facts.calls.values().any(|call| {
                    let instance = process.split('/').next().unwrap_or_default();
                    let there = |(at, app): &(u64, std::rc::Rc<str>)| {
                        *at < when.at && app.split('/').next() == Some(instance)
                    };
                    call.arrived.iter().any(there) && call.answered.iter().any(|(at, _)| *at > when.at)
                })
        })
    },
    "checks of an endpoint contradict each other, and not often enough in a row": |facts| {
        let mut endpoints: Vec<_> = facts.availability.iter().map(|s| (&s.process, &s.endpoint)).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints.into_iter().any(|of| {
            let checks = facts.availability.iter().filter(|s| (&s.process, &s.endpoint) == of).map(|s| &s.change);
            let checks: Vec<_> =
                checks.filter(|c| matches!(c, EndpointChange::CheckFailed | EndpointChange::CheckPassed)).collect();
            checks.windows(3).any(|three| matches!(three, [EndpointChange::CheckFailed, EndpointChange::CheckPassed, EndpointChange::CheckFailed]))
        })
    },
    "an app is told how long the caller of a request that is made again still waits": |facts| {
        facts.calls.values().any(|call| call.left.len() > 1 && call.left.iter().all(Option::is_some))
    },
    "time is up for a caller that said how long it would wait": |facts| {
        sidecars(facts, |event| matches!(event, LogEvent::NoAnswer { error, .. } if error == "deadline"))
    },
    "an app refuses a stream before it looks at it": |facts| {
        traffic(facts, |event| matches!(event, TrafficEvent::RefusesStream { .. }))
    },
    "an app says that it takes no more calls over a connection": |facts| {
        traffic(facts, |event| matches!(event, TrafficEvent::SaysGoaway { .. }))
    },
    "an app breaks off its answer to a call by a reset": |facts| {
        traffic(facts, |event| matches!(event, TrafficEvent::ResetsStream { .. }))
    },
    "a caller leaves an answer unread": |facts| held(facts, read_delay),
    "a caller leaves a call open": |facts| held(facts, end_delay),
    "a request waits for a stream": |facts| {
        sidecars(facts, |event| matches!(event, LogEvent::WaitingForStream { .. }))
    },
    "an endpoint leaves the registry": |facts| changes(facts).any(|change| *change == EndpointChange::Gone),
    "the registry is away": |facts| {
        sidecars(facts, |event| matches!(event, LogEvent::EndpointsStale { .. }))
    },
    "a machine that lost its power is back in use": |facts| {
        facts.availability.iter().any(|s| s.change == EndpointChange::Restored(false) && facts.crashes(&s.endpoint))
    },
    "a certificate is renewed": |facts| {
        let renewed = |process: &str| {
            let in_force = |(_, other, event): &(_, &std::rc::Rc<str>, &LogEvent)| {
                ***other == *process && matches!(event, LogEvent::CertificateInForce { .. })
            };
            facts.is_steady(process) && facts.sidecar_events().filter(in_force).count() > 1
        };
        facts.clusters().any(|(process, _)| renewed(process))
    },
    "a certificate is kept while there is no new one": |facts| {
        sidecars(facts, |event| matches!(event, LogEvent::NoNewCertificate { kept: true, .. }))
    },
    "a session is resumed": |facts| {
        sidecars(facts, |event| matches!(event, LogEvent::ServerProved { resumed: true, .. }))
    },
    "a handshake is refused": |facts| failed(facts, "handshake"),
    "a workload is revoked that has connections": |facts| {
        facts.crossings.iter().any(|crossing| {
            let from = &facts.plan.instances[crossing.from].name;
            let torn = sidecars(facts, |event| matches!(event, LogEvent::TrustChanged { .. }));
            from == REVOKED && torn && crossing.closed[1].is_some() && crossing.closed[0] >= crossing.closed[1]
        })
    },
    "a request is denied": |facts| {
        facts.calls.values().any(|call| call.ended.iter().any(|(_, outcome)| outcome == "Status(403)"))
    },
    "a new configuration comes into force with requests in flight": |facts| {
        let reloads = facts.sidecar_events().filter(|(_, _, event)| **event == LogEvent::ConfigurationInForce);
        reloads.into_iter().any(|(when, process, _)| {
            let mut own = facts.requests.iter().filter(|request| request.process == *process);
            own.any(|request| {
                request.begun < when.at && request.done().is_some_and(|done| done > when.at)
            })
        })
    },
    "a caller gives up": |facts| {
        facts.calls.values().any(|call| call.ended.iter().any(|(_, outcome)| outcome == "Timeout"))
    },
    "a fault stays for ever and requests succeed all the same": |facts| {
        facts.plan.timeline.iter().any(|entry| entry.until.is_none())
            && facts.calls.values().last().is_some_and(|call| call.ended.iter().any(|(_, o)| o == "Ok"))
    },
}
