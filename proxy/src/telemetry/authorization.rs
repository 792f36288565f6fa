//! What is counted of authorization: decisions, tokens, key sets, and external authorizers.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::families::families;
use super::labels::{Outcome, Provider, ProviderResult};

/// The labels of [`FetchOutcome`], in its order.
const FETCHES: [&str; 3] = ["applied", "failed", "rejected"];
/// The labels of [`AuthorizerOutcome`], in its order.
const ASKED: [&str; 4] = ["allowed", "denied", "failed", "failed_open"];

families! {
    /// The metrics of authorization.
    pub(super) struct AuthorizationFamilies {
        decisions: Family<Outcome, Counter> =
            "authorization_decisions", "Requests and opaque connections to the app by what policies decide";
        closed: Counter =
            "authorization_connections_closed",
            "Open connections that were closed because new policies do not allow them";
        tokens: Family<ProviderResult, Counter> =
            "jwt_tokens", "Tokens in requests by what came of them; without a provider if none is theirs";
        fetches: Family<ProviderResult, Counter> =
            "jwks_fetches", "Looks at a key set by what came of them";
        keys: Family<Provider, Gauge> = "jwks_keys", "Keys in force that verify signatures";
        fetched: Family<Provider, Gauge<f64, AtomicU64>> =
            "jwks_last_success_timestamp_seconds",
            "When the key set in force was read, as seconds of Unix time";
        asked: Family<ProviderResult, Counter> =
            "ext_authz_requests", "Questions to external authorizers by what came of them";
    }
}

/// Metrics of decisions.
#[derive(Debug, Clone)]
pub struct DecisionMetrics {
    /// What passes.
    pub allowed: Counter,
    /// What does not.
    pub denied: Counter,
    /// What passes, and would not if policies in dry-run were in force.
    pub would_be_denied: Counter,
    /// What does not pass, and would.
    pub would_be_allowed: Counter,
    /// What an audit policy matches.
    pub audited: Counter,
    /// Open connections that a change of policies has closed.
    pub closed: Counter,
}

/// Metrics of an issuer's key set.
#[derive(Debug, Clone)]
pub struct KeySetMetrics {
    fetches: [Counter; FETCHES.len()],
    /// Keys in force.
    pub keys: Gauge,
    /// When they were read.
    pub fetched: Gauge<f64, AtomicU64>,
}

/// What came of a look at a key set. In the order of the labels in `FETCHES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchOutcome {
    /// It is in force.
    Applied,
    /// It could not be had.
    Failed,
    /// It could not be read.
    Rejected,
}

impl KeySetMetrics {
    /// Counts a look.
    pub fn looked(&self, outcome: FetchOutcome) {
        self.fetches[outcome as usize].inc();
    }
}

/// Metrics of an external authorizer.
#[derive(Debug, Clone)]
pub struct AuthorizerMetrics {
    asked: [Counter; ASKED.len()],
}

/// What came of a question to an external authorizer. In the order of the labels in `ASKED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizerOutcome {
    /// It lets the request pass.
    Allowed,
    /// It does not.
    Denied,
    /// It gave no answer, so the request does not pass.
    Failed,
    /// It gave no answer, and the request passes all the same.
    FailedOpen,
}

impl AuthorizerMetrics {
    /// Counts a question.
    pub fn asked(&self, outcome: AuthorizerOutcome) {
        self.asked[outcome as usize].inc();
    }
}

impl AuthorizationFamilies {
    pub(super) fn decisions(&self) -> DecisionMetrics {
        let result = |result| self.decisions.get_or_create_owned(&Outcome { result });
        DecisionMetrics {
            allowed: result("allowed"),
            denied: result("denied"),
            would_be_denied: result("would_be_denied"),
            would_be_allowed: result("would_be_allowed"),
            audited: result("audited"),
            closed: self.closed.clone(),
        }
    }

    pub(super) fn token(&self, provider: &str, result: &'static str) -> Counter {
        self.tokens.get_or_create_owned(&ProviderResult { provider: provider.to_owned(), result })
    }

    pub(super) fn key_set(&self, provider: &str) -> KeySetMetrics {
        let label = Provider { provider: provider.to_owned() };
        let fetches = FETCHES.map(|result| {
            self.fetches.get_or_create_owned(&ProviderResult { provider: provider.to_owned(), result })
        });
        KeySetMetrics {
            fetches,
            keys: self.keys.get_or_create_owned(&label),
            fetched: self.fetched.get_or_create_owned(&label),
        }
    }

    pub(super) fn authorizer(&self, provider: &str) -> AuthorizerMetrics {
        let asked = ASKED.map(|result| {
            self.asked.get_or_create_owned(&ProviderResult { provider: provider.to_owned(), result })
        });
        AuthorizerMetrics { asked }
    }
}
