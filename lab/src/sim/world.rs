//! The simulated [`World`]: the plan's processes on turmoil's hosts, its faults on our network.
//!
//! Everything that a driver asks happens in virtual time, so waiting costs nothing. Commands to an
//! instance travel by a channel to the task that runs on it, because a task can be started only
//! inside the runtime that will run it; killing and stopping act at once. What the kernel proves by
//! a self-test, that interception works, holds here by construction (`route.rs`), so `up` only
//! waits for readiness.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use proxy::world::{LogFile, RngTree};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::app::{APP_METRICS_PORT, ForeignProgram};
use crate::fault::Entry;
use crate::load::{Load, LoadJob, LoadTimes, RecordSink, Target};
use crate::mesh::{ProcessId, Role};
use crate::metrics::{self, FABRIC, Sample, Scrape};
use crate::plan::{Plan, ResourceLimits};
use crate::sidecar;
use crate::world::{Error, Fidelity, ProcessExit, World, WorldKind};

use super::crypto::{self, Entropy};
use super::disk::SimDisk;
use super::files::SimFiles;
use super::net::{SimNet, SimWall};
use super::probe;
use super::process::{Command, Failure, Group, START_TIMEOUT};
use super::programs::Programs;
use super::route::Who;
use super::stack::{Shared, now};

mod faults;
mod identity;

use faults::FaultState;

/// How long a scrape may take; a stopped process never answers.
const SCRAPE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a process may take to obey SIGTERM before it is killed; what Kubernetes grants by
/// default.
const TERMINATION_GRACE: Duration = Duration::from_secs(30);
/// How often a sidecar that listens but is not ready is asked again.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// The simulated world of one plan. See [`Simulation`](super::Simulation).
pub struct SimWorld {
    plan: Rc<Plan>,
    rng: RngTree,
    stack: Shared,
    hosts: Vec<mpsc::UnboundedSender<Command>>,
    programs: Rc<dyn Programs>,
    failure: Failure,
    /// Told when anything listens or ends.
    changed: Arc<Notify>,
    processes: RefCell<BTreeMap<ProcessId, Process>>,
    /// Of each instance's sidecar, as it is now.
    configs: Vec<watch::Sender<String>>,
    /// Every process ever started, of every kind, by incarnation.
    groups: RefCell<BTreeMap<u64, Rc<Group>>>,
    /// How often each name was started.
    incarnations: RefCell<BTreeMap<String, u64>>,
    /// What each process keeps, by its machine and name.
    disks: RefCell<BTreeMap<(usize, String), SimDisk>>,
    /// What its processes read, of each instance.
    files: Vec<SimFiles>,
    next: Cell<u64>,
    /// What is known of each fault that was applied, by its name.
    faults: RefCell<BTreeMap<String, FaultState>>,
    /// Sidecars that were told something new, and by which fault, until it was seen whether they
    /// took it.
    reloading: RefCell<BTreeMap<ProcessId, String>>,
    /// How often each sidecar had taken something new when it was last asked, and which of its
    /// starts that was.
    reloads: RefCell<BTreeMap<ProcessId, (u64, f64)>>,
}

struct Process {
    group: Rc<Group>,
    starts: u64,
}

/// A process that ends with the wait for its result.
struct Tool<'a> {
    world: &'a SimWorld,
    group: Rc<Group>,
}

impl Drop for Tool<'_> {
    fn drop(&mut self) {
        self.group.kill();
        self.world.groups.borrow_mut().remove(&self.group.id());
    }
}

impl SimWorld {
    pub(super) fn new(
        plan: Rc<Plan>,
        seed: u64,
        stack: Shared,
        hosts: Vec<mpsc::UnboundedSender<Command>>,
        programs: Rc<dyn Programs>,
        failure: Failure,
        changed: Arc<Notify>,
    ) -> Self {
        let files = plan.instances.iter().map(|_| SimFiles::default()).collect();
        let configs = plan.configs().into_iter().map(|config| watch::channel(config).0).collect();
        SimWorld {
            plan,
            rng: RngTree::new(seed).child("process", 0),
            stack,
            hosts,
            programs,
            failure,
            changed,
            processes: RefCell::default(),
            configs,
            groups: RefCell::default(),
            incarnations: RefCell::default(),
            disks: RefCell::default(),
            files,
            next: Cell::new(0),
            faults: RefCell::default(),
            reloading: RefCell::default(),
            reloads: RefCell::default(),
        }
    }

    /// Says, one sentence each, what of a plan only the kernel can run.
    ///
    /// # Errors
    /// Those sentences, if there are any.
    pub fn supports(plan: &Plan) -> Result<(), Vec<String>> {
        let command = |i: &crate::plan::Instance| {
            let app = i.app.as_ref().filter(|app| !app.kind.is_built_in())?;
            let program = app.kind.foreign().map_or("", ForeignProgram::name);
            Some(format!("{} runs the program `{program}`; the simulator has only the built-in apps", i.name))
        };
        let limited = |id: ProcessId| {
            (plan.limits(id) != ResourceLimits::default()).then(|| {
                format!(
                    "{} has limits of CPU or memory; in the simulator work takes no time and memory is shared",
                    plan.process_name(id)
                )
            })
        };
        let programs = plan.instances.iter().filter_map(command);
        let sidecar = sidecar::program(plan.sidecar).filter(|s| !s.supports(WorldKind::Simulator));
        let sidecar =
            sidecar.map(|_| format!("sidecars of the kind `{}` are real programs", plan.sidecar.name()));
        let captured = plan.captures.iter().map(|&instance| {
            let name = &plan.instances[instance].name;
            format!("the packets of {name} are captured, which only the kernel world can")
        });
        let programs = programs.chain(captured);
        let missing: Vec<String> =
            programs.chain(plan.processes().filter_map(limited)).chain(sidecar).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Virtual time since the simulation began.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.stack.with(|s, _| s.now()))
    }

    /// The time of day in the simulated world.
    pub fn time_of_day(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH + super::EPOCH + self.elapsed()
    }

    /// Runs a piece of code as a process of its own on an instance, with the network that a process
    /// of kind `who` has there, and returns its result. For checks and tests. The process ends when
    /// it is done or when nobody waits for it any more.
    ///
    /// # Errors
    /// If it panicked or was taken down.
    pub async fn inside<T, F>(
        &self,
        instance: usize,
        who: Who,
        name: &str,
        f: impl FnOnce(proxy::world::World<SimNet>) -> F + 'static,
    ) -> Result<T, Error>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let name = format!("{}/{name}", self.plan.instances[instance].name);
        let (tx, rx) = oneshot::channel();
        let group = self.spawn(instance, who, name, |world, _| async move {
            // The asker may have given up.
            let _ = tx.send(f(world).await);
            Ok(())
        });
        let tool = Tool { world: self, group };
        rx.await.map_err(|_| {
            let exit = tool.group.exit().map_or("was lost".to_owned(), |exit| exit.to_string());
            Error::Failed(format!("{} {exit}", tool.group.name()))
        })
    }

    /// Starts a process on an instance.
    fn spawn<F>(
        &self,
        instance: usize,
        who: Who,
        name: String,
        main: impl FnOnce(proxy::world::World<SimNet>, super::process::Term) -> F + 'static,
    ) -> Rc<Group>
    where
        F: Future<Output = std::io::Result<()>> + 'static,
    {
        let id = self.next.replace(self.next.get() + 1);
        // Keyed by name and not by number, so that one more scrape does not change the random
        // numbers of those after it.
        let incarnation = {
            let mut incarnations = self.incarnations.borrow_mut();
            let count = incarnations.entry(name.clone()).or_default();
            std::mem::replace(count, *count + 1)
        };
        let rng = self.rng.child(&name, incarnation);
        let disk = self.disk_of(instance, &name);
        let files = self.files[instance].clone();
        let (stack, failure, changed) = (self.stack.clone(), self.failure.clone(), self.changed.clone());
        let group = Group::new((name, id), Entropy::new(&rng), stack, failure, changed);
        self.groups.borrow_mut().insert(id, group.clone());
        let net = SimNet { stack: self.stack.clone(), group: group.clone(), host: instance, who };
        let started = group.clone();
        let command: Command = Box::new(move || {
            let term = started.term();
            let log = LogFile { disk: Arc::new(disk.clone()), name: "access.log".into() };
            let world = proxy::world::World::new(net, SimWall, rng);
            let world = world.with_disk(disk).with_log(log).with_files(files);
            let world = crypto::seeded(world);
            started.start(async move { main(world, term).await });
        });
        // The receiver lives as long as the simulation.
        let _ = self.hosts[instance].send(command);
        group
    }

    fn start(&self, id: ProcessId) {
        let instance = &self.plan.instances[id.instance];
        let name = self.plan.process_name(id);
        let programs = self.programs.clone();
        let authority = self.plan.authority(id.instance).cloned();
        let group = match (id.role, &instance.app, &instance.sidecar) {
            (Role::App, None, _) => {
                let Some(authority) = authority else { return };
                self.spawn(id.instance, Who::App, name, move |world, _| programs.authority(world, authority))
            }
            (Role::App, Some(spec), _) => {
                let spec = spec.clone();
                self.spawn(id.instance, Who::App, name, move |world, _| programs.app(world, spec))
            }
            (Role::Sidecar, _, Some(_)) => {
                let config = self.configs[id.instance].subscribe();
                self.spawn(id.instance, Who::Sidecar, name, move |world, term| {
                    programs.sidecar(world, config, term)
                })
            }
            _ => return,
        };
        let mut processes = self.processes.borrow_mut();
        let starts = processes.get(&id).map_or(0, |p| p.starts) + 1;
        processes.insert(id, Process { group, starts });
    }

    /// What a process keeps, whether it runs now or not.
    pub fn disk(&self, id: ProcessId) -> SimDisk {
        self.disk_of(id.instance, &self.plan.process_name(id))
    }

    /// The files that an instance's processes read.
    pub fn files(&self, instance: usize) -> &SimFiles {
        &self.files[instance]
    }

    fn disk_of(&self, instance: usize, process: &str) -> SimDisk {
        self.disks.borrow_mut().entry((instance, process.to_owned())).or_default().clone()
    }

    fn group(&self, id: ProcessId) -> Option<Rc<Group>> {
        self.processes.borrow().get(&id).map(|p| p.group.clone())
    }

    /// Waits until a process takes work.
    async fn ready(&self, id: ProcessId) -> Result<(), Error> {
        let name = self.plan.process_name(id);
        let readiness = sidecar::program(self.plan.sidecar).map(|program| program.readiness());
        let port = match id.role {
            Role::App => self.plan.way_in(id).unwrap_or_default(),
            Role::Sidecar => readiness.map_or(0, |page| page.port),
        };
        let alive = || match self.group(id).and_then(|group| group.exit()) {
            Some(exit) => Err(Error::Failed(format!("{name} {exit} before it was ready"))),
            None => Ok(()),
        };
        let ready = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                alive()?;
                if self.stack.with(|s, _| s.listens(id.instance, port)) {
                    break;
                }
                changed.await;
            }
            let Some(page) = readiness.filter(|_| id.role == Role::Sidecar) else { return Ok(()) };
            loop {
                if let Some((200, _)) = self.get(id.instance, page.port, page.path).await? {
                    return Ok(());
                }
                alive()?;
                tokio::time::sleep(READY_INTERVAL).await;
            }
        };
        match tokio::time::timeout(START_TIMEOUT, ready).await {
            Ok(result) => result,
            Err(_) => {
                let why = if self.stack.with(|s, _| s.listens(id.instance, port)) {
                    format!("http://127.0.0.1:{port}/ready did not answer 200")
                } else {
                    format!("nothing listens on port {port}")
                };
                Err(Error::Failed(format!("{name} was not ready after {} s: {why}", START_TIMEOUT.as_secs())))
            }
        }
    }

    /// GET from a process over loopback. `None` if it does not answer.
    async fn get(&self, instance: usize, port: u16, path: &str) -> Result<Option<(u16, String)>, Error> {
        let to = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let path = path.to_owned();
        let request = move |world: proxy::world::World<SimNet>| async move {
            tokio::time::timeout(SCRAPE_TIMEOUT, probe::get(&world.net, to, &path)).await
        };
        let answer = self.inside(instance, Who::Tool, "probe", request).await?;
        Ok(answer.ok().and_then(Result::ok).map(|(status, text)| (status.as_u16(), text)))
    }

    async fn all_ended(&self, groups: &[Rc<Group>]) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if groups.iter().all(|group| group.exit().is_some()) {
                return;
            }
            changed.await;
        }
    }

    /// Where connections to processes come in: instance and port.
    fn ways_in(&self, ids: &[ProcessId]) -> Vec<(usize, u16)> {
        ids.iter().filter_map(|&id| Some((id.instance, self.plan.way_in(id)?))).collect()
    }

    fn living(&self, ids: &[ProcessId]) -> Vec<Rc<Group>> {
        let groups = ids.iter().filter_map(|&id| self.group(id));
        groups.filter(|group| group.exit().is_none()).collect()
    }

    /// Virtual time of an instant of the driver's clock. Each host has a clock of its own, so
    /// instants do not travel.
    fn virtual_ns(&self, at: Instant) -> i128 {
        let now = Instant::now();
        let ahead = at.saturating_duration_since(now).as_nanos() as i128;
        let ago = now.saturating_duration_since(at).as_nanos() as i128;
        i128::from(self.stack.with(|s, _| s.now())) + ahead - ago
    }

    fn address(&self, target: &Target) -> Result<SocketAddr, Error> {
        let Target { host, port, .. } = target;
        let service = self.plan.services.iter().find(|s| s.name == *host).map(|s| s.vip4);
        let instance = || self.plan.instances.iter().find(|i| i.name == *host).map(|i| i.v4);
        let ip = service.or_else(instance);
        ip.map(|ip| SocketAddr::new(ip.into(), *port))
            .ok_or_else(|| Error::Failed(format!("no service or instance is called {host}")))
    }

    /// Drops every task, so that nothing keeps anything alive. Nothing of it happens in the
    /// simulated world.
    pub(super) fn bury(&self) {
        for group in self.groups.take().into_values() {
            group.kill();
        }
    }
}

/// The local instant of a virtual time.
fn local_instant(at: i128) -> Instant {
    let now = i128::from(now().unwrap_or_default());
    let distance = Duration::from_nanos((at - now).unsigned_abs() as u64);
    let here = Instant::now();
    // Before the clock of this machine began there is nothing to compare with.
    if at >= now { here + distance } else { here.checked_sub(distance).unwrap_or(here) }
}

impl World for SimWorld {
    fn kind(&self) -> WorldKind {
        WorldKind::Simulator
    }

    async fn up(&self) -> Result<(), Error> {
        if let Err(missing) = SimWorld::supports(&self.plan) {
            return Err(Error::Machine(missing.join("\n")));
        }
        self.found_authorities().await?;
        let ids: Vec<ProcessId> = self.plan.processes().collect();
        for &id in &ids {
            self.start(id);
        }
        for id in ids {
            self.ready(id).await?;
        }
        Ok(())
    }

    async fn apply(&self, entry: &Entry) -> Result<(), Error> {
        self.stack.note(|| format!("apply {}", entry.name));
        entry.action.apply(&entry.name, self).await
    }

    async fn revert(&self, entry: &Entry) -> Result<(), Error> {
        self.stack.note(|| format!("revert {}", entry.name));
        entry.action.revert(&entry.name, self).await
    }

    async fn evidence(&self, entry: &Entry) -> BTreeMap<String, f64> {
        entry.action.evidence(&entry.name, self).await
    }

    async fn load(&self, load: &Load, times: LoadTimes, sink: RecordSink) -> Result<(), Error> {
        let address = self.address(&load.target)?;
        let (t0, end) = (self.virtual_ns(times.t0), self.virtual_ns(times.end));
        let (programs, load) = (self.programs.clone(), load.clone());
        let (name, from) = (load.name.clone(), load.from);
        let run = move |world| async move {
            let times = LoadTimes { t0: local_instant(t0), end: local_instant(end) };
            programs.load(world, LoadJob { load, address, times, sink }).await
        };
        let result = self.inside(from, Who::Load, &format!("load-{name}"), run).await?;
        result.map_err(|e| Error::Failed(format!("load generator {name}: {e}")))
    }

    async fn metrics(&self) -> Vec<Scrape> {
        let ids: Vec<ProcessId> = self.processes.borrow().keys().copied().collect();
        let scrapes = ids.iter().map(|&id| async move {
            let (asked, name) = (Instant::now(), self.plan.process_name(id));
            let sidecar = sidecar::program(self.plan.sidecar).filter(|_| id.role == Role::Sidecar);
            let port = sidecar.map_or(APP_METRICS_PORT, |program| program.metrics().port);
            let answer = match self.living(&[id]).is_empty() {
                true => None,
                false => self.get(id.instance, port, "/metrics").await.ok().flatten(),
            };
            let samples = match answer {
                Some((200, text)) => metrics::parse(&name, &text),
                _ => Vec::new(),
            };
            Scrape { process: name.into(), asked, answered: Instant::now(), samples }
        });
        let mut scraped = join_all(scrapes).await;
        let (asked, mut samples) = (Instant::now(), Vec::new());
        let mut add = |name: &str, labels: &[(&str, &str)], value: u64| {
            let labels = labels.iter().copied().collect();
            samples.push(Sample { process: FABRIC.into(), name: name.into(), labels, value: value as f64 });
        };
        self.stack.with(|s, _| {
            for ((from, to), counters) in s.links.used() {
                let labels = [("from", s.names[from].as_str()), ("to", s.names[to].as_str())];
                add("link_packets_total", &labels, counters.packets);
                add("link_lost_packets_total", &labels, counters.lost);
                add("link_delayed_packets_total", &labels, counters.delayed);
            }
        });
        for (&id, process) in &*self.processes.borrow() {
            add("process_starts_total", &[("process", &self.plan.process_name(id))], process.starts);
        }
        scraped.push(Scrape { process: FABRIC.into(), asked, answered: asked, samples });
        scraped
    }

    async fn ended(&self) -> Vec<ProcessExit> {
        let names: Vec<String> = self.plan.processes().map(|id| self.plan.process_name(id)).collect();
        let groups = self.groups.borrow();
        let of_the_plan = groups.values().filter(|group| names.iter().any(|name| name == group.name()));
        let ended = |group: &Rc<Group>| {
            let process = group.name().to_owned();
            group.ended_by_itself().map(|how| ProcessExit { process, at: None, how, log_tail: Vec::new() })
        };
        of_the_plan.filter_map(ended).collect()
    }

    async fn fidelity(&self) -> Fidelity {
        let packets = self.stack.with(|s, _| s.links.used().map(|(_, counters)| counters.packets).sum());
        let notes = vec![
            "virtual time moves in steps of 1 ms: shorter delays are rounded up, and work takes no time"
                .to_owned(),
            "TCP has no congestion control".to_owned(),
        ];
        Fidelity { link_backend: "simulated".into(), packets, notes, ..Fidelity::default() }
    }

    async fn down(&self) -> Result<(), Error> {
        for group in self.groups.borrow().values() {
            group.kill();
        }
        let (conns, listeners) = self.stack.with(|s, _| (s.conns.len(), s.listening()));
        if conns + listeners > 0 {
            // Every socket belongs to a task, and every task is gone.
            return Err(Error::Failed(format!(
                "{conns} connections and {listeners} listeners were left behind"
            )));
        }
        Ok(())
    }
}
