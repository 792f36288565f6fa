//! `proxy policy`: what policies decide, without a sidecar, and Istio's policies in our words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Uri};
use http::{Method, Request};
use http_body_util::Empty;
use miette::Report;
use serde_json::{Map, Value};

use super::INVALID;
use crate::app::FAILED;
use crate::authz::explain::explain;
use crate::authz::import::{ImportOptions, WHICH, import};
use crate::authz::{Facts, Policies, RequestFacts, Ruling, Token, path, remote_address};
use crate::config::{self, Snapshot};
use crate::host;
use crate::http::strict::is_target;
use crate::http::target;
use crate::spiffe_id::SpiffeId;
use crate::{errln, out, outln};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say what the policies of a configuration decide about a request or a connection, and why.
    Test(TestArgs),
    /// Translate Istio's AuthorizationPolicy and RequestAuthentication into tables of the
    /// configuration. Nothing is printed if a part of them cannot be translated, unless
    /// `--partial`.
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The configuration, TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The identity that the caller's certificate proves. Default: none.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Option<SpiffeId>,
    /// Where the connection comes from.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    source: IpAddr,
    /// Where it goes to.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    destination: IpAddr,
    /// The app's port.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// It is a connection that is not HTTP.
    #[arg(long, conflicts_with_all = ["method", "path", "host", "header", "claims", "remote"])]
    tcp: bool,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// The path, or the whole target of the request: `/a?b=c`, `http://orders/a`, `*`.
    #[arg(long, default_value = "/", value_parser = request_path)]
    path: Uri,
    /// The host.
    #[arg(long, default_value = "")]
    host: String,
    /// A header, "name: value". May be given again.
    #[arg(long, value_name = "HEADER", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// The claims of a valid token, JSON. Default: there is no token.
    #[arg(long, value_name = "JSON", value_parser = claims)]
    claims: Option<Map<String, Value>>,
    /// Where the request comes from, as trusted proxies say. Default: what `x-forwarded-for` says
    /// with the configuration's `trusted_hops`.
    #[arg(long, value_name = "ADDRESS")]
    remote: Option<IpAddr>,
    /// Fail unless this is the decision.
    #[arg(long, value_enum, value_name = "DECISION")]
    expect: Option<Expected>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Expected {
    Allow,
    Deny,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Files of YAML.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A label of the workload, "key=value"; policies that select others are passed over. May be
    /// given again. Without any, all policies count as meant for it.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: Vec<(String, String)>,
    /// The namespace of the workload; policies of others are passed over, except those of
    /// istio-system. Default: that of the first policy, and it is a mistake if there are several.
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The trust domain that `cluster.local` stands for. Default: it stays as it is.
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// Print what can be translated, even if that is not all.
    #[arg(long)]
    partial: bool,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it like \"x-team: blue\"")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
    let value = value.trim().parse().map_err(|_| format!("{value:?} is not the value of a header"))?;
    Ok((name, value))
}

/// Sidecars refuse requests with any other, whatever policies say.
fn request_path(text: &str) -> Result<Uri, String> {
    let target = text.parse::<Uri>().ok().filter(|_| is_target(text.as_bytes()));
    // The target of CONNECT has no path.
    let target = target.filter(|target| !target.path().is_empty() || target.port_u16().is_some());
    target.ok_or_else(|| "no request has such a path".into())
}

fn claims(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not an object of JSON: {error}"))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it like app=orders")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl PolicyCommand {
    pub(super) fn perform(self) -> ExitCode {
        match self {
            PolicyCommand::Test(arguments) => arguments.perform(),
            PolicyCommand::Import(arguments) => arguments.perform(),
        }
    }
}

impl TestArgs {
    fn perform(self) -> ExitCode {
        let snapshot = match config::load(&self.config) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                errln!("{:?}", Report::new(error));
                return ExitCode::from(INVALID);
            }
        };
        let (said, allowed) = self.explain(&snapshot);
        out!("{said}");
        match self.expect {
            Some(expected) if allowed != (expected == Expected::Allow) => ExitCode::from(FAILED),
            _ => ExitCode::SUCCESS,
        }
    }

    /// Why the sidecar refuses the request before policies see it.
    fn is_refused(&self) -> Option<&'static str> {
        let request = Request::builder().method(&self.method).uri(&self.path).header(HOST, &self.host);
        match request.body(Empty::<Bytes>::new()) {
            _ if self.tcp => None,
            Ok(request) => target::check(&request).err(),
            Err(_) => Some("this is not a host"),
        }
    }

    /// What is decided and why, and whether it may pass.
    fn explain(&self, snapshot: &Snapshot) -> (String, bool) {
        let (config, port) = (&*snapshot.authorization, self.port);
        if let Some(why) = self.is_refused() {
            return (format!("denied: {why} (status 400)\n"), false);
        }
        if self.method == Method::CONNECT && !snapshot.inbound_connect.contains(&port) {
            return (
                format!("denied: [[inbound]] of port {port} has no `connect = true` (status 501)\n"),
                false,
            );
        }
        let Ok(path) = path::normalize(self.path.path(), config.path_normalization) else {
            return ("denied: the path has an escape that is none, or %00 (status 400)\n".into(), false);
        };
        let headers: HeaderMap = self.header.iter().cloned().collect();
        let host = host::comparable(self.path.authority().map_or(&self.host, Authority::as_str));
        let token = self.claims.clone().map(Token::of);
        let source = self.source.to_canonical();
        let request = RequestFacts {
            remote: self.remote.map_or_else(
                || remote_address(source, &headers, config.trusted_hops),
                |remote| remote.to_canonical(),
            ),
            host: &host,
            method: self.method.as_str(),
            path: &path,
            headers: &headers,
            token: token.as_ref(),
        };
        let facts = Facts {
            source,
            destination: SocketAddr::new(self.destination.to_canonical(), self.port),
            identity: self.identity.as_ref(),
            request: (!self.tcp).then_some(request),
        };
        let policies = Policies::new(config);
        let decision = policies.decide(&facts);
        let mut said = format!("{}\n", ruling(&decision.enforced));
        let mut line = |text: String| writeln!(said, "{text}").expect("a string");
        if let Some((position, rule)) = policies.authorizer(&facts) {
            line(format!("but first {} is asked ({rule})", config.authorizers[position].name));
        }
        if let Some(proposed) = &decision.proposed {
            line(format!("{} if policies in dry run were in force", ruling(proposed)));
        }
        if let Some(rule) = &decision.audited {
            line(format!("audited by {rule}"));
        }
        if path != self.path.path() {
            line(format!("the path is {path:?} once it is normalised"));
        }
        line(String::new());
        for policy in explain(config, &facts) {
            said += &policy.to_string();
        }
        (said, decision.enforced.allowed)
    }
}

fn ruling(ruling: &Ruling) -> String {
    let word = if ruling.allowed { "allowed" } else { "denied" };
    match &ruling.rule {
        Some(rule) => format!("{word} by {rule}"),
        None if ruling.allowed => format!("{word}: no policy denies it, and none allows only some"),
        None => format!("{word}: no policy allows it"),
    }
}

impl ImportArgs {
    fn perform(self) -> ExitCode {
        let labels = (!self.label.is_empty()).then(|| self.label.iter().cloned().collect::<BTreeMap<_, _>>());
        let options = ImportOptions { labels, namespace: self.namespace, trust_domain: self.trust_domain };
        let mut taken: Option<String> = None;
        let (mut toml, mut whole) = (String::new(), true);
        for path in &self.files {
            match read(path, &options) {
                Ok(imported) => {
                    if let (None, Some(one), Some(other)) = (&options.namespace, &taken, &imported.namespace)
                        && one != other
                    {
                        let path = path.display();
                        errln!(
                            "{path}: its policies are of namespace {other}, and others are of {one}: {WHICH}"
                        );
                        whole = false;
                    }
                    taken = taken.or_else(|| imported.namespace.clone());
                    for remark in &imported.remarks {
                        errln!("{}:{remark}", path.display());
                    }
                    whole &= imported.is_whole();
                    toml += &imported.toml;
                }
                Err(why) => {
                    errln!("{why}");
                    return ExitCode::from(INVALID);
                }
            }
        }
        if whole || self.partial {
            outln!("{}", toml.trim_end());
        } else {
            errln!("nothing is printed, because this is not all of it; --partial prints the rest");
        }
        if whole { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
    }
}

fn read(path: &Path, options: &ImportOptions) -> Result<crate::authz::import::Imported, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    import(&text, options).map_err(|remark| format!("{}:{}: {}", path.display(), remark.line, remark.message))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: PolicyCommand,
    }

    const TEXT: &str = "service = 'orders'
[[authorization.policy]]
name = 'web'
rule = [{ from = [{ namespaces = ['shop'] }, { ip_blocks = ['10.0.0.0/8'] }], to = [{ paths = ['/orders/*'] }] }]
[[authorization.policy]]
name = 'admin'
action = 'deny'
rule = [{ when = [{ key = 'request.auth.claims[groups]', not_values = ['staff'] }], to = [{ paths = ['*/admin'] }] }]
[[authorization.policy]]
name = 'trial'
action = 'deny'
dry_run = true
rule = [{}]
";

    fn said(arguments: &[&str]) -> (String, bool) {
        said_of(TEXT, arguments)
    }

    fn said_of(text: &str, arguments: &[&str]) -> (String, bool) {
        let line = ["proxy", "test", "--config", "x"].iter().chain(arguments);
        let PolicyCommand::Test(arguments) =
            Line::try_parse_from(line).unwrap_or_else(|e| panic!("{e}")).command
        else {
            panic!("it is `test`")
        };
        arguments.explain(&config::parse("x", text).unwrap())
    }

    #[test]
    fn what_no_request_can_be_is_not_asked_about() {
        for arguments in [["--path", "/a b"], ["--path", "orders"], ["--path", "/#x"], ["--method", "GE T"]] {
            let line = ["proxy", "test", "--config", "x"].iter().chain(&arguments);
            assert!(Line::try_parse_from(line).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_request_is_decided_about_as_the_sidecar_does() {
        let text = "service = 'x'\n[[inbound]]\nport = 3128\nconnect = true\n[authorization]\ntrusted_hops = 1\n[[authorization.policy]]\nname = 'no'\naction = 'deny'\n\
                    rule = [{ to = [{ paths = ['/admin', '*'], hosts = ['a.example'] }, { paths = ['/admin'] }] }, \
                    { from = [{ remote_ip_blocks = ['1.2.3.4'] }] }, { from = [{ ip_blocks = ['10.0.0.0/8'] }] }]\n";
        for (arguments, allowed) in [
            (&["--path", "/a?x=/admin"][..], true),
            (&["--path", "/admin?x=1"], false),
            (&["--path", "http://b.example/admin"], false),
            (&["--path", "http://a.example/x", "--host", "b.example"], false),
            (&["--path", "http://b.example/x", "--host", "a.example"], true),
            (&["--path", "*", "--method", "OPTIONS"], true),
            (&["--path", "*", "--method", "OPTIONS", "--host", "a.example"], false),
            (&["--path", "*"], false),
            (&["--path", "ftp://b.example/"], false),
            (&["--path", "b.example:80"], false),
            (&["--path", "b.example:80", "--method", "CONNECT"], false),
            (&["--path", "b.example:80", "--method", "CONNECT", "--port", "3128"], true),
            (&["--method", "CONNECT"], false),
            (&["--host", "a b"], false),
            (&["--header", "x-forwarded-for: 9.9.9.9, 1.2.3.4"], false),
            (&["--header", "x-forwarded-for: 1.2.3.4, 9.9.9.9"], true),
            (&["--header", "x-forwarded-for: 1.2.3.4", "--remote", "9.9.9.9"], true),
            (&["--remote", "::ffff:1.2.3.4"], false),
            (&["--source", "::ffff:10.0.0.1"], false),
        ] {
            assert_eq!(said_of(text, arguments).1, allowed, "{arguments:?}");
        }
    }

    #[test]
    fn a_decision_is_explained_policy_by_policy() {
        let (text, allowed) = said(&[
            "--identity",
            "spiffe://td/ns/shop/sa/web",
            "--path",
            "/x/../orders/1",
            "--host",
            "O.example",
        ]);
        assert!(allowed);
        assert_eq!(
            text,
            "allowed by web, rule 1\n\
             denied by trial, rule 1 if policies in dry run were in force\n\
             the path is \"/orders/1\" once it is normalised\n\
             \n\
             web (allow) matches\n  rule 1: matches\n\
             admin (deny) does not match\n  rule 1: `to`: path is \"/orders/1\", and must be one of \"*/admin\"\n\
             trial (deny, dry run) matches\n  rule 1: matches\n"
        );
        let (text, allowed) =
            said(&["--path", "/orders/admin", "--claims", "{\"groups\": [\"staff\", \"x\"]}"]);
        assert!(!allowed);
        for line in [
            "denied: no policy allows it\n",
            "  rule 1: `from`: source.namespace is nothing, and must be one of \"shop\"; source.ip is 127.0.0.1, and must be one of \"10.0.0.0/8\"\n",
            "  rule 1: `when`: request.auth.claims[groups] is \"staff\", \"x\", and must be none of \"staff\"\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let (text, _) = said(&["--tcp", "--source", "10.0.0.1"]);
        assert!(
            text.contains("web (allow) does not match\n  rule 1: it asks for something of HTTP"),
            "{text}"
        );
        assert!(text.starts_with("denied by admin, rule 1\n"), "{text}");
        assert_eq!(
            said(&["--path", "/%zz"]).0.lines().next().unwrap(),
            "denied: the path has an escape that is none, or %00 (status 400)"
        );
    }

    #[test]
    fn what_is_no_header_and_no_claims_is_refused() {
        for wrong in [["--header", "x"], ["--header", "a b: c"], ["--claims", "[]"], ["--identity", "web"]] {
            let line = ["proxy", "test", "--config", "x"].iter().chain(&wrong);
            assert!(Line::try_parse_from(line).is_err(), "{wrong:?}");
        }
    }
}
