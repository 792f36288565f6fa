//! How the mesh of a run is configured: each choice is a row of a table, and most rows are written
//! as a scenario file has them.

use std::fmt::Write;

use proptest::prelude::*;

use super::identity::IdentityKnobs;
use super::schedule::DURATION_MS;

/// How the mesh is configured: each number chooses a row of a table, and 0 is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Knobs {
    replicas: usize,
    /// Whether they are found by way of a registry.
    pub(super) registry: bool,
    bridge: bool,
    delay: usize,
    work: usize,
    answer: usize,
    rate: usize,
    retries: usize,
    budget: usize,
    outlier_detection: usize,
    cap: usize,
    health: usize,
    balance: usize,
    per_try: usize,
    request: usize,
    hedge: usize,
    limits: usize,
    protocol: usize,
    patience: usize,
    /// Whether there are gRPC calls too.
    calls: bool,
    streams: usize,
    /// Who everybody is, and who may call whom.
    identity: IdentityKnobs,
}

/// Knobs that were added later. They are drawn after everything else, so that older seeds keep
/// their other choices.
#[derive(Debug, Clone, Copy)]
pub(super) struct LateKnobs {
    protocol: usize,
    patience: usize,
    calls: bool,
    streams: usize,
}

const REPLICAS: [u8; 3] = [3, 2, 4];
const REGISTRY: &str = "[service.registry]\nport = 2379\nprotocol = \"tcp\"\napp = { registry = {} }\n";
const REGISTERED: &str = "register = { ttl = \"2s\" }";
const DELAY: [&str; 3] = ["", "2ms", "10ms"];
// A request over a connection that is opened for it must fit into the shortest attempt.
const WORK: [&str; 4] = ["20ms", "0s", "50ms", "120ms"];
const ANSWER: [&str; 4] = ["", "chunked = true", "size = 3000", "size = 3000, chunked = true"];
const RATE: [u32; 3] = [7, 14, 4];
const RETRIES: [&str; 6] = [
    "",
    "attempts = 0",
    "attempts = 1",
    "attempts = 4\nbase = \"5ms\"\nmax = \"40ms\"",
    "attempts = 2\non = [\"5xx\"]\nbody = \"1KiB\"",
    "attempts = 2\nbase = \"100ms\"\nmax = \"1s\"",
];
const BUDGET: [&str; 3] =
    ["", "share = \"10%\"\nper_second = 0\nreserve = 1", "share = \"50%\"\nper_second = 5\nreserve = 1"];
// Ejections that end before the run does: with 1 s and more there would be nothing left to see.
const OUTLIER_DETECTION: [&str; 4] = [
    "base = \"200ms\"\nmax = \"400ms\"",
    "base = \"100ms\"\nmax = \"400ms\"\nconsecutive_failures = 1",
    "base = \"200ms\"\nmax = \"200ms\"\nconsecutive_failures = 2\nmin_requests = 5",
    "consecutive_failures = 0\nsuccess_rate = \"0%\"",
];
const CAP: [&str; 3] = ["", "cap = \"100%\"", "cap = \"10%\""];
const HEALTH: [&str; 3] = [
    "",
    "http = \"/healthz\"\ninterval = \"100ms\"\nedge_interval = \"50ms\"\nno_traffic_interval = \"400ms\"\ntimeout = \"90ms\"",
    "tcp = true\ninterval = \"200ms\"\nedge_interval = \"100ms\"\nno_traffic_interval = \"400ms\"\ntimeout = \"100ms\"\n\
     unhealthy_threshold = 1",
];
/// The row of checks that ask the app.
const ASKS: usize = 1;
const BALANCE: [&str; 8] = [
    "",
    "policy = \"least_request\"",
    "policy = \"round_robin\"",
    "policy = \"random\"",
    "policy = \"ring_hash\"\nhash = \"header:x-lab-request\"",
    "policy = \"maglev\"\nhash = \"source\"\ntable_size = 251",
    "panic = \"0%\"",
    "slow_start = { window = \"500ms\" }",
];
const PER_TRY: [&str; 3] = ["250ms", "200ms", "0s"];
const REQUEST: [&str; 3] = ["0s", "800ms", "300ms"];
const HEDGE: [&str; 3] = ["", "", "hedge = \"60ms\""];
/// The deadlines that callers send.
const PATIENCE: [&str; 4] = ["", "", "700ms", "400ms"];
/// Without it, sidecars look at the first bytes.
const PROTOCOL: [&str; 2] = ["protocol = \"http\"\n", ""];
/// Of the cluster, and of the caller's sidecar.
const LIMITS: [[&str; 2]; 4] = [
    ["", ""],
    ["connections = 1", ""],
    ["requests = 4\nretries = 1", ""],
    ["pending = 1", "sidecar = { limits = { endpoint_connections = 3 } }\n"],
];

/// Callers that leave responses unread or calls open, and the limit of streams with them.
const STREAMS: [StreamKnobs; 6] = [
    StreamKnobs { app: "", sidecar: "", loads: &[] },
    StreamKnobs { app: "", sidecar: "", loads: &[SLOW] },
    StreamKnobs { app: FEW, sidecar: "", loads: &[EARLY] },
    StreamKnobs { app: FEW, sidecar: "", loads: &[STREAM] },
    StreamKnobs { app: "", sidecar: "http2 = { max_concurrent_streams = 4 }", loads: &[SLOW, STREAM] },
    StreamKnobs { app: "", sidecar: "http2 = { max_concurrent_streams = 3 }", loads: &[SLOW, EARLY] },
];

/// A row of those.
struct StreamKnobs {
    /// Keys of the apps.
    app: &'static str,
    /// Keys of their sidecars.
    sidecar: &'static str,
    /// The loads: few enough that others can still be served.
    loads: &'static [[&'static str; 2]],
}

/// The fewest streams that an app can allow.
const FEW: &str = "max_concurrent_streams = 1";
/// More than the buffers and windows on the way hold, read late, after the faults: where a few
/// bytes move at a time it would take too long.
const SLOW: [&str; 2] = [
    "slow",
    "url = \"http://orders:8080/bytes/500000\"\nread_delay = \"700ms\"\nat = \"1600ms\"\nfor = \"500ms\"",
];
/// Answered at once, and left half open.
const EARLY: [&str; 2] =
    ["early", "url = \"grpc://orders:8080/lab.Echo/Early\"\nbody = 300\nend_delay = \"700ms\""];
/// Open for a while.
const STREAM: [&str; 2] =
    ["stream", "url = \"grpc://orders:8080/lab.Echo/Stream\"\nbody = 300\nend_delay = \"500ms\""];

/// Half of all choices are the default, so that combinations stay readable.
fn row(rows: usize) -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 0..rows]
}

/// Draws them.
pub(super) fn any() -> impl Strategy<Value = Knobs> {
    let registry = proptest::bool::weighted(0.2);
    let app = (row(WORK.len()), row(ANSWER.len()), row(RATE.len()));
    let mesh = (row(REPLICAS.len()), registry, proptest::bool::ANY, row(DELAY.len()), app);
    let failing = (
        row(RETRIES.len()),
        row(BUDGET.len()),
        row(OUTLIER_DETECTION.len()),
        row(CAP.len()),
        row(HEALTH.len()),
    );
    let limits =
        (row(BALANCE.len()), row(PER_TRY.len()), row(REQUEST.len()), row(HEDGE.len()), row(LIMITS.len()));
    (mesh, failing, limits).prop_map(|(mesh, failing, limits)| {
        let (replicas, registry, bridge, delay, (work, answer, rate)) = mesh;
        let (retries, budget, outlier_detection, cap, health) = failing;
        let (balance, per_try, request, hedge, limits) = limits;
        Knobs {
            replicas,
            registry,
            bridge,
            delay,
            work,
            answer,
            rate,
            retries,
            budget,
            outlier_detection,
            cap,
            health,
            balance,
            per_try,
            request,
            hedge,
            limits,
            protocol: 0,
            patience: 0,
            calls: false,
            streams: 0,
            identity: IdentityKnobs::default(),
        }
    })
}

/// Draws the knobs that were added later.
pub(super) fn late() -> impl Strategy<Value = LateKnobs> {
    let streams = prop_oneof![5 => Just(0), 2 => 1..STREAMS.len()];
    let all = (row(PROTOCOL.len()), row(PATIENCE.len()), proptest::bool::weighted(0.2), streams);
    all.prop_map(|(protocol, patience, calls, streams)| LateKnobs { protocol, patience, calls, streams })
}

impl Knobs {
    /// How many replicas there are.
    pub(super) fn replicas(&self) -> u8 {
        REPLICAS[self.replicas]
    }

    /// The same with what was drawn late.
    pub(super) fn with(self, late: LateKnobs) -> Self {
        let LateKnobs { protocol, patience, calls, streams } = late;
        let knobs = Knobs { protocol, patience, calls, streams, ..self };
        match STREAMS[streams] {
            StreamKnobs { loads: [], .. } => knobs,
            // Only calls reach the app over HTTP/2.
            StreamKnobs { app: FEW, .. } => knobs.calling(),
            // Between sidecars all of them do if they are bridged.
            _ => Knobs { bridge: true, ..knobs },
        }
    }

    /// The same with other identities.
    pub(super) fn of(self, identity: IdentityKnobs) -> Self {
        Knobs { identity, ..self }
    }

    /// The same with gRPC calls.
    pub(super) fn calling(self) -> Self {
        Knobs { calls: true, ..self }
    }

    /// The same with checks that ask the app.
    pub(super) fn asking(self) -> Self {
        Knobs { health: ASKS, ..self }
    }

    /// The mesh as a scenario file.
    pub(super) fn scenario(&self, seed: u64) -> String {
        let StreamKnobs { app, sidecar, loads } = STREAMS[self.streams];
        let list = |keys: &[&str]| {
            let keys: Vec<_> = keys.iter().filter(|key| !key.is_empty()).copied().collect();
            keys.join(", ")
        };
        let registered = if self.registry { REGISTERED } else { "" };
        let sidecar = match list(&[registered, sidecar]) {
            none if none.is_empty() => none,
            keys => format!("sidecar = {{ {keys} }}\n"),
        };
        let others = self.identity.of_others();
        let mut text = format!(
            "[scenario]\nname = \"bad run {seed}\"\nseed = {seed}\nwarmup = \"0s\"\nduration = \"{DURATION_MS}ms\"\n\n\
             {file}[service.web]\n{others}{limits}\n{service}[service.orders]\nreplicas = {replicas}\nport = 8080\n{protocol}{tls}\
             {bridge}app = {{ http = {{ {app} }} }}\n{registry}{sidecar}",
            limits = LIMITS[self.limits][1],
            app = list(&[&format!("work = \"{}\"", WORK[self.work]), ANSWER[self.answer], app]),
            service = if self.registry { format!("{REGISTRY}{others}\n") } else { String::new() },
            registry = if self.registry { "registry = \"registry\"\n" } else { "" },
            replicas = REPLICAS[self.replicas],
            protocol = PROTOCOL[self.protocol],
            file = self.identity.file(),
            tls = self.identity.of_service(),
            bridge = if self.bridge { "bridge = true\n" } else { "bridge = false\n" },
        );
        text += &self.identity.policies();
        let mut table = |name: &str, rows: &[&str]| {
            let rows: Vec<_> = rows.iter().filter(|row| !row.is_empty()).copied().collect();
            if !rows.is_empty() {
                let _ = write!(text, "\n[service.orders.policy{name}]\n{}\n", rows.join("\n"));
            }
        };
        let times =
            format!("per_try = \"{}\"\nrequest = \"{}\"", PER_TRY[self.per_try], REQUEST[self.request]);
        table(".retry", &[RETRIES[self.retries], HEDGE[self.hedge]]);
        table(".retry_budget", &[BUDGET[self.budget]]);
        table(".outlier_detection", &[OUTLIER_DETECTION[self.outlier_detection], CAP[self.cap]]);
        table(".health", &[HEALTH[self.health]]);
        table(".balance", &[BALANCE[self.balance]]);
        table(".timeouts", &[&times]);
        table(".limits", &[LIMITS[self.limits][0]]);
        // Different rates, so that requests do not always come together.
        for (more, name, method, body) in
            [(0, "get", "GET", 0), (1, "put", "PUT", 3000), (2, "post", "POST", 500)]
        {
            let patience = match PATIENCE[self.patience] {
                "" => String::new(),
                limit => format!("headers = {{ x-request-timeout = \"{limit}\" }}\n"),
            };
            let _ = write!(
                text,
                "\n[load.{name}]\nfrom = \"web\"\nurl = \"http://orders:8080/\"\nmethod = \"{method}\"\nbody = {body}\n\
                 rate = \"{}/s\"\n{patience}",
                RATE[self.rate] + more
            );
        }
        if self.calls {
            let rate = RATE[self.rate] + 3;
            let _ = write!(
                text,
                "\n[load.call]\nfrom = \"web\"\nurl = \"grpc://orders:8080/lab.Echo/Call\"\nbody = 300\n\
                 rate = \"{rate}/s\"\n"
            );
            // As gRPC writes it: a number and a letter.
            if let Some(limit) = PATIENCE[self.patience].strip_suffix('s') {
                let _ = writeln!(text, "headers = {{ grpc-timeout = \"{limit}\" }}");
            }
        }
        for [name, keys] in loads {
            let _ =
                write!(text, "\n[load.{name}]\nfrom = \"web\"\n{keys}\nrate = \"3/s\"\ntimeout = \"2s\"\n");
        }
        text += &self.identity.loads();
        if !DELAY[self.delay].is_empty() {
            let _ = write!(
                text,
                "\n[[link]]\nbetween = [\"web\", \"orders\"]\ndelay = \"{}\"\n",
                DELAY[self.delay]
            );
        }
        text
    }
}
