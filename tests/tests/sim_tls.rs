//! Mutual TLS in virtual time: certificates follow each other, roots too, what has ended or was
//! revoked is not believed, and who is somebody else is not talked to. Each mutant of identity and
//! access breaks one of these stories.

mod sim_kit;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use lab::events::EventLog;
use lab::history::{History, Keep, history};
use lab::plan::SidecarKind;
use lab::run::{self, Report, Silent, Verdict};
use lab::scenario::Scenario;
use lab::sim::{Mesh, SimWorld, Simulation};
use lab::swarm::{SwarmOptions, run_scenario};
use proxy::mutant::{self, Mutant};
use proxy::telemetry::LogEvent;
use sim_kit::*;

/// A mesh whose connections are opened anew all the time, so that every certificate counts at once:
/// `web` calls `orders`. `life` is that of certificates, `services` are keys and tables after
/// `[service.orders]`, and `rest` follows `[load.calls]`.
fn mesh(name: &str, seconds: u32, (life, rate): (&str, u32), orders: &str, rest: &str) -> String {
    format!(
        r#"
[scenario]
name = "{name}"
duration = "{seconds}s"

[ca.mesh]
certificate_lifetime = "{life}"

[service.web.sidecar.timeouts]
pool_age = "500ms"

[service.orders]
port = 8080
protocol = "http"
app = {{ http = {{ work = "2ms" }} }}
{orders}

[load.calls]
from = "web"
url = "http://orders:8080/"
rate = "{rate}/s"
{rest}
"#
    )
}

const STRICT: &str = r#"tls = { mode = "strict" }"#;

/// What an operator does beside a run.
type Deed = fn(Rc<SimWorld>) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Runs a scenario while an operator does something.
fn operated(scenario: &Scenario, seed: u64, deed: Deed) -> Report {
    let plan = lab::history::plan(scenario, SidecarKind::Ours, seed);
    let drive = {
        let plan = plan.clone();
        async move |world: Rc<SimWorld>| {
            let events = EventLog::new(world.time_of_day());
            let running = run::run(&plan, &*world, &events, Rc::new(Silent), std::future::pending());
            tokio::join!(running, deed(world.clone())).0
        }
    };
    let run = Simulation::new(&plan, seed, Mesh::default()).run(drive).expect("a run that ends");
    run.value.expect("a mesh that comes up")
}

/// Asks the first authority for something, so long after the simulation began.
async fn ask_at(world: &SimWorld, seconds: u64, path: &'static str, body: &str) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    world.operate(0, path, body.into()).await.expect("the authority does it");
}

fn rotate(world: Rc<SimWorld>) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move { ask_at(&world, 8, "/v1/roots", "").await })
}

fn revoke_web(world: Rc<SimWorld>) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    let body = r#"{"id":"spiffe://cluster.local/ns/default/sa/web"}"#;
    Box::pin(async move { ask_at(&world, 4, "/v1/revocations", body).await })
}

fn nothing(_: Rc<SimWorld>) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async {})
}

/// A story with its operator, and the mutants that it finds.
struct Told {
    text: String,
    deed: Deed,
    finds: &'static [Mutant],
}

impl Told {
    fn run(&self, seed: u64) -> Report {
        operated(&parse("a story", &self.text), seed, self.deed)
    }

    /// It holds, and with each of its mutants it does not.
    fn check(&self) {
        for seed in 1..=2 {
            let report = self.run(seed);
            assert!(report.verdict == Verdict::Passed, "seed {seed}: {:?}\n{}", report.reasons, self.text);
        }
        for mutant in self.finds {
            mutant::plant(Some(*mutant));
            let report = self.run(1);
            mutant::plant(None);
            assert!(report.verdict == Verdict::Failed, "{} is not found by\n{}", mutant.name(), self.text);
        }
    }
}

/// Makes a test of each story, and a list of all.
macro_rules! stories {
    ($($story:ident,)+) => {
        mod stories {
            $(#[test]
            fn $story() {
                super::$story().check();
            })+
        }

        fn all_stories() -> Vec<Told> {
            vec![$($story()),+]
        }
    };
}

stories! {
    a_certificate_is_renewed_before_its_end_and_kept_until_then,
    a_new_root_costs_no_request,
    an_authority_may_be_away_until_certificates_end_and_everything_recovers_by_itself,
    a_revoked_workload_is_refused_and_both_sides_say_so,
    connections_of_a_workload_end_when_it_is_revoked_and_nothing_more_is_done_for_it,
    connections_of_a_root_that_is_gone_end_with_the_time_of_a_drain,
    whoever_has_no_certificate_yet_speaks_to_no_strict_port,
    whoever_has_no_certificate_yet_speaks_to_no_permissive_port,
    an_address_at_which_another_workload_answers_is_not_talked_to,
    a_certificate_of_an_unknown_authority_is_not_believed,
    a_certificate_that_nobody_renews_ends,
    plaintext_is_refused_where_callers_must_prove_who_they_are,
    what_policies_deny_reaches_no_app,
}

/// The mutants of identity and access.
const MUTANTS: [Mutant; 12] = [
    Mutant::AllowsBeforeItDenies,
    Mutant::AllowsWhatNobodyAllows,
    Mutant::BelievesTheExpired,
    Mutant::DropsItsCertificate,
    Mutant::ForgetsOpenConnections,
    Mutant::IgnoresNewBundles,
    Mutant::IgnoresRevocations,
    Mutant::RenewsTooLate,
    Mutant::ResumesUnjudged,
    Mutant::TakesPlaintext,
    Mutant::TalksToAnybody,
    Mutant::TalksWithoutACertificate,
];

#[test]
fn every_mutant_of_identity_and_access_is_found_by_a_story() {
    let found: BTreeSet<Mutant> = all_stories().iter().flat_map(|story| story.finds).copied().collect();
    assert_eq!(found, BTreeSet::from(MUTANTS));
}

#[test]
fn certificates_of_twenty_seconds_follow_each_other_for_two_minutes_without_an_error() {
    let rest = r#"
[[expect]]
that = [
    "calls.errors == 0",
    "web/sidecar.proxy_certificates_total{result=\"taken\"} >= 9",
    "orders/sidecar.proxy_certificates_total{result=\"taken\"} >= 9",
    "orders/sidecar.proxy_tls_handshakes_total{result=\"accepted\"} > 100",
]
"#;
    let text = mesh("rotation", 120, ("20s", 300), STRICT, rest);
    let report = operated(&parse("rotation", &text), 1, nothing);
    assert!(report.verdict == Verdict::Passed, "{:?}", report.reasons);
}

fn a_certificate_is_renewed_before_its_end_and_kept_until_then() -> Told {
    // The authority is far away, so that there is a moment in which something is asked for.
    let rest = r#"
[[link]]
between = ["web", "mesh"]
delay = "100ms"
[[link]]
between = ["orders", "mesh"]
delay = "100ms"
[[expect]]
that = ["calls.errors == 0", "web/sidecar.proxy_errors_total{kind=\"handshake\"} == 0"]
"#;
    let text = mesh("renewal", 12, ("4s", 100), STRICT, rest);
    Told { text, deed: nothing, finds: &[Mutant::RenewsTooLate, Mutant::DropsItsCertificate] }
}

fn a_new_root_costs_no_request() -> Told {
    let rest = r#"
[[expect]]
that = ["calls.errors == 0", "web/sidecar.proxy_errors_total{kind=\"handshake\"} == 0"]
"#;
    let text = mesh("new root", 30, ("6s", 100), STRICT, rest);
    Told { text, deed: rotate, finds: &[] }
}

fn an_authority_may_be_away_until_certificates_end_and_everything_recovers_by_itself() -> Told {
    // Renewed at about 10 s, so valid until 30 s.
    let rest = r#"
[[timeline]]
name = "lost"
at = "12s"
kill = { process = "mesh/ca", restart = "28s" }
[[expect]]
after = "lost.end"
within = "8s"
hold = "5s"
that = ["calls.errors == 0"]
[[expect]]
during = "1s..26s"
that = ["calls.errors == 0"]
[[expect]]
during = "34s..39s"
that = ["calls.success == 0%", "web/sidecar.proxy_certificates_total{result=\"refused\"} > 0"]
"#;
    let text = mesh("authority lost", 60, ("20s", 50), STRICT, rest);
    Told { text, deed: nothing, finds: &[Mutant::BelievesTheExpired] }
}

fn a_revoked_workload_is_refused_and_both_sides_say_so() -> Told {
    let rest = r#"
[[expect]]
during = "0s..2s"
that = ["calls.errors == 0"]
[[expect]]
during = "8s..12s"
that = [
    "calls.success == 0%",
    "web/sidecar.proxy_errors_total{kind=\"handshake\"} > 0",
    "orders/sidecar.proxy_connections_refused_total{result=\"not_secured\"} > 0",
]
"#;
    let text = mesh("revocation", 12, ("20s", 50), STRICT, rest);
    Told { text, deed: revoke_web, finds: &[Mutant::IgnoresRevocations, Mutant::IgnoresNewBundles] }
}

/// For a second and a half `web` asks for what takes `work` seconds, and it waits for it; `life` is
/// that of certificates.
fn long(name: &str, (life, work): (&str, u32), rest: &str) -> String {
    let (end, patience) = (work + 4, work + 2);
    format!(
        r#"
[scenario]
name = "{name}"
duration = "{end}s"

[ca.mesh]
certificate_lifetime = "{life}"

[service.web]

[service.orders]
port = 8080
protocol = "http"
tls = {{ mode = "strict" }}
app = {{ http = {{ work = "{work}s" }} }}
sidecar = {{ timeouts = {{ drain = "500ms" }} }}
policy.retry.attempts = 0

[load.early]
from = "web"
url = "http://orders:8080/"
rate = "10/s"
at = "0s"
for = "1500ms"
timeout = "{patience}s"
{rest}
"#
    )
}

fn connections_of_a_workload_end_when_it_is_revoked_and_nothing_more_is_done_for_it() -> Told {
    let rest = r#"
[[expect]]
that = ["early.success == 0%", "early.latency.max < 5s"]
"#;
    let text = long("revoked under way", ("20s", 6), rest);
    let finds = &[Mutant::ForgetsOpenConnections, Mutant::IgnoresNewBundles];
    Told { text, deed: revoke_web, finds }
}

fn connections_of_a_root_that_is_gone_end_with_the_time_of_a_drain() -> Told {
    // It is announced after 8 s, signs from 10 s on, and is the only one from 12 s on: see
    // `rotate`. What is under way since the first second and a half has the time of a drain then.
    let rest = r#"
[[expect]]
that = ["early.success == 0%", "early.latency.max < 12500ms"]
"#;
    let text = long("an old root", ("2s", 14), rest);
    Told { text, deed: rotate, finds: &[Mutant::ForgetsOpenConnections] }
}

fn without_a_certificate(mode: &str) -> Told {
    // The authority is far away from `web`, so there is a while in which that is back and has no
    // certificate. gRPC, because an app refuses what was bridged and comes in plaintext.
    let orders = format!("tls = {{ mode = \"{mode}\" }}");
    let rest = r#"
[load.grpc]
from = "web"
url = "grpc://orders:8080/lab.Echo/Call"
rate = "50/s"
[[link]]
between = ["web", "mesh"]
delay = "250ms"
[[timeline]]
name = "back"
at = "2s"
kill = { process = "web/sidecar", restart = "500ms" }
[[expect]]
during = "0s..1900ms"
that = ["calls.errors == 0"]
[[expect]]
during = "2600ms..3s"
that = ["calls.success == 0%", "grpc.success == 0%", "orders/app.app_requests_total == 0"]
[[expect]]
that = ["orders/sidecar.proxy_connections_refused_total{result=\"not_secured\"} == 0"]
[[expect]]
after = "back.end"
within = "4s"
that = ["calls.errors == 0"]
"#;
    let text = mesh("no certificate yet", 8, ("20s", 50), &orders, rest);
    Told { text, deed: nothing, finds: &[Mutant::TalksWithoutACertificate] }
}

fn whoever_has_no_certificate_yet_speaks_to_no_strict_port() -> Told {
    without_a_certificate("strict")
}

fn whoever_has_no_certificate_yet_speaks_to_no_permissive_port() -> Told {
    without_a_certificate("permissive")
}

/// `orders` has a certificate of these keys, and is not talked to.
fn not_talked_to(name: &str, certificate: &str) -> String {
    let orders = format!(
        "tls = {{ ca = \"mesh\", mode = \"strict\", cert = \"other\" }}\n[cert.other]\n{certificate}"
    );
    let rest = r#"
[[expect]]
that = [
    "calls.success == 0%",
    "orders/app.app_requests_total == 0",
    "web/sidecar.proxy_errors_total{kind=\"handshake\"} > 0",
    "orders/sidecar.proxy_connections_refused_total{result=\"not_secured\"} > 0",
]
"#;
    mesh(name, 4, ("1h", 50), &orders, rest)
}

fn an_address_at_which_another_workload_answers_is_not_talked_to() -> Told {
    let thief = "ca = \"mesh\"\nid = \"spiffe://cluster.local/ns/default/sa/thief\"";
    let text = not_talked_to("wrong name", thief);
    Told { text, deed: nothing, finds: &[Mutant::TalksToAnybody] }
}

fn a_certificate_of_an_unknown_authority_is_not_believed() -> Told {
    let unknown = "ca = \"other\"\nid = \"spiffe://cluster.local/ns/default/sa/orders\"\ntrusts = [\"mesh\", \"other\"]\n[ca.other]\n[service.web]\ntls = { ca = \"mesh\" }";
    Told { text: not_talked_to("unknown authority", unknown), deed: nothing, finds: &[] }
}

fn a_certificate_that_nobody_renews_ends() -> Told {
    let orders = "tls = { ca = \"mesh\", mode = \"strict\", cert = \"short\" }\n[cert.short]\nca = \"mesh\"\nlifetime = \"6s\"";
    let rest = r#"
[[expect]]
during = "0s..3s"
that = ["calls.errors == 0"]
[[expect]]
during = "8s..10s"
that = ["calls.success == 0%", "web/sidecar.proxy_errors_total{kind=\"handshake\"} > 0"]
"#;
    let text = mesh("expiry", 10, ("1h", 50), orders, rest);
    Told { text, deed: nothing, finds: &[Mutant::BelievesTheExpired, Mutant::ResumesUnjudged] }
}

fn plaintext_is_refused_where_callers_must_prove_who_they_are() -> Told {
    let orders = format!("{STRICT}\n[service.web]\ntls = {{ mode = \"disabled\" }}");
    let rest = r#"
[[expect]]
that = [
    "calls.success == 0%",
    "orders/app.app_requests_total == 0",
    "orders/sidecar.proxy_connections_refused_total{result=\"not_secured\"} > 0",
]
"#;
    let text = mesh("plaintext", 4, ("1h", 50), &orders, rest);
    Told { text, deed: nothing, finds: &[Mutant::TakesPlaintext] }
}

fn what_policies_deny_reaches_no_app() -> Told {
    let orders = r#"
tls = { mode = "strict" }
[service.orders.authorization]
policy = [
    { name = "all", rule = [{ from = [{ principals = ["cluster.local/ns/default/sa/web"] }], to = [{ paths = ["/", "/secret"] }] }] },
    { name = "secret", action = "deny", rule = [{ to = [{ paths = ["/secret"] }] }] },
]
"#;
    let rest = r#"
[load.secret]
from = "web"
url = "http://orders:8080/secret"
rate = "20/s"
[load.unnamed]
from = "web"
url = "http://orders:8080/unnamed"
rate = "20/s"
[[expect]]
that = ["calls.errors == 0", "secret.success == 0%", "unnamed.success == 0%"]
"#;
    let text = mesh("policies", 4, ("1h", 50), orders, rest);
    let finds = &[Mutant::AllowsBeforeItDenies, Mutant::AllowsWhatNobodyAllows];
    Told { text, deed: nothing, finds }
}

#[test]
fn sessions_are_resumed_at_every_replica() {
    let orders = format!("{STRICT}\nreplicas = 3");
    let scenario = parse("sessions", &mesh("sessions", 6, ("1h", 100), &orders, ""));
    let run = run_scenario(&scenario, 1, SwarmOptions::default()).expect("a run that ends");
    let mut handshakes: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for (_, process, event) in run.facts.sidecar_events() {
        if let (LogEvent::ServerProved { address, resumed, .. }, "web/sidecar") = (event, &**process) {
            let (full, again) = handshakes.entry(address).or_default();
            *if *resumed { again } else { full } += 1;
        }
    }
    assert_eq!(handshakes.len(), 3, "{handshakes:?}");
    assert!(handshakes.values().all(|(full, again)| *full <= 2 && *again >= 5), "{handshakes:?}");
}

fn traced(scenario: &Scenario, seed: u64) -> History {
    history(scenario, SidecarKind::Ours, seed, Keep { trace: true, ..Keep::default() })
        .expect("a run that ends")
}

#[test]
fn every_byte_under_tls_follows_from_the_seed() {
    let rest = "\n[[timeline]]\nat = \"1s\"\nkill = { process = \"mesh/ca\", restart = \"1s\" }\n";
    let scenario = parse("bytes", &mesh("bytes", 5, ("2s", 50), STRICT, rest));
    let first = traced(&scenario, 1);
    assert!(first.trace.first_difference(&traced(&scenario, 2).trace).is_some(), "the seed changes nothing");
    let again =
        std::thread::scope(|scope| scope.spawn(|| traced(&scenario, 1).trace).join().expect("the run ends"));
    assert_eq!(first.trace.first_difference(&again), None);
    assert_eq!(first.trace.hash(), again.hash());
}
