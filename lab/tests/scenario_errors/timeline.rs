//! Entries of the timeline.

use super::{mesh, message};

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
