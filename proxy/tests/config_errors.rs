//! What a user reads when a configuration is wrong, word for word, and what one that says little
//! means.
//!
//! The messages are kept in `snapshots/`; after a deliberate change write them anew with
//! `INSTA_UPDATE=always` and read each of them as the person would who has to act on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use proxy::config::{
    Adaptive, App, AttemptTimeouts, Balance, BalancePolicy, Cluster, ClusterLimits, Condition, Conditions,
    ConfigErrors, Endpoint, Forwarded, HashSource, Health, Http1, Http2, InboundTimeouts, Limits, Listen,
    OutlierDetection, Probe, ProbeRequest, Protocol, RequestTimeouts, Retry, RetryBudget, SlowStart,
    Snapshot, Thresholds, Timeouts, parse, route,
};

/// A cluster without a mistake, to put mistakes around.
const ORDERS: &str = r#"
[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080", "10.0.0.12:8080"]
"#;

fn errors(text: &str) -> ConfigErrors {
    parse("sidecar.toml", text).expect_err("this configuration is wrong")
}

/// As a terminal of 100 columns shows it, without colours.
fn drawn(error: &dyn Diagnostic) -> String {
    let mut out = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut out, error)
        .expect("a string takes everything");
    out
}

macro_rules! says {
    ($($test:ident: $text:expr;)*) => {$(
        #[test]
        fn $test() {
            insta::assert_snapshot!(stringify!($test), drawn(&errors($text)));
        }
    )*};
}

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
    opaque_ports_must_be_ports: "service = \"web\"\nopaque_ports = [25, 70000]\n";
    port_0_is_not_opaque_but_nothing: "service = \"web\"\nopaque_ports = [25, 0]\n";
    server_names_must_be_names_and_lead_to_one_cluster: r#"
service = "web"
timeouts = { tcp_idle = "0s", half_close = "0s" }
[[cluster]]
name = "db"
addresses = []
sni = ["db.example", "a.*.example", "10.0.0.1", "db.example:443", "*.", "two words"]
endpoints = ["10.0.0.1:443"]
[[cluster]]
name = "other"
addresses = []
sni = ["DB.example"]
endpoints = ["10.0.0.2:443"]
"#;
    a_cluster_learns_its_endpoints_from_one_source: r#"
service = "web"
[[cluster]]
name = "both"
addresses = ["10.96.0.1:80"]
endpoints = ["10.0.0.1:80"]
discovery = { file = "/etc/sidelab/both.toml" }
[[cluster]]
name = "two"
addresses = ["10.96.0.2:80"]
discovery = { file = "/etc/sidelab/two.toml", etcd = { endpoints = ["10.0.0.5:2379"], prefix = "/two/" } }
[[cluster]]
name = "none"
addresses = ["10.96.0.3:80"]
discovery = { empty_grace = "5s" }
[[cluster]]
name = "nowhere"
addresses = ["10.96.0.4:80"]
"#;
    names_are_asked_for_in_one_way: r#"
service = "web"
[[cluster]]
name = "nothing"
addresses = ["10.96.0.1:80"]
discovery = { dns = {} }
[[cluster]]
name = "both"
addresses = ["10.96.0.2:80"]
discovery = { dns = { name = "a.example", port = 80, srv = "_http._tcp.a.example" } }
[[cluster]]
name = "no-port"
addresses = ["10.96.0.3:80"]
discovery = { dns = { name = "a.example" } }
[[cluster]]
name = "two-ports"
addresses = ["10.96.0.4:80"]
discovery = { dns = { srv = "_http._tcp.a.example", port = 80 } }
[[cluster]]
name = "no-name"
addresses = ["10.96.0.5:80"]
discovery = { dns = { name = "a..example", port = 80, servers = ["resolver", "10.0.0.53"] } }
[[cluster]]
name = "bounds"
addresses = ["10.96.0.7:80"]
discovery = { dns = { name = "a.example", port = 80, min_ttl = "1m", max_ttl = "5s" } }
[[cluster]]
name = "hurry"
addresses = ["10.96.0.8:80"]
discovery = { dns = { name = "a.example", port = 80, min_ttl = "0s" } }
"#;
    registries_are_written_as_they_are_asked: r#"
service = "web"
[[cluster]]
name = "etcd"
addresses = ["10.96.0.4:80"]
[cluster.discovery.etcd]
endpoints = ["https://10.0.0.5:2379", "etcd:2379"]
prefix = "/services/orders"
[register]
address = "10.0.0.7:80"
ttl = "1s"
weight = 0
[register.etcd]
endpoints = []
prefix = "/services/web/"
"#;
    the_shape_of_discovery_and_registration_is_pointed_at: r#"
service = "web"
[[cluster]]
name = "bare"
addresses = ["10.96.0.5:80"]
discovery.etcd = { prefix = "/services/orders/" }
[[cluster]]
name = "grace"
addresses = ["10.96.0.6:80"]
discovery = { file = "/a", empty_grace = 5, stale_after = 5 }
[register]
ttl = 15
"#;
    an_endpoint_without_an_address_is_pointed_at: r#"
service = "web"
[[cluster]]
name = "orders"
addresses = ["10.96.0.1:80"]
endpoints = [{ zone = "a" }]
"#;
    a_value_without_an_end_is_pointed_at: "service = \"web\n\n[listen]\nadmin = 15000\n";
    text_without_quotes_is_pointed_at: "service = web\n";
    a_repeated_table_is_pointed_at: "service = \"web\"\n\n[timeouts]\nconnect = \"1s\"\n\n[timeouts]\ndrain = \"5s\"\n";
    unknown_keys_come_with_the_likely_ones: r#"
service = "web"
worker = 2
colour = "blue"

[timeouts]
conect = "250ms"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoint = ["10.0.0.11:8080"]
"#;
    bare_numbers_are_asked_for_their_unit: r#"
service = "web"

[timeouts]
connect = 250
drain = 0.5

[outlier_detection]
cap = 0.5
"#;
    wrong_types_say_what_to_write: r#"
service = 7
passthrough = "true"
workers = -1

[listen]
admin = "15000"
health = 70000

[[cluster]]
name = "orders"
addresses = "10.96.0.10:80"
endpoints = [8080]
"#;
    single_brackets_are_recognised: r#"
service = "web"

[cluster]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
"#;
    missing_keys_say_what_they_are_for: r#"
# The storefront.
instance = "web-0"

[[cluster]]
name = "orders"

[[inbound]]
protocol = "http"
"#;
    addresses_must_be_addresses: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10", "orders:80", "http://10.96.0.10:80/", "10.96.0.10:0", "fd00::10"]
endpoints = ["10.0.0.11:99999", "10.0.0.0/24:80", "0.0.0.0:8080", "8080", "10.0.0.300:80"]
"#;
    one_virtual_address_in_two_clusters_shows_both_places: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]

[[cluster]]
name = "stock"
addresses = ["10.96.0.11:80", "[::ffff:10.96.0.10]:80"]
endpoints = ["10.0.0.21:8080"]
"#;
    two_clusters_of_one_name_show_both_places: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]

[[cluster]]
name = "orders"
addresses = ["10.96.0.11:80"]
endpoints = ["10.0.0.21:8080"]
"#;
    a_cluster_that_leads_nowhere_is_refused: r#"
service = "web"

[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = []

[[cluster]]
name = "stock"
addresses = ["10.96.0.11:80"]
endpoints = ["10.96.0.11:80", "10.0.0.21:8080", "10.0.0.21:8080"]
"#;
    ports_of_the_sidecar_must_differ: r#"
service = "web"

[listen]
outbound = 16000
inbound = 16000
admin = 15021
metrics = 0

[[inbound]]
port = 15021
"#;
    an_unknown_protocol_comes_with_the_likely_one: r#"
service = "web"

[[inbound]]
port = 8080
protocol = "HTTP1"

[[inbound]]
port = 5432
protocol = "postgres"
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
    routes_lead_to_clusters_that_exist: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
to = [{{ cluster = "orders-next" }}, {{ cluster = "ordres", weight = 2000 }}]
mirror = {{ cluster = "shadow", share = "5" }}

[[cluster]]
name = "orders-nxt"
endpoints = ["10.0.0.21:8080"]

[[cluster]]
name = "db"
addresses = ["10.96.0.11:5432"]
protocol = "tcp"
endpoints = ["10.0.0.31:5432"]

[[cluster.route]]
name = "to itself"
to = []
"#);
    a_route_that_is_never_reached_shows_the_one_before_it: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
name = "api"
match = {{ prefix = "/api/" }}
[[cluster.route]]
match = {{ path = "/api/items", methods = ["GET"] }}
[[cluster.route]]
name = "rest"
[[cluster.route]]
name = "api"
match = {{ prefix = "/" }}
[[cluster.route]]
name = "late"
match = {{ authorities = ["late.example"] }}
respond = {{ status = 404 }}
"#);
    what_a_route_matches_must_be_what_requests_have: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
match = {{ path = "items", prefix = "/x" }}
[[cluster.route]]
match = {{ prefix = "/a?b", methods = ["get", "G T"], authorities = ["orders:80", "*", "a.*"] }}
[[cluster.route]]
match = {{ regex = "/(", headers = {{ host = "a", "x y" = "1", x-a = {{ prefix = "1", present = true }}, x-b = {{ }} }} }}
[[cluster.route]]
match = {{ path = "/a b", query = {{ v = {{ present = false, regex = "1" }} }} }}
"#);
    what_a_route_does_must_be_one_thing_and_possible: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
match = {{ path = "/1" }}
redirect = {{ }}
respond = {{ }}
fault = {{ abort = 200, delay_share = "5%" }}
[[cluster.route]]
match = {{ path = "/2" }}
rewrite = {{ prefix = "/x", path = "y", authority = "a b" }}
[[cluster.route]]
match = {{ path = "/3" }}
rewrite = {{ prefix = "/x" }}
mirror = {{ share = "5" }}
[[cluster.route]]
match = {{ path = "/4" }}
redirect = {{ scheme = "ftp", status = 200, authority = "new.example:99999" }}
[[cluster.route]]
match = {{ path = "/5" }}
fault = {{ delay = "200", abort_share = "2" }}
rewrite = {{ }}
[[cluster.route]]
match = {{ path = "/6" }}
request_headers = {{ set = {{ Host = "a", x-a = "1" }}, add = {{ x-a = "ü" }}, remove = ["x a"] }}
timeouts = {{ per_try = "2s", request = "1s" }}
to = [{{ }}, {{ weight = 0 }}]
"#);
    the_shape_of_a_route_is_checked_first: &format!(r#"
service = "web"
{ORDERS}
[[cluster.route]]
matches = {{ path = "/" }}
match = {{ headers = {{ x-a = {{ prefx = "1" }}, x-b = 1 }}, methods = "GET" }}
to = {{ cluster = "orders" }}
mirror = {{ cluster = "orders", share = 5 }}
fault = {{ delay = 200, abort = "503" }}
[cluster.route.rewrite]
prefix = 1
"#);
    an_endpoint_needs_an_address: "service = \"web\"\n[[cluster]]\nname = \"orders\"\naddresses = [\"10.96.0.10:80\"]\nendpoints = [{ zone = \"a\" }]\n";
    a_cluster_without_endpoints_or_addresses_needs_routes: r#"
service = "web"

[[cluster]]
name = "front"
addresses = ["10.96.0.10:80"]
endpoints = []

[[cluster.route]]
match = { path = "/a" }
rewrite = { path = "/b" }

[[cluster]]
name = "next"
endpoints = ["10.0.0.21:8080"]
"#;
}

#[test]
fn what_is_not_utf_8_or_too_large_is_said_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.toml");
    std::fs::write(&path, b"service = \"web\"\n# \xe9t\xe9\n").unwrap();
    let said = proxy::config::load(&path).unwrap_err();
    assert!(said.to_string().ends_with("byte 3 of line 2, 0xe9, is not UTF-8"), "{said}");
    assert!(said.help().is_none(), "whoever reads it may");
    std::fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    assert!(proxy::config::load(&path).unwrap_err().to_string().ends_with("larger than 64 MiB"));
    let missing = proxy::config::load(&folder.path().join("missing")).unwrap_err();
    assert!(missing.help().unwrap().to_string().contains("check the path"));
}

#[test]
fn there_is_at_least_one_worker_and_no_more_than_threads_that_a_machine_can_use() {
    for (workers, fine) in [(0, false), (1, true), (1024, true), (1025, false), (usize::MAX >> 1, false)] {
        let parsed = parse("sidecar.toml", &format!("service = \"web\"\nworkers = {workers}\n"));
        assert_eq!(parsed.is_ok(), fine, "{workers}");
    }
}

#[test]
fn every_mistake_is_also_one_line_for_the_log() {
    let errors = errors("service = \"web\"\nworkers = 0\n\n[timeouts]\nconnect = \"soon\"\n");
    assert_eq!(errors.to_string(), "sidecar.toml has 2 mistakes");
    assert_eq!(
        errors.lines().collect::<Vec<_>>(),
        [
            "sidecar.toml:2:11: without a worker nothing is forwarded \
             (leave `workers` out to have one for each CPU that the process may use)",
            "sidecar.toml:5:11: `connect` is not a length of time \
             (write a number and a unit, such as \"250ms\", \"1.5s\" or \"2m\")",
        ]
    );
}

#[test]
fn a_file_that_only_names_its_service_gets_every_documented_default() {
    let expected = Snapshot {
        service: "web".into(),
        instance: "web".into(),
        zone: None,
        workers: None,
        seed: None,
        listen: Listen { outbound: 15001, inbound: 15006, admin: 15000, metrics: 15020, health: 15021 },
        mark: None,
        passthrough: true,
        http1: Http1 { header_bytes: 65536, headers: 100, preserve_header_case: false },
        http2: Http2 {
            max_concurrent_streams: 200,
            initial_stream_window_size: 64 << 10,
            initial_connection_window_size: 256 << 20,
            connection_keepalive_interval: Duration::from_secs(300),
        },
        forwarded: Forwarded::Off,
        opaque_ports: [25, 587, 3306, 4444, 4567, 4568, 5432, 6379, 9300, 11211].into(),
        timeouts: Timeouts {
            connect: Duration::from_secs(1),
            detect: Duration::from_secs(1),
            pool_idle: Duration::from_secs(3),
            pool_age: Some(Duration::from_secs(600)),
            drain_min: Duration::from_secs(5),
            tunnel_idle: Duration::from_secs(3600),
            half_close: Duration::from_secs(60),
            tcp_idle: Duration::from_secs(3600),
            drain: Duration::from_secs(25),
            stream_idle: Some(Duration::from_secs(300)),
            request_headers: Duration::from_secs(30),
            max_connection_idle: Some(Duration::from_secs(600)),
            max_connection_age: Some(Duration::from_secs(3600)),
        },
        limits: Limits {
            connections: 50_000,
            requests: 10_000,
            endpoint_connections: 2048,
            pending: 1024,
            client_share: 0.75,
            memory: None,
            admin_connections: 32,
        },
        per_endpoint_metrics: None,
        register: None,
        clusters: Vec::new(),
        inbound: [].into(),
        inbound_timeouts: InboundTimeouts { request: None },
        inbound_port_timeouts: [].into(),
        inbound_adaptive: [].into(),
        app: App::default(),
    };
    assert_eq!(parse("sidecar.toml", r#"service = "web""#).unwrap(), expected);
}

#[test]
fn a_cluster_that_says_little_gets_every_documented_default() {
    let snapshot = parse("sidecar.toml", &format!("service = \"web\"\n{ORDERS}")).unwrap();
    let expected = Cluster {
        name: "orders".into(),
        addresses: vec![at("10.96.0.10:80")],
        sni: vec![],
        protocol: Protocol::Detect,
        opaque_at: [].into(),
        declared: false,
        discovery: None,
        endpoints: ["10.0.0.11:8080", "10.0.0.12:8080"].map(|text| Endpoint::at(at(text))).to_vec().into(),
        bridge: false,
        timeouts: RequestTimeouts::default(),
        retry: Arc::new(Retry {
            attempts: 2,
            on: Conditions::of(&[
                Condition::ConnectFailure,
                Condition::RefusedStream,
                Condition::Reset,
                Condition::GatewayError,
                Condition::Unavailable,
            ]),
            status_codes: vec![],
            unsafe_methods: false,
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
            retry_after: Duration::from_secs(1),
            body: 64 * 1024,
            hedge: None,
        }),
        retry_budget: RetryBudget { share: 0.2, per_second: 1, reserve: 20 },
        outlier_detection: OutlierDetection {
            consecutive_failures: 5,
            success_rate: 0.8,
            min_requests: 10,
            window: Duration::from_secs(10),
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            cap: 0.5,
        },
        health: None,
        limits: ClusterLimits { connections: 10_000, pending: 1024, requests: 10_000, retries: 100 },
        adaptive: None,
        balance: Balance {
            policy: BalancePolicy::P2c,
            hash: None,
            zone_aware: true,
            overprovisioning: 1.4,
            panic: 0.5,
            slow_start: None,
        }
        .into(),
        subset: Arc::default(),
        subsets: vec![],
        routes: vec![],
        routes_only: false,
    };
    assert_eq!(snapshot.clusters, [Arc::new(expected)]);
}

#[test]
fn every_key_of_the_file_reaches_the_snapshot() {
    let snapshot = parse(
        "sidecar.toml",
        r#"
service = "web"
instance = "web-0"
zone = "a"
workers = 3
seed = 42
mark = 1337
passthrough = false
preserve_header_case = true
forwarded = "append"
opaque_ports = [80, 7000]
limits = { client_share = "40%", connections = 7, requests = 8, memory = "9MiB", endpoint_connections = 10, pending = 0, admin_connections = 12, header_bytes = 9000, headers = 50 }
listen = { outbound = 1, inbound = 2, admin = 3, metrics = 4, health = 5 }
timeouts = { connect = "250ms", detect = "2s", pool_idle = "0s", pool_age = "0s", half_close = "30s", tcp_idle = "2h", tunnel_idle = "10m", drain_min = "0s", drain = "1m", stream_idle = "0s", request = "15s", response = "3s", request_headers = "9s", max_connection_idle = "1m", max_connection_age = "0s" }
http2 = { max_concurrent_streams = 11, initial_stream_window_size = "128KiB", initial_connection_window_size = "64KiB", connection_keepalive_interval = "1m" }
retry = { attempts = 1, on = ['5xx', 'retriable-status-codes', 'internal'], status_codes = [429], unsafe_methods = true, max = '300ms', hedge = '50ms' }
retry_budget = { share = '10%', per_second = 3 }
outlier_detection = { consecutive_failures = 7, success_rate = "90%", min_requests = 20, window = "5s", base = "2s", max = "90s", cap = "25%" }
inbound = [{ port = 8080, protocol = "http", adaptive_concurrency = true }, { port = 5432, protocol = "tcp" }, { port = 9, timeouts = { request = "0s" } }]
balance = { policy = "maglev", table_size = 1009, hash = "cookie:session", panic = "0%", overprovisioning = 2, slow_start = { window = "30s", aggression = 1.5 } }

[[cluster]]
name = "orders"
protocol = "http"
addresses = ["[fd00::10]:80", "[::ffff:10.96.0.10]:80"]
sni = ["Orders.example.", "*.orders.example"]
endpoints = ["[fd00::11]:8080"]
bridge = true
timeouts = { per_try = "2s", response = "0s" }
retry = { attempts = 0, base = '10ms', retry_after = '0s', body = '8KiB' }
retry_budget = { reserve = 7 }
outlier_detection = { consecutive_failures = 0, cap = "100%" }
limits = { connections = 1, pending = 0, requests = 2, retries = 3 }
adaptive_concurrency = { initial = 5, min = 4, max = 6 }
health = { http = "/healthz", host = "orders", status = [200], interval = "2s", edge_interval = "500ms", no_traffic_interval = "30s", timeout = "300ms", healthy_threshold = 4, unhealthy_threshold = 5 }
balance = { policy = "ring_hash", ring_points = 40, zone_aware = false }

[app]
startup = { address = "127.0.0.1:8080", tcp = true, failure_threshold = 30 }
readiness = { address = "127.0.0.1:8080", grpc = "orders.Orders", initial_delay = "3s", success_threshold = 2 }
"#,
    )
    .unwrap();
    let expected = Snapshot {
        service: "web".into(),
        instance: "web-0".into(),
        zone: Some("a".into()),
        workers: Some(3),
        seed: Some(42),
        listen: Listen { outbound: 1, inbound: 2, admin: 3, metrics: 4, health: 5 },
        mark: Some(1337),
        passthrough: false,
        http1: Http1 { header_bytes: 9000, headers: 50, preserve_header_case: true },
        http2: Http2 {
            max_concurrent_streams: 11,
            initial_stream_window_size: 128 << 10,
            initial_connection_window_size: 64 << 10,
            connection_keepalive_interval: Duration::from_secs(60),
        },
        forwarded: Forwarded::Append,
        opaque_ports: [7000, 80].into(),
        timeouts: Timeouts {
            connect: Duration::from_millis(250),
            detect: Duration::from_secs(2),
            pool_idle: Duration::ZERO,
            pool_age: None,
            drain_min: Duration::ZERO,
            tunnel_idle: Duration::from_secs(600),
            half_close: Duration::from_secs(30),
            tcp_idle: Duration::from_secs(7200),
            drain: Duration::from_secs(60),
            stream_idle: None,
            request_headers: Duration::from_secs(9),
            max_connection_idle: Some(Duration::from_secs(60)),
            max_connection_age: None,
        },
        limits: Limits {
            connections: 7,
            requests: 8,
            endpoint_connections: 10,
            pending: 0,
            client_share: 0.4,
            memory: Some(9 << 20),
            admin_connections: 12,
        },
        per_endpoint_metrics: None,
        register: None,
        clusters: vec![Arc::new(Cluster {
            name: "orders".into(),
            // The mapped address is stored as the IPv4 address that a connection shows.
            addresses: vec![at("[fd00::10]:80"), at("10.96.0.10:80")],
            sni: vec!["orders.example".into(), "*.orders.example".into()],
            protocol: Protocol::Http,
            opaque_at: [].into(),
            declared: true,
            discovery: None,
            endpoints: vec![Endpoint::at(at("[fd00::11]:8080"))].into(),
            bridge: true,
            timeouts: RequestTimeouts {
                request: Some(Duration::from_secs(15)),
                attempt_timeouts: AttemptTimeouts { per_try: Some(Duration::from_secs(2)), response: None },
            },
            retry: Arc::new(Retry {
                attempts: 0,
                on: Conditions::of(&[
                    Condition::ServerError,
                    Condition::RetriableStatusCodes,
                    Condition::Internal,
                ]),
                status_codes: vec![429],
                unsafe_methods: true,
                base: Duration::from_millis(10),
                max: Duration::from_millis(300),
                retry_after: Duration::ZERO,
                body: 8 * 1024,
                hedge: Some(Duration::from_millis(50)),
            }),
            retry_budget: RetryBudget { share: 0.1, per_second: 3, reserve: 7 },
            // What the cluster leaves open comes from the file's [outlier_detection].
            outlier_detection: OutlierDetection {
                consecutive_failures: 0,
                success_rate: 0.9,
                min_requests: 20,
                window: Duration::from_secs(5),
                base: Duration::from_secs(2),
                max: Duration::from_secs(90),
                cap: 1.0,
            },
            health: Some(Arc::new(Health {
                ask: ProbeRequest::Http {
                    path: "/healthz".into(),
                    host: Some("orders".into()),
                    status: vec![200],
                },
                interval: Duration::from_secs(2),
                edge_interval: Duration::from_millis(500),
                no_traffic_interval: Duration::from_secs(30),
                timeout: Duration::from_millis(300),
                thresholds: Thresholds { healthy: 4, unhealthy: 5 },
            })),
            limits: ClusterLimits { connections: 1, pending: 0, requests: 2, retries: 3 },
            adaptive: Some(Adaptive { initial: 5, min: 4, max: 6 }),
            // And so does this.
            balance: Balance {
                policy: BalancePolicy::RingHash { points: 40 },
                hash: Some(HashSource::Cookie("session".into())),
                zone_aware: false,
                overprovisioning: 2.0,
                panic: 0.0,
                slow_start: Some(SlowStart {
                    window: Duration::from_secs(30),
                    min_weight: 0.1,
                    aggression: 1.5,
                }),
            }
            .into(),
            subset: Arc::default(),
            subsets: vec![],
            routes: vec![],
            routes_only: false,
        })],
        inbound: [(8080, Protocol::Http), (5432, Protocol::Tcp), (9, Protocol::Detect)].into(),
        inbound_timeouts: InboundTimeouts { request: Some(Duration::from_secs(15)) },
        inbound_port_timeouts: [(9, InboundTimeouts { request: None })].into(),
        inbound_adaptive: [(8080, Adaptive { initial: 20, min: 3, max: 1000 })].into(),
        app: App {
            startup: Some(probe(ProbeRequest::Tcp, 1, 30)),
            readiness: Some(Probe {
                initial_delay: Duration::from_secs(3),
                ..probe(ProbeRequest::Grpc { service: "orders.Orders".into() }, 2, 3)
            }),
            liveness: None,
        },
    };
    assert_eq!(snapshot, expected);
}

fn probe(ask: ProbeRequest, healthy: u32, unhealthy: u32) -> Probe {
    Probe {
        address: at("127.0.0.1:8080"),
        ask,
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        thresholds: Thresholds { healthy, unhealthy },
    }
}

#[test]
fn an_opaque_port_counts_where_nobody_declared_a_protocol() {
    let snapshot = parse(
        "sidecar.toml",
        r#"
service = "web"
inbound = [{ port = 3306 }, { port = 5432, protocol = "detect" }, { port = 8080 }]
[[cluster]]
name = "db"
addresses = ["10.96.0.1:5432", "10.96.0.1:80"]
endpoints = ["10.0.0.1:8080"]
[[cluster]]
name = "mapped"
addresses = ["10.96.0.2:80"]
endpoints = ["10.0.0.1:6379"]
[[cluster]]
name = "declared"
addresses = ["10.96.0.3:5432"]
protocol = "detect"
endpoints = ["10.0.0.1:5432"]
"#,
    )
    .unwrap();
    let [db, mapped, declared] = &snapshot.clusters[..] else { panic!("three clusters") };
    assert_eq!([db.protocol_at(5432), db.protocol_at(80)], [Protocol::Tcp, Protocol::Detect]);
    assert_eq!(mapped.protocol_at(80), Protocol::Tcp, "the port that the service was given counts");
    assert_eq!(declared.protocol_at(5432), Protocol::Detect);
    let inbound = [3306, 5432, 8080, 25, 26].map(|port| snapshot.inbound_protocol(port));
    use Protocol::{Detect, Tcp};
    assert_eq!(inbound, [Tcp, Detect, Detect, Tcp, Detect]);
}

#[test]
fn a_route_takes_from_the_cluster_that_it_leads_to_what_it_does_not_say_itself() {
    let snapshot = parse(
        "sidecar.toml",
        &format!(
            r#"
service = "web"
{ORDERS}
timeouts = {{ request = "7s" }}
[[cluster.route]]
name = "canary"
match = {{ prefix = "/", headers = {{ X-Canary = {{ present = false }} }}, query = {{ v = {{ prefix = "2" }} }} }}
to = [{{ weight = 95 }}, {{ cluster = "next", weight = 5 }}]
timeouts = {{ per_try = "1s" }}
rewrite = {{ prefix = "/v2/" }}
mirror = {{ cluster = "next", share = "5%" }}
fault = {{ delay = "200ms", delay_share = "10%", abort = 503, abort_share = "0%" }}
[[cluster]]
name = "next"
endpoints = ["10.0.0.21:8080"]
timeouts = {{ request = "3s", response = "2s" }}
retry = {{ attempts = 4 }}
"#
        ),
    )
    .unwrap();
    let limits = |request, response| RequestTimeouts {
        request: Some(Duration::from_secs(request)),
        attempt_timeouts: AttemptTimeouts {
            per_try: Some(Duration::from_secs(1)),
            response: Some(response).filter(|r| *r > 0).map(Duration::from_secs),
        },
    };
    let [orders, next] = &snapshot.clusters[..] else { panic!("two clusters") };
    let target = |to: &Cluster, weight, timeouts| route::Target {
        cluster: to.name.clone(),
        weight,
        timeouts,
        retry: to.retry.clone(),
    };
    let expected = route::Route {
        name: "canary".into(),
        matches: route::Match {
            path: route::PathMatch::Prefix(String::new()),
            headers: vec![("x-canary".parse().unwrap(), route::ValueMatch::Absent)],
            query: vec![("v".into(), route::ValueMatch::Prefix("2".into()))],
            ..route::Match::default()
        },
        action: route::Action::Forward(Box::new(route::Forward {
            to: vec![target(orders, 95, limits(7, 0)), target(next, 5, limits(3, 2))],
            rewrite: route::Rewrite {
                path: Some(route::PathRewrite::Prefix { matched: 0, to: "/v2".into() }),
                authority: None,
            },
            mirror: Some(route::Mirror { cluster: "next".into(), share: 0.05 }),
            fault: route::Fault { delay: Some((Duration::from_millis(200), 0.1)), abort: None },
        })),
        request_headers: route::HeaderEdits::default(),
        response_headers: route::HeaderEdits::default(),
    };
    assert_eq!(orders.routes, [expected]);
    assert_eq!(next.retry.attempts, 4);
}

#[test]
fn a_missing_file_is_named_in_the_error() {
    let error = proxy::config::load("/nonexistent/sidecar.toml".as_ref()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read /nonexistent/sidecar.toml: No such file or directory (os error 2)"
    );
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
