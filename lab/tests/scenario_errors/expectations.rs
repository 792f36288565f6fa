//! Windows and conditions of expectations.

use super::{mesh, message};

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
