//! Raw TCP: what a server that speaks first costs, and what a dying one does.

mod sim_kit;

use lab::scenario::Scenario;
use lab::scenario::builder::{ExpectSpec, FaultSpec, LoadSpec, ScenarioBuilder, ServiceSpec};
use sim_kit::*;

const SEEDS: u64 = 20;

fn lines(name: &str, chat: ServiceSpec) -> ScenarioBuilder {
    Scenario::builder(name)
        .duration(ms(6000))
        .service(ServiceSpec::new("web"))
        .service(chat)
        .load(LoadSpec::new("lines", "web", "tcp://chat:7000", 50).timeout(ms(5000)))
}

fn undeclared() -> ServiceSpec {
    ServiceSpec::new("chat").replicas(3).tcp(7000, "220 chat ready")
}

fn declared() -> ServiceSpec {
    undeclared().set("protocol", "tcp")
}

#[test]
fn a_declared_server_that_speaks_first_is_heard_at_once() {
    let expected = ExpectSpec::that(&["lines.errors == 0", "lines.latency.max < 20ms"]);
    Story::of(&lines("declared", declared()).expect(expected)).holds(SEEDS);
}

#[test]
fn an_undeclared_server_that_speaks_first_is_heard_by_listening_to_it_and_at_once_after_that() {
    // Each sidecar listens to the server after 100 ms of silence, one after the other, and
    // remembers. The callers that came in the meantime wait for the first one's sidecar, and may be
    // the first at another instance.
    let in_all = ["lines.errors == 0", "lines.latency.p50 < 20ms", "lines.latency.max < 320ms"];
    let later = ExpectSpec::that(&["lines.errors == 0", "lines.latency.max < 20ms"]);
    let scenario = lines("undeclared", undeclared())
        .expect(ExpectSpec::that(&in_all))
        .expect(later.during(ms(1000), ms(6000)));
    Story::of(&scenario).holds(SEEDS);
}

#[test]
fn new_connections_go_elsewhere_when_a_server_dies() {
    // At most the connections of that moment break.
    let scenario = lines("a server dies", declared())
        .fault(FaultSpec::kill("chat-1").name("lose").at(ms(2000)).restart(ms(1000)))
        .expect(ExpectSpec::that(&["lines.errors <= 2"]))
        .expect(
            ExpectSpec::that(&["lines.errors == 0", "lines.latency.max < 50ms"]).during(ms(2200), ms(2900)),
        )
        .expect(ExpectSpec::that(&["killed == 2"]).evidence_of("lose"));
    Story::of(&scenario).holds(SEEDS);
}
