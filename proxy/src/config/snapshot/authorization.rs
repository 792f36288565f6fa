//! Who may call the app, as it was checked. `authz` compiles it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::dump;

/// `[authorization]`, complete and checked. The default one lets everything pass.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Authorization {
    /// What happens to what no policy decides.
    pub default: DefaultAction,
    /// How paths are made comparable.
    pub path_normalization: PathNormalization,
    /// How many of the last addresses in `x-forwarded-for` were written by trusted proxies.
    pub trusted_hops: usize,
    /// External authorizers.
    pub authorizers: Vec<Arc<ExternalAuthorizer>>,
    /// Policies, in the order of the file.
    pub policies: Vec<AuthorizationPolicy>,
}

/// What happens to what no policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultAction {
    /// It passes, as in Istio, as long as there is no policy that allows.
    #[default]
    Allow,
    /// It does not.
    Deny,
}

/// How a path is made comparable before policies see it, and before the app does: Istio's
/// `pathNormalization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathNormalization {
    /// Not at all.
    None,
    /// Escapes that need not be are undone, `\` becomes `/`, and `.` and `..` are resolved (RFC
    /// 3986 section 6.2.2).
    #[default]
    Base,
    /// The same, and then `//` becomes `/`.
    MergeSlashes,
    /// The same after `%2F` and `%5C` have become `/`.
    DecodeAndMergeSlashes,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuthorizationPolicy {
    /// Its name, in decisions.
    pub name: Arc<str>,
    /// What it does with what it matches.
    pub action: PolicyAction,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// It matches if one of these does.
    pub rules: Vec<PolicyRule>,
}

/// What a policy does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyAction {
    /// Lets it pass. If there is such a policy, what none of them matches is denied.
    Allow,
    /// Denies it, whatever allows it.
    Deny,
    /// Marks it for the audit log.
    Audit,
    /// Asks an external authorizer, by its position; denies and allows come after it.
    Custom(usize),
}

/// A rule of a policy: a source, an operation and all conditions.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct PolicyRule {
    /// One of these, each of whose tests holds; any source if there is none.
    pub from: Vec<Vec<AttributeTest>>,
    /// One of these, each of whose tests holds; any operation if there is none.
    pub to: Vec<Vec<AttributeTest>>,
    /// Each of these holds.
    pub when: Vec<AttributeTest>,
}

/// Whether an attribute has one of some values, and none of others.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributeTest {
    /// What is looked at.
    pub attribute: Attribute,
    /// One of these; if there is none, it does not matter.
    pub values: Vec<ValuePattern>,
    /// None of these. An attribute that there is not has none.
    pub not_values: Vec<ValuePattern>,
}

/// With values as the file writes them, but for those of headers, which may be secrets.
impl Serialize for AttributeTest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let redacted = matches!(&self.attribute, Attribute::Header(name) if dump::may_be_secret(name));
        let shown = |patterns: &[ValuePattern]| -> Vec<String> {
            let secret = |pattern: &ValuePattern| redacted && *pattern != ValuePattern::Present;
            let shown =
                patterns.iter().map(|p| if secret(p) { dump::REDACTED.into() } else { p.to_string() });
            shown.collect()
        };
        let mut test = to.serialize_struct("AttributeTest", 3)?;
        test.serialize_field("key", &self.attribute.to_string())?;
        test.serialize_field("values", &shown(&self.values))?;
        test.serialize_field("not_values", &shown(&self.not_values))?;
        test.end()
    }
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// The identity of the caller's certificate, without `spiffe://`.
    Principal,
    /// Its namespace.
    Namespace,
    /// The address that the connection comes from.
    SourceIp,
    /// The address that the request comes from, as trusted proxies say.
    RemoteIp,
    /// The address that the connection is for.
    DestinationIp,
    /// The app's port.
    DestinationPort,
    /// `issuer/subject` of the request's token.
    RequestPrincipal,
    /// The token's `aud`.
    Audience,
    /// The token's `azp`.
    Presenter,
    /// A claim of the token, by the keys that lead to it.
    Claim(Vec<String>),
    /// A header.
    Header(HeaderName),
    /// The host, in lower case, with its port if it has one.
    Host,
    /// The method.
    Method,
    /// The normalised path, without the query.
    Path,
}

impl Attribute {
    /// Whether only HTTP has it.
    pub fn is_http(&self) -> bool {
        match self {
            Attribute::Principal
            | Attribute::Namespace
            | Attribute::SourceIp
            | Attribute::RemoteIp
            | Attribute::DestinationIp
            | Attribute::DestinationPort => false,
            Attribute::RequestPrincipal
            | Attribute::Audience
            | Attribute::Presenter
            | Attribute::Claim(_)
            | Attribute::Header(_)
            | Attribute::Host
            | Attribute::Method
            | Attribute::Path => true,
        }
    }
}

/// The words of Istio's conditions.
impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Attribute::Principal => "source.principal",
            Attribute::Namespace => "source.namespace",
            Attribute::SourceIp => "source.ip",
            Attribute::RemoteIp => "remote.ip",
            Attribute::DestinationIp => "destination.ip",
            Attribute::DestinationPort => "destination.port",
            Attribute::RequestPrincipal => "request.auth.principal",
            Attribute::Audience => "request.auth.audiences",
            Attribute::Presenter => "request.auth.presenter",
            Attribute::Host => "host",
            Attribute::Method => "method",
            Attribute::Path => "path",
            Attribute::Header(name) => return write!(f, "request.headers[{name}]"),
            Attribute::Claim(keys) => {
                f.write_str("request.auth.claims")?;
                return keys.iter().try_for_each(|key| write!(f, "[{key}]"));
            }
        };
        f.write_str(words)
    }
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum ValuePattern {
    /// This.
    Exact(String),
    /// It begins so: `"text*"`.
    Prefix(String),
    /// It ends so: `"*text"`.
    Suffix(String),
    /// Anything but nothing: `"*"`.
    Present,
    /// A path of this form: `"/a/{*}/b/{**}"`.
    Template(PathTemplate),
    /// An address in this network.
    Network(IpNet),
    /// A port.
    Port(u16),
}

/// As the file writes it.
impl fmt::Display for ValuePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValuePattern::Exact(text) => f.write_str(text),
            ValuePattern::Prefix(text) => write!(f, "{text}*"),
            ValuePattern::Suffix(text) => write!(f, "*{text}"),
            ValuePattern::Present => f.write_str("*"),
            ValuePattern::Template(template) => template.fmt(f),
            ValuePattern::Network(network) => network.fmt(f),
            ValuePattern::Port(port) => port.fmt(f),
        }
    }
}

/// The form of a path: literal segments, `{*}` for exactly one that is not empty, and at most one
/// `{**}`, behind all `{*}`, for one or more that may be empty. As Envoy's URI template matcher
/// reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathTemplate {
    /// What stands before `{**}`, or all of it.
    pub before: Vec<TemplateSegment>,
    /// The literal segments behind `{**}`; `None`: there is no `{**}`.
    pub after: Option<Vec<String>>,
}

/// A segment of a template.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TemplateSegment {
    /// This one.
    Literal(String),
    /// Any one.
    Any,
}

impl PathTemplate {
    /// Reads one.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(path) = text.strip_prefix('/') else { return Err("a path begins with a slash") };
        let (mut before, mut after) = (Vec::new(), None::<Vec<String>>);
        for segment in path.split('/') {
            match (segment, &mut after) {
                ("{**}", None) => after = Some(Vec::new()),
                ("{*}", None) => before.push(TemplateSegment::Any),
                ("{**}" | "{*}", Some(_)) => return Err("nothing but text may follow `{**}`"),
                (literal, _) if literal.contains(['{', '}', '*']) => {
                    return Err(
                        "`{*}` and `{**}` stand for whole segments, and `*` and braces for nothing else",
                    );
                }
                (literal, None) => before.push(TemplateSegment::Literal(literal.to_owned())),
                (literal, Some(after)) => after.push(literal.to_owned()),
            }
        }
        Ok(PathTemplate { before, after })
    }

    /// Whether a path has this form.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut segments = path.split('/');
        for expected in &self.before {
            let fits = match (segments.next(), expected) {
                (None, _) => false,
                (Some(found), TemplateSegment::Literal(literal)) => found == literal,
                (Some(found), TemplateSegment::Any) => !found.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        let Some(after) = &self.after else { return segments.next().is_none() };
        let mut from_the_end = after.iter().rev();
        from_the_end.all(|literal| segments.next_back() == Some(literal)) && segments.next().is_some()
    }

    /// The text that each path of this form begins with.
    pub fn literal_prefix(&self) -> String {
        let mut prefix = String::from("/");
        for segment in &self.before {
            let TemplateSegment::Literal(literal) = segment else { return prefix };
            prefix += literal;
            prefix.push('/');
        }
        if self.after.is_none() {
            prefix.pop();
        }
        prefix
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.before {
            match segment {
                TemplateSegment::Literal(literal) => write!(f, "/{literal}")?,
                TemplateSegment::Any => f.write_str("/{*}")?,
            }
        }
        let Some(after) = &self.after else { return Ok(()) };
        f.write_str("/{**}")?;
        after.iter().try_for_each(|literal| write!(f, "/{literal}"))
    }
}

/// A server that is asked whether a request may pass: Envoy's ext_authz over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExternalAuthorizer {
    /// Its name, for metrics.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What stands before the path of the request.
    pub path_prefix: String,
    /// How long it may take, connecting included.
    #[serde(serialize_with = "dump::duration")]
    pub timeout: Duration,
    /// Whether requests pass if it gives no answer, or a 5xx.
    pub fail_open: bool,
    /// The status of a request that does not pass because of that.
    #[serde(serialize_with = "dump::status")]
    pub status_on_error: StatusCode,
    /// Headers of the request that it is sent.
    #[serde(serialize_with = "dump::texts")]
    pub include_request_headers: Vec<HeaderName>,
    /// Headers that it is sent as well.
    #[serde(serialize_with = "dump::credentials")]
    pub include_additional_headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers of its answer that the app gets if it allows.
    #[serde(serialize_with = "dump::texts")]
    pub headers_to_upstream_on_allow: Vec<HeaderName>,
    /// Headers of its answer that the client gets if it denies.
    #[serde(serialize_with = "dump::texts")]
    pub headers_to_downstream_on_deny: Vec<HeaderName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_matches_the_paths_of_its_form() {
        for (template, fits, does_not) in [
            ("/a/{*}/b", &["/a/x/b"][..], &["/a/b", "/a//b", "/a/x/y/b", "/a/x/b/", "a/x/b"][..]),
            ("/a/{**}", &["/a/", "/a/x", "/a/x/y"], &["/a", "/b/x"]),
            ("/{*}/b/{**}/c.json", &["/x/b/y/c.json", "/x/b/y/z/c.json"], &["/x/b/c.json", "/x/b/y/c.xml"]),
            ("/a", &["/a"], &["/a/", "/ab"]),
        ] {
            let read = PathTemplate::parse(template).expect("a template");
            assert_eq!(read.to_string(), template);
            for path in fits {
                assert!(read.matches(path), "{template} {path}");
                assert!(path.starts_with(&read.literal_prefix()), "{template} {path}");
            }
            assert!(does_not.iter().all(|path| !read.matches(path)), "{template}");
        }
        for wrong in ["a/{*}", "/a{*}", "/{**}/{*}", "/{**}/{**}", "/{x}", "/a/{*}b", "/*/b"] {
            assert!(PathTemplate::parse(wrong).is_err(), "{wrong}");
        }
    }
}
