//! What is known of every cluster whose endpoints are learned. Written by the control thread only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Known, News, State};
use crate::config::{Discovery, Dns, Endpoint, Snapshot, Source, Wanted};
use crate::telemetry::{DiscoveryMetrics, Metrics};

/// Which source of which cluster: another one, once the configuration names another source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Task {
    cluster: String,
    generation: u64,
}

impl Task {
    /// A number for its stream of chance.
    pub(super) fn key(&self) -> u64 {
        self.cluster.bytes().fold(self.generation, |key, byte| key.wrapping_mul(31).wrapping_add(byte.into()))
    }
}

/// What is known of every cluster whose endpoints are learned.
#[derive(Debug, Default)]
pub struct Board {
    entries: Mutex<BTreeMap<String, Entry>>,
    changed: Notify,
}

#[derive(Debug)]
struct Entry {
    wanted: Discovery,
    generation: u64,
    known: Known,
    /// The endpoints that are in force. Between them and what is known now several changes may lie.
    in_force: Arc<Vec<Endpoint>>,
    metrics: DiscoveryMetrics,
}

impl Board {
    /// Wants the sources that `snapshot` names. What is known from a source that stays is kept, and so are the endpoints
    /// of one that changes, until the new one has answered.
    pub fn want(&self, snapshot: &Snapshot, metrics: &Metrics) {
        let mut entries = self.entries();
        let mut before = std::mem::take(&mut *entries);
        for cluster in &snapshot.clusters {
            let Some(wanted) = cluster.discovery.clone() else { continue };
            let kept = before.remove(&cluster.name);
            let entry = match kept {
                Some(entry) if entry.wanted == wanted => entry,
                other => {
                    let mut known = Known::new(wanted.empty_grace, wanted.stale_after);
                    let generation = other.as_ref().map_or(0, |entry| entry.generation + 1);
                    let in_force = other.as_ref().map(|entry| entry.in_force.clone()).unwrap_or_default();
                    if let Some(entry) = other.filter(|entry| entry.known.version() > 0) {
                        let now = Instant::now();
                        known.hear(News::Endpoints(entry.known.endpoints().to_vec()), now);
                        known.hear(News::Lost("the new source has not answered yet".into()), now);
                    }
                    let metrics = metrics.discovery(&cluster.name);
                    Entry { wanted, generation, known, in_force, metrics }
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

    /// `snapshot` with the endpoints that are known, for it to come into force.
    pub fn fill(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        let mut entries = self.entries();
        if entries.is_empty() {
            return snapshot.clone();
        }
        let mut filled = Snapshot::clone(snapshot);
        for cluster in &mut filled.clusters {
            let Some(entry) = entries.get_mut(&cluster.name) else { continue };
            let before = std::mem::replace(&mut entry.in_force, entry.known.endpoints().clone());
            tell(&cluster.name, &before, &entry.in_force);
            let cluster = Arc::make_mut(cluster);
            cluster.endpoints = entry.known.endpoints().to_vec();
            cluster.settle_protocol(&snapshot.opaque_ports);
        }
        Arc::new(filled)
    }

    /// Whether every source has answered, whatever it said.
    pub fn has_heard_of_all(&self) -> bool {
        self.entries().values().all(|entry| entry.known.version() > 0)
    }

    /// One line about a cluster's source, if it has one.
    pub fn describe(&self, cluster: &str, now: Instant) -> Option<String> {
        let entries = self.entries();
        let entry = entries.get(cluster)?;
        let mut line = match &entry.wanted.source {
            Source::File(path) => format!("file {}", path.display()),
            Source::Etcd(etcd) => format!("etcd {}", etcd.prefix),
            Source::Dns(Dns { wanted: Wanted::Host { name, port }, .. }) => format!("dns {name}:{port}"),
            Source::Dns(Dns { wanted: Wanted::Service(name), .. }) => format!("dns srv {name}"),
        };
        let count = entry.known.endpoints().len();
        let _ = match entry.known.state() {
            State::Waiting(None) => write!(line, "  waiting for the first answer"),
            State::Waiting(Some(why)) => write!(line, "  waiting for the first answer: {why}"),
            State::Fresh => write!(line, "  fresh  version {}  {count} endpoints", entry.known.version()),
            State::Stale { why, .. } => {
                let (age, version) = (entry.known.age(now), entry.known.version());
                write!(line, "  stale for {age:.0?}: {why}  version {version}  {count} endpoints")
            }
        };
        Some(line)
    }

    /// Brings the gauges up to `now`.
    pub fn measure(&self, now: Instant) {
        for entry in self.entries().values() {
            entry.measure(now);
        }
    }

    /// Waits until other sources are wanted.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Every source that should run.
    pub(super) fn tasks(&self) -> Vec<(Task, Source)> {
        let entries = self.entries();
        let task = |(cluster, entry): (&String, &Entry)| {
            let task = Task { cluster: cluster.clone(), generation: entry.generation };
            (task, entry.wanted.source.clone())
        };
        entries.iter().map(task).collect()
    }

    /// Takes news; true if some cluster has other endpoints now.
    pub(super) fn hear(&self, task: &Task, news: News, now: Instant) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&task.cluster).filter(|entry| entry.generation == task.generation)
        else {
            return false;
        };
        if let News::Rejected(why) | News::Passed(why) = &news {
            entry.metrics.rejected.inc();
            tracing::error!(cluster = %task.cluster, "what was discovered is not used: {why}");
        }
        let was_fresh = entry.known.state() == &State::Fresh;
        let changed = entry.known.hear(news, now);
        let is_fresh = entry.known.state() == &State::Fresh;
        if changed {
            entry.metrics.applied.inc();
            let (count, version) = (entry.known.endpoints().len(), entry.known.version());
            tracing::info!(cluster = %task.cluster, count, version, "endpoints discovered");
        }
        if let (true, State::Stale { why, .. }) = (was_fresh, entry.known.state()) {
            tracing::warn!(cluster = %task.cluster, %why, "endpoints may be stale; the last ones are kept");
        } else if !was_fresh && is_fresh && !changed {
            tracing::info!(cluster = %task.cluster, "endpoints are fresh again");
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
    let is_in = |list: &[Endpoint], endpoint: &Endpoint| {
        list.binary_search_by_key(&endpoint.address, |other| other.address).is_ok()
    };
    for endpoint in before.iter().filter(|endpoint| !is_in(after, endpoint)) {
        tracing::debug!(cluster, endpoint = %endpoint.address, "endpoint gone");
    }
    for endpoint in after.iter().filter(|endpoint| !is_in(before, endpoint)) {
        tracing::debug!(cluster, endpoint = %endpoint.address, "endpoint found");
    }
}

impl Entry {
    fn measure(&self, now: Instant) {
        self.metrics.stale_seconds.set(self.known.age(now).as_secs_f64());
        self.metrics.endpoints.set(self.known.endpoints().len() as i64);
    }
}
