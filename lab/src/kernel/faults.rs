//! Faults on the kernel: signals for processes, profiles for links, and the proof that each one
//! bit.
//!
//! A fault is in force when its method returns: a killed process is reaped, a paused one is seen
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
use crate::app::metrics::{CHANGED, Growth};
use crate::metrics;
use crate::plan::{APP_METRICS_PORT, Action, Entry, Link, METRICS_PORT, ProcessId, Role};
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
    changed: BTreeMap<ProcessId, Growth>,
}

impl KernelWorld {
    pub(super) async fn apply_fault(&self, entry: &Entry) -> Result<(), Error> {
        match &entry.action {
            Action::Kill { processes, hard, .. } => self.kill(&entry.name, processes, *hard).await?,
            Action::Crash { processes, links } => self.crash(&entry.name, processes, links).await?,
            Action::Refuse { processes } => self.refuse(&entry.name, processes, true).await?,
            Action::Configure { configs, .. } => self.configure(&entry.name, configs).await?,
            Action::Pause { processes } => self.pause(&entry.name, processes).await?,
            Action::App { processes, change } => {
                self.note_changed(&entry.name, processes).await;
                self.behave(processes, &change.query()).await?;
            }
            Action::Link { links } => self.impair(&entry.name, links).await?,
        }
        self.note_exits();
        self.options.events.note("fault", &entry.name, "in force");
        Ok(())
    }

    pub(super) async fn revert_fault(&self, entry: &Entry) -> Result<(), Error> {
        match &entry.action {
            Action::Kill { processes, .. } => self.restart(&entry.name, processes).await?,
            Action::Crash { processes, links } => {
                self.each_remembers_the_dead(processes, true).await?;
                self.heal(&entry.name, links).await?;
                self.restart(&entry.name, processes).await?;
            }
            Action::Refuse { processes } => self.refuse(&entry.name, processes, false).await?,
            Action::Configure { .. } => self.configure(&entry.name, &self.plan.configs()).await?,
            Action::Pause { processes } => self.go_on(&entry.name, processes).await?,
            Action::App { processes, .. } => {
                self.behave(processes, "/behave").await?;
                self.note_changed(&entry.name, processes).await;
            }
            Action::Link { links } => self.heal(&entry.name, links).await?,
        }
        self.note_exits();
        self.options.events.note("revert", &entry.name, "no longer in force");
        Ok(())
    }

    pub(super) async fn fault_evidence(&self, entry: &Entry) -> BTreeMap<String, f64> {
        self.note_exits();
        if let Action::App { processes, .. } = &entry.action {
            self.note_changed(&entry.name, processes).await;
        }
        let refusing = match &entry.action {
            Action::Refuse { processes } => self.refusals(processes).await,
            _ => 0,
        };
        let links = entry.action.links();
        let now = if links.is_empty() { Vec::new() } else { self.pairs().await };
        let evidence = self.evidence.borrow();
        let Some(known) = evidence.get(&entry.name) else { return BTreeMap::new() };
        let mut counted = known.counted.clone();
        if let Action::Refuse { .. } = &entry.action {
            *counted.entry("refused".into()).or_default() += refusing as f64;
        }
        if !links.is_empty() {
            let total = known.total.unwrap_or_else(|| growth(&known.before, &now, links));
            let earlier = known.earlier;
            counted.insert("packets".into(), (total.packets + earlier.packets) as f64);
            counted.insert("lost_packets".into(), (total.lost + earlier.lost) as f64);
            counted.insert("delayed_packets".into(), (total.delayed + earlier.delayed) as f64);
        }
        counted
    }

    fn count(&self, entry: &str, what: &str) {
        let mut evidence = self.evidence.borrow_mut();
        *evidence.entry(entry.to_owned()).or_default().counted.entry(what.to_owned()).or_default() += 1.0;
    }

    async fn kill(&self, entry: &str, ids: &[ProcessId], hard: bool) -> Result<(), Error> {
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
            self.count(entry, "killed");
        }
        let mut paused = self.paused.borrow_mut();
        paused.retain(|id| !ids.contains(id));
        Ok(())
    }

    async fn restart(&self, entry: &str, ids: &[ProcessId]) -> Result<(), Error> {
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
            started.iter().for_each(|_| self.count(entry, "restarted"));
        }
        Ok(())
    }

    /// Cuts the links first, so that no peer is told of the end of the processes.
    async fn crash(&self, entry: &str, ids: &[ProcessId], links: &[Link]) -> Result<(), Error> {
        self.impair(entry, links).await?;
        self.each_remembers_the_dead(ids, false).await?;
        self.kill(entry, ids, true).await
    }

    async fn each_remembers_the_dead(&self, ids: &[ProcessId], yes: bool) -> Result<(), Error> {
        for id in ids {
            let Some(node) = self.node(id.instance) else { continue };
            let set = node.call(move || sysctl::remembers_the_dead(yes)).await.and_then(|r| r);
            set.map_err(failed(format!("cannot take the power from {}", node.name())))?;
        }
        Ok(())
    }

    /// Refuses new connections to processes, or lets them in again and counts those that were
    /// refused.
    async fn refuse(&self, entry: &str, ids: &[ProcessId], on: bool) -> Result<(), Error> {
        let refused = if on { 0 } else { self.refusals(ids).await };
        for &id in ids {
            let (Some(node), Some(port)) = (self.node(id.instance), self.plan.way_in(id)) else { continue };
            let done = node.call(move || intercept::refuse(port, on)).await.and_then(|r| r);
            let name = self.plan.process_name(id);
            done.map_err(failed(format!("cannot change who may connect to {name}")))?;
        }
        let mut evidence = self.evidence.borrow_mut();
        let counted = &mut evidence.entry(entry.to_owned()).or_default().counted;
        *counted.entry("refused".into()).or_default() += refused as f64;
        Ok(())
    }

    /// Connections that were refused to processes since that began, if it is in force.
    async fn refusals(&self, ids: &[ProcessId]) -> u64 {
        let mut sum = 0;
        for &id in ids {
            let (Some(node), Some(port)) = (self.node(id.instance), self.plan.way_in(id)) else { continue };
            sum += node.call(move || intercept::refused(port)).await.and_then(|r| r).unwrap_or_default();
        }
        sum
    }

    /// Writes the sidecars' files and waits until those that can have read them.
    async fn configure(&self, entry: &str, configs: &[String]) -> Result<(), Error> {
        let sidecar = |instance| ProcessId { instance, role: Role::Sidecar };
        let can_read = |id: &ProcessId| {
            self.process(*id).is_some_and(|process| process.is_running())
                && !self.paused.borrow().contains(id)
        };
        self.evidence
            .borrow_mut()
            .entry(entry.to_owned())
            .or_default()
            .counted
            .entry("reloaded".into())
            .or_default();
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
                    self.count(entry, "reloaded");
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

    /// How often a sidecar has taken a new configuration. One that does not say has not.
    async fn reloads(&self, id: ProcessId) -> f64 {
        let Some(node) = self.node(id.instance) else { return 0.0 };
        let answer = node.probe(|| probe::get(local(METRICS_PORT), "/metrics", SIGNAL_WITHIN)).await;
        let Ok(Ok((200, text))) = answer else { return 0.0 };
        let applied = metrics::parse("", &text).into_iter().filter(|sample| {
            &*sample.name == "proxy_config_reloads_total" && sample.labels.has("result", "applied")
        });
        applied.map(|sample| sample.value).sum()
    }

    async fn pause(&self, entry: &str, ids: &[ProcessId]) -> Result<(), Error> {
        for &id in ids {
            let Some(process) = self.process(id) else { continue };
            let cannot = || failed(format!("cannot pause {}", process.name()));
            if !process.signal(Signal::SIGSTOP).map_err(cannot())? {
                continue;
            }
            self.paused.borrow_mut().insert(id);
            if wait_for_state(&process, |s| s == 'T').await? {
                self.count(entry, "stopped");
            }
        }
        Ok(())
    }

    async fn go_on(&self, entry: &str, ids: &[ProcessId]) -> Result<(), Error> {
        for &id in ids {
            self.paused.borrow_mut().remove(&id);
            let Some(process) = self.process(id) else { continue };
            let cannot = failed(format!("cannot continue {}", process.name()));
            if process.signal(Signal::SIGCONT).map_err(cannot)?
                && wait_for_state(&process, |s| s != 'T').await?
            {
                self.count(entry, "continued");
            }
        }
        Ok(())
    }

    /// Tells apps how to answer.
    async fn behave(&self, ids: &[ProcessId], query: &str) -> Result<(), Error> {
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
    async fn note_changed(&self, entry: &str, ids: &[ProcessId]) {
        for &id in ids {
            let Some(node) = self.node(id.instance) else { continue };
            let answer = node.probe(|| probe::get(local(APP_METRICS_PORT), "/metrics", SIGNAL_WITHIN)).await;
            // What was seen of an app that does not answer any more stays as it is.
            let Ok(Ok((200, text))) = answer else { continue };
            let samples = metrics::parse("", &text);
            let changed = samples.iter().find(|s| &*s.name == CHANGED).map_or(0.0, |s| s.value);
            let mut evidence = self.evidence.borrow_mut();
            let known = &mut evidence.entry(entry.to_owned()).or_default().changed;
            known.entry(id).or_insert_with(|| Growth::from(changed)).show(changed);
        }
        let mut evidence = self.evidence.borrow_mut();
        let evidence = evidence.entry(entry.to_owned()).or_default();
        let sum = evidence.changed.values().map(Growth::so_far).sum();
        evidence.counted.insert("changed_requests".into(), sum);
    }

    /// Counts begin when it is in force, and end before it is not ([`heal`](Self::heal)): a packet
    /// that crosses in between has met no fault.
    async fn impair(&self, entry: &str, links: &[Link]) -> Result<(), Error> {
        self.link_faults.borrow_mut().push((entry.to_owned(), links.to_vec()));
        let impaired = self.set_links(links).await;
        let before = self.pairs().await;
        let mut evidence = self.evidence.borrow_mut();
        let known = evidence.entry(entry.to_owned()).or_default();
        known.before = before;
        if let Some(total) = known.total.take() {
            known.earlier.packets += total.packets;
            known.earlier.lost += total.lost;
            known.earlier.delayed += total.delayed;
        }
        impaired
    }

    async fn heal(&self, entry: &str, links: &[Link]) -> Result<(), Error> {
        let now = self.pairs().await;
        if let Some(evidence) = self.evidence.borrow_mut().get_mut(entry) {
            evidence.total = Some(growth(&evidence.before, &now, links));
        }
        self.link_faults.borrow_mut().retain(|(name, _)| name != entry);
        self.set_links(links).await
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
