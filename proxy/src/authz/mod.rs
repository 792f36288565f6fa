//! Who may call the app: policies, and the tokens that callers show.
//!
//! [`policy`] decides, and is pure: it gets [`Facts`] of a connection and perhaps of a request, and
//! gives a [`Decision`] that names its rule. It is compiled once for each configuration (`index`
//! finds the few clauses that a request may match). [`path`] makes paths comparable, so that the
//! policy and the app see the same one.
//!
//! Invariants: what is denied has not reached the app, not even with a connection; a decision never
//! allocates more than the name of its rule; nothing that a caller says of itself counts, but what
//! its certificate or a verified token proves.

pub mod explain;
pub mod external;
pub mod facts;
#[cfg(test)]
pub(crate) mod fake;
pub mod import;
mod index;
pub mod jwks;
pub mod jwt;
pub mod path;
pub mod policy;
pub mod token;
mod values;

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use tokio::sync::watch;

use crate::config::{self, Snapshot};
use crate::telemetry::{AuthorizerMetrics, DecisionMetrics, Metrics};

pub use facts::{Facts, RequestFacts, remote_address};
pub use jwt::Issuers;
pub use policy::{Decision, Policies, RuleName, Ruling};
pub use token::Token;

/// Policies and issuers in force, with what was prepared for them.
pub struct Authorization {
    /// The policies' configuration.
    pub config: Arc<config::Authorization>,
    /// The policies.
    pub policies: Policies,
    /// Issuers of tokens.
    pub issuers: Issuers,
    /// What is counted of decisions.
    pub metrics: DecisionMetrics,
    /// What is counted of external authorizers, in their order.
    pub authorizers: Vec<AuthorizerMetrics>,
    /// Headers in which the app reads what this sidecar vouches for: of claims, and of external
    /// authorizers.
    pub vouched: Arc<[HeaderName]>,
    /// Everything lets everything pass.
    is_open: bool,
    /// Counts up when other policies have come into force.
    changes: Arc<watch::Sender<u64>>,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Authorization {
    /// Compiles what `snapshot` says. If `before` says the same, it stays.
    pub fn new(snapshot: &Snapshot, before: Option<&Arc<Authorization>>, metrics: &Metrics) -> Arc<Self> {
        let (config, jwt) = (&snapshot.authorization, &snapshot.jwt);
        let same_policies =
            |before: &Authorization| Arc::ptr_eq(&before.config, config) || before.config == *config;
        let same_issuers =
            |before: &Authorization| before.issuers.iter().map(|issuer| &issuer.config).eq(jwt.iter());
        if let Some(before) = before.filter(|before| same_policies(before) && same_issuers(before)) {
            return before.clone();
        }
        let issuers = Issuers::new(jwt, before.map(|before| &before.issuers));
        let of_authorizers = config.authorizers.iter().flat_map(|one| &one.headers_to_upstream_on_allow);
        let changes = before.map_or_else(|| Arc::new(watch::Sender::new(0)), |before| before.changes.clone());
        Arc::new(Authorization {
            is_open: config.policies.is_empty()
                && config.default == config::DefaultAction::Allow
                && jwt.is_empty(),
            policies: Policies::new(config),
            vouched: issuers.own_headers().iter().chain(of_authorizers).cloned().collect(),
            issuers,
            metrics: metrics.decisions(),
            authorizers: config.authorizers.iter().map(|one| metrics.authorizer(&one.name)).collect(),
            config: config.clone(),
            changes,
        })
    }

    /// Whether everything passes, so that nothing needs to be looked at.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Tells everybody who watches that this is in force now.
    pub fn announce(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Notices when other policies have come into force, from now on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Decides about a request or an opaque connection, and counts that.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let decision = self.policies.decide(facts);
        let metrics = &self.metrics;
        if decision.enforced.allowed { &metrics.allowed } else { &metrics.denied }.inc();
        if let Some(proposed) = &decision.proposed {
            if proposed.allowed { &metrics.would_be_allowed } else { &metrics.would_be_denied }.inc();
        }
        if decision.audited.is_some() {
            metrics.audited.inc();
        }
        decision
    }
}
