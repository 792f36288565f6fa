//! Every key of the file, changed by a reload: it is in the snapshot that comes into force, or it
//! is named as one that is only read at start. A key without a row here fails the test.

use std::collections::BTreeSet;

use super::keep_from_start;
use crate::config::{Snapshot, parse};

const BASE: &str = "service = 'web'
#top
[[inbound]]
port = 8080
#inbound
[[cluster]]
name = 'orders'
addresses = ['10.96.0.10:80']
endpoints = ['10.0.0.11:8080']
#cluster
[[cluster.route]]
#match
#route
[[cluster]]
name = 'next'
addresses = ['10.96.0.20:80']
endpoints = ['10.0.0.21:8080']
";

/// The model's own text, so that no key is forgotten.
const MODEL: [&str; 13] = [
    include_str!("../model/mod.rs"),
    include_str!("../model/adaptive.rs"),
    include_str!("../model/authorization.rs"),
    include_str!("../model/balance.rs"),
    include_str!("../model/outlier_detection.rs"),
    include_str!("../model/cluster.rs"),
    include_str!("../model/discovery.rs"),
    include_str!("../model/health.rs"),
    include_str!("../model/identity.rs"),
    include_str!("../model/jwt.rs"),
    include_str!("../model/limits.rs"),
    include_str!("../model/retry.rs"),
    include_str!("../model/route.rs"),
];

/// Keys of a table: what is written for `KEY` and for the value `V`, at which marks of [`BASE`],
/// and one value after the other for each key. What a key needs beside it stands behind its second
/// value.
struct Keys {
    table: &'static str,
    at: &'static [&'static str],
    prefix: &'static str,
    keys: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

const fn keys(
    table: &'static str,
    at: &'static [&'static str],
    prefix: &'static str,
    keys: &'static [(&'static str, &'static str, &'static str, &'static str)],
) -> Keys {
    Keys { table, at, prefix, keys }
}

const EVERY: &[Keys] = &[
    keys(
        "File",
        &["#top"],
        "",
        &[
            ("instance", "'a'", "'b'", ""),
            ("zone", "'a'", "'b'", ""),
            ("workers", "1", "2", ""),
            ("seed", "1", "2", ""),
            ("mark", "1", "2", ""),
            ("passthrough", "true", "false", ""),
            ("preserve_header_case", "true", "false", ""),
            ("forwarded", "'off'", "'append'", ""),
            ("opaque_ports", "[1]", "[2]", ""),
        ],
    ),
    keys(
        "Authorization",
        &["#top"],
        "authorization.",
        &[
            ("default", "'allow'", "'deny'", ""),
            ("path_normalization", "'none'", "'merge_slashes'", ""),
            ("trusted_hops", "0", "1", ""),
        ],
    ),
    keys(
        "Policy",
        &["#top"],
        "",
        &[
            ("name", "'a'", "'b'", "authorization.policy = [{ KEY }]"),
            ("action", "'deny'", "'allow'", "authorization.policy = [{ KEY, name = 'a', rule = [{}] }]"),
            ("dry_run", "false", "true", "authorization.policy = [{ KEY, name = 'a' }]"),
            ("provider", "'a'", "'b'", CUSTOM),
        ],
    ),
    keys(
        "PolicySource",
        &["#top"],
        "",
        &[
            ("principals", "['a']", "['b']", FROM),
            ("not_principals", "['a']", "['b']", FROM),
            ("request_principals", "['a']", "['b']", FROM),
            ("not_request_principals", "['a']", "['b']", FROM),
            ("namespaces", "['a']", "['b']", FROM),
            ("not_namespaces", "['a']", "['b']", FROM),
            ("service_accounts", "['a/a']", "['a/b']", FROM),
            ("not_service_accounts", "['a/a']", "['a/b']", FROM),
            ("ip_blocks", "['10.0.0.1']", "['10.0.0.0/8']", FROM),
            ("not_ip_blocks", "['10.0.0.1']", "['10.0.0.0/8']", FROM),
            ("remote_ip_blocks", "['10.0.0.1']", "['10.0.0.0/8']", FROM),
            ("not_remote_ip_blocks", "['10.0.0.1']", "['10.0.0.0/8']", FROM),
        ],
    ),
    keys(
        "PolicyOperation",
        &["#top"],
        "",
        &[
            ("hosts", "['a']", "['b']", TO),
            ("not_hosts", "['a']", "['b']", TO),
            ("ports", "[1]", "[2]", TO),
            ("not_ports", "[1]", "[2]", TO),
            ("methods", "['A']", "['B']", TO),
            ("not_methods", "['A']", "['B']", TO),
            ("paths", "['/a']", "['/b']", TO),
            ("not_paths", "['/a']", "['/b']", TO),
        ],
    ),
    keys(
        "PolicyCondition",
        &["#top"],
        "",
        &[
            (
                "key",
                "'source.principal'",
                "'source.namespace'",
                "authorization.policy = [{ name = 'a', rule = [{ when = [{ KEY, values = ['a'] }] }] }]",
            ),
            ("values", "['a']", "['b']", WHEN),
            ("not_values", "['a']", "['b']", WHEN),
        ],
    ),
    keys(
        "ExternalAuthorizer",
        &["#top"],
        "",
        &[
            ("name", "'a'", "'b'", "authorization.provider = [{ KEY, address = '10.0.0.1:80' }]"),
            ("address", "'10.0.0.1:80'", "'10.0.0.1:81'", "authorization.provider = [{ KEY, name = 'a' }]"),
            ("path_prefix", "'/a'", "'/b'", AUTHORIZER),
            ("timeout", "'1s'", "'2s'", AUTHORIZER),
            ("fail_open", "true", "false", AUTHORIZER),
            ("status_on_error", "403", "503", AUTHORIZER),
            ("include_request_headers", "['a']", "['b']", AUTHORIZER),
            ("include_additional_headers", "{ a = 'a' }", "{ a = 'b' }", AUTHORIZER),
            ("headers_to_upstream_on_allow", "['a']", "['b']", AUTHORIZER),
            ("headers_to_downstream_on_deny", "['a']", "['b']", AUTHORIZER),
        ],
    ),
    keys(
        "Jwt",
        &["#top"],
        "",
        &[
            ("name", "'a'", "'b'", "jwt = [{ KEY, issuer = 'i', jwks.file = 'f' }]"),
            ("issuer", "'a'", "'b'", "jwt = [{ KEY, name = 'n', jwks.file = 'f' }]"),
            ("audiences", "['a']", "['b']", JWT),
            ("algorithms", "['RS256']", "['ES256']", JWT),
            ("from_params", "['a']", "['b']", JWT),
            ("forward", "true", "false", JWT),
            ("claims_to_headers", "{ a = 'a' }", "{ a = 'b' }", JWT),
            ("payload_header", "'a'", "'b'", JWT),
            ("clock_skew", "'1s'", "'2s'", JWT),
        ],
    ),
    keys(
        "Jwks",
        &["#top"],
        "",
        &[
            (
                "inline",
                "'{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}'",
                "'{\"keys\":[{\"kty\":\"oct\",\"k\":\"AB\"}]}'",
                JWKS,
            ),
            ("file", "'a'", "'b'", JWKS),
            ("url", "'http://a'", "'http://b'", JWKS),
            ("refresh", "'1s'", "'2s'", URL),
            ("timeout", "'1s'", "'2s'", URL),
            ("stale_after", "'1s'", "'2s'", URL),
        ],
    ),
    keys(
        "TokenHeader",
        &["#top"],
        "",
        &[
            (
                "name",
                "'a'",
                "'b'",
                "jwt = [{ name = 'n', issuer = 'i', jwks.file = 'f', from_headers = [{ KEY }] }]",
            ),
            (
                "prefix",
                "'a'",
                "'b'",
                "jwt = [{ name = 'n', issuer = 'i', jwks.file = 'f', from_headers = [{ KEY, name = 'a' }] }]",
            ),
        ],
    ),
    keys(
        "Listen",
        &["#top"],
        "listen.",
        &[
            ("outbound", "1", "2", ""),
            ("inbound", "1", "2", ""),
            ("admin", "1", "2", ""),
            ("metrics", "1", "2", ""),
            ("health", "1", "2", ""),
        ],
    ),
    keys("Metrics", &["#top"], "metrics.", &[("per_endpoint", "true", "false", "")]),
    keys(
        "Timeouts",
        &["#top"],
        "timeouts.",
        &[
            ("connect", "'1s'", "'2s'", ""),
            ("detect", "'1s'", "'2s'", ""),
            ("pool_idle", "'1s'", "'2s'", ""),
            ("pool_age", "'1s'", "'2s'", ""),
            ("drain_min", "'1s'", "'2s'", ""),
            ("tunnel_idle", "'1s'", "'2s'", ""),
            ("half_close", "'1s'", "'2s'", ""),
            ("tcp_idle", "'1s'", "'2s'", ""),
            ("drain", "'1s'", "'2s'", ""),
            ("stream_idle", "'1s'", "'2s'", ""),
            ("request_headers", "'1s'", "'2s'", ""),
            ("max_connection_idle", "'1s'", "'2s'", ""),
            ("max_connection_age", "'1s'", "'2s'", ""),
            ("request", "'1s'", "'2s'", ""),
            ("per_try", "'1s'", "'2s'", ""),
            ("response", "'1s'", "'2s'", ""),
        ],
    ),
    keys(
        "ClusterTimeouts",
        &["#cluster", "#route"],
        "timeouts.",
        &[("request", "'1s'", "'2s'", ""), ("per_try", "'1s'", "'2s'", ""), ("response", "'1s'", "'2s'", "")],
    ),
    keys(
        "Identity",
        &["#top"],
        "identity.",
        &[
            ("id", "'spiffe://mesh/a'", "'spiffe://mesh/b'", "identity.files = '/a'"),
            ("files", "'/a'", "'/b'", "identity.id = 'spiffe://mesh/a'"),
        ],
    ),
    keys(
        "Tls",
        &["#top"],
        "tls.",
        &[
            ("mode", "'strict'", "'disabled'", "identity = { id = 'spiffe://mesh/a', files = '/a' }"),
            ("handshake", "'1s'", "'2s'", ""),
            ("handshakes", "1", "2", ""),
        ],
    ),
    keys("InboundTimeouts", &["#inbound"], "timeouts.", &[("request", "'1s'", "'2s'", "")]),
    keys(
        "Http2",
        &["#top"],
        "http2.",
        &[
            ("max_concurrent_streams", "10", "20", ""),
            ("initial_stream_window_size", "'64KiB'", "'128KiB'", ""),
            ("initial_connection_window_size", "'64KiB'", "'128KiB'", ""),
            ("connection_keepalive_interval", "'1m'", "'2m'", ""),
        ],
    ),
    keys(
        "Limits",
        &["#top"],
        "limits.",
        &[
            ("connections", "1", "2", ""),
            ("requests", "1", "2", ""),
            ("endpoint_connections", "1", "2", ""),
            ("pending", "1", "2", ""),
            ("client_share", "'10%'", "'20%'", ""),
            ("memory", "'1MiB'", "'2MiB'", ""),
            ("admin_connections", "1", "2", ""),
            ("header_bytes", "9000", "10000", ""),
            ("headers", "50", "60", ""),
        ],
    ),
    keys(
        "ClusterLimits",
        &["#cluster"],
        "limits.",
        &[
            ("connections", "1", "2", ""),
            ("pending", "1", "2", ""),
            ("requests", "1", "2", ""),
            ("retries", "1", "2", ""),
        ],
    ),
    keys(
        "AdaptiveTable",
        &["#cluster", "#inbound"],
        "adaptive_concurrency.",
        &[("initial", "20", "21", ""), ("min", "3", "4", ""), ("max", "1000", "1001", "")],
    ),
    keys(
        "Retry",
        &["#top", "#cluster", "#route"],
        "retry.",
        &[
            ("attempts", "1", "2", ""),
            ("on", "['reset']", "['5xx']", ""),
            ("status_codes", "[429]", "[430]", "retry.on = ['retriable-status-codes']"),
            ("unsafe_methods", "true", "false", ""),
            ("base", "'1ms'", "'2ms'", ""),
            ("max", "'1s'", "'2s'", ""),
            ("retry_after", "'1s'", "'2s'", ""),
            ("body", "'1KiB'", "'2KiB'", ""),
            ("hedge", "'1s'", "'2s'", ""),
        ],
    ),
    keys(
        "RetryBudget",
        &["#top", "#cluster"],
        "retry_budget.",
        &[("share", "'10%'", "'20%'", ""), ("per_second", "1", "2", ""), ("reserve", "1", "2", "")],
    ),
    keys(
        "OutlierDetection",
        &["#top", "#cluster"],
        "outlier_detection.",
        &[
            ("consecutive_failures", "1", "2", ""),
            ("success_rate", "'10%'", "'20%'", ""),
            ("min_requests", "10", "20", ""),
            ("window", "'10s'", "'20s'", ""),
            ("base", "'1s'", "'2s'", ""),
            ("max", "'10s'", "'20s'", ""),
            ("cap", "'10%'", "'20%'", ""),
        ],
    ),
    keys(
        "Balance",
        &["#top", "#cluster"],
        "balance.",
        &[
            ("policy", "'p2c'", "'random'", ""),
            ("choices", "2", "3", "balance.policy = 'least_request'"),
            ("ring_points", "2", "3", "balance.policy = 'ring_hash'\nbalance.hash = 'source'"),
            ("table_size", "1009", "1013", "balance.policy = 'maglev'\nbalance.hash = 'source'"),
            ("hash", "'source'", "'header:a'", "balance.policy = 'ring_hash'"),
            ("zone_aware", "true", "false", ""),
            ("overprovisioning", "1.5", "2.0", ""),
            ("panic", "'10%'", "'20%'", ""),
        ],
    ),
    keys(
        "SlowStart",
        &["#top", "#cluster"],
        "balance.slow_start.",
        &[
            ("window", "'1s'", "'2s'", ""),
            ("min_weight", "'10%'", "'20%'", "balance.slow_start.window = '1s'"),
            ("aggression", "1.0", "2.0", "balance.slow_start.window = '1s'"),
        ],
    ),
    keys(
        "Health",
        &["#cluster"],
        "health.",
        &[
            ("http", "'/a'", "'/b'", ""),
            ("grpc", "'a'", "'b'", ""),
            ("status", "[200]", "[201]", "health.http = '/'"),
            ("host", "'a'", "'b'", "health.http = '/'"),
            ("interval", "'10s'", "'20s'", "health.tcp = true"),
            ("edge_interval", "'1s'", "'2s'", "health.tcp = true"),
            ("no_traffic_interval", "'10s'", "'20s'", "health.tcp = true"),
            ("timeout", "'1s'", "'2s'", "health.tcp = true"),
            ("unhealthy_threshold", "1", "2", "health.tcp = true"),
            ("healthy_threshold", "1", "2", "health.tcp = true"),
        ],
    ),
    keys(
        "Probe",
        &["#top"],
        "app.liveness.",
        &[
            ("address", "'127.0.0.1:1'", "'127.0.0.1:2'", "app.liveness.tcp = true"),
            ("http", "'/a'", "'/b'", "app.liveness.address = '127.0.0.1:1'"),
            ("grpc", "'a'", "'b'", "app.liveness.address = '127.0.0.1:1'"),
            ("status", "[200]", "[201]", "app.liveness = { address = '127.0.0.1:1', http = '/', KEY }"),
            ("host", "'a'", "'b'", "app.liveness = { address = '127.0.0.1:1', http = '/', KEY }"),
            ("initial_delay", "'1s'", "'2s'", "app.liveness = { address = '127.0.0.1:1', tcp = true, KEY }"),
            ("period", "'1s'", "'2s'", "app.readiness = { address = '127.0.0.1:1', tcp = true, KEY }"),
            ("timeout", "'1s'", "'2s'", "app.startup = { address = '127.0.0.1:1', tcp = true, KEY }"),
            ("success_threshold", "1", "2", "app.readiness = { address = '127.0.0.1:1', tcp = true, KEY }"),
            ("failure_threshold", "1", "2", "app.liveness = { address = '127.0.0.1:1', tcp = true, KEY }"),
        ],
    ),
    keys(
        "Register",
        &["#top"],
        "register.",
        &[
            ("address", "'10.0.0.1:1'", "'10.0.0.1:2'", ETCD),
            ("ttl", "'10s'", "'20s'", REGISTER),
            ("zone", "'a'", "'b'", REGISTER),
            ("priority", "1", "2", REGISTER),
            ("weight", "1", "2", REGISTER),
            ("protocol", "'http'", "'tcp'", REGISTER),
            ("identity", "'spiffe://mesh/a'", "'spiffe://mesh/b'", REGISTER),
            ("labels", "{ a = 'a' }", "{ a = 'b' }", REGISTER),
        ],
    ),
    keys(
        "Inbound",
        &["#inbound"],
        "",
        &[("protocol", "'http'", "'tcp'", ""), ("adaptive_concurrency", "true", "false", "")],
    ),
    keys(
        "Cluster",
        &["#cluster"],
        "",
        &[
            ("sni", "['a']", "['b']", ""),
            ("protocol", "'http'", "'tcp'", "MATCH"),
            ("bridge", "true", "false", ""),
            ("adaptive_concurrency", "true", "false", ""),
        ],
    ),
    keys("Route", &["#route"], "", &[("name", "'a'", "'b'", "")]),
    keys(
        "Match",
        &["#match"],
        "match.",
        &[
            ("path", "'/a'", "'/b'", ""),
            ("prefix", "'/a'", "'/b'", ""),
            ("regex", "'/a'", "'/b'", ""),
            ("methods", "['GET']", "['PUT']", ""),
            ("authorities", "['a']", "['b']", ""),
            ("headers", "{ a = 'a' }", "{ a = 'b' }", ""),
            ("query", "{ a = 'a' }", "{ a = 'b' }", ""),
        ],
    ),
    keys(
        "ValueTable",
        &["#match"],
        "match.headers.a.",
        &[("prefix", "'a'", "'b'", ""), ("regex", "'a'", "'b'", ""), ("present", "true", "false", "")],
    ),
    keys(
        "Target",
        &["#route"],
        "",
        &[
            ("cluster", "'orders'", "'next'", "to = [{ KEY }]"),
            ("weight", "1", "2", "to = [{ KEY }, { cluster = 'next' }]"),
        ],
    ),
    keys(
        "Rewrite",
        &["#route"],
        "rewrite.",
        &[
            ("path", "'/a'", "'/b'", ""),
            ("prefix", "'/a'", "'/b'", "match.prefix = '/c'"),
            ("authority", "'a'", "'b'", ""),
        ],
    ),
    keys(
        "Redirect",
        &["#route"],
        "redirect.",
        &[
            ("scheme", "'http'", "'https'", ""),
            ("authority", "'a'", "'b'", ""),
            ("path", "'/a'", "'/b'", ""),
            ("prefix", "'/a'", "'/b'", "match.prefix = '/c'"),
            ("status", "301", "302", "redirect.path = '/a'"),
        ],
    ),
    keys(
        "Respond",
        &["#route"],
        "respond.",
        &[("status", "200", "201", ""), ("body", "'a'", "'b'", "respond.status = 200")],
    ),
    keys(
        "HeaderEdits",
        &["#route"],
        "request_headers.",
        &[
            ("set", "{ a = 'a' }", "{ a = 'b' }", ""),
            ("add", "{ a = 'a' }", "{ a = 'b' }", ""),
            ("remove", "['a']", "['b']", ""),
        ],
    ),
    keys(
        "Mirror",
        &["#route"],
        "mirror.",
        &[("cluster", "'orders'", "'next'", ""), ("share", "'10%'", "'20%'", "mirror.cluster = 'next'")],
    ),
    keys(
        "Fault",
        &["#route"],
        "fault.",
        &[
            ("delay", "'1s'", "'2s'", ""),
            ("delay_share", "'10%'", "'20%'", "fault.delay = '1s'"),
            ("abort", "500", "501", ""),
            ("abort_share", "'10%'", "'20%'", "fault.abort = 500"),
        ],
    ),
    keys(
        "Health",
        &["INSTEAD"],
        "",
        &[("tcp", "health = { tcp = true }", "health = { grpc = '' }", "#cluster")],
    ),
    keys(
        "Probe",
        &["INSTEAD"],
        "",
        &[(
            "tcp",
            "app.liveness = { address = '127.0.0.1:1', tcp = true }",
            "app.liveness = { address = '127.0.0.1:1', grpc = '' }",
            "#top",
        )],
    ),
    keys("File", &["INSTEAD"], "", &[("service", "service = 'web'", "service = 'shop'", "service = 'web'")]),
    keys("Inbound", &["INSTEAD"], "", &[("port", "port = 8080", "port = 8081", "port = 8080")]),
    keys(
        "Inbound",
        &["INSTEAD"],
        "",
        &[(
            "tls",
            "identity = { id = 'spiffe://mesh/a', files = '/a' }\n[[inbound]]\nport = 8080\ntls = 'strict'",
            "identity = { id = 'spiffe://mesh/a', files = '/a' }\n[[inbound]]\nport = 8080\ntls = 'disabled'",
            "[[inbound]]\nport = 8080",
        )],
    ),
    keys(
        "Cluster",
        &["INSTEAD"],
        "",
        &[
            ("name", "name = 'orders'", "name = 'stock'", "name = 'orders'"),
            ("addresses", "'10.96.0.10:80'", "'10.96.0.11:80'", "'10.96.0.10:80'"),
            ("endpoints", "'10.0.0.11:8080'", "'10.0.0.12:8080'", "'10.0.0.11:8080'"),
            (
                "subset",
                "endpoints = [{ address = '10.0.0.1:80', labels = { a = 'a' } }]",
                "endpoints = [{ address = '10.0.0.1:80', labels = { a = 'a' } }]\nsubset = { a = 'a' }",
                "endpoints = ['10.0.0.11:8080']",
            ),
        ],
    ),
    keys(
        "EndpointTable",
        &["ENDPOINT"],
        "",
        &[
            ("address", "'10.0.0.1:80'", "'10.0.0.2:80'", ""),
            ("zone", "'a'", "'b'", "address = '10.0.0.1:80'"),
            ("priority", "0", "1", "address = '10.0.0.1:80'"),
            ("weight", "1", "2", "address = '10.0.0.1:80'"),
            ("protocol", "'http'", "'detect'", "address = '10.0.0.1:80'"),
            ("identity", "'spiffe://mesh/a'", "'spiffe://mesh/b'", "address = '10.0.0.1:80'"),
            ("labels", "{ a = 'a' }", "{ a = 'b' }", "address = '10.0.0.1:80'"),
        ],
    ),
    keys(
        "Discovery",
        &["DISCOVERY"],
        "",
        &[
            ("file", "'/a'", "'/b'", ""),
            ("stale_after", "'1s'", "'2s'", "file = '/a'"),
            ("empty_grace", "'1s'", "'2s'", "file = '/a'"),
        ],
    ),
    keys(
        "Etcd",
        &["DISCOVERY"],
        "etcd.",
        &[
            ("endpoints", "['http://10.0.0.1:1']", "['http://10.0.0.1:2']", "etcd.prefix = '/a/'"),
            ("prefix", "'/a/'", "'/b/'", "etcd.endpoints = ['http://10.0.0.1:1']"),
        ],
    ),
    keys(
        "Dns",
        &["DISCOVERY"],
        "dns.",
        &[
            ("name", "'a'", "'b'", "dns.port = 1"),
            ("port", "1", "2", "dns.name = 'a'"),
            ("srv", "'_a._tcp.a'", "'_a._tcp.b'", ""),
            ("servers", "['10.0.0.1']", "['10.0.0.2']", "dns.srv = '_a._tcp.a'"),
            ("min_ttl", "'1s'", "'2s'", "dns.srv = '_a._tcp.a'"),
            ("max_ttl", "'10s'", "'20s'", "dns.srv = '_a._tcp.a'"),
        ],
    ),
];

const FROM: &str = "authorization.policy = [{ name = 'a', rule = [{ from = [{ KEY }] }] }]";
const TO: &str = "authorization.policy = [{ name = 'a', rule = [{ to = [{ KEY }] }] }]";
const WHEN: &str =
    "authorization.policy = [{ name = 'a', rule = [{ when = [{ KEY, key = 'source.principal' }] }] }]";
const CUSTOM: &str = "authorization.policy = [{ KEY, name = 'a', action = 'custom', rule = [{}] }]\n\
     authorization.provider = [{ name = 'a', address = '10.0.0.1:80' }, { name = 'b', address = '10.0.0.1:80' }]";
const AUTHORIZER: &str = "authorization.provider = [{ KEY, name = 'a', address = '10.0.0.1:80' }]";
const JWT: &str = "jwt = [{ KEY, name = 'n', issuer = 'i', jwks.file = 'f' }]";
const JWKS: &str = "jwt = [{ name = 'n', issuer = 'i', jwks = { KEY } }]";
const URL: &str = "jwt = [{ name = 'n', issuer = 'i', jwks = { KEY, url = 'http://a' } }]";
const ETCD: &str = "register.etcd = { endpoints = ['http://10.0.0.1:1'], prefix = '/a/' }";
const REGISTER: &str =
    "register.etcd = { endpoints = ['http://10.0.0.1:1'], prefix = '/a/' }\nregister.address = '10.0.0.1:1'";

/// The file in which a key has this value, if it is written at this mark.
fn file(at: &str, key: &str, value: &str, beside: &str) -> String {
    let line = format!("{key} = {value}");
    let own = key.rsplit('.').next().unwrap_or(key);
    let lines = match beside {
        "MATCH" => return BASE.replace("[[cluster.route]]\n", "").replace(at, &line),
        beside if beside.contains("KEY") => beside.replace("KEY", &format!("{own} = {value}")),
        beside => format!("{line}\n{beside}"),
    };
    let endpoints = "endpoints = ['10.0.0.11:8080']";
    match at {
        "INSTEAD" => BASE.replacen(beside, value, 1),
        "ENDPOINT" => {
            BASE.replace(endpoints, &format!("endpoints = [{{ {} }}]", lines.trim().replace('\n', ", ")))
        }
        "DISCOVERY" => {
            BASE.replace(endpoints, &format!("discovery = {{ {} }}", lines.trim().replace('\n', ", ")))
        }
        at => BASE.replacen(at, &lines, 1),
    }
}

/// `Table.key` of every key in the model that is no table itself.
fn keys_of_the_model() -> BTreeSet<String> {
    let lines = || MODEL.into_iter().flat_map(str::lines);
    let tables: Vec<_> = lines().filter_map(|l| l.strip_prefix("pub struct ")?.split(' ').next()).collect();
    let (mut table, mut found) = ("", BTreeSet::new());
    for line in lines() {
        if let Some(name) = line.strip_prefix("pub struct ") {
            table = name.split(' ').next().unwrap_or(name);
        }
        let Some((key, kind)) = line.strip_prefix("    pub ").and_then(|field| field.split_once(": ")) else {
            continue;
        };
        let mut words = kind.split(|c: char| !c.is_alphanumeric());
        let is_table = words.any(|word| tables.contains(&word));
        // The file of endpoints is another one, and it is watched by itself.
        if !is_table && table != "EndpointsFile" {
            found.insert(format!("{table}.{key}"));
        }
    }
    found
}

fn snapshot(text: &str) -> Snapshot {
    parse("sidecar.toml", text).unwrap_or_else(|e| panic!("{text}\n{:?}", miette::Report::new(e)))
}

#[test]
fn every_key_is_in_force_after_a_reload_or_named_as_one_that_is_read_at_start() {
    let mut missing = keys_of_the_model();
    let mut only_at_start = BTreeSet::new();
    for Keys { table, at, prefix, keys } in EVERY {
        for (key, before, after, beside) in *keys {
            missing.remove(&format!("{table}.{key}"));
            for at in *at {
                let text = |value| file(at, &format!("{prefix}{key}"), value, beside);
                let (start, mut new) = (snapshot(&text(before)), snapshot(&text(after)));
                let asked_for = new.clone();
                assert_ne!(start, new, "{table}.{key} means nothing");
                let ignored = keep_from_start(&mut new, &start);
                if ignored.is_empty() {
                    assert_eq!(new, asked_for, "{table}.{key}");
                } else {
                    only_at_start.extend(ignored.iter().map(|key| key.split('.').next().unwrap_or(key)));
                    assert!(new == start || *key == "service", "{table}.{key}: {ignored:?}");
                }
            }
        }
    }
    assert_eq!(missing, BTreeSet::new(), "these need a row");
    let page = include_str!("../../../../docs/sidecar.md");
    let named = page
        .split("\n\n")
        .find(|part| part.ends_with("are read at start only."))
        .expect("the page says which");
    let named: BTreeSet<_> =
        named.split('`').skip(1).step_by(2).map(|key| key.trim_matches(['[', ']'])).collect();
    assert_eq!(named, only_at_start);
}
