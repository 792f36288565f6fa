//! Defaults of identity and access: TLS, the certificate authority, tokens, authorizers, the
//! audit log.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How long a handshake of TLS may take, from its first byte to its last. Istio's detection timeout
/// is 15 s and linkerd's 10 s; ours is between sidecars of one mesh, which answer in milliseconds.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many handshakes a worker answers at once. One takes about 0.3 ms of CPU, so this many keep a
/// worker busy for 80 ms; the others wait.
pub const HANDSHAKES: usize = 256;
/// Sessions that a server remembers for resumption. One takes about 1 KiB.
pub const SERVER_SESSIONS: usize = 4096;
/// Sessions that a client remembers of each workload that it talks to: eight of each address, which
/// is what rustls keeps, of 32 replicas. A session is used once, and a pool seldom opens more
/// connections to an address than this at a time.
pub const CLIENT_SESSIONS: usize = 8 * 32;
/// The port of a certificate authority: istiod's.
pub const CA_PORT: u16 = 15012;
/// How long certificates of workloads are valid. Istio's, ztunnel's and linkerd's.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long roots are. Istio's self-signed ones.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long a bootstrap token counts. Kubernetes' projected tokens.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// The longest that one may count. It is there for the first certificate; each later one is had for
/// the one before.
pub const TOKEN_LIFETIME_MOST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Largest request to the authority, bytes. A signing request has less than one KiB.
pub const CA_BODY: usize = 64 << 10;
/// How long a request's body may take to come, after its head. Sidecars send both at once; whoever
/// sends half of it keeps one of [`CA_CONNECTIONS`].
pub const CA_BODY_TIME: Duration = Duration::from_secs(5);
/// Certificates of one workload that may be valid at once: at two for each replica, which renews at
/// half of their life, 500 replicas. Ours.
pub const CA_PER_WORKLOAD: usize = 1000;
/// Certificates of all workloads that have not ended, the revoked ones among them: any of them may
/// come to be in the lists that every workload reads. So many are 50 000 replicas.
pub const CA_CERTIFICATES: usize = 100_000;
/// Certificates that the authority tells of in one answer. With the longest names these are 11 MiB.
pub const CA_PAGE: usize = 5000;
/// Largest answer of the authority, bytes. That is the bundle while [`CA_CERTIFICATES`] are in each
/// list of three roots, with 58 bytes for each: 17 MiB.
pub const CA_ANSWER: usize = 20 << 20;
/// Connections that the authority serves at once: so many handshakes, so many of clients that have
/// proved nothing, and so many of workloads. Of each kind the oldest gives way to a new one.
pub const CA_CONNECTIONS: usize = 256;
/// How long one question to the authority may take, with its connection and handshake.
pub const CA_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest and longest wait before an authority that failed is asked again. ztunnel's.
pub const CA_BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(150));
/// How often the authority is asked whether roots or revocations have changed. A revocation takes
/// this long to be believed; ours.
pub const BUNDLE_REFRESH: Duration = Duration::from_secs(60);
/// The shortest pause that may be set. Each question is a handshake, which every workload of the
/// mesh asks the authority for.
pub const BUNDLE_REFRESH_LEAST: Duration = Duration::from_millis(100);
/// After how many such pauses without an answer it is said that roots and revocations may be old:
/// one question may fail.
pub const BUNDLE_STALE: u32 = 3;
/// A certificate is renewed after this share of what is left of its life, give or take
/// [`RENEWAL_JITTER`]: ztunnel's half, which leaves the other half for an authority that is away.
pub const RENEWAL: f64 = 0.5;
/// So that workloads that began together do not renew together. Istio spreads by 0.01 of the life.
pub const RENEWAL_JITTER: f64 = 0.05;
/// How long an agent may take until it has sent the first certificate. SPIRE's answers at once,
/// also to say that there is none.
pub const AGENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest and longest wait before an agent that failed is asked again. go-spiffe's.
pub const AGENT_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Largest message of an agent, bytes. gRPC's own default.
pub const AGENT_MESSAGE: usize = 4 << 20;
/// How long an external authorizer may take: each request waits for it. Istio's default of ten
/// minutes is no limit at all; Envoy's ext_authz filter has 200 ms.
pub const AUTHORIZER_TIMEOUT: Duration = Duration::from_secs(1);
/// The most that is read of an external authorizer's answer, bytes: it becomes the client's.
pub const AUTHORIZER_ANSWER: usize = 64 << 10;
/// Connections to an external authorizer that one worker keeps while they are idle.
pub const AUTHORIZER_IDLE: usize = 32;
/// How much the clocks of a token's issuer and of a sidecar may differ. Envoy's clock_skew_seconds.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// How often a key set is fetched. Envoy's cache_duration.
pub const JWKS_REFRESH: Duration = Duration::from_secs(600);
/// How long the server of a key set may take to answer. Istio's.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);
/// Whom a server of key sets must be certified by: the roots that Debian, Alpine and their
/// descendants keep, with an administrator's own among them.
pub const JWKS_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The shortest time between two fetches of a key set that tokens with unknown keys ask for. Ours:
/// whoever sends such tokens may not make the sidecar attack the issuer, and a rotated key is known
/// before most issuers sign with it.
pub const JWKS_UNKNOWN_KEY: Duration = Duration::from_secs(30);
/// First and longest wait after a key set could not be fetched.
pub const JWKS_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The largest key set, bytes. Hundreds of keys.
pub const JWKS_BYTES: usize = 1 << 20;
/// Tokens that one worker remembers as verified. About 2 KiB each.
pub const TOKENS_REMEMBERED: usize = 4096;
/// The longest token that is looked at, bytes: longer than any fits into most servers' heads.
pub const TOKEN_BYTES: usize = 16 << 10;
/// Lines of the audit log that may wait to be written: half a second of 32 000 requests a second.
pub const AUDIT_QUEUE: u32 = 16_384;
/// What may be set.
pub const AUDIT_QUEUE_RANGE: RangeInclusive<u32> = 1..=1 << 20;
/// How large a file of the audit log may become, bytes: some 200 000 lines.
pub const AUDIT_ROTATE: u64 = 64 << 20;
/// The least that may be set.
pub const AUDIT_ROTATE_LEAST: u64 = 64 << 10;
/// Older files of the audit log that are kept.
pub const AUDIT_KEEP: u32 = 8;
/// What may be set. With none a file that is full would be removed with all that it says; and each
/// that is kept is renamed whenever a new one begins.
pub const AUDIT_KEEP_RANGE: RangeInclusive<u32> = 1..=1000;
/// Lines of the audit log, or of the access log, that are written at once.
pub const LOG_BATCH: usize = 1024;
/// The most bytes of a text of the client that a line of the audit log has; the rest is cut off.
pub const AUDIT_WORDS: usize = 1024;
/// How long the writer of either log rests between two batches. A worker that finds it awake
/// need not wake it, which would cost a system call for each request.
pub const LOG_PAUSE: Duration = Duration::from_millis(10);
/// Shortest and longest wait before a disk that failed is tried again.
pub const AUDIT_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a write of the audit log may take before it counts as one that failed. A disk that is
/// only busy has it done within seconds.
pub const AUDIT_HANGS: Duration = Duration::from_secs(5);
/// How long the end of the sidecar waits for the audit log, and for the access log.
pub const LAST_LINES: Duration = Duration::from_secs(5);
/// What `slower_than` is while its word cannot be read.
pub const ACCESS_LOG_SLOW: Duration = Duration::from_secs(1);
/// Lines of the access log that may wait to be written: half a second of 32 000 requests a second.
pub const ACCESS_LOG_QUEUE: u32 = 16_384;
/// What may be set.
pub const ACCESS_LOG_QUEUE_RANGE: RangeInclusive<u32> = 1..=1 << 20;
