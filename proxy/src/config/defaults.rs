//! Every default, with its unit, its reason and where the figure comes from.

use std::time::Duration;

/// Outbound listener. Istio's port, because users know it.
pub const OUTBOUND_PORT: u16 = 15001;
/// Inbound listener. Istio's port.
pub const INBOUND_PORT: u16 = 15006;
/// Admin, on loopback only. Istio's port.
pub const ADMIN_PORT: u16 = 15000;
/// Metrics in the Prometheus text format. Istio's port.
pub const METRICS_PORT: u16 = 15020;
/// Readiness and liveness. Istio's port.
pub const HEALTH_PORT: u16 = 15021;
/// User, group and socket mark that interception exempts. Istio's uid; ztunnel's mark.
pub const EXEMPT_ID: u32 = 1337;

/// From SYN to a usable connection. In a cluster a peer that does not answer in a second is better replaced than
/// awaited; Linkerd uses 1 s outbound, Envoy 5 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an undeclared port may stay silent before it counts as opaque. Linkerd waits 10 s and its users of
/// server-speaks-first protocols suffer from it (linkerd2#3166).
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an HTTP/1 connection to an endpoint is kept without a request. Must stay below every server's own limit,
/// or requests race with its close (linkerd2#9273, istio#55138); Linkerd uses 3 s.
pub const POOL_IDLE: Duration = Duration::from_secs(3);
/// Idle HTTP/1 connections kept to one endpoint by one worker.
pub const POOL_MAX_IDLE: usize = 256;
/// How long a client may take to send a request's head, and how long its connection may idle between requests: hyper
/// has one limit for both. Longer than any peer's pool keeps a connection, so that the client side closes first.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a half-closed TCP connection may stay silent. Linkerd's users hit conntrack's own 60 s (linkerd2#8033).
pub const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the next hop may leave `Expect: 100-continue` unanswered before it gets the body anyway. curl's and Go's
/// `ExpectContinueTimeout`.
pub const EXPECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of the head of an HTTP/1 message. Envoy allows 60 KiB; hyper's own 400 KiB would make a stalled peer expensive.
pub const HEADER_BYTES: u32 = 64 * 1024;
/// Least and most that `limits.header_bytes` may be: the smallest buffer that hyper works with, and Envoy's most.
pub const HEADER_BYTES_RANGE: std::ops::RangeInclusive<u32> = 8 * 1024..=8192 * 1024;
/// Header lines of an HTTP/1 message. Envoy's and hyper's default.
pub const HEADERS: u32 = 100;
/// Least and most that `limits.headers` may be. hyper takes a place for each of them with every message.
pub const HEADERS_RANGE: std::ops::RangeInclusive<u32> = 1..=10_000;
/// How long a tunnel (WebSocket, CONNECT) may be silent. Envoy's idle limits for upgraded and TCP connections are 1 h;
/// WebSocket libraries ping every 20 to 60 s, so what is silent for so long is forgotten.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(3600);
/// How long a drain lets work in flight go on. Istio's terminationDrainDuration is 5 s; kubelet allows 30 s in all.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Tries of one request beyond the first. Istio's outbound default is 2.
pub const RETRIES: u32 = 2;
/// Failures in a row that eject an endpoint. Envoy's consecutive_5xx is 5, Linkerd's breaker 7.
pub const CONSECUTIVE_FAILURES: u32 = 5;
/// First ejection, doubled by each further one. Linkerd's penalty starts at 1 s; Envoy's base of 30 s would outlast most
/// restarts of a process.
pub const EJECTION_BASE: Duration = Duration::from_secs(1);
/// Longest ejection. Linkerd's 60 s.
pub const EJECTION_MAX: Duration = Duration::from_secs(60);
/// Share of a cluster's endpoints that may be ejected at once; at least one may. Envoy's 10 % would eject none of three
/// replicas.
pub const EJECTION_CAP: f64 = 0.5;

/// Peak-EWMA: how fast an old latency is forgotten. Linkerd's decay.
pub const EWMA_DECAY: Duration = Duration::from_secs(10);
/// Peak-EWMA: what an endpoint that has not answered yet is assumed to take once it has a request in hand or has failed
/// one, so that it is tried but not flooded. Linkerd's default_rtt.
pub const EWMA_START: Duration = Duration::from_millis(30);
