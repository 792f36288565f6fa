//! Situations that a sweep must have seen: each is rare or hard to bring about, and a law that is never tested by it says
//! nothing. A gate in the tests fails when one of them was not reached.

use std::time::Duration;

use crate::plan::Load;

use super::facts::{Change, Facts, IN_FORCE, Moment, Step};

/// A situation.
pub struct Situation {
    /// What it is, in a few words.
    pub name: &'static str,
    reached: fn(&Facts) -> bool,
}

impl Situation {
    /// Whether a day has seen it.
    pub fn is_in(&self, facts: &Facts) -> bool {
        (self.reached)(facts)
    }
}

fn steps(facts: &Facts) -> impl Iterator<Item = &Step> {
    facts.requests.iter().flat_map(|request| &request.steps).map(|(_, step)| step)
}

fn changes(facts: &Facts) -> impl Iterator<Item = &Change> {
    facts.standings.iter().map(|standing| &standing.change)
}

fn failed(facts: &Facts, kind: &str) -> bool {
    steps(facts).any(|step| matches!(step, Step::Failed { error, .. } if error == kind))
}

fn given_up(facts: &Facts, why: &str) -> bool {
    steps(facts).any(|step| matches!(step, Step::GivenUp(reason) if reason == why))
}

/// Whether a caller had an answer for as long as it left it unread or its call open.
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

macro_rules! situations {
    ($($name:literal: $reached:expr,)*) => {
        /// All of them.
        pub const ALL: &[Situation] = &[$(Situation { name: $name, reached: $reached }),*];
    };
}

situations! {
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
    "a try fails because nobody listens": |facts| failed(facts, "connect"),
    "a try fails because a connection does not open in time": |facts| failed(facts, "connect_timeout"),
    "a request succeeds after an app has broken HTTP in answering it": |facts| {
        facts.calls.values().any(|call| {
            call.flaws.iter().any(|flaw| !flaw.is_answered())
                && call.ended.iter().any(|(_, outcome)| outcome == "Ok")
        })
    },
    "an app gives an answer that nobody has asked for": |facts| {
        facts.calls.values().any(|call| call.flaws.iter().any(|flaw| flaw.is_answered()))
    },
    "a connection ends before the answer": |facts| failed(facts, "terminated"),
    "a try is not answered in its time": |facts| failed(facts, "try_timeout"),
    "a request is not answered in its time": |facts| {
        facts.log.iter().any(|line| line.text == "no answer" && line.word("error") == Some("request_timeout"))
    },
    "a request that never left is made again": |facts| {
        facts.requests.iter().any(|request| {
            let unsent = |pair: &[(Moment, Step)]| {
                matches!(pair, [(_, Step::Failed { unsent: true, .. }), (_, Step::Again { .. })])
            };
            request.steps.windows(2).any(unsent)
        })
    },
    "a request is tried at every endpoint": |facts| {
        facts.requests.iter().any(|request| request.picks().count() >= 3)
    },
    "a request with a body is made again": |facts| {
        facts.calls.iter().any(|(id, call)| id.starts_with("put") && call.lengths.len() > 1)
    },
    "no retry because it is not safe": |facts| given_up(facts, "unsafe"),
    "no retry because there have been enough": |facts| given_up(facts, "attempts"),
    "no retry because the budget is spent": |facts| given_up(facts, "budget"),
    "no retry because too many are under way": |facts| given_up(facts, "limit"),
    "no retry because the body was not kept": |facts| given_up(facts, "body"),
    "no retry because time is up": |facts| given_up(facts, "wait"),
    "a second try is made beside the first": |facts| {
        facts.requests.iter().any(|request| {
            let beside = |pair: &[(Moment, Step)]| {
                matches!(pair, [(_, Step::Picked { .. }), (_, Step::Picked { .. })])
            };
            request.steps.windows(2).any(beside)
        })
    },
    "an endpoint is ejected for a run of failures": |facts| {
        changes(facts).any(|change| matches!(change, Change::Ejected(_, why) if why == "consecutive_failures"))
    },
    "an endpoint is ejected for its success rate": |facts| {
        changes(facts).any(|change| matches!(change, Change::Ejected(_, why) if why == "success_rate"))
    },
    "a half-open probe fails": |facts| {
        changes(facts).any(|change| matches!(change, Change::Ejected(_, why) if why == "failed_probe"))
    },
    "a half-open probe succeeds": |facts| changes(facts).any(|change| *change == Change::Restored(false)),
    "a check that passes ends an ejection": |facts| {
        changes(facts).any(|change| *change == Change::Restored(true))
    },
    "as many endpoints are out as the cap allows": |facts| {
        facts.clusters().any(|(process, cluster)| {
            let most = ((cluster.endpoints.len() as f64 * cluster.outlier_detection.cap) as i32).max(1);
            let mut out = 0;
            facts.standings_of(process, &cluster.name).any(|standing| {
                match &standing.change {
                    Change::Ejected(_, why) if why != "failed_probe" => out += 1,
                    Change::Restored(_) => out -= 1,
                    _ => {}
                }
                out >= most
            })
        })
    },
    "availability counts for nothing": |facts| {
        steps(facts).any(|step| matches!(step, Step::Picked { panic: true, .. }))
    },
    "a check turns an endpoint unhealthy": |facts| changes(facts).any(|c| *c == Change::Healthy(false)),
    "a check turns an endpoint healthy again": |facts| changes(facts).any(|c| *c == Change::Healthy(true)),
    "a sidecar drains with a request in hand": |facts| {
        facts.log.iter().any(|line| {
            line.text == "draining"
                && facts.calls.values().any(|call| {
                    let instance = line.process.split('/').next().unwrap_or_default();
                    let there = |(at, app): &(u64, std::rc::Rc<str>)| {
                        *at < line.at_us && app.split('/').next() == Some(instance)
                    };
                    call.arrived.iter().any(there) && call.answered.iter().any(|(at, _)| *at > line.at_us)
                })
        })
    },
    "checks of an endpoint contradict each other, and not often enough in a row": |facts| {
        let mut endpoints: Vec<_> = facts.standings.iter().map(|s| (&s.process, &s.endpoint)).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints.into_iter().any(|of| {
            let checks = facts.standings.iter().filter(|s| (&s.process, &s.endpoint) == of).map(|s| &s.change);
            let checks: Vec<_> =
                checks.filter(|c| matches!(c, Change::CheckFailed | Change::CheckPassed)).collect();
            checks.windows(3).any(|three| matches!(three, [Change::CheckFailed, Change::CheckPassed, Change::CheckFailed]))
        })
    },
    "an app is told how long the caller of a request that is made again still waits": |facts| {
        facts.calls.values().any(|call| call.left.len() > 1 && call.left.iter().all(Option::is_some))
    },
    "time is up for a caller that said how long it would wait": |facts| {
        facts.log.iter().any(|line| line.text == "no answer" && line.word("error") == Some("deadline"))
    },
    "an app refuses a stream before it looks at it": |facts| {
        facts.log.iter().any(|line| line.text == "refuses a stream")
    },
    "an app says that it takes no more calls over a connection": |facts| {
        facts.log.iter().any(|line| line.text == "says GOAWAY")
    },
    "an app breaks off its answer to a call by a reset": |facts| {
        facts.log.iter().any(|line| line.text == "resets a stream")
    },
    "a caller leaves an answer unread": |facts| held(facts, |load| load.read_delay),
    "a caller leaves a call open": |facts| held(facts, |load| load.end_delay),
    "a request waits for a stream": |facts| facts.log.iter().any(|line| line.text == "waiting for a stream"),
    "an endpoint leaves the registry": |facts| changes(facts).any(|change| *change == Change::Gone),
    "the registry is away": |facts| {
        facts.log.iter().any(|line| line.text == "endpoints may be stale; the last ones are kept")
    },
    "a machine that lost its power is back in use": |facts| {
        facts.standings.iter().any(|s| s.change == Change::Restored(false) && facts.crashes(&s.endpoint))
    },
    "a new configuration comes into force with requests in hand": |facts| {
        let mut reloads =
            facts.log.iter().filter(|line| line.text == IN_FORCE);
        reloads.any(|line| {
            let mut own = facts.requests.iter().filter(|request| request.process == line.process);
            own.any(|request| {
                request.begun < line.at_us && request.done().is_some_and(|done| done > line.at_us)
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
