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
fn an_undeclared_server_that_speaks_first_is_heard_by_listening_to_it_and_at_once_after_that() {
    // Each sidecar listens to the server after 100 ms of silence, one after the other, and
    // remembers. The callers that came in the meantime wait for the first one's sidecar, and may be
    // the first at another instance.
    let rest = r#"
        [[expect]]
        that = ["lines.errors == 0", "lines.latency.p50 < 20ms", "lines.latency.max < 320ms"]
        [[expect]]
        during = "1s..6s"
        that = ["lines.errors == 0", "lines.latency.max < 20ms"]
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
