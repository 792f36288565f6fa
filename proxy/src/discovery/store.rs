//! What is known of every cluster whose endpoints are learned. Written by the control thread only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{EndpointUpdate, KnownEndpoints, SourceStatus, State};
use crate::config::{Cluster, Discovery, Endpoint, Snapshot, Source};
use crate::telemetry::{DiscoveryMetrics, Metrics, emit};

/// Which source of which cluster: another one, once the configuration names another source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SourceId {
    cluster: String,
    generation: u64,
}

impl SourceId {
    /// A number for its stream of chance.
    pub(super) fn key(&self) -> u64 {
        self.cluster.bytes().fold(self.generation, |key, byte| key.wrapping_mul(31).wrapping_add(byte.into()))
    }
}

/// What is known of every cluster whose endpoints are learned.
#[derive(Debug, Default)]
pub struct EndpointStore {
    entries: Mutex<BTreeMap<String, Entry>>,
    changed: Notify,
}

#[derive(Debug)]
struct Entry {
    wanted: Discovery,
    generation: u64,
    known: KnownEndpoints,
    /// The endpoints that are in force. Between them and what is known now several changes may lie.
    in_force: Arc<Vec<Endpoint>>,
    /// The cluster as it was given, and with these endpoints.
    filled: Option<(Arc<Cluster>, Arc<Cluster>)>,
    metrics: DiscoveryMetrics,
}

impl EndpointStore {
    /// Wants the sources that `snapshot` names. What is known from a source that stays is kept, and
    /// so are the endpoints of one that changes, until the new one has answered.
    pub fn want(&self, snapshot: &Snapshot, metrics: &Metrics) {
        let mut entries = self.entries();
        let mut before = std::mem::take(&mut *entries);
        for cluster in &snapshot.clusters {
            let Some(wanted) = cluster.discovery.clone() else { continue };
            let kept = before.remove(&cluster.name);
            let entry = match kept {
                Some(entry) if entry.wanted == wanted => entry,
                other => {
                    let mut known = KnownEndpoints::new(wanted.empty_grace, wanted.stale_after);
                    let generation = other.as_ref().map_or(0, |entry| entry.generation + 1);
                    let in_force = other.as_ref().map(|entry| entry.in_force.clone()).unwrap_or_default();
                    if let Some(entry) = other.filter(|entry| entry.known.version() > 0) {
                        let now = Instant::now();
                        known.hear(EndpointUpdate::Endpoints(entry.known.endpoints().to_vec()), now);
                        known.hear(EndpointUpdate::Lost("the new source has not answered yet".into()), now);
                    }
                    let metrics = metrics.discovery(&cluster.name);
                    Entry { wanted, generation, known, in_force, filled: None, metrics }
                }
            };
            entries.insert(cluster.name.clone(), entry);
        }
        for gone in before.keys() {
            metrics.forget_discovery(gone);
        }
        drop(entries);
        self.changed.notify_one();
    }

    /// `snapshot` with the endpoints that are known, for it to come into force. A cluster of which
    /// nothing has changed is the same as the last time.
    pub fn fill(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        let mut entries = self.entries();
        if entries.is_empty() {
            return snapshot.clone();
        }
        let mut filled = Snapshot::clone(snapshot);
        for cluster in &mut filled.clusters {
            let Some(entry) = entries.get_mut(&cluster.name) else { continue };
            *cluster = entry.fill(cluster, &snapshot.opaque_ports);
        }
        Arc::new(filled)
    }

    /// Whether every source has answered, whatever it said.
    pub fn has_heard_of_all(&self) -> bool {
        self.entries().values().all(|entry| entry.known.version() > 0)
    }

    /// How a cluster's source is, if it has one.
    pub fn status(&self, cluster: &str, now: Instant) -> Option<SourceStatus> {
        self.entries().get(cluster).map(|entry| SourceStatus::new(&entry.wanted.source, &entry.known, now))
    }

    /// Brings the gauges up to `now`.
    pub fn measure(&self, now: Instant) {
        for entry in self.entries().values() {
            entry.measure(now);
        }
    }

    /// Takes an update of the source that `cluster` has now, as if it had told them; true if the
    /// cluster has other endpoints.
    pub fn tell(&self, cluster: &str, update: EndpointUpdate, now: Instant) -> bool {
        let generation = self.entries().get(cluster).map(|entry| entry.generation);
        generation.is_some_and(|generation| {
            self.hear(&SourceId { cluster: cluster.to_owned(), generation }, update, now)
        })
    }

    /// Waits until other sources are wanted.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Every source that should run.
    pub(super) fn tasks(&self) -> Vec<(SourceId, Source)> {
        let entries = self.entries();
        let task = |(cluster, entry): (&String, &Entry)| {
            let task = SourceId { cluster: cluster.clone(), generation: entry.generation };
            (task, entry.wanted.source.clone())
        };
        entries.iter().map(task).collect()
    }

    /// Takes an update; true if some cluster has other endpoints now.
    pub(super) fn hear(&self, task: &SourceId, update: EndpointUpdate, now: Instant) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&task.cluster).filter(|entry| entry.generation == task.generation)
        else {
            return false;
        };
        if let EndpointUpdate::Rejected(why) | EndpointUpdate::Passed(why) = &update {
            entry.metrics.rejected.inc();
            tracing::error!(cluster = %task.cluster, "what was discovered is not used: {why}");
        }
        let was_fresh = entry.known.state() == &State::Fresh;
        let changed = entry.known.hear(update, now);
        let is_fresh = entry.known.state() == &State::Fresh;
        if changed {
            entry.metrics.applied.inc();
            let (count, version) = (entry.known.endpoints().len(), entry.known.version());
            emit!(EndpointsDiscovered { cluster: task.cluster, count, version });
        }
        if let (true, State::Stale { why, .. }) = (was_fresh, entry.known.state()) {
            emit!(EndpointsStale { cluster: task.cluster, why });
        } else if !was_fresh && is_fresh && !changed {
            emit!(EndpointsFresh { cluster: task.cluster });
        }
        entry.measure(now);
        changed
    }

    /// Lets time pass; true if some cluster has other endpoints now.
    pub(super) fn tick(&self, now: Instant) -> bool {
        let mut changed = false;
        for entry in self.entries().values_mut() {
            changed |= entry.known.tick(now);
            entry.measure(now);
        }
        changed
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says which endpoints have gone and which have come. Both lists are sorted by address.
fn tell(cluster: &str, before: &[Endpoint], after: &[Endpoint]) {
    let missing = |from: &[Endpoint], in_: &[Endpoint], say: &dyn Fn(SocketAddr)| {
        let mut others = in_.iter().map(|endpoint| endpoint.address).peekable();
        for endpoint in from {
            while others.next_if(|other| *other < endpoint.address).is_some() {}
            if others.peek() != Some(&endpoint.address) {
                say(endpoint.address);
            }
        }
    };
    missing(before, after, &|endpoint| emit!(EndpointGone { cluster, endpoint }));
    missing(after, before, &|endpoint| emit!(EndpointFound { cluster, endpoint }));
}

impl Entry {
    /// `given` with the endpoints that are known.
    fn fill(&mut self, given: &Arc<Cluster>, opaque_ports: &BTreeSet<u16>) -> Arc<Cluster> {
        let known = self.known.endpoints();
        if let Some((before, filled)) = &self.filled
            && Arc::ptr_eq(before, given)
            && Arc::ptr_eq(&self.in_force, known)
        {
            return filled.clone();
        }
        let before = std::mem::replace(&mut self.in_force, known.clone());
        tell(&given.name, &before, &self.in_force);
        let mut filled = Cluster::clone(given);
        filled.endpoints = self.in_force.clone();
        filled.settle_protocol(opaque_ports);
        let filled = Arc::new(filled);
        self.filled = Some((given.clone(), filled.clone()));
        filled
    }

    fn measure(&self, now: Instant) {
        self.metrics.stale_seconds.set(self.known.age(now).as_secs_f64());
        self.metrics.endpoints.set(self.known.endpoints().len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A cluster for each of these files.
    fn snapshot(files: &[(&str, &str)]) -> Arc<Snapshot> {
        let cluster = |(nth, (name, file)): (usize, &(&str, &str))| {
            format!(
                "[[cluster]]\nname = '{name}'\naddresses = ['10.96.0.{nth}:80']\n\
                 discovery = {{ file = '{file}' }}\n"
            )
        };
        parsed(&files.iter().enumerate().map(cluster).collect::<String>())
    }

    fn parsed(clusters: &str) -> Arc<Snapshot> {
        Arc::new(crate::config::parse("sidecar.toml", &format!("service = 'web'\n{clusters}")).unwrap())
    }

    fn endpoints(text: &str) -> EndpointUpdate {
        EndpointUpdate::Endpoints(crate::config::parse_endpoints("e.toml", text).unwrap())
    }

    /// How many endpoints each cluster has once what is known is in force.
    fn filled(store: &EndpointStore, snapshot: &Arc<Snapshot>) -> Vec<usize> {
        store.fill(snapshot).clusters.iter().map(|cluster| cluster.endpoints.len()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_stays_is_kept_and_one_that_changes_takes_over_what_was_known() {
        let (store, metrics, now) = (EndpointStore::default(), Metrics::default(), Instant::now());
        let both = snapshot(&[("a", "/a.toml"), ("b", "/b.toml")]);
        store.want(&both, &metrics);
        assert!(!store.has_heard_of_all());
        let old = store.tasks();
        assert!(store.hear(&old[0].0, endpoints(ONE), now) && store.hear(&old[1].0, endpoints(ONE), now));
        assert!(store.has_heard_of_all());
        assert_eq!(filled(&store, &both), [1, 1]);

        let moved = snapshot(&[("a", "/a.toml"), ("b", "/elsewhere.toml"), ("c", "/c.toml")]);
        store.want(&moved, &metrics);
        let new = store.tasks();
        assert_eq!(new[0], old[0]);
        assert!(new[1].0 != old[1].0 && new[2].0.generation == 0);
        assert_eq!(filled(&store, &moved), [1, 1, 0], "the last endpoints hold until the new source answers");
        let later = now + Duration::from_secs(9);
        let stale = |cluster| store.status(cluster, later).unwrap().stale.as_secs();
        assert_eq!((stale("a"), stale("b")), (0, 9));
        assert!(!store.hear(&old[1].0, endpoints(TWO), now), "the old source has nothing to say any more");
        assert!(store.hear(&new[1].0, endpoints(TWO), now));
        assert_eq!(filled(&store, &moved), [1, 2, 0]);
        assert!(store.tell("b", endpoints(ONE), now) && !store.tell("b", endpoints(ONE), now));
        assert!(!store.tell("nobody", endpoints(ONE), now));
    }

    const ONE: &str = "[[endpoint]]\naddress = '10.0.0.1:80'\n";
    const TWO: &str = "[[endpoint]]\naddress = '10.0.0.1:80'\n[[endpoint]]\naddress = '10.0.0.2:80'\n";

    #[tokio::test(start_paused = true)]
    async fn a_cluster_of_which_nothing_has_changed_is_the_same_as_the_last_time() {
        let (store, metrics, now) = (EndpointStore::default(), Metrics::default(), Instant::now());
        let snapshot = snapshot(&[("a", "/a.toml"), ("b", "/b.toml")]);
        store.want(&snapshot, &metrics);
        let before = store.fill(&snapshot);
        assert!(store.tell("b", endpoints(ONE), now));
        let after = store.fill(&snapshot);
        assert!(Arc::ptr_eq(&before.clusters[0], &after.clusters[0]));
        assert!(!Arc::ptr_eq(&before.clusters[1], &after.clusters[1]));
        let gauge = "proxy_discovery_endpoints{cluster=\"b\"} 1\n";
        assert!(metrics.text().contains(gauge), "{}", metrics.text());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_is_replaced_before_it_has_answered_leaves_nothing_behind() {
        let (store, metrics, now) = (EndpointStore::default(), Metrics::default(), Instant::now());
        store.want(&snapshot(&[("a", "/a.toml")]), &metrics);
        store.want(&snapshot(&[("a", "/elsewhere.toml")]), &metrics);
        assert!(!store.has_heard_of_all());
        assert_eq!(store.status("a", now).unwrap().state, "waiting");
    }

    #[test]
    fn every_source_draws_its_own_chance() {
        let key = |cluster: &str, generation| SourceId { cluster: cluster.to_owned(), generation }.key();
        let keys = [key("a", 0), key("b", 0), key("ab", 0), key("ba", 0), key("a", 1)];
        assert_eq!(BTreeSet::from(keys).len(), keys.len(), "{keys:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_takes_endpoints_away_and_shows_how_stale_they_are() {
        let (store, metrics, now) = (EndpointStore::default(), Metrics::default(), Instant::now());
        let second = |n| now + Duration::from_secs(n);
        let snapshot = parsed(
            "[[cluster]]\nname = 'a'\naddresses = ['10.96.0.1:80']\n\
             discovery = { file = '/a.toml', empty_grace = '5s' }\n",
        );
        store.want(&snapshot, &metrics);
        assert!(store.tell("a", endpoints(ONE), now));
        assert!(!store.tell("a", endpoints("endpoint = []"), now), "they have a grace");
        assert!(!store.tick(second(4)));
        assert_eq!(filled(&store, &snapshot), [1]);
        let stale = |seconds| format!("proxy_discovery_stale_seconds{{cluster=\"a\"}} {seconds}.0\n");
        assert!(metrics.text().contains(&stale(4)), "{}", metrics.text());
        store.measure(second(5));
        assert!(metrics.text().contains(&stale(5)), "{}", metrics.text());
        assert!(store.tick(second(5)));
        assert_eq!(filled(&store, &snapshot), [0]);
    }
}
