//! The command line of the sidecar: `run`, `check`, `policy`, `ca`, `audit`, and `rules` for a
//! container's init step.
//!
//! Parses, dispatches and prints; what is done is done elsewhere. Results go to standard output,
//! errors to standard error, each with what to do about it. Exit codes are part of the interface
//! and are listed in `--help`.

mod audit;
mod ca;
mod policy;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use miette::Report;

use crate::app::{FAILED, Options};
use crate::capture::rules::{Cidr, Family, Rules};
use crate::config::{self, Audit, DefaultAction, Identity, IdentitySource, JwksSource, JwtProvider};
use crate::config::{PolicyAction, Protocol, Snapshot, defaults, units};
use crate::jwk_set::KeySet;
use crate::{errln, out, outln, output};

/// The arguments or the configuration are not valid.
pub const INVALID: u8 = 2;
/// This machine cannot do it: a program, a capability or a part of the kernel is missing.
pub const INCAPABLE: u8 = 3;

const EXIT_CODES: &str = "Exit codes:\n  0  done\n  1  failed at run time\n  2  arguments or configuration invalid\n  \
                          3  this machine cannot do it (iptables, a capability or a part of the kernel is missing)";

/// A service-mesh sidecar.
#[derive(Debug, Parser)]
#[command(name = "proxy", version, about, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar until SIGTERM, or until the app ends if it is given after `--`. SIGHUP, or a
    /// change of the file, reloads the configuration.
    Run {
        /// The configuration, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Data-plane threads, instead of what the configuration says.
        #[arg(long, value_name = "N", value_parser = workers)]
        workers: Option<usize>,
        /// Take this group once the command has started, so that rules which exempt it leave the
        /// sidecar's connections alone and capture the command's. Takes root.
        #[arg(long, value_name = "GID")]
        gid: Option<u32>,
        /// Become this user, and its group unless --gid says another, before anything is dialled.
        /// Takes root. Not with a command, which could not become root again.
        #[arg(long, value_name = "UID", conflicts_with = "command")]
        uid: Option<u32>,
        /// The app: started when the sidecar is ready, told to end when requests to it are drained.
        /// The sidecar ends with it, and with its exit code.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Check a configuration and say what it amounts to.
    Check {
        /// The configuration, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say what policies about callers decide, or translate Istio's.
    #[command(after_help = EXIT_CODES)]
    Policy {
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Check an audit log.
    #[command(after_help = EXIT_CODES)]
    Audit {
        #[command(subcommand)]
        command: audit::AuditCommand,
    },
    /// Run a certificate authority for the mesh, and look after it.
    #[command(after_help = EXIT_CODES)]
    Ca {
        #[command(subcommand)]
        command: ca::CaCommand,
    },
    /// Manage the iptables rules that bring connections to the sidecar, in the current network
    /// namespace.
    #[command(after_help = EXIT_CODES)]
    Rules {
        #[command(subcommand)]
        action: Action,
    },
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put the rules into force. Doing it again changes nothing.
    Apply(RulesArgs),
    /// Take the rules out, whatever options they were applied with.
    Remove {
        /// Where.
        #[arg(long, value_enum, default_value_t = AddressFamilies::Both)]
        family: AddressFamilies,
    },
    /// Print the rules as text for `iptables-restore --noflush`, and change nothing.
    Print {
        #[command(flatten)]
        rules: RulesArgs,
        /// Print the text that takes them out again instead.
        #[arg(long)]
        undo: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AddressFamilies {
    #[value(name = "4")]
    V4,
    #[value(name = "6")]
    V6,
    Both,
}

impl AddressFamilies {
    fn list(self) -> Vec<Family> {
        match self {
            AddressFamilies::V4 => vec![Family::V4],
            AddressFamilies::V6 => vec![Family::V6],
            AddressFamilies::Both => Family::BOTH.to_vec(),
        }
    }
}

#[derive(Debug, Args)]
struct RulesArgs {
    /// Where: IPv4, IPv6 or both.
    #[arg(long, value_enum, default_value_t = AddressFamilies::Both)]
    family: AddressFamilies,
    /// User that the sidecar runs as; its connections are not captured.
    #[arg(long, default_value_t = defaults::EXEMPT_ID)]
    uid: u32,
    /// Group that the sidecar runs as; its connections are not captured.
    #[arg(long, default_value_t = defaults::EXEMPT_ID)]
    gid: u32,
    /// Socket mark of the sidecar's connections (`mark` in its configuration); they are not
    /// captured.
    #[arg(long)]
    mark: Option<u32>,
    /// The sidecar's listener for connections from the app.
    #[arg(long, value_name = "PORT", default_value_t = defaults::OUTBOUND_PORT, value_parser = port())]
    outbound_port: u16,
    /// The sidecar's listener for connections to the app.
    #[arg(long, value_name = "PORT", default_value_t = defaults::INBOUND_PORT, value_parser = port())]
    inbound_port: u16,
    /// Ports where connections from outside are not captured, separated by commas.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port(),
        default_values_t = [defaults::METRICS_PORT, defaults::HEALTH_PORT])]
    exclude_inbound_ports: Vec<u16>,
    /// Ports to which the app's connections are not captured, separated by commas.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port())]
    exclude_outbound_ports: Vec<u16>,
    /// Networks to which the app's connections are not captured, separated by commas.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    exclude_outbound_cidrs: Vec<Cidr>,
}

fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers @ 1..=defaults::MAX_WORKERS) => Ok(workers),
        Ok(_) => Err(format!("from 1 to {}", defaults::MAX_WORKERS)),
        Err(_) => Err("not a whole number".into()),
    }
}

impl RulesArgs {
    fn rules(self) -> Rules {
        Rules {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            uid: self.uid,
            gid: self.gid,
            mark: self.mark,
            exclude_inbound_ports: self.exclude_inbound_ports,
            exclude_outbound_ports: self.exclude_outbound_ports,
            exclude_outbound_cidrs: self.exclude_outbound_cidrs,
            families: self.family.list(),
        }
    }
}

/// Does what the command line of this process asks for.
pub fn main() -> ExitCode {
    let code = output::arguments::<Cli>().map_or_else(|code| code, Cli::perform);
    if code == ExitCode::SUCCESS && output::has_failed() { ExitCode::from(FAILED) } else { code }
}

impl Cli {
    /// Does what it asks for. What is printed may be lost: [`main`] says so in its exit code.
    pub fn perform(self) -> ExitCode {
        match self.command {
            Command::Run { config, workers, gid, uid, command } => {
                crate::app::run(&config, Options { workers, command, group: gid, user: uid })
            }
            Command::Check { config } => check(&config),
            Command::Policy { command } => command.perform(),
            Command::Audit { command } => command.perform(),
            Command::Ca { command } => command.perform(),
            Command::Rules { action: Action::Print { rules, undo } } => {
                out!("{}", rules_text(&rules.rules(), undo));
                ExitCode::SUCCESS
            }
            Command::Rules { action: Action::Apply(rules) } => done(rules.rules().apply()),
            Command::Rules { action: Action::Remove { family } } => {
                done(Rules { families: family.list(), ..Rules::default() }.remove())
            }
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match config::load(path) {
        Ok(snapshot) => {
            let sets: Vec<_> = snapshot.jwt.iter().filter_map(|issuer| key_set(issuer)).collect();
            for Ok(said) | Err(said) in &sets {
                errln!("{said}");
            }
            if sets.iter().any(Result::is_err) {
                return ExitCode::from(INVALID);
            }
            outln!("{}: ok\n{}", path.display(), summary(&snapshot));
            for doubt in snapshot.doubts() {
                errln!("warning: {doubt}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            errln!("{:?}", Report::new(error));
            ExitCode::from(INVALID)
        }
    }
}

/// What there is to say of an issuer's keys: which are not used, or as an error that none is. A
/// file that cannot be read may still come.
fn key_set(issuer: &JwtProvider) -> Option<Result<String, String>> {
    let (text, from) = match &issuer.jwks {
        JwksSource::Inline(text) => (text.to_string(), "`inline`".into()),
        JwksSource::File(path) => (config::read(path).ok()?, path.display().to_string()),
        JwksSource::Url(_) => return None,
    };
    let about = |what: String| format!("tokens of {}: {from}: {what}", issuer.name);
    match KeySet::read(&text) {
        Ok(set) => Some(Ok(about(format!("not used: {}", set.left_out()?)))),
        Err(why) => Some(Err(about(format!("it is not a key set: {why}")))),
    }
}

fn done(result: Result<crate::capture::rules::Report, crate::capture::rules::RulesError>) -> ExitCode {
    match result {
        Ok(report) => {
            outln!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = if error.is_the_machine() { INCAPABLE } else { FAILED };
            errln!("{:?}", Report::new(error));
            ExitCode::from(code)
        }
    }
}

fn rules_text(rules: &Rules, undo: bool) -> String {
    let text = |family: &Family| {
        let program = if *family == Family::V4 { "iptables-restore" } else { "ip6tables-restore" };
        let text = if undo { rules.remove_text(*family) } else { rules.apply_text(*family) };
        let address = match (family, undo) {
            (Family::V4, _) => "",
            (Family::V6, false) => "# and: ip -6 address add ::6/128 dev lo\n",
            (Family::V6, true) => "# and: ip -6 address delete ::6/128 dev lo\n",
        };
        format!("# {family}, for {program} -w --noflush\n{address}{text}")
    };
    rules.families.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// What a configuration amounts to, for somebody who wants to see it confirmed.
fn summary(snapshot: &Snapshot) -> String {
    let listen = snapshot.listen;
    let mut lines = vec![
        format!("  service   {} (instance {})", snapshot.service, snapshot.instance),
        format!(
            "  listen    outbound {}, inbound {}, admin {}, metrics {}, health {}",
            listen.outbound, listen.inbound, listen.admin, listen.metrics, listen.health
        ),
        format!(
            "  timeouts  connect {}, detect {}, pool idle {}, drain {} after {}",
            units::show(snapshot.timeouts.connect),
            units::show(snapshot.timeouts.detect),
            units::show(snapshot.timeouts.pool_idle),
            units::show(snapshot.timeouts.drain),
            units::show(snapshot.timeouts.drain_min)
        ),
    ];
    for cluster in &snapshot.clusters {
        let addresses: Vec<_> = cluster.addresses.iter().map(ToString::to_string).collect();
        let count = cluster.endpoints.len();
        lines.push(format!(
            "  cluster   {}: {}, {}, {count} endpoint{}, retries {}",
            cluster.name,
            addresses.join(" "),
            protocol(cluster.protocol),
            if count == 1 { "" } else { "s" },
            cluster.retry.attempts
        ));
    }
    for (port, spoken) in &snapshot.inbound {
        lines.push(format!("  inbound   {port}: {}", protocol(*spoken)));
    }
    if !snapshot.passthrough {
        lines.push("  other     connections to addresses outside every cluster are refused".into());
    }
    lines.extend(access(snapshot));
    lines.join("\n")
}

/// Who the workload is, whom it lets in, and what is written down of that.
fn access(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(Identity { id, source }) = &snapshot.identity {
        let source = match source {
            IdentitySource::Files(folder) => format!("files in {}", folder.display()),
            IdentitySource::Ca(ca) => {
                let addresses: Vec<_> = ca.addresses.iter().map(ToString::to_string).collect();
                format!("the authority at {}", addresses.join(" "))
            }
            IdentitySource::WorkloadApi(_) => "an agent".into(),
        };
        lines.push(format!("  identity  {id}, by {source}"));
        let ports = &snapshot.inbound_port_tls;
        let ports: String = ports.iter().map(|(port, mode)| format!(", {port} {}", mode.word())).collect();
        lines.push(format!("  tls       {}{ports}", snapshot.tls.mode.word()));
    }
    for issuer in &snapshot.jwt {
        lines.push(format!("  tokens    of {} ({})", issuer.name, issuer.issuer));
    }
    let authorization = &snapshot.authorization;
    for policy in &authorization.policies {
        let dry_run = if policy.dry_run { ", in dry run" } else { "" };
        let action = match policy.action {
            PolicyAction::Allow => "allows",
            PolicyAction::Deny => "denies",
            PolicyAction::Audit => "audits",
            PolicyAction::Custom(position) => &format!("asks {}", authorization.authorizers[position].name),
        };
        let (name, rules) = (&policy.name, policy.rules.len());
        let many = if rules == 1 { "" } else { "s" };
        lines.push(format!("  policy    {name}: {action} by {rules} rule{many}{dry_run}"));
    }
    if authorization.default == DefaultAction::Deny {
        lines.push("  policy    what none allows is denied".into());
    }
    if let Some(Audit { directory, when_full, .. }) = &snapshot.audit {
        let word = when_full.word();
        lines.push(format!("  audit     in {}, when full: {word}", directory.display()));
    }
    lines
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detect",
        Protocol::Http => "http",
        Protocol::Tcp => "tcp",
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::authz::fake::Signer;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_check_looks_at_key_sets_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let text = format!("service = 'x'\n[[jwt]]\nname = 'idp'\nissuer = 'i'\njwks.file = {path:?}\n");
        let snapshot = config::parse("x", &text).unwrap();
        let said = || key_set(&snapshot.jwt[0]);
        assert_eq!(said(), None, "it may come later");
        let good = Signer::A.jwk().to_string();
        let bad = r#"{"kty": "OKP", "crv": "Ed25519", "kid": "old", "x": "AA"}"#;
        std::fs::write(&path, format!("{{\"keys\": [{good}]}}")).unwrap();
        assert_eq!(said(), None);
        std::fs::write(&path, format!("{{\"keys\": [{bad}, {good}]}}")).unwrap();
        let left_out = said().unwrap().unwrap();
        assert!(
            left_out
                .ends_with("keys.json: not used: key \"old\": an Ed25519 key has 32 bytes, and this has 1"),
            "{left_out}"
        );
        std::fs::write(&path, format!("{{\"keys\": [{bad}]}}")).unwrap();
        assert!(said().unwrap().unwrap_err().contains("keys.json: it is not a key set: no key verifies"));
    }

    #[test]
    fn rules_without_options_are_the_default_rules() {
        let cli = Cli::try_parse_from(["proxy", "rules", "apply"]).unwrap();
        let Command::Rules { action: Action::Apply(arguments) } = cli.command else {
            panic!("it is `apply`")
        };
        assert_eq!(arguments.rules(), Rules::default());
    }

    #[test]
    fn every_option_of_the_rules_reaches_them() {
        let text = "proxy rules print --family 6 --uid 1 --gid 2 --mark 3 --outbound-port 4 --inbound-port 5 \
                    --exclude-inbound-ports 6,7 --exclude-outbound-ports 8 --exclude-outbound-cidrs 10.0.0.0/8,fd00::/8";
        let cli = Cli::try_parse_from(text.split_whitespace()).unwrap();
        let Command::Rules { action: Action::Print { rules, undo: false } } = cli.command else {
            panic!("it is `print`")
        };
        let expected = Rules {
            outbound_port: 4,
            inbound_port: 5,
            uid: 1,
            gid: 2,
            mark: Some(3),
            exclude_inbound_ports: vec![6, 7],
            exclude_outbound_ports: vec![8],
            exclude_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            families: vec![Family::V6],
        };
        assert_eq!(rules.rules(), expected);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for text in [
            "proxy run --config a --workers 0",
            "proxy rules apply --inbound-port 0",
            "proxy rules apply --exclude-outbound-cidrs 10.0.0.0/33",
            "proxy rules apply --family 5",
            "proxy run",
        ] {
            assert!(Cli::try_parse_from(text.split_whitespace()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_summary_shows_what_was_understood() {
        let text = r#"
service = "web"
passthrough = false
inbound = [{ port = 8080, protocol = "http" }]
[[cluster]]
name = "orders"
addresses = ["10.96.0.10:80"]
endpoints = ["10.0.0.11:8080"]
"#;
        assert_eq!(
            summary(&config::parse("sidecar.toml", text).unwrap()),
            "  service   web (instance web)\n  \
             listen    outbound 15001, inbound 15006, admin 15000, metrics 15020, health 15021\n  \
             timeouts  connect 1s, detect 1s, pool idle 3s, drain 25s after 5s\n  \
             cluster   orders: 10.96.0.10:80, detect, 1 endpoint, retries 2\n  \
             inbound   8080: http\n  \
             other     connections to addresses outside every cluster are refused"
        );
    }

    #[test]
    fn the_summary_shows_who_may_call_and_what_is_written_down() {
        let text = r#"
service = "web"
inbound = [{ port = 8080, tls = "strict" }]
[identity]
id = "spiffe://mesh.test/ns/shop/sa/web"
files = "/certificates"
[[jwt]]
name = "staff"
issuer = "https://idp.example"
jwks = { file = "/keys.json" }
[authorization]
default = "deny"
[[authorization.policy]]
name = "readers"
rule = [{ to = [{ methods = ["GET"] }] }]
[[authorization.policy]]
name = "trial"
action = "deny"
dry_run = true
rule = [{}, {}]
[audit]
directory = "/audit"
when_full = "block"
"#;
        let summary = summary(&config::parse("sidecar.toml", text).unwrap());
        assert!(
            summary.ends_with(
                "  identity  spiffe://mesh.test/ns/shop/sa/web, by files in /certificates\n  \
                 tls       permissive, 8080 strict\n  \
                 tokens    of staff (https://idp.example)\n  \
                 policy    readers: allows by 1 rule\n  \
                 policy    trial: denies by 2 rules, in dry run\n  \
                 policy    what none allows is denied\n  \
                 audit     in /audit, when full: block"
            ),
            "{summary}"
        );
    }
}
