//! Mistakes in policies: retries, limits, time limits, balancing, outlier detection, checks.

use crate::says;

says! {
    retries_that_cannot_be_are_explained: r#"
service = "web"
[retry]
attempts = 50
on = ["503", "gateway", "retriable-status-codes", "unavailable", "envoy-ratelimited"]
base = "1s"
body = "1GiB"
[retry_budget]
share = "200%"
reserve = 0
[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
retry = { on = ["reset"], status_codes = [200, 429] }
"#;
    bare_numbers_of_retries_are_asked_for_their_unit: r#"
service = "web"
retry = { body = 64, hedge = 50 }
retry_budget = { share = 0.2 }
"#;
    windows_streams_and_time_for_a_head_are_within_what_can_be: "service = \"web\"\n\n[timeouts]\nrequest_headers = \"0s\"\n\n[http2]\nmax_concurrent_streams = 0\ninitial_stream_window_size = \"64KB\"\ninitial_connection_window_size = \"2GiB\"\nconnection_keepalive_interval = \"0s\"\n";
    limits_out_of_range_say_what_they_may_be: "service = \"web\"\nforwarded = \"apend\"\n\n[limits]\nheader_bytes = 100\nheaders = 0\n\n[timeouts]\ntunnel_idle = \"0s\"\n";
    shares_and_factors_of_the_wrong_type_say_what_to_write: "service = \"web\"\n[balance]\npanic = 0.5\noverprovisioning = \"140%\"\nslow_start = { window = 30 }\n";
    what_a_policy_makes_nothing_of_is_pointed_at: r#"
service = "web"
zone = "eu west"

[balance]
policy = "maglev"
table_size = 65536
overprovisioning = 0.5

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
[cluster.balance]
policy = "round-robin"
panic = "150%"
slow_start = { window = "10s", min_weight = "0%", aggression = 0 }

[[cluster]]
name = "users"
addresses = ["10.96.0.11:80"]
endpoints = ["10.0.0.12:8080"]
balance = { policy = "least_request", choices = 1, hash = "source", ring_points = 100 }

[[cluster]]
name = "carts"
addresses = ["10.96.0.12:80"]
endpoints = ["10.0.0.13:8080"]
balance = { policy = "ring_hash", slow_start = { window = "10s" } }

[[cluster]]
name = "stock"
addresses = ["10.96.0.13:80"]
endpoints = ["10.0.0.14:8080"]
balance = { policy = "maglev", hash = "x-user" }
"#;
    a_subset_of_nobody_shows_what_the_endpoints_have: r#"
service = "web"
[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = [{ address = "10.0.0.11:8080", labels = { version = "1" } }, { address = "10.0.0.12:8080", labels = { version = "2" } }]
subset = { version = "3" }
[[cluster]]
name = "users"
addresses = ["10.96.0.11:80"]
endpoints = ["10.0.0.13:8080"]
subset = { version = "1" }
"#;
    contradictory_limits_show_both_sides: r#"
service = "web"
workers = 0

[timeouts]
connect = "250"
detect = "0s"
pool_idle = "3 parsecs"

[outlier_detection]
base = "2m"
cap = "150%"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
outlier_detection = { base = "10s", max = "5s" }

[[cluster]]
name = "stock"
addresses = ["10.96.0.11:80"]
endpoints = ["10.0.0.21:8080"]
outlier_detection = { max = "30s" }
"#;
    outlier_detection_must_be_able_to_see_something: r#"
service = "web"

[outlier_detection]
success_rate = 0.9
window = 10

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
outlier_detection = { min_requests = "10" }
"#;
    a_success_rate_is_a_share_of_a_window: "service = \"web\"\n\n[outlier_detection]\nsuccess_rate = \"120%\"\nwindow = \"5ms\"\n";
    a_check_asks_one_thing: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
limits = { requests = 0 }
adaptive_concurrency = { initial = 2 }

[cluster.health]
http = "healthz"
grpc = ""
status = [200, 2000]
interval = "0s"
unhealthy_threshold = 0

[[cluster]]
name = "stock"
addresses = ["10.96.0.11:80"]
endpoints = ["10.0.0.12:8080"]
health = { status = [200] }

[app.readiness]
address = "localhost"
tcp = true
host = "web"
"#;
    a_probe_needs_an_address: "service = \"web\"\n[app.liveness]\nhttp = \"/live\"\nperiod = 5\n";
    limits_that_limit_nothing_are_refused: "service = \"web\"\n[limits]\nconnections = 0\nmemory = \"12\"\n";
    a_bare_size_is_asked_for_its_unit: "service = \"web\"\n[limits]\nmemory = 256\n";
    limits_and_versions_that_contradict_each_other_show_both_sides: r#"
service = "web"

[timeouts]
request = "2s"

[[cluster]]
name = "orders"
protocol = "tcp"
bridge = true
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
timeouts = { per_try = "2s" }
"#;
}
