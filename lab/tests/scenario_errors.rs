//! Broken scenario files and what their authors read. Every snapshot is meant to be read by a
//! person: it must point at the words and say what to write instead.

use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;

fn message(text: &str) -> String {
    let error = lab::scenario::parse("broken.toml", text).expect_err("the file is broken");
    let mut rendered = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut rendered, &error)
        .unwrap();
    let lines: Vec<_> = rendered.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// A good header and two services, followed by what is to be wrong.
fn mesh(more: &str) -> String {
    format!(
        r#"[scenario]
name = "test"
duration = "10s"

[service.web]

[service.orders]
replicas = 3
port = 8080
app = {{ http = {{}} }}

[load.checkout]
from = "web"
url = "http://orders:8080/checkout"
rate = "400/s"

{more}"#
    )
}

#[test]
fn a_unit_without_quotation_marks_is_not_toml() {
    insta::assert_snapshot!(message("[scenario]\nname = \"test\"\nduration = 10s\n"));
}

#[test]
fn a_string_without_an_end_is_not_toml() {
    insta::assert_snapshot!(message("[scenario]\nname = \"test\nduration = \"10s\"\n"));
}

#[test]
fn the_header_is_missing() {
    insta::assert_snapshot!(message("[service.web]\n"));
}

#[test]
fn keys_that_do_not_exist_and_keys_that_are_missing() {
    insta::assert_snapshot!(message(
        r#"[scenario]
name = "test"

[service.orders]
replica = 3
port = 8080

[[timelines]]
at = "5s"
"#
    ));
}

#[test]
fn numbers_without_units() {
    insta::assert_snapshot!(message(
        r#"[scenario]
name = "test"
duration = 10

[service.web]

[[link]]
between = ["web", "web"]
delay = 5

[[link]]
between = ["web", "web"]
loss = 0.01

[[link]]
between = ["web", "web"]
loss = "150%"

[load.checkout]
from = "web"
url = "http://web:80/"
rate = 400

[[timeline]]
at = "5 minutes"
"#
    ));
}

#[test]
fn values_of_the_wrong_kind() {
    insta::assert_snapshot!(message(
        r#"[scenario]
name = "test"
duration = "10s"
sidecar = 5

[service.web]
port = "8080"

[service.orders]
port = 80800

[[expect]]
that = "checkout.errors == 0"

[load]
from = "web"

[link]
delay = "5ms"
"#
    ));
}

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
fn loads_that_call_nobody() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[load.a]
from = "web"
url = "orders:8080"
rate = "1/s"

[load.b]
from = "web"
url = "https://orders:8080/"
rate = "1/s"

[load.c]
from = "web"
url = "http://orders/"
rate = "1/s"

[load.d]
from = "web"
url = "http://web:8080/"
rate = "1/s"

[load.e]
from = "web"
url = "http://orders-1:8080/"
rate = "0/s"

[load.f]
from = "web"
url = "tcp://orders:8080"
rate = "1/s"

[load.g]
from = "orders-*"
url = "http://orders:8080/"
method = "get"
rate = "1/s"
"#
    )));
}

#[test]
fn entries_that_do_nothing_or_too_much() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[[timeline]]
name = "idle"
at = "1s"

[[timeline]]
at = "2s"
for = "1s"
pause = { process = "orders-0" }
partition = { between = ["web", "orders-1"] }

[[timeline]]
at = "4s"
for = "2s"
kill = { process = "web/app", signal = "SIGKILL" }

[[timeline]]
at = "5s"
link = { from = ["web"], delay = "5ms" }

[[timeline]]
at = "5s"
link = { between = ["web", "orders"] }

[[timeline]]
at = "5s"
partition = { between = ["orders-*"] }
"#
    )));
}

#[test]
fn replicas_that_cannot_be_told_apart_so() {
    insta::assert_snapshot!(message(&mesh("").replace(
        "replicas = 3",
        "replicas = 2\nweights = [0, 5000]\nlabels = [{ version = \"1\" }, { version = \"2\" }, { version = \"3\" }]"
    )));
}

#[test]
fn a_configuration_that_changes_nothing() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[service.other]
port = 81
app = { http = {} }
policy = { retry = { attempts = 1 } }

[[timeline]]
at = "1s"
for = "1s"
configure = { service = "other", policy = { retry = { attempts = 1 } } }

[[timeline]]
at = "3s"
for = "1s"
configure = { service = "orders", policy = {} }
"#
    )));
}

#[test]
fn entries_beyond_the_end() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[[timeline]]
at = "12s"
pause = { process = "orders-0" }

[[timeline]]
at = "8s"
for = "5s"
partition = { between = ["web", "orders-1"] }

[[timeline]]
at = "8s"
kill = { process = "orders-2/app", restart = "2s" }
"#
    )));
}

#[test]
fn faults_that_would_undo_each_other() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[[timeline]]
name = "slow"
at = "1s"
for = "4s"
link = { between = ["web", "orders-*"], delay = "5ms" }

[[timeline]]
name = "cut"
at = "3s"
for = "1s"
partition = { from = ["web"], to = ["orders-1"] }

[[timeline]]
at = "6s"
for = "1s"
pause = { process = "orders-0/app" }

[[timeline]]
at = "7s"
kill = { process = "orders-0" }
"#
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
fn windows_that_cannot_be_judged() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[[timeline]]
name = "away"
at = "2s"
kill = { process = "orders-0" }

[[expect]]
during = "5s..15s"
that = ["checkout.errors == 0"]

[[expect]]
during = "5s..5s"
that = ["checkout.errors == 0"]

[[expect]]
during = "5..8s"
that = ["checkout.errors == 0"]

[[expect]]
during = "away"
fault = "away"
that = ["killed >= 2"]

[[expect]]
after = "away.end"
within = "1s"
that = ["checkout.errors == 0"]

[[expect]]
after = "away"
within = "8s"
that = ["checkout.errors == 0"]

[[expect]]
after = "away"
that = ["checkout.errors == 0"]

[[expect]]
hold = "2s"
that = ["checkout.errors == 0"]

[[expect]]
during = "1s..1.001s"
that = ["checkout.errors == 0"]

[[expect]]
name = "nothing"
that = []
"#
    )));
}

#[test]
fn conditions_that_mean_nothing() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[[timeline]]
name = "lose-one"
at = "2s"
kill = { process = "orders-2/app", restart = "1s" }

[[expect]]
that = [
  "checkout.latency.p0 < 20ms",
  "checkout.latency.p99 < 20",
  "checkout.success >= 0.999",
  "checkout.errors = 0",
  "checkout.errors",
  "orders-0.app_requests_total > 0",
  "orders/app.app_requests_total > 0",
  "killed >= 1",
]

[[expect]]
fault = "lose-one"
that = ["lost_packets > 0", "kiled >= 1"]
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

#[test]
fn apps_that_cannot_behave_so() {
    let text = mesh(
        r#"
[service.chat]
port = 7000
app = { tcp = {} }
zones = ["a", "b"]

[service.pay]
port = 8080
app = { http = { concurrency = 0, status = 99, fail = 0.3 } }

[[timeline]]
at = "1s"
app = { process = "chat", work = "1s" }

[[timeline]]
at = "1s"
app = { process = "orders-0/sidecar", fail = "10%" }

[[timeline]]
at = "1s"
app = { process = ["orders-1", "orders-7"], status = 1000 }
"#,
    );
    insta::assert_snapshot!("the_shape_of_apps_that_cannot_behave_so", message(&text));
    insta::assert_snapshot!(message(&text.replace("fail = 0.3", "fail = \"30%\"")));
}

#[test]
fn entries_that_cannot_be_repeated() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[[timeline]]
at = "1s"
every = "1s"
times = 3
partition = { between = ["web", "orders-0"] }

[[timeline]]
at = "1s"
for = "1s"
every = "1s"
times = 30
partition = { between = ["web", "orders-1"] }

[[timeline]]
at = "1s"
for = "100ms"
every = "1s"
partition = { between = ["web", "orders-2"] }

[[timeline]]
at = "2s"
for = "2s"
restart = { process = [], signal = "HUP" }
"#
    )));
}

#[test]
fn loads_in_no_part_of_the_run() {
    insta::assert_snapshot!(message(&mesh(
        r#"
[load.late]
from = "web"
url = "http://orders:8080/"
rate = "1/s"
at = "20s"

[load.long]
from = "web"
url = "http://orders:8080/"
rate = "1/s"
at = "8s"
for = "5s"
headers = { "x user" = "1", x-other = "a\nb" }
"#
    )));
}

#[test]
fn one_mistake_among_many_lines_is_told_alone() {
    let text = mesh("[[timeline]]\nname = \"lose-one\"\nat = \"2s\"\nkill = { process = \"orders-3\" }\n");
    insta::assert_snapshot!(message(&text));
}

#[test]
fn every_mistake_is_told_once_and_in_the_order_of_the_file() {
    let text = mesh(
        "[[timeline]]\nat = \"20s\"\npause = { process = \"nobody\" }\n[[expect]]\nthat = [\"x.errors == 0\"]\n",
    );
    let error = lab::scenario::parse("broken.toml", &text).unwrap_err();
    let messages: Vec<_> = error.mistakes().iter().map(|m| m.message()).collect();
    assert_eq!(
        messages,
        [
            "this entry would begin after the run is over: 20s of 10s",
            "unknown instance `nobody`",
            "unknown load `x`"
        ]
    );
    assert!(error.mistakes().is_sorted_by_key(|m| m.offset()));
}

proptest! {
    #[test]
    fn no_damage_to_a_file_makes_the_parser_panic(
        from in 0usize..400,
        length in 0usize..12,
        new in "[a-z0-9\\[\\]{}=\"'.,*/+%é \n-]{0,12}",
    ) {
        let mut text = mesh("[[timeline]]\nat = \"1s\"\nkill = { process = \"orders-1\" }\n\
                             [[expect]]\nduring = \"kill-1\"\nthat = [\"checkout.errors == 0\"]\n");
        let from = from.min(text.len());
        let to = (from + length).min(text.len());
        text.replace_range(from..to, &new);
        if let Err(errors) = lab::scenario::parse("broken.toml", &text) {
            prop_assert!(!errors.mistakes().is_empty());
            let mut rendered = String::new();
            GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
                .render_report(&mut rendered, &errors)
                .unwrap();
        }
    }
}
