//! What the kernel's world offers to faults: signals for processes, profiles for links, and the
//! evidence of both.
//!
//! A fault is in force when its primitive returns: a killed process is reaped, a paused one is seen
//! stopped in /proc. Link faults may overlap: the newest that names a pair decides, and a revert
//! uncovers what lies below it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::KernelWorld;
use super::bring_up::{failed, local};
use super::link::PairCounts;
use super::process::Process;
use super::{intercept, probe, sysctl};
use crate::app::APP_METRICS_PORT;
use crate::fault::Primitives;
use crate::mesh::{Link, ProcessId, Role};
use crate::metrics::{self, ChangedRequests};
use crate::sidecar::Page;
use crate::world::Error;

/// How long a process may take to obey SIGTERM before it is killed; what Kubernetes grants by
/// default.
const TERMINATION_GRACE: Duration = Duration::from_secs(30);
/// How long the kernel may take to stop or continue a process.
const SIGNAL_WITHIN: Duration = Duration::from_secs(5);

/// What is known of a fault.
#[derive(Debug, Default)]
pub(super) struct FaultState {
    counted: BTreeMap<String, f64>,
    /// Counters of the links when the fault began.
    before: Vec<PairCounts>,
    /// What they had grown by when it ended.
    total: Option<PairCounts>,
    /// The same of earlier injections.
    earlier: PairCounts,
    /// Of each app the requests that it has answered otherwise than usual since the fault began.
    changed: ChangedRequests,
    /// The roots of an authority before it announced another one, PEM.
    roots: Vec<String>,
}

impl Primitives for KernelWorld {
    type Error = Error;

    async fn end(&self, fault: &str, ids: &[ProcessId], hard: bool) -> Result<(), Error> {
        let signal = if hard { Signal::SIGKILL } else { Signal::SIGTERM };
        let mut signalled: Vec<Rc<Process>> = Vec::new();
        for &id in ids {
            let Some(process) = self.process(id) else { continue };
            // One that had ended by itself was not killed by this fault, and the evidence must not
            // say so.
            if process.signal(signal).map_err(failed(format!("cannot kill {}", process.name())))? {
                signalled.push(process);
            }
        }
        let deadline = Instant::now() + TERMINATION_GRACE;
        for process in signalled {
            let left = deadline.saturating_duration_since(Instant::now());
            if !hard && timeout(left, process.ended()).await.is_err() {
                let after = TERMINATION_GRACE.as_secs();
                self.options.events.note(
                    "kill",
                    process.name(),
                    format!("did not obey SIGTERM within {after} s"),
                );
                process.signal(Signal::SIGKILL).map_err(failed(format!("cannot kill {}", process.name())))?;
            }
            process.ended().await;
            process.kill_rest().map_err(failed(format!("cannot end all of {}", process.name())))?;
            self.count(fault, "killed");
        }
        let mut paused = self.paused.borrow_mut();
        paused.retain(|id| !ids.contains(id));
        Ok(())
    }

    async fn start_again(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        // Apps first, as at the start of the world.
        for role in [Role::App, Role::Sidecar] {
            let mut started = Vec::new();
            for &id in ids.iter().filter(|id| id.role == role) {
                if self.process(id).is_none_or(|p| !p.is_running()) {
                    self.start(id)?;
                    started.push(id);
                }
            }
            self.all_ready(&started).await?;
            started.iter().for_each(|_| self.count(fault, "restarted"));
        }
        Ok(())
    }

    async fn stop(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        for &id in ids {
            let Some(process) = self.process(id) else { continue };
            let cannot = || failed(format!("cannot pause {}", process.name()));
            if !process.signal(Signal::SIGSTOP).map_err(cannot())? {
                continue;
            }
            self.paused.borrow_mut().insert(id);
            if wait_for_state(&process, |s| s == 'T').await? {
                self.count(fault, "stopped");
            }
        }
        Ok(())
    }

    async fn resume(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        for &id in ids {
            self.paused.borrow_mut().remove(&id);
            let Some(process) = self.process(id) else { continue };
            let cannot = failed(format!("cannot continue {}", process.name()));
            if process.signal(Signal::SIGCONT).map_err(cannot)?
                && wait_for_state(&process, |s| s != 'T').await?
            {
                self.count(fault, "continued");
            }
        }
        Ok(())
    }

    async fn power_off(&self, ids: &[ProcessId]) -> Result<(), Error> {
        self.each_remembers_the_dead(ids, false).await
    }

    async fn power_on(&self, ids: &[ProcessId]) -> Result<(), Error> {
        self.each_remembers_the_dead(ids, true).await
    }

    async fn refuse(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        self.let_in(ids, false).await?;
        self.count_by(fault, "refused", 0.0);
        Ok(())
    }

    async fn accept(&self, fault: &str, ids: &[ProcessId]) -> Result<(), Error> {
        let refused = self.refusals(ids).await;
        self.let_in(ids, true).await?;
        self.count_by(fault, "refused", refused as f64);
        Ok(())
    }

    async fn refusals(&self, ids: &[ProcessId]) -> u64 {
        let mut sum = 0;
        for &id in ids {
            let (Some(node), Some(port)) = (self.node(id.instance), self.plan.way_in(id)) else { continue };
            sum += node.call(move || intercept::refused(port)).await.and_then(|r| r).unwrap_or_default();
        }
        sum
    }

    /// Writes the sidecars' files and waits until those that can have read them.
    async fn configure(&self, fault: &str, configs: &[String]) -> Result<(), Error> {
        let sidecar = |instance| ProcessId { instance, role: Role::Sidecar };
        let can_read = |id: &ProcessId| {
            self.process(*id).is_some_and(|process| process.is_running())
                && !self.paused.borrow().contains(id)
        };
        self.count_by(fault, "reloaded", 0.0);
        // A sidecar whose file says what it said before has nothing to take.
        let changed: Vec<usize> =
            (0..configs.len()).filter(|&i| self.has_other_config(i, &configs[i])).collect();
        let mut before = Vec::new();
        for id in changed.iter().copied().map(sidecar).filter(can_read) {
            before.push((id, self.reloads(id).await));
        }
        for instance in changed {
            let (instance, config) = (&self.plan.instances[instance], &configs[instance]);
            let written = self.write_config(&instance.name, config);
            written.map_err(failed(format!("cannot change the configuration of {}", instance.name)))?;
        }
        let deadline = Instant::now() + SIGNAL_WITHIN;
        for (id, before) in before {
            while can_read(&id) {
                if self.reloads(id).await > before {
                    self.count(fault, "reloaded");
                    break;
                }
                if Instant::now() >= deadline {
                    let name = self.plan.process_name(id);
                    return Err(Error::Failed(format!("{name} has not read its new configuration")));
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    async fn configure_as_planned(&self, fault: &str) -> Result<(), Error> {
        self.configure(fault, &self.plan.configs()).await
    }

    /// They are counted when the sidecars take them.
    async fn note_reloads(&self) {}

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
                let name = &self.plan.instances[id.instance].name;
                let written = self.write_config(name, config);
                written.map_err(failed(format!("cannot change the configuration of {name}")))?;
            }
            if certificate.is_some() {
                self.count(fault, "replaced");
            }
        }
        Ok(())
    }

    async fn rotate_root(&self, fault: &str, authority: usize) -> Result<(), Error> {
        let before = self.roots(authority).await?;
        self.operate(authority, &["rotate"]).await?;
        self.faults.borrow_mut().entry(fault.to_owned()).or_default().roots = before;
        self.count(fault, "announced");
        Ok(())
    }

    async fn note_roots(&self, fault: &str, authority: usize) {
        let Ok(now) = self.roots(authority).await else { return };
        let mut faults = self.faults.borrow_mut();
        let state = faults.entry(fault.to_owned()).or_default();
        let gone = state.roots.iter().filter(|root| !now.contains(root)).count();
        state.counted.insert("retired".into(), gone as f64);
    }

    async fn revoke(&self, fault: &str, service: usize) -> Result<(), Error> {
        let (authority, id) = self.plan.certified(service).map_err(Error::Failed)?;
        let said = self.operate(authority, &["revoke", "--id", id]).await?;
        let revoked = said.trim().rsplit(' ').next().and_then(|count| count.parse().ok());
        self.count_by(fault, "revoked", revoked.unwrap_or_default());
        Ok(())
    }

    async fn control_apps(&self, ids: &[ProcessId], query: &str) -> Result<(), Error> {
        for &id in ids {
            let Some(node) = self.node(id.instance) else { continue };
            let query = query.to_owned();
            let answer = node.probe(move || probe::get(local(APP_METRICS_PORT), &query, SIGNAL_WITHIN)).await;
            let name = self.plan.process_name(id);
            match answer.and_then(|r| r).map_err(failed(format!("cannot tell {name} how to answer")))? {
                (200, _) => {}
                (status, why) => {
                    let message = format!("{name} refuses to answer otherwise: {status} {}", why.trim());
                    return Err(Error::Failed(message));
                }
            }
        }
        Ok(())
    }

    /// Counts the requests that apps have answered otherwise than usual since the first time that
    /// this was asked.
    async fn note_changed_requests(&self, fault: &str, ids: &[ProcessId]) {
        for &id in ids {
            let Some(node) = self.node(id.instance) else { continue };
            let answer = node.probe(|| probe::get(local(APP_METRICS_PORT), "/metrics", SIGNAL_WITHIN)).await;
            let Ok(Ok((200, text))) = answer else { continue };
            self.faults.borrow_mut().entry(fault.to_owned()).or_default().changed.show(id, &text);
        }
        let mut faults = self.faults.borrow_mut();
        let state = faults.entry(fault.to_owned()).or_default();
        state.counted.insert("changed_requests".into(), state.changed.so_far());
    }

    /// Counts begin when it is in force, and end before it is not ([`heal`](Self::heal)): a packet
    /// that crosses in between has met no fault.
    async fn impair(&self, fault: &str, links: &[Link]) -> Result<(), Error> {
        self.link_faults.borrow_mut().push((fault.to_owned(), links.to_vec()));
        let impaired = self.set_links(links).await;
        let before = self.pairs().await;
        let mut faults = self.faults.borrow_mut();
        let state = faults.entry(fault.to_owned()).or_default();
        state.before = before;
        if let Some(total) = state.total.take() {
            state.earlier.packets += total.packets;
            state.earlier.lost += total.lost;
            state.earlier.delayed += total.delayed;
        }
        impaired
    }

    async fn heal(&self, fault: &str, links: &[Link]) -> Result<(), Error> {
        let now = self.pairs().await;
        if let Some(state) = self.faults.borrow_mut().get_mut(fault) {
            state.total = Some(growth(&state.before, &now, links));
        }
        self.link_faults.borrow_mut().retain(|(name, _)| name != fault);
        self.set_links(links).await
    }

    async fn packets(&self, fault: &str, links: &[Link]) -> BTreeMap<String, f64> {
        let now = self.pairs().await;
        let states = self.faults.borrow();
        let Some(state) = states.get(fault) else { return BTreeMap::new() };
        let total = state.total.unwrap_or_else(|| growth(&state.before, &now, links));
        let earlier = state.earlier;
        [
            ("packets", total.packets + earlier.packets),
            ("lost_packets", total.lost + earlier.lost),
            ("delayed_packets", total.delayed + earlier.delayed),
        ]
        .map(|(name, count)| (name.to_owned(), count as f64))
        .into()
    }

    async fn counted(&self, fault: &str) -> BTreeMap<String, f64> {
        self.note_exits();
        self.faults.borrow().get(fault).map(|state| state.counted.clone()).unwrap_or_default()
    }
}

impl KernelWorld {
    fn count(&self, fault: &str, what: &str) {
        self.count_by(fault, what, 1.0);
    }

    fn count_by(&self, fault: &str, what: &str, by: f64) {
        let mut faults = self.faults.borrow_mut();
        *faults.entry(fault.to_owned()).or_default().counted.entry(what.to_owned()).or_default() += by;
    }

    /// Lets new connections to processes in, or refuses them.
    async fn let_in(&self, ids: &[ProcessId], yes: bool) -> Result<(), Error> {
        for &id in ids {
            let (Some(node), Some(port)) = (self.node(id.instance), self.plan.way_in(id)) else { continue };
            let done = node.call(move || intercept::refuse(port, !yes)).await.and_then(|r| r);
            let name = self.plan.process_name(id);
            done.map_err(failed(format!("cannot change who may connect to {name}")))?;
        }
        Ok(())
    }

    async fn each_remembers_the_dead(&self, ids: &[ProcessId], yes: bool) -> Result<(), Error> {
        for id in ids {
            let Some(node) = self.node(id.instance) else { continue };
            let set = node.call(move || sysctl::remembers_the_dead(yes)).await.and_then(|r| r);
            set.map_err(failed(format!("cannot take the power from {}", node.name())))?;
        }
        Ok(())
    }

    /// How often a sidecar has taken a new configuration. One that does not say has not.
    async fn reloads(&self, id: ProcessId) -> f64 {
        let (Some(node), Ok(program)) = (self.node(id.instance), self.sidecar()) else { return 0.0 };
        let Page { port, path } = program.metrics();
        let answer = node.probe(move || probe::get(local(port), path, SIGNAL_WITHIN)).await;
        let Ok(Ok((200, text))) = answer else { return 0.0 };
        program.reloads(&metrics::parse("", &text))
    }

    /// Puts in force what the base profiles and the faults of now say of the pairs of `links`.
    async fn set_links(&self, links: &[Link]) -> Result<(), Error> {
        let backend = self.backend.borrow().clone();
        let backend = backend.ok_or_else(|| Error::Failed("the world is not up".into()))?;
        let profiles = {
            let faults = self.link_faults.borrow();
            let in_force = |from, to| {
                let newest =
                    faults.iter().rev().find_map(|(_, l)| l.iter().find(|l| (l.from, l.to) == (from, to)));
                (from, to, newest.map_or_else(|| self.base_profile(from, to), |l| l.profile))
            };
            links.iter().map(|l| in_force(l.from, l.to)).collect()
        };
        let name = |i: usize| self.plan.instances[i].name.as_str();
        let pairs: Vec<_> = links.iter().map(|l| format!("{} to {}", name(l.from), name(l.to))).collect();
        let cannot = failed(format!("cannot change the link from {}", pairs.join(", ")));
        backend.set_profiles(profiles).await.map_err(cannot)
    }

    /// What the links have counted.
    pub(super) async fn pairs(&self) -> Vec<PairCounts> {
        let backend = self.backend.borrow().clone();
        match backend {
            Some(backend) => backend.pairs().await,
            None => Vec::new(),
        }
    }
}

/// Waits until /proc shows a state that is `wanted`. False if the process ended instead.
async fn wait_for_state(process: &Process, wanted: impl Fn(char) -> bool) -> Result<bool, Error> {
    let deadline = Instant::now() + SIGNAL_WITHIN;
    loop {
        match process.state() {
            Some(state) if wanted(state) => return Ok(true),
            _ if !process.is_running() => return Ok(false),
            state if Instant::now() >= deadline => {
                let state = state.unwrap_or('?');
                let (name, pid) = (process.name(), process.pid());
                return Err(Error::Failed(format!("{name} (process {pid}) stays in state {state}")));
            }
            _ => sleep(Duration::from_millis(1)).await,
        }
    }
}

/// What the pairs of `links` counted from `before` to `now`.
fn growth(before: &[PairCounts], now: &[PairCounts], links: &[Link]) -> PairCounts {
    let mut total = PairCounts::default();
    for pair in now.iter().filter(|p| links.iter().any(|l| (l.from, l.to) == (p.from, p.to))) {
        let was = before.iter().find(|b| (b.from, b.to) == (pair.from, pair.to));
        let was = was.copied().unwrap_or_default();
        total.packets += pair.packets.saturating_sub(was.packets);
        total.lost += pair.lost.saturating_sub(was.lost);
        total.delayed += pair.delayed.saturating_sub(was.delayed);
    }
    total
}
