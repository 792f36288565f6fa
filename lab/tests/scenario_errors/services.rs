//! Services, links and settings of sidecars.

use super::{mesh, message};

#[test]
fn names_that_nobody_has() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[[link]]
between = ["web", "order-*"]
delay = "1ms"

[load.pay]
from = "webb"
url = "http://order:8080/"
rate = "1/s"

[[timeline]]
name = "lose-one"
at = "2s"
kill = { process = "order-2/app" }

[[timeline]]
at = "3s"
pause = { process = "orders-1/proxy" }

[[expect]]
during = "loose-one"
that = ["chekout.errors == 0", "web/sidecr.proxy_retries_total > 0"]
"#
    )));
}

#[test]
fn services_that_cannot_be() {
    insta::assert_snapshot!(message(
        r#"[scenario]
name = "test"
duration = "10s"
sidecar = ["ours", "envoi"]

[service.no-port]
app = { http = {} }

[service.no-app]
port = 8080

[service.both]
port = 8080
app = { http = {}, tcp = {} }

[service.neither]
port = 8080
app = {}

[service.taken]
port = 15001
app = { http = {} }

[service.metrics]
port = 9100
app = { http = {} }

[service.Web_1]

[service.zero]
replicas = 0

[service.odd]
port = 8080
protocol = "htpp"
app = { http = {} }

[service.orders]
replicas = 2

[service.orders-1]
"#
    ));
}

#[test]
fn replicas_that_cannot_be_told_apart_so() {
    insta::assert_snapshot!(message(&mesh("").replace(
        "replicas = 3",
        "replicas = 2\nweights = [0, 5000]\nlabels = [{ version = \"1\" }, { version = \"2\" }, { version = \"3\" }]"
    )));
}

#[test]
fn links_that_cannot_be() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[[link]]
between = ["web", "orders"]
delay = "+5ms"

[[link]]
between = ["web", "web"]
delay = "5ms"

[[link]]
between = ["web", "orders-1"]
jitter = "10ms"

[[link]]
between = ["web", "orders"]
loss = "15%"
"#
    )));
}

#[test]
fn a_sidecar_where_there_is_none() {
    let text = mesh(
        r#"
[[timeline]]
at = "2s"
kill = { process = "orders-2/sidecar" }

[[expect]]
that = ["web/sidecar.proxy_retries_total > 0"]
"#,
    );
    insta::assert_snapshot!(message(
        &text.replace("duration = \"10s\"", "duration = \"10s\"\nsidecar = \"none\"")
    ));
}

#[test]
fn keys_that_the_sidecar_would_refuse() {
    let text = mesh(
        r#"
[service.orders.policy]
retry = { attempt = 0 }
timeouts.request = 5

[service.web.sidecar]
passthru = false
timeouts = { connect = "3 parsecs" }

[[service.web.sidecar.cluster]]
name = "db"
addresses = ["10.0.0.1:5432"]
endpoints = ["10.0.0.2"]
"#,
    );
    insta::assert_snapshot!("shape_of_keys_that_the_sidecar_would_refuse", message(&text));
    let text = text
        .replace("attempt =", "attempts =")
        .replace("= 5\n", "= \"5s\"\n")
        .replace("passthru", "passthrough");
    insta::assert_snapshot!("meaning_of_keys_that_the_sidecar_would_refuse", message(&text));
}

#[test]
fn keys_of_the_sidecar_that_are_the_labs_to_decide() {
    insta::assert_snapshot!(message(
        &mesh(
            r#"
[service.orders.policy]
name = "other"

[service.web]
sidecar = { seed = 5, listen = { outbound = 1 } }
"#
        )
        .replacen("[service.web]\n", "", 1)
    ));
    insta::assert_snapshot!("policy_that_is_no_table", message(&mesh("[service.x]\npolicy = 5\n")));
}
