//! Raw TCP: what a server that speaks first costs, and what a dying one does.

mod sim_kit;

use sim_kit::*;

const SEEDS: u64 = 20;

fn lines(name: &'static str, protocol: &str, rest: &str) -> Story {
    let text = format!(
        r#"
        [scenario]
        name = "{name}"
        duration = "6s"
        [service.web]
        [service.chat]
        replicas = 3
        port = 7000
        {protocol}
        app = {{ tcp = {{ greeting = "220 chat ready" }} }}
        [load.lines]
        from = "web"
        url = "tcp://chat:7000"
        rate = "50/s"
        timeout = "5s"
        {rest}
        "#
    );
    Story::new(name, text)
}

#[test]
fn a_declared_server_that_speaks_first_is_heard_at_once() {
    let rest = r#"
        [[expect]]
        that = ["lines.errors == 0", "lines.latency.max < 20ms"]
    "#;
    lines("declared", r#"protocol = "tcp""#, rest).holds(SEEDS);
}

#[test]
fn an_undeclared_server_that_speaks_first_is_heard_after_both_sidecars_have_waited_for_the_client() {
    // Each sidecar waits its detection time-out of 1 s for the client's first bytes, one after the other. What it takes
    // to declare the port is one line; the cost of not doing so must at least be no more than this.
    let rest = r#"
        [[expect]]
        that = ["lines.errors == 0", "lines.latency.p50 > 1900ms", "lines.latency.max < 2100ms"]
    "#;
    lines("undeclared", "", rest).holds(SEEDS);
}

#[test]
fn new_connections_go_elsewhere_when_a_server_dies() {
    let rest = r#"
        [[timeline]]
        name = "lose"
        at = "2s"
        kill = { process = "chat-1", restart = "1s" }
        [[expect]]
        name = "at most the connections of that moment break"
        that = ["lines.errors <= 2"]
        [[expect]]
        during = "2200ms..2900ms"
        that = ["lines.errors == 0", "lines.latency.max < 50ms"]
        [[expect]]
        fault = "lose"
        that = ["killed == 2"]
    "#;
    lines("a server dies", r#"protocol = "tcp""#, rest).holds(SEEDS);
}
