//! Every key of the file reaches the snapshot.

use std::sync::Arc;
use std::time::Duration;

use proxy::config::log_format::TextFormat;
use proxy::config::{
    AccessLog, Adaptive, App, AttemptTimeouts, Audit, Balance, BalancePolicy, Cluster, ClusterLimits,
    Endpoint, Forwarded, HashSource, Health, Http1, Http2, Identity, IdentitySource, InboundTimeouts, Limits,
    Listen, LogFilter, LogFormat, LogTarget, OutlierDetection, Probe, ProbeRequest, Protocol,
    RequestTimeouts, Retry, RetryBudget, RetryCondition, RetryConditions, SlowStart, Snapshot, Thresholds,
    Timeouts, Tls, TlsMode, WhenFull, parse,
};

use crate::at;

/// A file with every key that the parts of a cluster and of the sidecar have.
const FILE: &str = r#"
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
identity = { id = 'spiffe://mesh.test/ns/shop/sa/web', files = '/certs' }
admin = { token = '/token' }
access_log = { path = '/log/access.log', format = '%DURATION% %REQ(X-A)%', errors = true, slower_than = '3s', share = '4%', queue = 77 }
audit = { directory = '/audit', when_full = 'block', queue = 99, rotate = '1MiB', keep = 3, chain = true, sync = true }
tls = { mode = 'strict', handshake = '2s', handshakes = 9 }
outlier_detection = { consecutive_failures = 7, success_rate = "90%", min_requests = 20, window = "5s", base = "2s", max = "90s", cap = "25%" }
inbound = [{ port = 8080, protocol = "http", adaptive_concurrency = true }, { port = 5432, protocol = "tcp" }, { port = 3128, protocol = "http", connect = true }, { port = 9, timeouts = { request = "0s" }, tls = "disabled" }]
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
"#;

fn access_log() -> AccessLog {
    AccessLog {
        target: LogTarget::File("/log/access.log".into()),
        format: LogFormat::Text(TextFormat::parse("%DURATION% %REQ(X-A)%").unwrap()),
        filter: LogFilter { errors: true, slower_than: Some(Duration::from_secs(3)), share: Some(0.04) },
        queue: 77,
    }
}

fn audit() -> Audit {
    Audit {
        directory: "/audit".into(),
        when_full: WhenFull::Block,
        queue: 99,
        rotate: 1 << 20,
        keep: 3,
        chain: true,
        sync: true,
    }
}

#[test]
fn every_key_of_the_file_reaches_the_snapshot() {
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
        identity: Some(Identity {
            id: "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap(),
            source: IdentitySource::Files("/certs".into()),
        }),
        admin_token: Some("/token".into()),
        access_log: Some(access_log()),
        audit: Some(audit()),
        tls: Tls { mode: TlsMode::Strict, handshake: Duration::from_secs(2), handshakes: 9 },
        inbound_port_tls: [(9, TlsMode::Disabled)].into(),
        inbound_connect: [3128].into(),
        register: None,
        clusters: vec![Arc::new(cluster())],
        inbound: [
            (8080, Protocol::Http),
            (5432, Protocol::Tcp),
            (3128, Protocol::Http),
            (9, Protocol::Detect),
        ]
        .into(),
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
        authorization: Arc::default(),
        jwt: Vec::new(),
    };
    assert_eq!(parse("sidecar.toml", FILE).unwrap(), expected);
}

/// What the file says of its cluster.
fn cluster() -> Cluster {
    Cluster {
        name: "orders".into(),
        // The mapped address is stored as the IPv4 address that a connection shows.
        addresses: vec![at("[fd00::10]:80"), at("10.96.0.10:80")],
        sni: vec!["orders.example".into(), "*.orders.example".into()],
        protocol: Protocol::Http,
        opaque_at: [].into(),
        declared: true,
        discovery: None,
        endpoints: vec![Endpoint::at(at("[fd00::11]:8080"))].into(),
        bridge: Some(true),
        timeouts: RequestTimeouts {
            request: Some(Duration::from_secs(15)),
            attempt_timeouts: AttemptTimeouts { per_try: Some(Duration::from_secs(2)), response: None },
        },
        retry: Arc::new(Retry {
            attempts: 0,
            on: RetryConditions::of(&[
                RetryCondition::ServerError,
                RetryCondition::RetriableStatusCodes,
                RetryCondition::Internal,
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
            slow_start: Some(SlowStart { window: Duration::from_secs(30), min_weight: 0.1, aggression: 1.5 }),
        }
        .into(),
        subset: Arc::default(),
        subsets: vec![],
        routes: vec![],
        routes_only: false,
    }
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
