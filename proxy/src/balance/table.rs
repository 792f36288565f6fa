//! The clusters in force: made for each snapshot, out of those of the one before wherever nothing
//! has changed.
//!
//! A source of endpoints may change one cluster of a thousand a hundred times a second, so what has
//! not changed is not made again: a cluster whose configuration is equal stays as it is, with its
//! endpoints, balancers and routes, and so does the index, if all clusters have the names and
//! addresses that they had.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::Cluster;
use super::cluster::BuildContext;
use crate::authz::Authorization;
use crate::config::{self, Snapshot};
use crate::connect::Target;
use crate::error::{Error, Kind};
use crate::limit::Load;
use crate::limit::concurrency::{Concurrency, InFlight};
use crate::mutant::Mutant;
use crate::telemetry::{ClusterMetrics, LimitReason, Metrics};

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
    /// Who may call the app.
    pub authorization: Arc<Authorization>,
    index: Arc<Index>,
}

/// Where each cluster stands.
#[derive(Debug, Default)]
struct Index {
    by_name: BTreeMap<String, usize>,
    by_address: BTreeMap<SocketAddr, usize>,
    /// By server name; a wildcard stands without its asterisk, as `.example`.
    by_server_name: BTreeMap<String, usize>,
}

impl Index {
    fn new(clusters: &[Arc<config::Cluster>]) -> Self {
        let mut index = Index::default();
        for (position, cluster) in clusters.iter().enumerate() {
            index.by_name.insert(cluster.name.clone(), position);
            index.by_address.extend(cluster.addresses.iter().map(|address| (*address, position)));
            let key = |pattern: &String| pattern.strip_prefix('*').unwrap_or(pattern).to_owned();
            index.by_server_name.extend(cluster.sni.iter().map(|name| (key(name), position)));
        }
        index
    }
}

impl Table {
    /// Prepares a snapshot. Endpoints that `previous` had under the same cluster, address and
    /// identity are kept, with all that is known about them.
    pub fn new(snapshot: Arc<Snapshot>, previous: Option<&Table>, metrics: &Metrics, now: Instant) -> Self {
        let kept_index = previous.filter(|t| indexed_alike(&t.snapshot.clusters, &snapshot.clusters));
        let index = kept_index.map(|t| t.index.clone());
        let index = index.unwrap_or_else(|| Arc::new(Index::new(&snapshot.clusters)));
        let same_zone = previous.is_some_and(|t| t.snapshot.zone == snapshot.zone);
        let with = BuildContext {
            positions: &index.by_name,
            zone: (snapshot.zone.as_deref(), same_zone),
            has_identity: snapshot.identity.is_some(),
            metrics,
            now,
        };
        // Routes know clusters by their positions, and balancers the zone.
        let may_stay = kept_index.is_some() && same_zone && !Mutant::ReloadFillsTheBudget.is_planted();
        let cluster = |config: &Arc<config::Cluster>| {
            let known = previous.and_then(|t| t.cluster(&config.name));
            match known.filter(|known| may_stay && same(&known.config, config)) {
                Some(unchanged) => unchanged.clone(),
                None => Arc::new(Cluster::new(config, known.map(|known| &**known), &with)),
            }
        };
        let clusters = snapshot.clusters.iter().map(cluster).collect();
        if let Some(previous) = previous.filter(|_| kept_index.is_none()) {
            let gone = previous.index.by_name.keys().filter(|name| !index.by_name.contains_key(*name));
            gone.for_each(|name| metrics.forget_cluster(name));
        }
        let load = previous.map_or_else(|| Arc::new(Load::new(metrics.load())), |t| t.load.clone());
        metrics.list_endpoints(snapshot.lists_endpoints());
        let app = snapshot.inbound_adaptive.keys().map(|port| {
            let known = previous.and_then(|previous| previous.app.get(port).cloned());
            (*port, known.unwrap_or_default())
        });
        let authorization =
            Authorization::new(&snapshot, previous.map(|previous| &previous.authorization), metrics);
        Table { app: app.collect(), authorization, load, index, clusters, snapshot }
    }

    /// Puts this one into `place`, and tells connections that live under other policies, modes of
    /// TLS or declarations of what the app speaks.
    pub fn put_in_force(self, place: &ArcSwap<Table>) {
        let (table, before) = (Arc::new(self), place.load_full());
        place.store(table.clone());
        let (old, new) = (&before.snapshot, &table.snapshot);
        let same_modes = old.tls.mode == new.tls.mode && old.inbound_port_tls == new.inbound_port_tls;
        let same_protocols = old.inbound == new.inbound && old.opaque_ports == new.opaque_ports;
        let same_policies = Arc::ptr_eq(&before.authorization, &table.authorization);
        if !(same_policies && same_modes && same_protocols) {
            table.authorization.announce();
        }
    }

    /// The cluster of a name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.index.by_name.get(name).map(|position| &self.clusters[*position])
    }

    /// The cluster behind a virtual address.
    pub fn cluster_at(&self, address: SocketAddr) -> Option<&Arc<Cluster>> {
        self.index.by_address.get(&address).map(|position| &self.clusters[*position])
    }

    /// Takes on a request for the app's `port`, if that has a adaptive concurrency limit.
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
            metrics.limited(LimitReason::Concurrency);
            let cause = "the app has as many requests as do not make it slower";
            Error { cause: Some(cause.into()), ..Error::new(Kind::Overload) }
        })
    }

    /// Whether any cluster is chosen by server name.
    pub fn has_names(&self) -> bool {
        !self.index.by_server_name.is_empty()
    }

    /// The cluster of a server name in lower case: the one that names it, or the one with the
    /// longest wildcard above it.
    pub fn cluster_named(&self, name: &str) -> Option<&Arc<Cluster>> {
        let above = name.match_indices('.').map(|(dot, _)| &name[dot..]);
        let position = std::iter::once(name).chain(above).find_map(|key| self.index.by_server_name.get(key));
        position.map(|position| &self.clusters[*position])
    }

    /// Endpoints that `before` has and this table has not, in any cluster.
    pub fn gone_since(&self, before: &Table) -> BTreeSet<Target> {
        let mut gone = BTreeSet::new();
        for cluster in &before.clusters {
            let now = self.cluster(&cluster.config.name);
            if now.is_some_and(|now| Arc::ptr_eq(now, cluster)) {
                continue;
            }
            let mut there: Vec<_> =
                now.iter().flat_map(|now| now.endpoints.iter().map(|e| &e.target)).collect();
            there.sort_unstable();
            let targets = cluster.endpoints.iter().map(|endpoint| &endpoint.target);
            gone.extend(targets.filter(|target| there.binary_search(target).is_err()).cloned());
        }
        if !gone.is_empty() {
            for endpoint in self.clusters.iter().flat_map(|cluster| cluster.endpoints.iter()) {
                gone.remove(&endpoint.target);
            }
        }
        gone
    }
}

fn same(a: &Arc<config::Cluster>, b: &Arc<config::Cluster>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// Whether clusters of these configurations are found in the same places.
fn indexed_alike(a: &[Arc<config::Cluster>], b: &[Arc<config::Cluster>]) -> bool {
    let alike = |a: &config::Cluster, b: &config::Cluster| {
        a.name == b.name && a.addresses == b.addresses && a.sni == b.sni
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b) || alike(a, b))
}

#[cfg(test)]
mod tests {
    use std::slice;

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
        assert!(table.has_names());
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

    #[tokio::test(start_paused = true)]
    async fn without_a_cluster_of_a_server_name_there_is_none_to_look_for() {
        let text = "service = 'web'\n[[cluster]]\nname = 'orders'\naddresses = ['10.96.0.1:80']\n\
                    endpoints = ['10.0.0.1:80']\n";
        let snapshot = Arc::new(crate::config::parse("sidecar.toml", text).unwrap());
        assert!(!Table::new(snapshot, None, &Metrics::default(), Instant::now()).has_names());
    }

    /// Two clusters of these endpoints, all told.
    fn snapshot(endpoints: [&str; 2], more: &str) -> Arc<Snapshot> {
        let cluster = |(name, endpoints): (&str, &str)| {
            format!(
                "[[cluster]]\nname = '{name}'\naddresses = []\nsni = ['{name}']\nendpoints = {endpoints}\n"
            )
        };
        let clusters: String = ["a", "b"].into_iter().zip(endpoints).map(cluster).collect();
        Arc::new(config::parse("sidecar.toml", &format!("service = 'web'\n{more}{clusters}")).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_not_changed_is_not_made_again() {
        let (metrics, now) = (Metrics::default(), Instant::now());
        let one = "['10.0.0.1:80']";
        let before = Table::new(snapshot([one, one], ""), None, &metrics, now);
        let after =
            Table::new(snapshot([one, "['10.0.0.2:80', '10.0.0.1:80']"], ""), Some(&before), &metrics, now);
        assert!(Arc::ptr_eq(&before.index, &after.index));
        assert!(Arc::ptr_eq(&before.clusters[0], &after.clusters[0]));
        assert!(!Arc::ptr_eq(&before.clusters[1], &after.clusters[1]));
        let (old, new) = (&before.clusters[1].endpoints, &after.clusters[1].endpoints);
        assert!(Arc::ptr_eq(&old[0], &new[1]), "an endpoint is known by its address, wherever it stands");
        assert_eq!(new[0].address(), "10.0.0.2:80".parse().unwrap());
        let elsewhere = Table::new(snapshot([one, one], "zone = 'z'\n"), Some(&after), &metrics, now);
        assert!(!Arc::ptr_eq(&elsewhere.clusters[0], &after.clusters[0]), "balancers know the zone");
    }

    #[test]
    fn clusters_are_found_elsewhere_once_a_name_an_address_or_a_server_name_has_changed() {
        let cluster = snapshot(["['10.0.0.1:80']"; 2], "").clusters[0].clone();
        let alike = |change: fn(&mut config::Cluster)| {
            let mut changed = config::Cluster::clone(&cluster);
            change(&mut changed);
            indexed_alike(slice::from_ref(&cluster), &[changed.into()])
        };
        assert!(alike(|c| c.endpoints = Default::default()));
        assert!(!alike(|c| c.name.push('b')));
        assert!(!alike(|c| c.addresses = vec!["10.96.0.9:80".parse().unwrap()]));
        assert!(!alike(|c| c.sni = Default::default()));
        assert!(!indexed_alike(slice::from_ref(&cluster), &[]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_gone_once_no_cluster_has_it() {
        let (metrics, now) = (Metrics::default(), Instant::now());
        let gone = |before: [&str; 2], after: [&str; 2]| {
            let before = Table::new(snapshot(before, ""), None, &metrics, now);
            let gone = Table::new(snapshot(after, ""), Some(&before), &metrics, now).gone_since(&before);
            gone.into_iter().map(|target| target.address.to_string()).collect::<Vec<_>>()
        };
        let (one, two, both) = ("['10.0.0.1:80']", "['10.0.0.2:80']", "['10.0.0.2:80', '10.0.0.1:80']");
        assert_eq!(gone([both, two], [one, two]), Vec::<String>::new());
        assert_eq!(gone([both, one], [one, one]), ["10.0.0.2:80"]);
        assert_eq!(gone([one, two], [two, one]), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_passes_to_another_workload_inherits_nothing() {
        let (metrics, now) = (Metrics::default(), Instant::now());
        let owned_by = |identity: &str| format!("[{{ address = '10.0.0.1:80', identity = '{identity}' }}]");
        let (orders, billing) = (owned_by("spiffe://mesh/orders"), owned_by("spiffe://mesh/billing"));
        let other = "['10.0.0.2:80']";
        let before = Table::new(snapshot([&orders, other], ""), None, &metrics, now);
        let same = Table::new(snapshot([&orders, other], "zone = 'z'\n"), Some(&before), &metrics, now);
        assert!(Arc::ptr_eq(&before.clusters[0].endpoints[0], &same.clusters[0].endpoints[0]));
        assert!(same.gone_since(&before).is_empty());
        let after = Table::new(snapshot([&billing, other], ""), Some(&same), &metrics, now);
        assert!(!Arc::ptr_eq(&same.clusters[0].endpoints[0], &after.clusters[0].endpoints[0]));
        let gone = after.gone_since(&same).into_iter().map(|target| target.identity);
        assert_eq!(gone.collect::<Vec<_>>(), ["spiffe://mesh/orders".parse().ok()], "its connections end");
    }

    #[tokio::test(start_paused = true)]
    async fn the_gauges_of_a_cluster_go_with_it_and_those_of_what_is_open_when_that_is_closed() {
        let (metrics, now) = (Metrics::default(), Instant::now());
        let one = "['10.0.0.1:80']";
        let both = Table::new(snapshot([one, one], ""), None, &metrics, now);
        metrics.set_endpoints("b", "known", 1);
        metrics.set_concurrency("outbound", "b", 3, Some(5));
        let connection = both.clusters[1].metrics.open.open();
        let lines = |what: &str| {
            let text = metrics.text();
            text.lines().filter(|l| l.contains("cluster=\"b\"") && l.contains(what)).count()
        };
        let gauges = ["proxy_endpoints{", "requests_in_flight{", "concurrency_limit{", "retry_budget{"];
        assert!(gauges.iter().all(|gauge| lines(gauge) == 1));
        let mut without = Snapshot::clone(&both.snapshot);
        without.clusters.truncate(1);
        let alone = Table::new(Arc::new(without), Some(&both), &metrics, now);
        assert!(gauges.iter().all(|gauge| lines(gauge) == 0));
        assert_eq!(lines("upstream_connections_open{"), 1, "one is open still");
        drop(connection);
        assert_eq!(lines("upstream_connections_open{"), 0);
        assert_eq!(lines("proxy_connects_total{"), 1, "counters are true for ever");
        Table::new(both.snapshot.clone(), Some(&alone), &metrics, now);
        assert_eq!(lines("upstream_connections_open{"), 1, "it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn each_endpoint_is_listed_up_to_a_limit_or_as_the_configuration_says() {
        let now = Instant::now();
        for (more, count, listed) in [
            ("", 1000, true),
            ("", 1001, false),
            ("metrics.per_endpoint = true\n", 1001, true),
            ("metrics.per_endpoint = false\n", 2, false),
        ] {
            let metrics = Metrics::default();
            let addresses: Vec<_> =
                (0..count).map(|n| format!("'10.0.{}.{}:80'", n / 200, n % 200)).collect();
            let endpoints = format!("[{}]", addresses.join(", "));
            let snapshot = snapshot([&endpoints, "['10.1.0.1:80']"], more);
            let mut snapshot = Snapshot::clone(&snapshot);
            snapshot.clusters.truncate(1);
            let table = Table::new(Arc::new(snapshot), None, &metrics, now);
            let text = metrics.text();
            let series = text.lines().filter(|l| l.starts_with("proxy_endpoint_requests_pending{")).count();
            assert_eq!(series, if listed { count } else { 0 }, "{more}{count}");
            let omitted = format!("proxy_endpoint_series_omitted {}\n", if listed { 0 } else { count });
            assert!(text.contains(&omitted), "{more}{count}");
            drop(table);
        }
    }
}
