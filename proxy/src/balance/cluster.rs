//! The clusters in force, with their endpoints, ready for requests to use: made once for each snapshot.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;

use rand::Rng;
use tokio::time::Instant;

use super::{Aim, Balancer, Picked, Tried, hash};
use crate::config::{self, Snapshot};
use crate::endpoint::{Changes, Endpoint, Outliers};
use crate::error::{Error, Kind};
use crate::limit::Load;
use crate::limit::concurrency::{Concurrency, InFlight, Refused, RetrySlot};
use crate::mutant;
use crate::retry::Budget;
use crate::route::Routes;
use crate::telemetry::{ClusterMetrics, Limited, Metrics};

/// A snapshot and what was prepared for it. Requests take it once and keep it.
#[derive(Debug)]
pub struct Table {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// Clusters in the order of the configuration.
    pub clusters: Vec<Arc<Cluster>>,
    /// What the sidecar carries now, whatever the snapshot.
    pub load: Arc<Load>,
    /// Requests in flight to the ports of the app that limit them.
    pub app: BTreeMap<u16, Arc<Concurrency>>,
    by_address: BTreeMap<SocketAddr, Arc<Cluster>>,
    /// By server name; a wildcard stands without its asterisk, as `.example`.
    by_name: BTreeMap<String, Arc<Cluster>>,
}

/// A cluster with live endpoints and its metrics at hand.
#[derive(Debug)]
pub struct Cluster {
    /// Its configuration.
    pub config: Arc<config::Cluster>,
    /// Its endpoints, in the order of the configuration.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Which of them are left alone.
    pub outliers: Arc<Outliers>,
    /// Requests in flight.
    pub concurrency: Arc<Concurrency>,
    /// What becomes of requests to its addresses, if that is not always the same.
    pub routes: Option<Routes>,
    /// Its metrics.
    pub metrics: ClusterMetrics,
    /// What its retries are paid from.
    pub retry_budget: Arc<Budget>,
    /// How often the availability of an endpoint has changed.
    changes: Changes,
    /// For all endpoints that the cluster takes, and for each of the subsets that routes choose.
    balancers: Vec<Arc<Balancer>>,
}

impl Table {
    /// Prepares a snapshot. Endpoints that `previous` had under the same cluster and address are kept, with all that is
    /// known about them.
    pub fn new(snapshot: Arc<Snapshot>, previous: Option<&Table>, metrics: &Metrics, now: Instant) -> Self {
        let names = snapshot.clusters.iter().enumerate().map(|(position, c)| (c.name.as_str(), position));
        let positions: BTreeMap<&str, usize> = names.collect();
        let cluster = |config: &Arc<config::Cluster>| {
            let known = previous.and_then(|t| t.clusters.iter().find(|c| c.config.name == config.name));
            let own = metrics.cluster("outbound", &config.name);
            let changes = known.map(|c| c.changes.clone()).unwrap_or_default();
            // Where nobody was before, nobody is new.
            let added = known.is_some_and(|c| !c.endpoints.is_empty());
            let endpoint = |address: &SocketAddr| {
                let kept = known.and_then(|c| c.endpoints.iter().find(|e| e.address == *address));
                let counted = || metrics.endpoint("outbound", &config.name, address, &own);
                let new = || Endpoint::of(*address, now, changes.clone(), added).counted(counted());
                kept.cloned().unwrap_or_else(|| Arc::new(new()))
            };
            let routes = Routes::new(
                config,
                |name| positions.get(name).copied(),
                |route| metrics.route(&config.name, route),
            );
            let endpoints: Vec<_> = config.endpoints.iter().map(|e| endpoint(&e.address)).collect();
            let outliers = Outliers::new(
                &config.name,
                endpoints.clone(),
                config.breaker,
                own.ejections.clone(),
                known.map(|known| &*known.outliers),
            );
            let concurrency = known.map(|known| known.concurrency.clone()).unwrap_or_default();
            let zone = snapshot.zone.as_deref();
            let same_zone = previous.is_some_and(|t| t.snapshot.zone == snapshot.zone);
            // Hash tables are not cheap to make, and taking turns goes on where it was.
            let kept = known.filter(|c| same_zone && balanced_alike(&c.config, config));
            let balancers = kept.map(|c| c.balancers.clone());
            let balancers = balancers.unwrap_or_else(|| balancers_of(config, zone, &changes));
            let budget = || Arc::new(Budget::new(&config.retry_budget, now));
            let paid = known.filter(|_| !mutant::is_planted("reload-fills-the-budget"));
            let retry_budget = paid.map_or_else(budget, |cluster| cluster.retry_budget.clone());
            own.retry_budget.set(retry_budget.tokens() as i64);
            Arc::new(Cluster {
                config: config.clone(),
                endpoints,
                outliers,
                concurrency,
                metrics: own,
                retry_budget,
                routes,
                changes,
                balancers,
            })
        };
        let clusters: Vec<_> = snapshot.clusters.iter().map(cluster).collect();
        let addresses = clusters.iter().flat_map(|c| c.config.addresses.iter().map(|a| (*a, c.clone())));
        let by_address = addresses.collect();
        let key = |pattern: &String| pattern.strip_prefix('*').unwrap_or(pattern).to_owned();
        let names = clusters.iter().flat_map(|c| c.config.sni.iter().map(|name| (key(name), c.clone())));
        let by_name = names.collect();
        let app = snapshot.inbound_adaptive.keys().map(|port| {
            let known = previous.and_then(|previous| previous.app.get(port).cloned());
            (*port, known.unwrap_or_default())
        });
        Table { app: app.collect(), load: metrics.load(), by_address, by_name, clusters, snapshot }
    }

    /// The cluster behind a virtual address.
    pub fn cluster_at(&self, address: SocketAddr) -> Option<&Arc<Cluster>> {
        self.by_address.get(&address)
    }

    /// Takes on a request for the app's `port`, if that has a limit that follows latency.
    ///
    /// # Errors
    /// [`Kind::Overload`]: the caller's sidecar tries another endpoint.
    pub fn take_for_app(&self, port: u16, metrics: &ClusterMetrics) -> Result<Option<InFlight>, Error> {
        let (Some(concurrency), Some(config)) =
            (self.app.get(&port), self.snapshot.inbound_adaptive.get(&port))
        else {
            return Ok(None);
        };
        concurrency.take(u32::MAX, Some(*config), Instant::now()).map(Some).map_err(|_| {
            metrics.limited(Limited::Concurrency);
            let cause = "the app has as many requests as do not make it slower";
            Error { cause: Some(cause.into()), ..Error::new(Kind::Overload) }
        })
    }

    /// Whether any cluster is chosen by server name.
    pub fn has_names(&self) -> bool {
        !self.by_name.is_empty()
    }

    /// The cluster of a server name in lower case: the one that names it, or the one with the longest wildcard above it.
    pub fn cluster_named(&self, name: &str) -> Option<&Arc<Cluster>> {
        let above = name.match_indices('.').map(|(dot, _)| &name[dot..]);
        std::iter::once(name).chain(above).find_map(|key| self.by_name.get(key))
    }
}

impl Cluster {
    /// Takes on a request, until the guard is dropped.
    ///
    /// # Errors
    /// [`Kind::ClusterFull`], with the limit in words.
    pub fn take(&self, now: Instant) -> Result<InFlight, Error> {
        let taken = self.concurrency.take(self.config.limits.requests, self.config.adaptive, now);
        taken.map_err(|refused| {
            let (limit, cause) = match refused {
                Refused::Requests => (Limited::Requests, "limits.requests is reached"),
                Refused::Adaptive => (Limited::Concurrency, "more would make them all slower"),
            };
            self.metrics.limited(limit);
            Error { cause: Some(cause.into()), ..Error::new(Kind::ClusterFull) }
        })
    }

    /// Takes on a retry, until the guard is dropped; `None`, and counted, if as many are under way as may.
    pub fn try_retry_slot(&self) -> Option<RetrySlot> {
        let slot = self.concurrency.retry(self.config.limits.retries);
        if slot.is_none() {
            self.metrics.limited(Limited::Retries);
        }
        slot
    }

    /// What a request of `peer` asks of the choice of its endpoint, by its headers if it has any; of subset 0.
    pub fn aim(&self, headers: Option<&HeaderMap>, peer: IpAddr) -> Aim {
        let balance = &self.config.balance;
        let source = balance.hash.as_ref().filter(|_| balance.policy.hashes());
        Aim { hash: source.and_then(|source| hash::of_request(source, headers, peer)), subset: 0 }
    }

    /// Picks an endpoint for a request that was already tried on `tried`; `None` if there is none, or none that may be
    /// picked and no panic.
    pub fn pick(&self, now: Instant, rng: &mut impl Rng, aim: Aim, tried: Tried) -> Option<Picked> {
        self.balancers.get(aim.subset)?.pick(&self.endpoints, now, rng, aim.hash, tried)
    }

    /// Counts a choice that is made use of. (A second try beside the first may turn out to cost too much.)
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

    #[tokio::test(start_paused = true)]
    async fn an_exact_server_name_goes_before_the_longest_wildcard() {
        let cluster = |name: &str, sni: &str| {
            format!(
                "[[cluster]]\nname = '{name}'\naddresses = []\nsni = {sni}\nendpoints = ['10.0.0.1:443']\n"
            )
        };
        let text = "service = 'web'\n".to_owned()
            + &cluster("exact", "['db.eu.Example', 'example']")
            + &cluster("wide", "['*.example']")
            + &cluster("narrow", "['*.eu.example']");
        let snapshot = Arc::new(crate::config::parse("sidecar.toml", &text).unwrap());
        let table = Table::new(snapshot, None, &Metrics::default(), Instant::now());
        for (name, expected) in [
            ("db.eu.example", Some("exact")),
            ("example", Some("exact")),
            ("a.eu.example", Some("narrow")),
            ("a.b.eu.example", Some("narrow")),
            ("eu.example", Some("wide")),
            ("badexample", None),
            ("other.test", None),
        ] {
            let found = table.cluster_named(name).map(|cluster| cluster.config.name.as_str());
            assert_eq!(found, expected, "{name}");
        }
    }
}
