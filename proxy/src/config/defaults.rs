//! Every default, with its unit, its reason and where the figure comes from.

mod identity;

use std::time::Duration;

pub use identity::*;

use super::{RetryCondition, RetryConditions};

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

/// From SYN to a usable connection. In a cluster a peer that does not answer in a second is better
/// replaced than awaited; Linkerd uses 1 s outbound, Envoy 5 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an undeclared port may stay silent before it counts as opaque. Linkerd waits 10 s and
/// its users of server-speaks-first protocols suffer from it (linkerd2#3166).
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Workers at most. Each is a thread with a listener of its own; no machine known has more CPUs.
pub const MAX_WORKERS: usize = 1024;
/// How long an HTTP/1 connection to an endpoint is kept without a request. Must stay below every
/// server's own limit, or requests race with its close (linkerd2#9273, istio#55138); Linkerd uses 3
/// s.
pub const POOL_IDLE: Duration = Duration::from_secs(3);
/// How old a connection to an endpoint may become: a fleet that was restarted one by one gets its
/// share of connections back, and certificates that were rotated get used. Envoy has no limit,
/// gRPC's servers are usually given some minutes.
pub const POOL_AGE: Duration = Duration::from_secs(600);
/// By what share ages differ from that.
pub const AGE_JITTER: f64 = 0.1;
/// Connections of one version of HTTP that one worker opens to one endpoint. Twice Envoy's
/// max_connections: of the app's, one caller may have `limits.client_share`, and a thousand
/// requests at a time of one caller are not too many.
pub const POOL_CONNECTIONS: usize = 2048;
/// Requests of one worker that wait for a connection or a stream to one endpoint. Envoy's
/// max_pending_requests.
pub const POOL_PENDING: usize = 1024;
/// Idle HTTP/1 connections kept to one endpoint by one worker.
pub const POOL_MAX_IDLE: usize = 256;
/// HTTP/1: how long a client may take to send a request's head, and how long its connection may
/// idle between requests: hyper has one limit for both. Longer than any peer's pool keeps a
/// connection, so that the client side closes first.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may go on sending after an answer that was the last, before its connection is
/// cut. Envoy's delayed_close_timeout.
pub const DELAYED_CLOSE: Duration = Duration::from_secs(1);
/// How long a half-closed TCP connection may stay silent. Linkerd's users hit conntrack's own 60 s
/// (linkerd2#8033).
pub const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long nothing may move in either direction of a request before it is given up. Envoy's
/// stream_idle_timeout.
pub const STREAM_IDLE: Duration = Duration::from_secs(300);
/// How long a sidecar that is not ready any more still takes requests: callers learn of it with a
/// delay. Istio's MINIMUM_DRAIN_DURATION.
pub const DRAIN_MIN: Duration = Duration::from_secs(5);
/// How long the next hop may leave `Expect: 100-continue` unanswered before it gets the body
/// anyway. curl's and Go's `ExpectContinueTimeout`.
pub const EXPECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest file of a configuration or of endpoints, bytes. Ten thousand endpoints take less
/// than one MiB.
pub const CONFIG_BYTES: u64 = 64 << 20;
/// Bytes of the head of a message, as HTTP/1 writes it. Envoy allows 60 KiB; hyper's own 400 KiB
/// would make a stalled peer expensive.
pub const HEADER_BYTES: u32 = 64 * 1024;
/// Least and most that `limits.header_bytes` may be: the smallest buffer that hyper works with, and
/// Envoy's most.
pub const HEADER_BYTES_RANGE: std::ops::RangeInclusive<u32> = 8 * 1024..=8192 * 1024;
/// How much a client of HTTP/1 may send behind a request that waits for its answer before nothing
/// more is read of it, bytes: room for the pipelined requests that clients have on their way, and
/// for the largest head.
pub const READ_AHEAD: usize = HEADER_BYTES as usize;
/// Header lines of a message. Envoy's and hyper's default.
pub const HEADERS: u32 = 100;
/// Least and most that `limits.headers` may be. hyper takes a place for each of them with every
/// message.
pub const HEADERS_RANGE: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Header fields that sidecars add to a message or write anew: those of `http::header_limits`,
/// which do not count.
pub const ADDED_HEADERS: usize = 11;
/// Bytes that these may take without counting: 64 each, more than any of them needs.
pub const ADDED_HEADER_BYTES: usize = 64 * ADDED_HEADERS;
/// How long a tunnel (WebSocket, CONNECT) may be silent. Envoy's idle limits for upgraded and TCP
/// connections are 1 h; WebSocket libraries ping every 20 to 60 s, so what is silent for so long is
/// forgotten.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(3600);
/// How long an opaque TCP connection may move nothing in either direction. Envoy's tcp_proxy
/// idle_timeout is 1 h. Keep-alive probes find dead peers long before; this is for live ones that
/// have forgotten the connection.
pub const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Ports that are opaque when nobody says otherwise: SMTP (25, 587), MySQL (3306), Galera (4444,
/// 4567, 4568), PostgreSQL (5432), Redis (6379), Elasticsearch transport (9300), memcached (11211).
/// Their servers speak first, or their clients say nothing that detection knows. Linkerd's default
/// opaque ports, and the two that it skips altogether.
pub const OPAQUE_PORTS: [u16; 10] = [25, 587, 3306, 4444, 4567, 4568, 5432, 6379, 9300, 11211];
/// How long detection waits for the client alone before it dials, to hear whether the server speaks
/// first. Above the round trip between two zones plus a slow client's start, so that most clients
/// that speak first never cause a connection that is not needed; ours, as neither Linkerd nor Envoy
/// listens to the server.
pub const SERVER_FIRST_DELAY: Duration = Duration::from_millis(100);
/// How long an address is remembered as one whose server speaks first. Ours: short enough that an
/// address that changes hands is detected anew, long enough that one connection in thousands pays
/// for finding out.
pub const SERVER_FIRST_TTL: Duration = Duration::from_secs(600);
/// How many such addresses one worker remembers. Ours: more than a workload's undeclared
/// dependencies, under 16 KiB.
pub const SERVER_FIRST_CAPACITY: usize = 256;

/// How long sent data may stay unacknowledged before the connection is given up (TCP_USER_TIMEOUT,
/// RFC 5482). Linux alone retransmits for about 15 min (tcp_retries2); 30 s is what linkerd2#13024
/// proposed after dead nodes had swallowed connections.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection is silent before the first keep-alive probe. Linux alone waits 2 h; below
/// the 350 s after which cloud load balancers forget a connection.
pub const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// Time between probes. With [`KEEPALIVE_RETRIES`] a dead peer is known 90 s after its last word.
/// Linux alone: 75 s.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered probes that end a connection. Linux alone: 9.
pub const KEEPALIVE_RETRIES: u32 = 3;

/// How long a drain lets work in flight go on. Istio's terminationDrainDuration is 5 s; kubelet
/// allows 30 s in all.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Attempts of one request beyond the first. Istio's outbound default is 2.
pub const RETRIES: u32 = 2;
/// Most that `attempts` may be: Linkerd's and Envoy's users rarely go past 3, and the endpoints
/// that a request was tried on are remembered for a handful of attempts.
pub const MAX_RETRIES: u32 = 10;
/// After which failures a request is tried again, if it is safe. Istio's are connect-failure,
/// refused-stream, unavailable and cancelled; ours also hide one replica that resets connections or
/// answers 502 to 504, since only what is idempotent is repeated. `cancelled` is left out: who
/// cancels a call means it.
pub const RETRY_ON: RetryConditions = RetryConditions::of(&[
    RetryCondition::ConnectFailure,
    RetryCondition::RefusedStream,
    RetryCondition::Reset,
    RetryCondition::GatewayError,
    RetryCondition::Unavailable,
]);
/// The first wait is drawn from zero to this. Envoy's base interval.
pub const BACKOFF_BASE: Duration = Duration::from_millis(25);
/// Longest wait between two attempts. Envoy's: ten times the base interval.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// Longest wait that an answer may ask for and still be tried again. Ours: a client waits for a
/// second, but had better hear of a longer wait itself. Envoy would hold the request for up to 300
/// s.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);
/// Bytes of a request's body that are kept to be sent again. Linkerd's 64 KiB.
pub const RETRY_BODY: usize = 64 * 1024;
/// Most that it may be: each request in flight may keep as much.
pub const RETRY_BODY_MAX: u64 = 16 * 1024 * 1024;
/// What share of a retry each success pays for. tower's, Linkerd's and Envoy's budgets are 20 %,
/// but of requests: counted so, a short incident can become a lasting one, because what fails pays
/// for its own repetition.
pub const BUDGET_SHARE: f64 = 0.2;
/// Retries a second that are there without successes, so that a cluster with little to do can retry
/// at all. tower has 10, which is as much as a small service gets.
pub const BUDGET_PER_SECOND: u32 = 1;
/// Retries that may be saved up: what is in flight at one endpoint of a busy cluster when it dies.
/// gRPC's throttle (A6) is usually given 10 tokens of which half may be spent.
pub const BUDGET_RESERVE: u32 = 20;
/// Most that `per_second` and `reserve` may be.
pub const BUDGET_MAX: u32 = 100_000;
/// Failures in a row that eject an endpoint. Envoy's consecutive_5xx is 5, Linkerd's breaker 7.
pub const CONSECUTIVE_FAILURES: u32 = 5;
/// First ejection, doubled by each further one. Linkerd's penalty starts at 1 s; Envoy's base of 30
/// s would outlast most restarts of a process.
pub const EJECTION_BASE: Duration = Duration::from_secs(1);
/// Longest ejection. Linkerd's 60 s.
pub const EJECTION_MAX: Duration = Duration::from_secs(60);
/// By what share an ejection is longer at random, so that not all sidecars probe at once. Linkerd's
/// jitter.
pub const EJECTION_JITTER: f64 = 0.5;
/// Success rate below which an endpoint is ejected. Linkerd's unified breaker: 0.8.
pub const SUCCESS_RATE: f64 = 0.8;
/// Requests that a window must have seen before its rate says anything. Linkerd takes 5, but two
/// failures among five are chance too often: of an endpoint that fails one request in twenty, one
/// such window in fifty.
pub const SUCCESS_RATE_REQUESTS: u32 = 10;
/// How far back the success rate looks, and how long an endpoint must do well to have its next
/// ejection halved. Linkerd's window and Envoy's interval are both 10 s.
pub const OUTLIER_WINDOW: Duration = Duration::from_secs(10);
/// How long the probe of an ejected endpoint may take before another request is let through as
/// well: its client may have gone away. As long as connecting may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Share of a cluster's endpoints that may be ejected at once; at least one may. Envoy's 10 % would
/// eject none of three replicas.
pub const EJECTION_CAP: f64 = 0.5;

/// Longest `body` of a route's own answer, bytes: a page of text. It is copied for each answer.
pub const RESPOND_BYTES: usize = 4096;
/// Longest body of a request that is mirrored, bytes; a request with a longer one is not. As much
/// as is kept for retries.
pub const MIRROR_BYTES: usize = 64 * 1024;
/// Copies of requests that one worker has under way at most. With the longest bodies they take 8
/// MiB.
pub const MIRRORS: usize = 128;
/// How long a copy may take, where its cluster has no limit of its own. Nobody waits for it, but
/// its place does. Envoy's default for a route.
pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(15);

/// Peak-EWMA: how fast an old latency is forgotten. Linkerd's decay.
pub const EWMA_DECAY: Duration = Duration::from_secs(10);
/// Peak-EWMA: what an endpoint that has not answered yet is assumed to take once it has an active
/// request, so that it is tried but not flooded. Linkerd's default_rtt.
pub const EWMA_START: Duration = Duration::from_millis(30);
/// Peak-EWMA: an idle endpoint that was drawn so often in a row and lost each time to a cheaper one
/// is picked all the same, and its answer replaces what was known. Fewer than one pick in 128
/// explores, so the 99th percentile does not see it. Ours: Finagle and Linkerd only let the average
/// fade, and a replica that once took 3 s is shunned for a minute. The exploring share of
/// epsilon-greedy (Sutton and Barto, section 2.2), counted instead of drawn.
pub const EXPLORE_AFTER: u32 = 128;
/// Peak-EWMA: so many successes in a row take away all that an endpoint's failures count as, the
/// n-th of them n parts in so many of what is left. Ours: an endpoint that fails three requests in
/// ten hardly ever has such a run, and three in four runs of one that fails one in a hundred are as
/// long.
pub const FORGIVEN_AFTER: u32 = 32;
/// Peak-EWMA: what an endpoint's failures count as at most, in active requests. Ours: without a
/// limit the search for metastable failures found an outage that stays wherever a full queue
/// exceeds the limit of an attempt; with 64 it found some, with 16 and 8 none while nobody is
/// ejected.
pub const MOST_FAILURES: f64 = 16.0;
/// Least request: endpoints compared for one pick. Envoy's choice_count; two are enough
/// (Mitzenmacher 2001).
pub const CHOICES: u32 = 2;
/// Least and most that `choices` may be. One would be `random`.
pub const CHOICES_RANGE: std::ops::RangeInclusive<u32> = 2..=16;
/// Ring hash: points of the heaviest endpoint. libketama's 160: shares differ by some 8 % from what
/// they should be. Envoy's minimum_ring_size of 1024 counts all endpoints together, so that each
/// change of their number moves everybody's keys.
pub const RING_POINTS: u32 = 160;
/// Least and most that `ring_points` may be: 10 000 of a thousand endpoints are 160 MB, Envoy's
/// largest ring.
pub const RING_POINTS_RANGE: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Maglev: slots of the table. Envoy's default, and the paper's for few endpoints; a hundred for
/// each endpoint are enough.
pub const MAGLEV_SIZE: u32 = 65537;
/// Least and most that `table_size` may be. Envoy's most.
pub const MAGLEV_RANGE: std::ops::RangeInclusive<u32> = 251..=5_000_011;
/// How many times its share a priority or a zone can carry. Envoy's overprovisioning_factor.
pub const OVERPROVISIONING: f64 = 1.4;
/// Least and most that `overprovisioning` may be. Below 1 a healthy priority would give requests
/// away.
pub const OVERPROVISIONING_RANGE: std::ops::RangeInclusive<f64> = 1.0..=10.0;
/// Share of available endpoints below which availability counts for nothing. Envoy's
/// healthy_panic_threshold.
pub const PANIC: f64 = 0.5;
/// Slow start: the share of its weight that an endpoint begins with. Envoy's min_weight_percent.
pub const SLOW_START_MIN: f64 = 0.1;
/// Slow start: evenly. Envoy's aggression.
pub const SLOW_START_AGGRESSION: f64 = 1.0;
/// Least and most that `aggression` may be; beyond, the share jumps.
pub const SLOW_START_AGGRESSION_RANGE: std::ops::RangeInclusive<f64> = 0.1..=10.0;

/// Interim responses (1xx) that wait for a client to take them, bytes; what would be more is
/// dropped. As much as the head of a response may be by default.
pub const INTERIM_BYTES: usize = 64 * 1024;

/// HTTP/2: share of the peer's stream limit at which the next connection is opened, so that no
/// request waits for a stream to end. ztunnel opens one at 100 streams, Envoy at the limit itself.
pub const H2_FULL: f64 = 0.8;
/// HTTP/2: how long a connection to an endpoint is kept without a stream. ztunnel keeps 5 min.
pub const H2_IDLE: Duration = Duration::from_secs(300);
/// HTTP/2: how often another sidecar is asked for a sign of life when it is silent. Linkerd's and
/// ztunnel's 10 s.
pub const H2_PING_INTERVAL: Duration = Duration::from_secs(10);
/// HTTP/2: how often an endpoint is asked that has calls and is silent, and a client on another
/// machine that is silent. gRPC servers end a connection on which pings come more often than every
/// 5 min without data (`GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS`, grpc-go's
/// `MinTime`); they themselves ping clients every 2 h (`GRPC_ARG_KEEPALIVE_TIME_MS`). TCP's own
/// keep-alive finds a dead machine sooner, but not a process that hangs.
pub const H2_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(300);
/// HTTP/2: how long it may take to give one. Between Linkerd's 3 s and ztunnel's 20 s.
pub const H2_PING_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2: bytes that a peer may send on one stream unread. Linkerd's, and what Envoy recommends
/// for its edge: a thousand clients that do not read hold 64 MiB, small messages some times that.
/// It carries 64 MB/s on a stream across a zone (1 ms).
pub const H2_STREAM_WINDOW: u32 = 64 * 1024;
/// HTTP/2: the same for a whole connection: more than all its streams can hold, so that what is
/// left unread on some never stalls the others. Go's client has 1 GiB for that. h2 lets small
/// frames that are unread cost half of it before it ends the connection: enough for
/// [`H2_MAX_STREAMS`] full of messages of some 20 bytes, and a bound on a flood of single ones.
pub const H2_CONNECTION_WINDOW: u32 = 256 * 1024 * 1024;
/// Least and most that windows may be: RFC 9113 section 6.9.2's initial 65 535, and 2^31 - 1.
pub const H2_WINDOW_RANGE: std::ops::RangeInclusive<u32> = 65_535..=(1 << 31) - 1;
/// HTTP/2: streams that a client may have open on one connection, and a sidecar on one to an
/// endpoint, if that allows as many. hyper's default; grpc-go has 100, Envoy 1024. The h2 crate has
/// one lock for each connection and TCP one queue.
pub const H2_MAX_STREAMS: u32 = 200;
/// HTTP/2: how many times `limits.header_bytes` the library takes in, so that it is the sidecar
/// that refuses what is too large, with a gRPC status for a gRPC client: the library has only a
/// bare 431. Twice is more than accidents exceed a limit by; each stream may hold as much.
pub const H2_HEADER_LIST: usize = 2;

/// HTTP/1: how long a client may not have asked anything before the buffers of its connection are
/// given back. Far longer than the pauses of a client that is at work, so that only those pay for
/// it that keep a connection in store.
pub const PARK_AFTER: Duration = Duration::from_secs(2);

/// HTTP/2: how long an accepted connection may carry nothing. Twice as long as sidecars and ztunnel
/// keep theirs, so that the client closes first. Envoy's idle_timeout is 1 h, which keeps what
/// clients have forgotten.
pub const MAX_CONNECTION_IDLE: Duration = Duration::from_secs(600);
/// HTTP/2: how old an accepted connection may become before its client is told to open another. A
/// sidecar's own are given up after ten minutes; this is for others, so that what a client was told
/// or allowed once does not hold for ever. gRPC's max_connection_age is off unless it is set, and
/// then usually some minutes to an hour.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3600);

/// Accepted connections that may be open at once in one direction. Envoy's documentation recommends
/// 50 000 for its edge.
pub const MAX_CONNECTIONS: usize = 50_000;
/// Share of the file descriptors that accepted connections and their counterparts may take: the
/// rest is for probes, the journal and reloads.
pub const FILES_SHARE: f64 = 0.9;
/// Share of those that one direction may take, so that a flood of the one leaves the other
/// something. Ours: a sidecar that carries only one of them loses a quarter, and the other has
/// enough to keep its app able to work.
pub const FILES_ONE_WAY: f64 = 0.75;
/// Connections to each of the sidecar's own ports (admin, metrics, health). A Prometheus server, a
/// kubelet and some people have one each.
pub const ADMIN_CONNECTIONS: usize = 32;
/// How long a client of the sidecar's own ports may take to send a request, and how long its
/// connection may idle. Above the scrape interval of 15 s that is common, so that a connection
/// serves many scrapes.
pub const ADMIN_IDLE: Duration = Duration::from_secs(20);
/// How long such a connection lives. What reads an answer for so long is not reading it; Prometheus
/// gives up a scrape after 10 s.
pub const ADMIN_AGE: Duration = Duration::from_secs(300);
/// Requests that may be in flight at once in one direction. At 50 us of CPU each, 10 000 of them
/// are half a second of work for one worker: more would time out before they are done.
pub const MAX_REQUESTS: usize = 10_000;
/// Share of connections and requests, and of a worker's HTTP/1 connections to the app, that one
/// client of the app may hold. Ours: a gateway that is the only caller hardly notices, and whoever
/// holds requests that never end leaves a quarter to the others. Envoy and Linkerd have nothing of
/// the kind; nginx's limit_conn and HAProxy's counters by source are set by hand.
pub const CLIENT_SHARE: f64 = 0.75;
/// Share of the control group's memory limit past which no more is taken on: the kernel kills at
/// the limit itself.
pub const MEMORY_SHARE: f64 = 0.8;

/// Highest `priority` of an endpoint. Envoy's is 128; a handful of zones and one far region is what
/// is used.
pub const MAX_PRIORITY: u8 = 127;
/// Highest `weight` of an endpoint. Envoy's sum of weights is bounded by 2^32; with this one, so is
/// ours for any cluster.
pub const MAX_WEIGHT: u32 = 1000;

/// Connections to one cluster, all workers together. Envoy's max_connections is 1024, which a
/// cluster of some hundred endpoints with several connections each exceeds in good health.
pub const CLUSTER_CONNECTIONS: u32 = 10_000;
/// Requests of one cluster that wait for a connection. Envoy's max_pending_requests.
pub const CLUSTER_PENDING: u32 = 1024;
/// Requests of one cluster in flight. As many as of the whole sidecar: Envoy's 1024 caused 503s
/// that nobody expected, and Istio lifts it.
pub const CLUSTER_REQUESTS: u32 = 10_000;
/// Retries of one cluster in flight. Envoy's max_retries of 3 turns a rolling restart into 503s
/// (Istio lifts it); the retry budget keeps their share small, this keeps their number small.
pub const CLUSTER_RETRIES: u32 = 100;

/// Adaptive concurrency: where the limit begins. Netflix's initialLimit.
pub const ADAPTIVE_INITIAL: u32 = 20;
/// Adaptive concurrency: lowest limit. Envoy's min_concurrency.
pub const ADAPTIVE_MIN: u32 = 3;
/// Adaptive concurrency: highest limit. Envoy's max_concurrency_limit.
pub const ADAPTIVE_MAX: u32 = 1000;
/// Adaptive concurrency: how often the limit follows. Envoy's concurrency_update_interval.
pub const ADAPTIVE_WINDOW: Duration = Duration::from_millis(100);
/// Adaptive concurrency: requests in a window before it says anything. Netflix's WindowedLimit.
pub const ADAPTIVE_SAMPLES: u32 = 10;
/// Adaptive concurrency: how much higher than usual latency may be before the limit falls.
/// Netflix's rttTolerance.
pub const ADAPTIVE_TOLERANCE: f64 = 1.5;
/// Adaptive concurrency: share of a change that is made at once. Netflix's smoothing.
pub const ADAPTIVE_SMOOTHING: f64 = 0.2;
/// Adaptive concurrency: windows that usual latency is the average of, and after how many at the
/// limit it is measured anew, a minute's worth. Netflix's longWindow, Envoy's min_rtt_calc
/// interval.
pub const ADAPTIVE_LONG: u32 = 600;

/// Active checks: between two of an endpoint. Kubernetes' and Istio's readiness are 10 and 15 s; a
/// mesh should know sooner than that, at a cost of one small request for each endpoint and caller.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Active checks: the same while the last results contradict what the endpoint counts as, so that
/// it is known after 7 s and not after 15 s that one is dead. Envoy's unhealthy_edge_interval and
/// healthy_edge_interval, which default to the interval.
pub const CHECK_EDGE_INTERVAL: Duration = Duration::from_secs(1);
/// Active checks: the same while nobody uses the cluster. Envoy's no_traffic_interval.
pub const CHECK_NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);
/// Active checks and probes: how long an answer may take. Kubernetes' timeoutSeconds; pingora's.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Active checks: failures in a row that make an endpoint unhealthy. Kubernetes' failureThreshold.
pub const CHECK_UNHEALTHY: u32 = 3;
/// Active checks: successes in a row that make it healthy again. One could be luck.
pub const CHECK_HEALTHY: u32 = 2;
/// Active checks: by what share intervals differ, so that callers do not all ask at the same
/// moment.
pub const CHECK_JITTER: f64 = 0.1;
/// Probes of the app: between two of them. Kubernetes' periodSeconds.
pub const PROBE_PERIOD: Duration = Duration::from_secs(10);
/// Probes of the app: successes in a row that make one pass. Kubernetes' successThreshold.
pub const PROBE_SUCCESSES: u32 = 1;
/// Probes of the app: failures in a row that make one fail. Kubernetes' failureThreshold.
pub const PROBE_FAILURES: u32 = 3;
/// Highest threshold of checks and probes: at one each second, a quarter of an hour.
pub const MAX_THRESHOLD: u32 = 1000;

/// How long others still see a registered app after its sidecar has vanished. Consul's and Eureka's
/// agents are given 10 to 90 s; at 15 s, renewed every 5 s, two renewals may be lost before the
/// third counts.
pub const REGISTER_TTL: Duration = Duration::from_secs(15);
/// The shortest that may be asked for. etcd counts leases in whole seconds, and refuses what is
/// below its own election timeout (1 s) and a half.
pub const REGISTER_TTL_LEAST: Duration = Duration::from_secs(2);
/// How long endpoints are kept after the source says that there are none: an empty answer is
/// believed. Eureka's and Consul's users want it otherwise, since a registry that lost its data
/// answers the same.
pub const EMPTY_GRACE: Duration = Duration::ZERO;
/// How long endpoints are kept that nobody confirms: for ever, since stale is better than empty.
/// Envoy's `endpoint_stale_after` is off too.
pub const STALE_AFTER: Duration = Duration::ZERO;
/// DNS: the shortest and the longest time after which a name is asked again, whatever its time to
/// live. Envoy asks every 5 s unless it respects times to live; gRPC not more often than every 30
/// s. A zone with a time to live of a day would keep what is gone in use for that long.
pub const DNS_TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// DNS: by what share of it a name is asked before its time is over, at most.
pub const DNS_EARLY: f64 = 0.1;
/// The port of name servers (RFC 1035).
pub const DNS_PORT: u16 = 53;
/// DNS: how long one question to one server may take, with its connection. glibc waits 5 s.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest and longest wait before a source that failed is asked again. Linkerd's reconnect
/// back-off.
pub const DISCOVERY_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Shortest time between two changes of discovered endpoints that come into force; the first comes
/// at once. Istio's PILOT_DEBOUNCE_AFTER.
pub const DISCOVERY_INTERVAL: Duration = Duration::from_millis(100);
/// The same at most, for changes that are much work: a dead endpoint is noticed by other means
/// meanwhile.
pub const DISCOVERY_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Share of one processor that changes of discovered endpoints may take.
pub const DISCOVERY_SHARE: f64 = 0.02;
/// Endpoints up to which a scrape lists each by default: four series for each. A Prometheus server
/// takes some ten thousand series from one target well.
pub const LISTED_ENDPOINTS: usize = 1000;
/// How long one call to etcd may take. etcd itself gives up on a write after 7 s; a healthy one
/// takes milliseconds.
pub const ETCD_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a server of etcd whose watch is silent is asked for a sign of life. A paused server
/// keeps its connections open, and etcd's own progress messages come every 10 min.
pub const ETCD_PROBE: Duration = Duration::from_secs(10);
/// Largest answer of etcd, and largest message of a watch, bytes: some 50 000 endpoints.
pub const ETCD_ANSWER: usize = 16 * 1024 * 1024;
/// How long a new sidecar waits for the first word of every source before it is ready anyway.
/// Envoy's initial_fetch_timeout is 15 s; orchestrators give a sidecar about as long.
pub const FIRST_DISCOVERY: Duration = Duration::from_secs(5);
/// How long a drain waits for the registry to have forgotten the app.
pub const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the end of the process waits for its workers to reset what is left. Dropping fifty
/// thousand connections takes a fraction of that; a worker that hangs must not hold up the end.
pub const CUT_WITHIN: Duration = Duration::from_secs(1);

// What no configuration sets stands here as well, so that every number has one place.

/// What a pipe for splice may hold, bytes. Four times the kernel's default, and a quarter of what
/// an unprivileged process may ask for (fs.pipe-max-size): as much as the largest read of a copy.
pub const SPLICE_PIPE: usize = 256 * 1024;

/// Pipes for splice that a worker keeps for later. An empty pipe holds two descriptors and a few
/// KiB of the kernel's memory.
pub const SPLICE_PIPES_KEPT: usize = 16;

/// What is read at once from an opaque connection, and so at most kept for a receiver that does not
/// keep up, by what a direction has moved: ztunnel's steps. Its first step of 1 KiB keeps idle
/// connections small; here they hold nothing, so the first is what a TLS record holds.
pub const COPY_STEPS: [(u64, usize); 3] = [(10 << 20, 256 << 10), (128 << 10, 64 << 10), (0, 16 << 10)];

/// A read of at least this many bytes is bulk: the smallest step, full.
pub const COPY_BULK: usize = 16 << 10;

/// Bytes moved by bulk reads in a row after which a direction is spliced. Enough that making a pipe
/// is lost among the system calls that copying has taken by then, and that a response of ordinary
/// size never takes descriptors. Over loopback, 3 GiB at a time, splicing and copying could not be
/// told apart from the noise; what splicing saves is the memory traffic of copying, so expect a
/// gain only where that is short.
pub const SPLICE_AFTER: u64 = 512 << 10;

/// Moves below [`COPY_BULK`] in a row after which a spliced direction is copied again.
pub const SPLICE_SMALL_MOVES: u32 = 8;

/// How long one line of the log stands for all like it.
pub const LOG_THROTTLE: Duration = Duration::from_secs(1);

/// Shortest `outlier_detection.window`: a bucket of a shorter one would last less than a request.
pub const OUTLIER_WINDOW_MIN: Duration = Duration::from_millis(100);

/// How long a directory must be quiet before a watched file is read: an editor writes, syncs and
/// renames within it.
pub const RELOAD_QUIET: Duration = Duration::from_millis(100);

/// How long events may put reading off altogether, in a directory that is never quiet.
pub const RELOAD_WAIT: Duration = Duration::from_secs(1);

/// How often it is asked whether watched files are still the same, since not every change of them
/// is told. A renewed certificate or a list of revoked ones cannot wait long; `stat` of a file
/// takes some microseconds.
pub const FILE_POLL: Duration = Duration::from_secs(2);

/// When files of a certificate that are of no use are looked at again although they are the same:
/// one that was made on a host whose clock is a second ahead is not valid yet.
pub const WRONG_FILES: Duration = Duration::from_secs(5);

/// How often the ages of what discovery knows are looked at.
pub const DISCOVERY_TICK: Duration = Duration::from_secs(1);

/// How much of the server's first words is read to tell that there are some.
pub const SERVER_FIRST_BYTES: usize = 1024;

/// How much is read at a time to decide what a connection speaks.
pub const DETECT_BYTES: usize = 1024;

/// How much is read at most. An HTTP/1 request line whose method and target do not end within this
/// is carried as opaque bytes. RFC 9112 section 3 recommends to take lines of 8000 bytes.
pub const DETECT_MOST: usize = 8 << 10;

/// Lines of the log that may wait to be written. A burst of ten thousand warnings a second is
/// limited elsewhere; these are some 300 KiB.
pub const LOG_QUEUE: usize = 2048;

/// Bytes of one field of a line of the log, at most. What others say is in some of them.
pub const LOG_FIELD: usize = 4 << 10;

/// How long the end of the process waits for lines that have not been written.
pub const LOG_FLUSH: Duration = Duration::from_secs(1);

/// How often idle connections of the pools are looked at. Also bounds how long one may overstay its
/// idle limit.
pub const POOL_SWEEP: Duration = Duration::from_secs(1);

/// How long a connection that was dialled may take to be accepted.
pub const OWN_CONNECTIONS_KEPT: Duration = Duration::from_secs(1);

/// Accept queue of a listener. The kernel caps it at `net.core.somaxconn` (4096 on current
/// kernels).
pub const ACCEPT_BACKLOG: u32 = 4096;

/// How long a client may still take to begin with a request once a drain has begun. It has just
/// connected and is about to send, or keeps a connection in its pool, and one that is in use is
/// used again within moments.
pub const LAST_REQUEST: Duration = Duration::from_secs(1);

/// How soon after its FIN a client is looked at again, and twice as late each time up to
/// [`FIN_LOOK_LAST`]. The kernel sends the FIN of a close a moment before it lets the socket go, so
/// the first look may come too early.
pub const FIN_LOOK_FIRST: Duration = Duration::from_millis(10);

/// The longest time between two looks: a few system calls a second for each client that sent its
/// FIN and waits.
pub const FIN_LOOK_LAST: Duration = Duration::from_secs(1);

/// Frames of an answer that nobody gets that are read to keep its connection.
pub const DISCARDED_FRAMES: usize = 16;

/// How often to look whether the configuration has another probe now.
pub const PROBE_LOOK: Duration = Duration::from_secs(1);

/// How often to look for endpoints that came with a new configuration. Also spreads the first
/// checks of those that came together.
pub const CHECK_LOOK: Duration = Duration::from_secs(1);

/// How long accepting rests after a failure. A process out of file descriptors would otherwise spin
/// on EMFILE, since the connection that it cannot accept stays in the queue; in this time some
/// descriptor may be freed.
pub const ACCEPT_REST: Duration = Duration::from_millis(50);

/// How close to the limit of adaptive concurrency counts as reached.
pub const ADAPTIVE_REACHED: f64 = 0.9;

/// Windows that a fall of usual latency is averaged over, for adaptive concurrency.
pub const ADAPTIVE_DOWN: u32 = 10;

/// How often the size of the process is looked at. A sidecar that takes on 10 000 connections a
/// second at 64 KiB each grows by 64 MiB in between.
pub const MEMORY_INTERVAL: Duration = Duration::from_millis(100);

/// Once load is shed, how far below its budget the size must fall before it is taken on again: less
/// would flutter.
pub const MEMORY_RELIEF: f64 = 0.95;

/// Shortest time between two times that memory is given back. Ours: workers that allocate wait for
/// it, some milliseconds after a burst.
pub const MEMORY_RELEASE_INTERVAL: Duration = Duration::from_secs(2);
