//! What proves that faults bit, in both worlds.

mod sim_kit;

use sim_kit::*;
use tests::testbed::Testbed;

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

/// Every word of evidence that the page of scenarios promises, and an app that is killed after it
/// was told to fail.
const STORY: &str = r#"
[scenario]
name = "evidence"
duration = "5s"
[service.web]
[service.third]
[service.orders]
port = 8080
protocol = "http"
app = { http = {} }
[load.calls]
from = "web"
url = "http://orders:8080/"
rate = "100/s"
[[timeline]]
name = "fail"
at = "500ms"
for = "1s"
app = { process = "orders/app", fail = "100%" }
[[timeline]]
name = "later"
at = "4s"
kill = { process = "orders/app" }
[[timeline]]
name = "reload"
at = "1s"
for = "1s"
configure = { service = "orders", policy = { retry = { attempts = 0 } } }
[[timeline]]
name = "freeze"
at = "2500ms"
for = "200ms"
pause = { process = "orders/app" }
[[timeline]]
name = "slow"
at = "3s"
for = "500ms"
link = { between = ["web", "orders", "third"], delay = "5ms" }
[[expect]]
fault = "fail"
that = ["changed_requests >= 50"]
[[expect]]
fault = "later"
that = ["killed == 1"]
[[expect]]
# Three sidecars are told twice.
fault = "reload"
that = ["reloaded == 6"]
[[expect]]
fault = "freeze"
that = ["stopped == 1", "continued == 1"]
[[expect]]
fault = "slow"
that = ["packets > 20", "delayed_packets > 20", "lost_packets == 0"]
"#;

#[test]
fn evidence_is_measured_and_outlives_the_process_that_it_came_from() {
    Story::new("evidence", STORY.to_owned()).holds(3);
}

#[test]
fn evidence_on_the_kernel_is_the_same() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let scenario = testbed.write("evidence", STORY);
    testbed.run_conclusive(&scenario, &[]).expect(0);
}
