//! A cluster in force, with its endpoints, ready for requests to use: made once for each change of
//! its configuration or its endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use rand::Rng;
use tokio::time::Instant;

use super::{Attempted, Balancer, PickContext, Picked, hash};
use crate::config;
use crate::connect::Target;
use crate::endpoint::{Changes, Endpoint, Outliers};
use crate::error::{Error, Kind};
use crate::limit::concurrency::{Concurrency, InFlight, RequestLimit, RetrySlot};
use crate::mutant::Mutant;
use crate::retry::Budget;
use crate::route::Routes;
use crate::telemetry::{ClusterMetrics, LimitReason, Metrics};

/// A cluster with live endpoints and its metrics at hand.
#[derive(Debug)]
pub struct Cluster {
    /// Its configuration.
    pub config: Arc<config::Cluster>,
    /// Its endpoints, in the order of the configuration.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// Which of them are ejected.
    pub outliers: Arc<Outliers>,
    /// Requests in flight.
    pub concurrency: Arc<Concurrency>,
    /// What becomes of requests to its addresses, if that is not always the same.
    pub routes: Option<Routes>,
    /// Whether HTTP/1 requests go over shared HTTP/2 connections.
    pub bridge: bool,
    /// Its metrics.
    pub metrics: ClusterMetrics,
    /// What its retries are paid from.
    pub retry_budget: Arc<Budget>,
    /// How often the availability of an endpoint has changed.
    changes: Changes,
    /// For all endpoints that the cluster takes, and for each of the subsets that routes choose.
    balancers: Vec<Arc<Balancer>>,
}

/// What all clusters of one snapshot are made with.
pub(super) struct BuildContext<'a> {
    /// Where each cluster stands, by name.
    pub positions: &'a BTreeMap<String, usize>,
    /// The sidecar's zone, and whether the previous snapshot had the same.
    pub zone: (Option<&'a str>, bool),
    /// Whether this workload has an identity.
    pub has_identity: bool,
    /// Where everything is counted.
    pub metrics: &'a Metrics,
    /// The moment.
    pub now: Instant,
}

impl Cluster {
    /// Prepares a cluster. Endpoints that `known`, its predecessor, had at the same address, and
    /// with the same identity, are kept, with all that is known about them.
    pub(super) fn new(
        config: &Arc<config::Cluster>,
        known: Option<&Cluster>,
        with: &BuildContext<'_>,
    ) -> Self {
        let own = with.metrics.cluster("outbound", &config.name);
        let changes = known.map(|c| c.changes.clone()).unwrap_or_default();
        let routes = Routes::new(
            config,
            |name| with.positions.get(name).copied(),
            |route| with.metrics.route(&config.name, route),
        );
        let endpoints = endpoints_of(config, known, &changes, &own, with);
        let outliers = Outliers::new(
            &config.name,
            endpoints.clone(),
            config.outlier_detection,
            own.ejections.clone(),
            known.map(|known| &*known.outliers),
        );
        let (zone, same_zone) = with.zone;
        // Hash tables are not cheap to make, and taking turns goes on where it was.
        let kept = known.filter(|c| same_zone && balanced_alike(&c.config, config));
        let balancers = kept.map(|c| c.balancers.clone());
        let paid = known.filter(|_| !Mutant::ReloadFillsTheBudget.is_planted());
        let budget = || Arc::new(Budget::new(&config.retry_budget, with.now));
        let retry_budget = paid.map_or_else(budget, |cluster| cluster.retry_budget.clone());
        own.retry_budget.set(retry_budget.tokens() as i64);
        Cluster {
            config: config.clone(),
            bridge: config.is_bridged(with.has_identity),
            endpoints,
            outliers,
            concurrency: known.map(|known| known.concurrency.clone()).unwrap_or_default(),
            metrics: own,
            retry_budget,
            routes,
            balancers: balancers.unwrap_or_else(|| balancers_of(config, zone, &changes)),
            changes,
        }
    }

    /// Takes on a request, until the guard is dropped.
    ///
    /// # Errors
    /// [`Kind::ClusterFull`], with the limit in words.
    pub fn take(&self, now: Instant) -> Result<InFlight, Error> {
        let taken = self.concurrency.take(self.config.limits.requests, self.config.adaptive, now);
        taken.map_err(|refused| {
            let (limit, cause) = match refused {
                RequestLimit::Requests => (LimitReason::Requests, "limits.requests is reached"),
                RequestLimit::Adaptive => (LimitReason::Concurrency, "more would make them all slower"),
            };
            self.metrics.limited(limit);
            Error { cause: Some(cause.into()), ..Error::new(Kind::ClusterFull) }
        })
    }

    /// Takes on a retry, until the guard is dropped; `None`, and counted, if as many are under way
    /// as may.
    pub fn try_retry_slot(&self) -> Option<RetrySlot> {
        let slot = self.concurrency.retry(self.config.limits.retries);
        if slot.is_none() {
            self.metrics.limited(LimitReason::Retries);
        }
        slot
    }

    /// What a request of `peer` asks of the choice of its endpoint, by its headers if it has any;
    /// of subset 0.
    pub fn context(&self, headers: Option<&HeaderMap>, peer: IpAddr) -> PickContext {
        let balance = &self.config.balance;
        let source = balance.hash.as_ref().filter(|_| balance.policy.hashes());
        PickContext { hash: source.and_then(|source| hash::of_request(source, headers, peer)), subset: 0 }
    }

    /// Picks an endpoint for a request that was already tried on `attempted`; `None` if there is
    /// none, or none that may be picked and no panic.
    pub fn pick(
        &self,
        now: Instant,
        rng: &mut impl Rng,
        context: PickContext,
        attempted: Attempted,
    ) -> Option<Picked> {
        self.balancers.get(context.subset)?.pick(&self.endpoints, now, rng, context.hash, attempted)
    }

    /// Counts a choice that is made use of. (A second attempt beside the first may turn out to cost
    /// too much.)
    pub fn count(&self, picked: Picked) {
        self.metrics.picks.count(picked.panic, picked.failover, picked.other_zone, picked.explored);
    }

    /// Pays into the retry budget for a request that was answered.
    pub fn pay_for_retries(&self) {
        if self.retry_budget.deposit(&self.config.retry_budget) {
            self.metrics.retry_budget.set(self.retry_budget.tokens() as i64);
        }
    }

    /// Takes a retry out of the budget. False: there is none left.
    pub fn affords_retry(&self, now: Instant) -> bool {
        let affords = self.retry_budget.withdraw(&self.config.retry_budget, now);
        self.metrics.retry_budget.set(self.retry_budget.tokens() as i64);
        affords
    }
}

/// The endpoints of a cluster in its order, those that `known` has among them. Both are walked
/// once, by target: a cluster of ten thousand whose source names another one each time must not
/// cost ten thousand searches.
fn endpoints_of(
    config: &config::Cluster,
    known: Option<&Cluster>,
    changes: &Changes,
    own: &ClusterMetrics,
    with: &BuildContext<'_>,
) -> Arc<[Arc<Endpoint>]> {
    let mut before: Vec<&Arc<Endpoint>> = known.map(|c| c.endpoints.iter().collect()).unwrap_or_default();
    before.sort_unstable_by(|a, b| a.target.cmp(&b.target));
    let mut before = before.into_iter().peekable();
    // Where nobody was before, nobody is new.
    let added = before.peek().is_some();
    let mut order: Vec<u32> = (0..).take(config.endpoints.len()).collect();
    let order_of = |position: &u32| {
        let endpoint = &config.endpoints[*position as usize];
        (endpoint.address, endpoint.identity.as_ref())
    };
    order.sort_by(|a, b| order_of(a).cmp(&order_of(b)));
    let mut placed: Vec<(u32, Arc<Endpoint>)> = Vec::with_capacity(order.len());
    for position in order {
        let target = Target::from(&config.endpoints[position as usize]);
        while before.next_if(|known| known.target < target).is_some() {}
        let kept = before.peek().filter(|known| known.target == target).map(|known| Arc::clone(known));
        let kept = kept.filter(|_| !Mutant::ReloadForgetsEndpoints.is_planted());
        let new = || {
            let counted = with.metrics.endpoint("outbound", &config.name, target.address, own);
            Arc::new(Endpoint::of(target.clone(), with.now, changes.clone(), added).counted(counted))
        };
        placed.push((position, kept.unwrap_or_else(new)));
    }
    placed.sort_unstable_by_key(|(position, _)| *position);
    placed.into_iter().map(|(_, endpoint)| endpoint).collect()
}

/// Whether two configurations of a cluster give the same balancers.
fn balanced_alike(a: &config::Cluster, b: &config::Cluster) -> bool {
    a.endpoints == b.endpoints && a.balance == b.balance && a.subset == b.subset && a.subsets == b.subsets
}

fn balancers_of(config: &config::Cluster, zone: Option<&str>, changes: &Changes) -> Vec<Arc<Balancer>> {
    let whole = std::iter::once(None).chain(config.subsets.iter().map(Some));
    let chosen = |subset: Option<&config::Labels>| {
        let takes = |e: &config::Endpoint| e.has(&config.subset) && subset.is_none_or(|labels| e.has(labels));
        Arc::new(Balancer::new(&config.balance, &config.endpoints, takes, zone, changes.clone()))
    };
    whole.map(chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balancers_are_made_again_only_for_what_they_are_made_of() {
        let text = "service = 'web'\n[[cluster]]\nname = 'a'\naddresses = ['10.96.0.1:80']\n\
                    endpoints = ['10.0.0.1:80']\n";
        let cluster = config::parse("sidecar.toml", text).unwrap().clusters[0].clone();
        let labels = || Arc::new([("version".to_owned(), "2".to_owned())].into());
        let alike = |change: &dyn Fn(&mut config::Cluster)| {
            let mut changed = config::Cluster::clone(&cluster);
            change(&mut changed);
            balanced_alike(&cluster, &changed)
        };
        assert!(alike(&|c| c.name.push('b')));
        assert!(!alike(&|c| c.endpoints = Default::default()));
        assert!(!alike(&|c| Arc::make_mut(&mut c.balance).panic = 0.9));
        assert!(!alike(&|c| c.subset = labels()));
        assert!(!alike(&|c| c.subsets.push(labels())));
    }
}
