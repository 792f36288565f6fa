//! `[authorization]`: who may call the app. The words are those of Istio's AuthorizationPolicy, in
//! the spelling of this file.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;

/// `[authorization]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// What happens to what no policy decides: `"allow"` (default) or `"deny"`.
    pub default: Option<Spanned<String>>,
    /// How paths are made comparable: `"none"`, `"base"` (default), `"merge_slashes"` or
    /// `"decode_and_merge_slashes"`.
    pub path_normalization: Option<Spanned<String>>,
    /// How many proxies in front of the caller are trusted to have added to `x-forwarded-for`.
    /// Default 0: `remote_ip_blocks` sees the address that the connection comes from.
    pub trusted_hops: Option<Spanned<u32>>,
    /// External authorizers, for policies with `action = "custom"`.
    #[serde(default)]
    pub provider: Vec<ExternalAuthorizer>,
    /// Policies.
    #[serde(default)]
    pub policy: Vec<Policy>,
}

/// `[[authorization.policy]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name, in decisions.
    pub name: Spanned<String>,
    /// `"allow"` (default), `"deny"`, `"audit"` or `"custom"`.
    pub action: Option<Spanned<String>>,
    /// The external authorizer that decides; only with `action = "custom"`.
    pub provider: Option<Spanned<String>>,
    /// Whether its decision is only counted and logged. Default: false.
    pub dry_run: Option<bool>,
    /// Rules, of which one must match. A policy without one matches nothing.
    #[serde(default)]
    pub rule: Vec<PolicyRule>,
}

/// `[[authorization.policy.rule]]`: all that is said must hold. A rule that says nothing matches
/// everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// One of these sources.
    pub from: Option<Spanned<Vec<PolicySource>>>,
    /// One of these operations.
    pub to: Option<Spanned<Vec<PolicyOperation>>>,
    /// Each of these conditions.
    #[serde(default)]
    pub when: Vec<PolicyCondition>,
}

/// One of `from`: all that is said must hold; of the values in a list, one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySource {
    /// Identities without `spiffe://`: `"cluster.local/ns/shop/sa/web"`.
    pub principals: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_principals: Option<Spanned<Vec<Spanned<String>>>>,
    /// Identities in tokens: `"issuer/subject"`.
    pub request_principals: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_request_principals: Option<Spanned<Vec<Spanned<String>>>>,
    /// Namespaces of identities.
    pub namespaces: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_namespaces: Option<Spanned<Vec<Spanned<String>>>>,
    /// Service accounts of identities: `"namespace/name"`.
    pub service_accounts: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_service_accounts: Option<Spanned<Vec<Spanned<String>>>>,
    /// Where the connection comes from: addresses and networks.
    pub ip_blocks: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_ip_blocks: Option<Spanned<Vec<Spanned<String>>>>,
    /// Where the request comes from, as trusted proxies say.
    pub remote_ip_blocks: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_remote_ip_blocks: Option<Spanned<Vec<Spanned<String>>>>,
}

/// One of `to`: all that is said must hold; of the values in a list, one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyOperation {
    /// Hosts; one without a port is meant with any.
    pub hosts: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_hosts: Option<Spanned<Vec<Spanned<String>>>>,
    /// The app's ports.
    pub ports: Option<Spanned<Vec<Spanned<u16>>>>,
    /// None of these.
    pub not_ports: Option<Spanned<Vec<Spanned<u16>>>>,
    /// Methods.
    pub methods: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_methods: Option<Spanned<Vec<Spanned<String>>>>,
    /// Paths; also templates with `{*}` for a segment and `{**}` for any number.
    pub paths: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_paths: Option<Spanned<Vec<Spanned<String>>>>,
}

/// One of `when`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCondition {
    /// What is looked at, such as `"request.headers[x-team]"` or `"request.auth.claims[groups]"`.
    pub key: Spanned<String>,
    /// One of these.
    pub values: Option<Spanned<Vec<Spanned<String>>>>,
    /// None of these.
    pub not_values: Option<Spanned<Vec<Spanned<String>>>>,
}

/// `[[authorization.provider]]`: a server that speaks Envoy's ext_authz over HTTP.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAuthorizer {
    /// Its name, for policies and metrics.
    pub name: Spanned<String>,
    /// Where it listens.
    pub address: Spanned<String>,
    /// What stands before the path of the request that it is asked about. Default: nothing.
    pub path_prefix: Option<Spanned<String>>,
    /// How long it may take, connecting included. Default `"1s"`.
    pub timeout: Option<Spanned<String>>,
    /// Whether requests pass if it gives no answer, or a 5xx. Default: false.
    pub fail_open: Option<bool>,
    /// The status of a request that does not pass because of that. Default 403.
    pub status_on_error: Option<Spanned<u16>>,
    /// Headers of the request that it is sent, beside `authorization`.
    #[serde(default)]
    pub include_request_headers: Vec<Spanned<String>>,
    /// Headers that it is sent as well.
    #[serde(default)]
    pub include_additional_headers: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Headers of its answer that the app gets, in place of the client's, if it allows.
    #[serde(default)]
    pub headers_to_upstream_on_allow: Vec<Spanned<String>>,
    /// Headers of its answer that the client gets if it denies, beside `content-type`,
    /// `location` and `www-authenticate`.
    #[serde(default)]
    pub headers_to_downstream_on_deny: Vec<Spanned<String>>,
}
