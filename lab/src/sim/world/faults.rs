//! What the simulator offers to faults, and the evidence of each.

use std::collections::{BTreeMap, BTreeSet};

use super::{SimWorld, TERMINATION_GRACE};
use crate::app::APP_METRICS_PORT;
use crate::fault::Primitives;
use crate::mesh::{Link, ProcessId, Role};
use crate::metrics::{self, ChangedRequests};
use crate::sidecar;
use crate::sim::link::{LinkCounters, Pair};
use crate::world::Error;
use proxy::ca::wire::Revoked;

/// What is known of a fault.
#[derive(Default)]
pub(super) struct FaultState {
    counts: BTreeMap<String, f64>,
    /// The directions concerned, and what they had done when the fault began and when it ended.
    links: Option<(Vec<Pair>, LinkCounters, Option<LinkCounters>)>,
    /// What they did in earlier injections.
    earlier: LinkCounters,
    /// Of each app the requests that it has answered otherwise than usual since the fault began.
    changed: ChangedRequests,
    /// The roots that were trusted when it began, if it changes them.
    roots: Vec<String>,
}

impl Primitives for SimWorld {
    type Error = Error;

    async fn end(&self, fault: &str, ids: &[ProcessId], hard: bool) -> Result<(), Error> {
        let living = self.living(ids);
        for group in &living {
            if hard { group.kill() } else { group.terminate() }
        }
        // As long as the kernel's world waits.
        if tokio::time::timeout(TERMINATION_GRACE, self.all_ended(&living)).await.is_err() {
            living.iter().for_each(|group| group.kill());
        }
        self.count(fault, "killed", living.len());
        Ok(())
    }

    async fn start_again(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        for group in self.living(ids) {
            // Asked to end and still here: a process manager loses patience before it starts the
            // next one.
            group.kill();
        }
        for &id in ids {
            self.start(id);
        }
        for &id in ids {
            self.ready(id).await?;
        }
        self.count(fault, "restarted", ids.len());
        Ok(())
    }

    async fn stop(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        let living = self.living(ids);
        for group in &living {
            group.stop();
        }
        self.count(fault, "stopped", living.len());
        Ok(())
    }

    async fn resume(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        let living = self.living(ids);
        for group in &living {
            group.go_on();
        }
        self.count(fault, "continued", living.len());
        Ok(())
    }

    async fn power_off(&self, ids: &[ProcessId]) -> Result<(), Error> {
        let hosts: BTreeSet<usize> = ids.iter().map(|id| id.instance).collect();
        self.stack.with(|s, wakes| hosts.iter().for_each(|&host| s.power_off(host, wakes)));
        let disks = self.disks.borrow();
        disks.iter().filter(|((host, _), _)| hosts.contains(host)).for_each(|(_, disk)| disk.lose_power());
        Ok(())
    }

    async fn power_on(&self, _: &[ProcessId]) -> Result<(), Error> {
        Ok(())
    }

    async fn refuse(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        let ways = self.ways_in(ids);
        self.stack.with(|s, _| ways.iter().for_each(|&(host, port)| s.refuse(host, port)));
        self.count(fault, "refused", 0);
        Ok(())
    }

    async fn accept(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        let ways = self.ways_in(ids);
        let refused: u64 = self.stack.with(|s, _| ways.iter().map(|&(host, port)| s.admit(host, port)).sum());
        self.count(fault, "refused", refused as usize);
        Ok(())
    }

    async fn refusals(&self, ids: &[ProcessId]) -> u64 {
        let ways = self.ways_in(ids);
        self.stack.with(|s, _| ways.iter().map(|&(host, port)| s.refusals(host, port)).sum())
    }

    async fn configure(&self, fault: &str, configs: &[String]) -> Result<(), Error> {
        self.note_reloads().await;
        self.count(fault, "reloaded", 0);
        for (instance, (config, now)) in configs.iter().zip(&self.configs).enumerate() {
            // A sidecar that gets the configuration that it has has nothing to take.
            if *now.borrow() == *config {
                continue;
            }
            now.send_replace(config.clone());
            let id = ProcessId { instance, role: Role::Sidecar };
            if !self.living(&[id]).is_empty() {
                self.reloading.borrow_mut().insert(id, fault.to_owned());
            }
        }
        Ok(())
    }

    async fn configure_as_planned(&self, fault: &str) -> Result<(), Error> {
        self.configure(fault, &self.plan.configs()).await
    }

    /// Counts the sidecars that have taken what they were last given, by their own metrics. They
    /// are asked when it matters and not when they are given it: asking takes time, and the fault
    /// is in force already. One that is stopped has taken nothing and is asked when it goes on:
    /// waiting for its answer would hold up the next entries of the timeline.
    async fn note_reloads(&self) {
        let reloading = self.reloading.take();
        for (id, fault) in reloading {
            if self.group(id).is_some_and(|group| group.is_stopped()) {
                self.reloading.borrow_mut().insert(id, fault);
                continue;
            }
            let Some(program) = sidecar::program(self.plan.sidecar) else { continue };
            let page = program.metrics();
            let Ok(Some((200, text))) = self.get(id.instance, page.port, page.path).await else {
                continue;
            };
            let now = (self.starts(id), program.reloads(&metrics::parse("", &text)));
            let before = self.reloads.borrow_mut().insert(id, now);
            // A new process begins at 0.
            let before = before.filter(|(start, _)| *start == now.0).map_or(0.0, |(_, count)| count);
            if now.1 > before {
                self.count(&fault, "reloaded", 1);
            }
        }
    }

    async fn deliver(
        &self,
        fault: &str,
        ids: &[ProcessId],
        certificate: Option<(usize, &[String])>,
    ) -> Result<(), Error> {
        for id in ids {
            let (identity, config) = self.plan.given(id.instance, certificate).map_err(Error::Failed)?;
            if let Some(identity) = identity {
                self.deliver_identity(id.instance, &identity).await?;
            }
            if let Some(config) = config {
                self.configs[id.instance].send_replace(config.clone());
            }
            if certificate.is_some() {
                self.count(fault, "replaced", 1);
            }
        }
        Ok(())
    }

    async fn rotate_root(&self, fault: &str, authority: usize) -> Result<(), Error> {
        let before = self.roots(authority).await?;
        self.operate(authority, "/v1/roots", Vec::new()).await?;
        self.faults.borrow_mut().entry(fault.to_owned()).or_default().roots = before;
        self.count(fault, "announced", 1);
        Ok(())
    }

    async fn note_roots(&self, fault: &str, authority: usize) {
        let Ok(now) = self.roots(authority).await else { return };
        let mut faults = self.faults.borrow_mut();
        let FaultState { counts, roots, .. } = faults.entry(fault.to_owned()).or_default();
        let gone = roots.iter().filter(|root| !now.contains(root)).count();
        counts.insert("retired".into(), gone as f64);
    }

    async fn revoke(&self, fault: &str, service: usize) -> Result<(), Error> {
        let (authority, id) = self.plan.certified(service).map_err(Error::Failed)?;
        let body = serde_json::json!({ "id": id }).to_string().into_bytes();
        let said = self.operate(authority, "/v1/revocations", body).await?;
        let said: Revoked = serde_json::from_slice(&said).map_err(|e| Error::Failed(e.to_string()))?;
        self.count(fault, "revoked", said.revoked);
        Ok(())
    }

    async fn control_apps(&self, ids: &[ProcessId], query: &str) -> Result<(), Error> {
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

    async fn note_changed_requests(&self, fault: &str, ids: &[ProcessId]) {
        for &id in ids {
            let Ok(Some((200, text))) = self.get(id.instance, APP_METRICS_PORT, "/metrics").await else {
                continue;
            };
            self.faults.borrow_mut().entry(fault.to_owned()).or_default().changed.show(id, &text);
        }
        let mut faults = self.faults.borrow_mut();
        let state = faults.entry(fault.to_owned()).or_default();
        state.counts.insert("changed_requests".into(), state.changed.so_far());
    }

    async fn impair(&self, fault: &str, links: &[Link]) -> Result<(), Error> {
        let pairs: Vec<Pair> = links.iter().map(|l: &Link| (l.from, l.to)).collect();
        let before = self.stack.with(|s, _| {
            s.links.fault(fault, links);
            s.links.counters(pairs.iter().copied())
        });
        let mut faults = self.faults.borrow_mut();
        let state = faults.entry(fault.to_owned()).or_default();
        if let Some((_, before, Some(after))) = state.links.take() {
            let did = after.since(before);
            state.earlier.packets += did.packets;
            state.earlier.lost += did.lost;
            state.earlier.delayed += did.delayed;
        }
        state.links = Some((pairs, before, None));
        Ok(())
    }

    async fn heal(&self, fault: &str, links: &[Link]) -> Result<(), Error> {
        let mut faults = self.faults.borrow_mut();
        self.stack.with(|s, _| {
            s.links.heal(fault, links);
            if let Some((pairs, _, after)) = faults.get_mut(fault).and_then(|state| state.links.as_mut()) {
                *after = Some(s.links.counters(pairs.iter().copied()));
            }
        });
        Ok(())
    }

    async fn packets(&self, fault: &str, _: &[Link]) -> BTreeMap<String, f64> {
        let faults = self.faults.borrow();
        let Some(state) = faults.get(fault) else { return BTreeMap::new() };
        let Some((pairs, before, after)) = &state.links else { return BTreeMap::new() };
        let now = || self.stack.with(|s, _| s.links.counters(pairs.iter().copied()));
        let (did, earlier) = (after.unwrap_or_else(now).since(*before), state.earlier);
        [
            ("packets", did.packets + earlier.packets),
            ("lost_packets", did.lost + earlier.lost),
            ("delayed_packets", did.delayed + earlier.delayed),
        ]
        .map(|(name, count)| (name.to_owned(), count as f64))
        .into()
    }

    async fn counted(&self, fault: &str) -> BTreeMap<String, f64> {
        self.faults.borrow().get(fault).map(|state| state.counts.clone()).unwrap_or_default()
    }
}

impl SimWorld {
    fn starts(&self, id: ProcessId) -> u64 {
        self.processes.borrow().get(&id).map_or(0, |process| process.starts)
    }

    fn count(&self, fault: &str, what: &str, by: usize) {
        let mut faults = self.faults.borrow_mut();
        let counts = &mut faults.entry(fault.to_owned()).or_default().counts;
        *counts.entry(what.to_owned()).or_default() += by as f64;
    }
}
