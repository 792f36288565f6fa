//! What a configuration that says little means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proxy::config::{
    App, AttemptTimeouts, Balance, BalancePolicy, Cluster, ClusterLimits, Endpoint, Forwarded, Http1, Http2,
    InboundTimeouts, Limits, Listen, OutlierDetection, Protocol, RequestTimeouts, Retry, RetryBudget,
    RetryCondition, RetryConditions, Snapshot, Timeouts, Tls, TlsMode, parse, route,
};

use crate::at;

/// A cluster that says no more than it must.
const ORDERS: &str = r#"
[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080", "10.0.0.12:8080"]
"#;

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
        identity: None,
        admin_token: None,
        access_log: None,
        audit: None,
        tls: Tls { mode: TlsMode::Disabled, handshake: Duration::from_secs(5), handshakes: 256 },
        inbound_port_tls: BTreeMap::new(),
        inbound_connect: BTreeSet::new(),
        register: None,
        clusters: Vec::new(),
        inbound: [].into(),
        inbound_timeouts: InboundTimeouts { request: None },
        inbound_port_timeouts: [].into(),
        inbound_adaptive: [].into(),
        app: App::default(),
        authorization: Arc::default(),
        jwt: Vec::new(),
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
        bridge: None,
        timeouts: RequestTimeouts::default(),
        retry: Arc::new(Retry {
            attempts: 2,
            on: RetryConditions::of(&[
                RetryCondition::ConnectFailure,
                RetryCondition::RefusedStream,
                RetryCondition::Reset,
                RetryCondition::GatewayError,
                RetryCondition::Unavailable,
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
