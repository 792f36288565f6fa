//! `[authorization]`: what its words mean.
//!
//! Each list of values becomes a [`AttributeTest`] of one attribute, whatever key it stood under,
//! so that nothing behind this module knows more than one form.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net};
use serde_spanned::Spanned;

use super::{Check, policy_values};
use crate::config::diagnose::{did_you_mean, one_of};
use crate::config::{
    Attribute, AttributeTest, Authorization, AuthorizationPolicy, DefaultAction, ExternalAuthorizer,
    PathNormalization, PathTemplate, PolicyAction, PolicyRule, ValuePattern, defaults, model,
};
use crate::spiffe_id::SpiffeId;

/// A list in the file.
type List = Option<Spanned<Vec<Spanned<String>>>>;

/// The keys of conditions whose attribute has no parameter.
const KEYS: [(&str, Attribute); 8] = [
    ("source.principal", Attribute::Principal),
    ("source.namespace", Attribute::Namespace),
    ("source.ip", Attribute::SourceIp),
    ("remote.ip", Attribute::RemoteIp),
    ("destination.ip", Attribute::DestinationIp),
    ("destination.port", Attribute::DestinationPort),
    ("request.auth.principal", Attribute::RequestPrincipal),
    ("request.auth.audiences", Attribute::Audience),
];

impl Check<'_> {
    pub(super) fn authorization(&mut self, given: &model::Authorization) -> Authorization {
        let default = self.word(
            "default",
            given.default.as_ref(),
            &[("allow", DefaultAction::Allow), ("deny", DefaultAction::Deny)],
        );
        let path_normalization = self.word(
            "path_normalization",
            given.path_normalization.as_ref(),
            &[
                ("none", PathNormalization::None),
                ("base", PathNormalization::Base),
                ("merge_slashes", PathNormalization::MergeSlashes),
                ("decode_and_merge_slashes", PathNormalization::DecodeAndMergeSlashes),
            ],
        );
        self.policy_paths(given, path_normalization.unwrap_or_default());
        let authorizers: Vec<_> =
            given.provider.iter().filter_map(|provider| self.authorizer(provider)).map(Arc::new).collect();
        let names = given.provider.iter().map(|provider| &provider.name);
        let known = self.unique("external authorizers", names);
        self.unique("policies", given.policy.iter().map(|policy| &policy.name));
        let policies = given.policy.iter().map(|policy| self.access_policy(policy, &known)).collect();
        Authorization {
            default: default.unwrap_or_default(),
            path_normalization: path_normalization.unwrap_or_default(),
            trusted_hops: given.trusted_hops.as_ref().map_or(0, |hops| *hops.get_ref() as usize),
            authorizers,
            policies,
        }
    }

    /// The meaning of a word of a few.
    fn word<T: Copy>(
        &mut self,
        key: &str,
        given: Option<&Spanned<String>>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = given?;
        let found = words.iter().find(|(word, _)| word == text.get_ref());
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let help = did_you_mean(text.get_ref(), known.iter().copied()).map_or_else(
                || format!("it is {}", one_of(&known, '"')),
                |meant| format!("did you mean {meant:?}?"),
            );
            self.diagnostics
                .add(format!("`{key}` cannot be {:?}", text.get_ref()), text.span(), "not one of its values")
                .help(help);
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// The places of things that have names, which must differ.
    pub(super) fn unique<'n>(
        &mut self,
        what: &str,
        names: impl Iterator<Item = &'n Spanned<String>>,
    ) -> BTreeMap<&'n str, usize> {
        self.unique_by(names, |name| {
            (format!("two {what} are called {name:?}"), "they are told apart by name: rename one")
        })
    }

    /// The same of words that are no names: `twice` says what is wrong with one, and what to do.
    pub(super) fn unique_by<'n>(
        &mut self,
        names: impl Iterator<Item = &'n Spanned<String>>,
        twice: impl Fn(&str) -> (String, &'static str),
    ) -> BTreeMap<&'n str, usize> {
        let mut spans = BTreeMap::<&str, (usize, Range<usize>)>::new();
        for (position, name) in names.enumerate() {
            let first = spans.insert(name.get_ref(), (position, name.span()));
            if let Some((_, first)) = first {
                let (message, help) = twice(name.get_ref());
                self.diagnostics.add(message, name.span(), "the second").also(first, "the first").help(help);
            }
        }
        spans.into_iter().map(|(name, (position, _))| (name, position)).collect()
    }

    fn access_policy(
        &mut self,
        given: &model::Policy,
        authorizers: &BTreeMap<&str, usize>,
    ) -> AuthorizationPolicy {
        let action = self.word(
            "action",
            given.action.as_ref(),
            &[
                ("allow", PolicyAction::Allow),
                ("deny", PolicyAction::Deny),
                ("audit", PolicyAction::Audit),
                ("custom", PolicyAction::Custom(0)),
            ],
        );
        let action = match (action.unwrap_or(PolicyAction::Allow), &given.provider) {
            (PolicyAction::Custom(_), Some(name)) => {
                let found = authorizers.get(name.get_ref().as_str());
                if found.is_none() {
                    let help = match did_you_mean(name.get_ref(), authorizers.keys().copied()) {
                        Some(meant) => format!("did you mean {meant:?}?"),
                        None => "describe it in an [[authorization.provider]]".into(),
                    };
                    self.diagnostics
                        .add(format!("there is no provider {:?}", name.get_ref()), name.span(), "unknown")
                        .help(help);
                }
                PolicyAction::Custom(found.copied().unwrap_or_default())
            }
            (PolicyAction::Custom(_), None) => {
                self.diagnostics
                    .add("a custom policy has no `provider`", given.name.span(), "who decides?")
                    .help("name an [[authorization.provider]]: provider = \"opa\"");
                PolicyAction::Custom(0)
            }
            (action, Some(provider)) => {
                self.diagnostics
                    .add("`provider` is for custom policies", provider.span(), "not asked")
                    .help("write action = \"custom\", or remove `provider`");
                action
            }
            (action, None) => action,
        };
        if given.rule.is_empty() && action != PolicyAction::Allow {
            self.diagnostics
                .add(
                    format!("the policy {:?} has no rule, so it matches nothing", given.name.get_ref()),
                    given.name.span(),
                    "this one",
                )
                .help("add an [[authorization.policy.rule]]; one without keys matches everything");
        }
        let name = self.name("name", &given.name).into();
        let rules = given.rule.iter().map(|rule| self.policy_rule(rule)).collect();
        AuthorizationPolicy { name, action, dry_run: given.dry_run.unwrap_or(false), rules }
    }

    fn policy_rule(&mut self, given: &model::PolicyRule) -> PolicyRule {
        let from = given.from.as_ref().map(|list| {
            self.not_empty("from", list);
            list.get_ref().iter().map(|source| self.source(source, list.span())).collect()
        });
        let to = given.to.as_ref().map(|list| {
            self.not_empty("to", list);
            list.get_ref().iter().map(|operation| self.operation(operation, list.span())).collect()
        });
        let when = given.when.iter().filter_map(|condition| self.condition(condition)).collect();
        PolicyRule { from: from.unwrap_or_default(), to: to.unwrap_or_default(), when }
    }

    /// A list without anything in it would match nothing, which nobody means.
    fn not_empty<T>(&mut self, key: &str, list: &Spanned<Vec<T>>) {
        if list.get_ref().is_empty() {
            self.diagnostics
                .add(format!("`{key}` is an empty list"), list.span(), "matches nothing")
                .help(format!("leave `{key}` out if it does not matter"));
        }
    }

    fn source(&mut self, given: &model::PolicySource, span: Range<usize>) -> Vec<AttributeTest> {
        use Attribute as A;
        let tests = [
            self.texts(A::Principal, ("principals", &given.principals), &given.not_principals),
            self.texts(
                A::RequestPrincipal,
                ("request_principals", &given.request_principals),
                &given.not_request_principals,
            ),
            self.texts(A::Namespace, ("namespaces", &given.namespaces), &given.not_namespaces),
            self.accounts(given),
            self.texts(A::SourceIp, ("ip_blocks", &given.ip_blocks), &given.not_ip_blocks),
            self.texts(
                A::RemoteIp,
                ("remote_ip_blocks", &given.remote_ip_blocks),
                &given.not_remote_ip_blocks,
            ),
        ];
        self.some_of(tests, "from", span)
    }

    fn operation(&mut self, given: &model::PolicyOperation, span: Range<usize>) -> Vec<AttributeTest> {
        use Attribute as A;
        let tests = [
            self.texts(A::Host, ("hosts", &given.hosts), &given.not_hosts),
            self.ports(given),
            self.texts(A::Method, ("methods", &given.methods), &given.not_methods),
            self.texts(A::Path, ("paths", &given.paths), &given.not_paths),
        ];
        self.some_of(tests, "to", span)
    }

    /// The tests that there are.
    fn some_of<const N: usize>(
        &mut self,
        tests: [Option<AttributeTest>; N],
        key: &str,
        span: Range<usize>,
    ) -> Vec<AttributeTest> {
        let tests: Vec<_> = tests.into_iter().flatten().collect();
        if tests.is_empty() {
            self.diagnostics
                .add(format!("an entry of `{key}` says nothing"), span, "one in this list")
                .help(format!("it would match everything: leave `{key}` out if that is meant"));
        }
        tests
    }

    fn condition(&mut self, given: &model::PolicyCondition) -> Option<AttributeTest> {
        let attribute = self.attribute(&given.key);
        if given.values.is_none() && given.not_values.is_none() {
            self.diagnostics
                .add("this condition has no values", given.key.span(), "compared with what?")
                .help("add `values`, of which one must fit, or `not_values`, of which none may");
        }
        self.texts(attribute?, ("values", &given.values), &given.not_values)
    }

    /// What a condition looks at.
    fn attribute(&mut self, key: &Spanned<String>) -> Option<Attribute> {
        let words = key.get_ref().as_str();
        if let Some((_, attribute)) = KEYS.iter().find(|(known, _)| *known == words) {
            return Some(attribute.clone());
        }
        if words == "request.auth.presenter" {
            return Some(Attribute::Presenter);
        }
        let bracketed = |of: &str| words.strip_prefix(of)?.strip_prefix('[')?.strip_suffix(']');
        if let Some(name) = bracketed("request.headers") {
            let name = self.header_name(&Spanned::new(key.span(), name.to_owned()))?;
            if name == header::HOST {
                self.diagnostics
                    .add("`host` is not matched as a header", key.span(), "HTTP/2 has none")
                    .help("use `hosts` of `to`, which knows both");
            }
            return Some(Attribute::Header(name));
        }
        if let Some(keys) = bracketed("request.auth.claims") {
            let keys: Vec<String> = keys.split("][").map(str::to_owned).collect();
            if keys.iter().all(|key| !key.is_empty() && !key.contains(['[', ']'])) {
                return Some(Attribute::Claim(keys));
            }
        }
        let known = KEYS.iter().map(|(known, _)| *known);
        let known =
            known.chain(["request.auth.presenter", "request.headers[NAME]", "request.auth.claims[NAME]"]);
        let help = match did_you_mean(words, known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "such as `request.headers[x-team]`, `request.auth.claims[groups]` or `source.ip`; \
                     docs/authorization.md has all"
                .into(),
        };
        self.diagnostics.add(format!("there is no key {words:?}"), key.span(), "unknown").help(help);
        None
    }

    /// A test of the values and of those that must not be.
    fn texts(
        &mut self,
        attribute: Attribute,
        (key, values): (&str, &List),
        not: &List,
    ) -> Option<AttributeTest> {
        if values.is_none() && not.is_none() {
            return None;
        }
        let mut patterns = |key: &str, list: &List| {
            let Some(list) = list else { return Vec::new() };
            self.not_empty(key, list);
            list.get_ref().iter().filter_map(|value| self.policy_pattern(&attribute, value)).collect()
        };
        let values = patterns(key, values);
        let not_values = patterns(&format!("not_{key}"), not);
        Some(AttributeTest { attribute, values, not_values })
    }

    /// `namespace/name` is the end of a principal.
    fn accounts(&mut self, given: &model::PolicySource) -> Option<AttributeTest> {
        let lists = [&given.service_accounts, &given.not_service_accounts];
        if lists.iter().all(|list| list.is_none()) {
            return None;
        }
        let [values, not_values] = lists.map(|list| {
            let Some(list) = list else { return Vec::new() };
            self.not_empty("service_accounts", list);
            list.get_ref().iter().filter_map(|account| self.account(account)).collect()
        });
        Some(AttributeTest { attribute: Attribute::Principal, values, not_values })
    }

    fn account(&mut self, given: &Spanned<String>) -> Option<ValuePattern> {
        let parts = given.get_ref().split_once('/');
        let whole = parts.filter(|(namespace, name)| {
            SpiffeId::of_service_account("trust-domain", namespace, name).is_ok()
        });
        if whole.is_none() {
            self.diagnostics
                .add("this is not a service account", given.span(), "not a namespace and a name")
                .help(r#"write it like "shop/web"; for patterns there are `principals`"#);
        }
        whole.map(|(namespace, name)| ValuePattern::Suffix(format!("/ns/{namespace}/sa/{name}")))
    }

    fn ports(&mut self, given: &model::PolicyOperation) -> Option<AttributeTest> {
        let (values, not) = (&given.ports, &given.not_ports);
        if values.is_none() && not.is_none() {
            return None;
        }
        let mut ports = |key: &str, list: &Option<Spanned<Vec<Spanned<u16>>>>| {
            let Some(list) = list else { return Vec::new() };
            self.not_empty(key, list);
            list.get_ref().iter().map(|port| ValuePattern::Port(self.port(key, port))).collect()
        };
        let (values, not_values) = (ports("ports", values), ports("not_ports", not));
        Some(AttributeTest { attribute: Attribute::DestinationPort, values, not_values })
    }

    fn policy_pattern(&mut self, attribute: &Attribute, given: &Spanned<String>) -> Option<ValuePattern> {
        use Attribute as A;
        let words = given.get_ref().as_str();
        match attribute {
            A::SourceIp | A::RemoteIp | A::DestinationIp => {
                return self.network(given).map(ValuePattern::Network);
            }
            A::DestinationPort => {
                let port = words.parse().ok().filter(|port| *port != 0);
                if port.is_none() {
                    self.diagnostics
                        .add(format!("{words:?} is not a port"), given.span(), "not a port")
                        .help("ports go from 1 to 65535");
                }
                return port.map(ValuePattern::Port);
            }
            A::Path if words.contains(['{', '}']) => return self.template(given),
            _ => {}
        }
        let written = match attribute {
            A::Host => words.to_ascii_lowercase(),
            A::Principal => words.strip_prefix("spiffe://").unwrap_or(words).to_owned(),
            _ => words.to_owned(),
        };
        let pattern = match written.as_str() {
            "*" => ValuePattern::Present,
            text => match (text.strip_prefix('*'), text.strip_suffix('*')) {
                (None, None) => ValuePattern::Exact(text.into()),
                (Some(rest), None) => ValuePattern::Suffix(rest.into()),
                (None, Some(rest)) => ValuePattern::Prefix(rest.into()),
                (Some(_), Some(_)) => ValuePattern::Exact(text.into()),
            },
        };
        let text = match &pattern {
            ValuePattern::Exact(text) | ValuePattern::Prefix(text) | ValuePattern::Suffix(text) => {
                text.as_str()
            }
            _ => return Some(pattern),
        };
        let is_value = matches!(attribute, A::Header(_) | A::Claim(_));
        let wrong = if text.is_empty() {
            Some(("a value is empty", r#"write "*" for any value"#.into()))
        } else if text.contains('*') && !is_value {
            Some(("`*` stands inside of the text", "it may stand at the beginning or at the end".into()))
        } else {
            policy_values::odd(attribute, &pattern, text)
        };
        if let Some((message, help)) = wrong {
            self.diagnostics.add(message, given.span(), "never matches").help(help);
            return None;
        }
        Some(pattern)
    }

    fn template(&mut self, given: &Spanned<String>) -> Option<ValuePattern> {
        PathTemplate::parse(given.get_ref())
            .map_err(|wrong| {
                self.diagnostics
                    .add("this is not the form of a path", given.span(), wrong)
                    .help(r#"write it like "/orders/{*}/items" or "/files/{**}""#);
            })
            .ok()
            .map(ValuePattern::Template)
    }

    /// Addresses of IPv4 that are written as IPv6 are those of IPv4, as everywhere.
    fn network(&mut self, given: &Spanned<String>) -> Option<IpNet> {
        let words = given.get_ref();
        let network = words.parse::<IpNet>().ok().or_else(|| words.parse::<IpAddr>().ok().map(IpNet::from));
        let Some(network) = network else {
            self.diagnostics
                .add(format!("{words:?} is not a network"), given.span(), "not an address and not a network")
                .help(r#"write it like "10.0.0.0/8", "fd00::/8" or "10.1.2.3""#);
            return None;
        };
        let IpAddr::V4(mapped) = network.addr().to_canonical() else { return Some(network.trunc()) };
        let length = network.prefix_len().checked_sub(network.max_prefix_len() - 32);
        let network = length.and_then(|length| Ipv4Net::new(mapped, length).ok());
        if network.is_none() {
            self.diagnostics
                .add(format!("{words:?} is wider than IPv4"), given.span(), "96 bits stand in front of IPv4")
                .help(r#"write a network of IPv4 like "10.0.0.0/8" or "::ffff:10.0.0.0/104""#);
        }
        network.map(|network| IpNet::V4(network.trunc()))
    }

    fn authorizer(&mut self, given: &model::ExternalAuthorizer) -> Option<ExternalAuthorizer> {
        let path_prefix = given.path_prefix.as_ref().map_or_else(String::new, |prefix| {
            self.path("path_prefix", prefix);
            prefix.get_ref().trim_end_matches('/').to_owned()
        });
        let timeout = self.duration("timeout", given.timeout.as_ref(), defaults::AUTHORIZER_TIMEOUT);
        if let Some(span) = timeout.span.filter(|_| timeout.value.is_zero()) {
            self.diagnostics
                .add("`timeout` is 0", span, "no answer would be in time")
                .help("write \"100ms\" or more");
        }
        let status = given.status_on_error.as_ref().map(|status| {
            let code = StatusCode::from_u16(*status.get_ref()).ok();
            let code = code.filter(|code| code.is_client_error() || code.is_server_error());
            if code.is_none() {
                self.diagnostics
                    .add("`status_on_error` is not the status of an error", status.span(), "out of range")
                    .help("it goes from 400 to 599; the default is 403");
            }
            code.unwrap_or(StatusCode::FORBIDDEN)
        });
        let mut include_request_headers = vec![header::AUTHORIZATION];
        let asked = &given.include_request_headers;
        include_request_headers.extend(asked.iter().filter_map(|name| self.header_name(name)));
        let mut added = |names: &[Spanned<String>]| -> Vec<HeaderName> {
            let added = |name| self.added_header(name, "an authorizer's to add");
            names.iter().filter_map(added).collect()
        };
        let headers_to_upstream_on_allow = added(&given.headers_to_upstream_on_allow);
        let mut headers_to_downstream_on_deny =
            vec![header::CONTENT_TYPE, header::LOCATION, header::WWW_AUTHENTICATE];
        headers_to_downstream_on_deny.extend(added(&given.headers_to_downstream_on_deny));
        let additional = given.include_additional_headers.iter().filter_map(|(name, value)| {
            let name = self.header_name(name);
            let written = HeaderValue::from_str(value.get_ref()).ok();
            if written.is_none() {
                self.diagnostics
                    .add("this is not the value of a header", value.span(), "a character that none has")
                    .help("use printable ASCII");
            }
            name.zip(written)
        });
        let include_additional_headers = additional.collect();
        Some(ExternalAuthorizer {
            name: self.name("name", &given.name).into(),
            address: self.address(&given.address)?,
            path_prefix,
            timeout: timeout.value,
            fail_open: given.fail_open.unwrap_or(false),
            status_on_error: status.unwrap_or(StatusCode::FORBIDDEN),
            include_request_headers,
            include_additional_headers,
            headers_to_upstream_on_allow,
            headers_to_downstream_on_deny,
        })
    }
}
