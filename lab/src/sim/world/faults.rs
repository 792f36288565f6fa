//! Faults that take more than a signal, and the proof that each one bit.

use std::collections::BTreeMap;

use super::SimWorld;
use crate::app::metrics::{CHANGED, Growth};
use crate::metrics;
use crate::plan::{APP_METRICS_PORT, Entry, Link, METRICS_PORT, ProcessId, Role};
use crate::sim::link::{LinkCounters, Pair};
use crate::world::Error;

/// What is known of a fault.
#[derive(Default)]
pub(super) struct FaultState {
    pub counts: BTreeMap<String, f64>,
    /// The directions concerned, and what they had done when the fault began and when it ended.
    pub links: Option<(Vec<Pair>, LinkCounters, Option<LinkCounters>)>,
    /// What they did in earlier injections.
    pub earlier: LinkCounters,
    /// Of each app the requests that it has answered otherwise than usual since the fault began.
    pub changed: BTreeMap<ProcessId, Growth>,
}

impl SimWorld {
    /// Tells apps how to answer.
    pub(super) async fn behave(&self, ids: &[ProcessId], query: &str) -> Result<(), Error> {
        for &id in ids {
            let name = self.plan.process_name(id);
            match self.get(id.instance, APP_METRICS_PORT, query).await? {
                Some((200, _)) => {}
                Some((status, why)) => {
                    let message = format!("{name} refuses to answer otherwise: {status} {}", why.trim());
                    return Err(Error::Failed(message));
                }
                None => return Err(Error::Failed(format!("cannot tell {name} how to answer"))),
            }
        }
        Ok(())
    }

    /// Counts the requests that apps have answered otherwise than usual since the first time that
    /// this was asked.
    pub(super) async fn note_changed(&self, entry: &str, ids: &[ProcessId]) {
        for &id in ids {
            // What was seen of an app that does not answer any more stays as it is.
            let Ok(Some((200, text))) = self.get(id.instance, APP_METRICS_PORT, "/metrics").await else {
                continue;
            };
            let samples = metrics::parse("", &text);
            let changed = samples.iter().find(|s| &*s.name == CHANGED).map_or(0.0, |s| s.value);
            let mut evidence = self.evidence.borrow_mut();
            let known = &mut evidence.entry(entry.to_owned()).or_default().changed;
            known.entry(id).or_insert_with(|| Growth::from(changed)).show(changed);
        }
        let mut evidence = self.evidence.borrow_mut();
        let evidence = evidence.entry(entry.to_owned()).or_default();
        let sum = evidence.changed.values().map(Growth::so_far).sum();
        evidence.counts.insert("changed_requests".into(), sum);
    }

    pub(super) async fn configure(&self, entry: &Entry, configs: Vec<String>) {
        self.count_reloads().await;
        self.prove(entry, "reloaded", 0);
        for (instance, (config, now)) in configs.into_iter().zip(&self.configs).enumerate() {
            // A sidecar that is told what it was told before has nothing to take.
            if *now.borrow() == config {
                continue;
            }
            now.send_replace(config);
            let id = ProcessId { instance, role: Role::Sidecar };
            if !self.living(&[id]).is_empty() {
                self.reloading.borrow_mut().insert(id, entry.name.clone());
            }
        }
    }

    /// Counts the sidecars that have taken what they were last told, by their own word. That is
    /// asked when it matters and not when they are told: asking takes time, and the fault is in
    /// force already. One that is stopped has taken nothing and is asked when it goes on: waiting
    /// for its answer would hold up the next entries of the timeline.
    pub(super) async fn count_reloads(&self) {
        let reloading = self.reloading.take();
        for (id, entry) in reloading {
            if self.group(id).is_some_and(|group| group.is_stopped()) {
                self.reloading.borrow_mut().insert(id, entry);
                continue;
            }
            let Ok(Some((200, text))) = self.get(id.instance, METRICS_PORT, "/metrics").await else {
                continue;
            };
            let applied = metrics::parse("", &text).into_iter().filter(|sample| {
                &*sample.name == "proxy_config_reloads_total" && sample.labels.has("result", "applied")
            });
            let now = (self.starts(id), applied.map(|sample| sample.value).sum::<f64>());
            let before = self.reloads.borrow_mut().insert(id, now);
            // A new process begins at 0.
            let before = before.filter(|(start, _)| *start == now.0).map_or(0.0, |(_, count)| count);
            if now.1 > before {
                let mut evidence = self.evidence.borrow_mut();
                let counts = &mut evidence.entry(entry).or_default().counts;
                *counts.entry("reloaded".into()).or_default() += 1.0;
            }
        }
    }

    fn starts(&self, id: ProcessId) -> u64 {
        self.processes.borrow().get(&id).map_or(0, |process| process.starts)
    }

    pub(super) fn impair(&self, entry: &Entry, links: &[Link]) {
        let pairs: Vec<Pair> = links.iter().map(|l: &Link| (l.from, l.to)).collect();
        let before = self.stack.with(|s, _| {
            s.links.fault(&entry.name, links);
            s.links.counters(pairs.iter().copied())
        });
        let mut evidence = self.evidence.borrow_mut();
        let known = evidence.entry(entry.name.clone()).or_default();
        if let Some((_, before, Some(after))) = known.links.take() {
            let did = after.since(before);
            known.earlier.packets += did.packets;
            known.earlier.lost += did.lost;
            known.earlier.delayed += did.delayed;
        }
        known.links = Some((pairs, before, None));
    }

    pub(super) fn heal(&self, entry: &Entry, links: &[Link]) {
        let mut evidence = self.evidence.borrow_mut();
        self.stack.with(|s, _| {
            s.links.heal(&entry.name, links);
            if let Some((pairs, _, after)) = evidence.get_mut(&entry.name).and_then(|e| e.links.as_mut()) {
                *after = Some(s.links.counters(pairs.iter().copied()));
            }
        });
    }

    pub(super) fn prove(&self, entry: &Entry, what: &str, count: usize) {
        let mut evidence = self.evidence.borrow_mut();
        let evidence = evidence.entry(entry.name.clone()).or_default();
        *evidence.counts.entry(what.to_owned()).or_default() += count as f64;
    }
}
