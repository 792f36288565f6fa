//! The kernel world: the plan on real network namespaces, with real processes.
//!
//! Each instance is a [`node::Node`]: a namespace with the threads that live in it. Veth pairs lead
//! from every instance into one fabric namespace ([`link`]), rules bring connections to the
//! sidecars (`intercept`), processes run under their own users and control groups ([`process`],
//! [`cgroup`]). `up` reads like the list of these steps.
//!
//! Everything lives in this process's memory or in namespaces that die with its threads. The little
//! that does not is registered ([`cleanup`]) and goes away in `down`, in `Drop`, or, after a
//! SIGKILL, when the next run starts.
//!
//! Invariant: every method may be dropped half-way, and `down` (or dropping the world) still ends
//! and removes all.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use proxy::world::{RngTree, SystemWall, Wall};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::events::EventLog;
use crate::fault::Entry;
use crate::load::{Load, LoadTimes, RecordSink};
use crate::mesh::{Link, ProcessId};
use crate::metrics::Scrape;
use crate::plan::Plan;
use crate::readable;
use crate::world::{Error, Fidelity, ProcessExit, World, WorldKind};

pub mod cgroup;
pub mod cleanup;
pub mod doctor;
pub(crate) mod intercept;
pub(crate) mod limits;
pub mod link;
pub(crate) mod netem;
pub mod node;
pub mod probe;
pub mod process;
pub mod sysctl;
pub(crate) mod wire;

mod bring_up;
mod capture;
mod faults;
mod identity;
mod observe;
mod run_lock;

pub use cleanup::sweep;
pub use link::Backend;

use cgroup::Cgroup;
use cleanup::Registration;
use intercept::Redirected;
use limits::Limited;
use link::LinkBackend;
use node::Node;
use process::{Exit, Process};

/// Folder of a run directory that holds what each process logged.
pub const LOGS: &str = "logs";
/// How long processes may take to end by themselves before `down` kills them.
const GRACE: Duration = Duration::from_secs(2);

/// What a run is, apart from its plan.
#[derive(Clone)]
pub struct Options {
    /// Names the run on this machine: letters, digits, `-`, `_` and `.`; must be new.
    pub run_id: String,
    /// Where logs and configurations go. Made if it does not exist.
    pub run_dir: PathBuf,
    /// What joins the instances; `None` leaves the choice to the lab.
    pub backend: Option<Backend>,
    /// The executable with the hidden subcommands `__app`, `__sidecar` and `__load`; normally the
    /// lab itself.
    pub exe: PathBuf,
    /// Where events go.
    pub events: EventLog,
}

impl Options {
    /// Options of a run that chooses its own name and its links, and whose events are in memory
    /// only.
    pub fn new(exe: PathBuf, run_dir: PathBuf) -> Self {
        let run_id = format!("run-{:06x}", RngTree::from_os().seed() & 0xff_ffff);
        Options { run_id, run_dir, backend: None, exe, events: EventLog::new(SystemWall.now()) }
    }
}

/// A runtime in which a [`KernelWorld`] can live.
///
/// # Errors
/// If the machine has no room for it.
pub(crate) fn runtime() -> Result<LocalRuntime, Error> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.map_err(|e| Error::Machine(format!("cannot start a runtime: {e}")))
}

/// A plan on this machine's kernel.
pub struct KernelWorld {
    plan: Plan,
    options: Options,
    exits: (mpsc::UnboundedSender<Exit>, RefCell<mpsc::UnboundedReceiver<Exit>>),
    /// Ends that nothing asked for, of processes of the plan.
    unexpected: RefCell<Vec<Exit>>,
    registration: RefCell<Option<Rc<Registration>>>,
    cgroup: RefCell<Option<Cgroup>>,
    /// Of each process that has limits.
    limited: RefCell<BTreeMap<ProcessId, Limited>>,
    fabric: RefCell<Option<Rc<Node>>>,
    nodes: RefCell<Vec<Rc<Node>>>,
    backend: RefCell<Option<Rc<dyn LinkBackend>>>,
    processes: RefCell<BTreeMap<ProcessId, Rc<Process>>>,
    loads: RefCell<Vec<Rc<Process>>>,
    starts: RefCell<BTreeMap<ProcessId, u64>>,
    paused: RefCell<BTreeSet<ProcessId>>,
    /// Link faults in force, oldest first; the newest that names a pair decides.
    link_faults: RefCell<Vec<(String, Vec<Link>)>>,
    /// What is known of each fault that was applied, by its name.
    faults: RefCell<BTreeMap<String, faults::FaultState>>,
    redirected: RefCell<Vec<Redirected>>,
    capture: RefCell<Option<capture::Capture>>,
    /// Whose rule counters are read next.
    next_read: Cell<usize>,
    notes: RefCell<Vec<String>>,
}

impl KernelWorld {
    /// Checks that this machine can do it; makes nothing yet.
    pub fn new(plan: Plan, options: Options) -> Result<Self, Error> {
        doctor::require()?;
        let (tell, hear) = mpsc::unbounded_channel();
        Ok(KernelWorld {
            redirected: RefCell::new(vec![Redirected::default(); plan.instances.len()]),
            plan,
            options,
            exits: (tell, RefCell::new(hear)),
            unexpected: RefCell::default(),
            registration: RefCell::default(),
            cgroup: RefCell::default(),
            limited: RefCell::default(),
            fabric: RefCell::default(),
            nodes: RefCell::default(),
            backend: RefCell::default(),
            processes: RefCell::default(),
            loads: RefCell::default(),
            starts: RefCell::default(),
            paused: RefCell::default(),
            link_faults: RefCell::default(),
            faults: RefCell::default(),
            capture: RefCell::default(),
            next_read: Cell::new(0),
            notes: RefCell::default(),
        })
    }

    /// The plan that it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The node of an instance, once the world is up.
    pub fn node(&self, instance: usize) -> Option<Rc<Node>> {
        self.nodes.borrow().get(instance).cloned()
    }

    /// The process id of a process that runs, for people and tools.
    pub fn pid(&self, process: ProcessId) -> Option<i32> {
        self.processes.borrow().get(&process).filter(|p| p.is_running()).map(|p| p.pid())
    }

    fn process(&self, id: ProcessId) -> Option<Rc<Process>> {
        self.processes.borrow().get(&id).cloned()
    }

    /// Moves what the waiting threads saw into the log of events.
    fn note_exits(&self) {
        while let Ok(exit) = self.exits.1.borrow_mut().try_recv() {
            let at = readable::utc(self.options.events.clock().at(exit.at));
            let how = if exit.expected { "as asked" } else { "by itself" };
            let detail = format!("{} at {at}, {how}", exit.status);
            self.options.events.note("exit", &exit.name, detail);
            // A load generator ends by itself when its time is over.
            if !exit.expected && self.plan.processes().any(|id| self.plan.process_name(id) == exit.name) {
                self.unexpected.borrow_mut().push(exit);
            }
        }
    }

    /// Ends and removes everything, and says what is left. Blocks until the kernel confirmed every
    /// end.
    fn tear_down(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut complain = |what: &str, result: std::io::Result<()>| {
            if let Err(e) = result {
                complaints.push(format!("{what}: {e}"));
            }
        };
        for process in self.loads.take().iter().chain(self.processes.take().values()) {
            process.kill_and_reap();
        }
        self.paused.take();
        self.capture.take();
        self.backend.take();
        let cgroup = self.cgroup.take();
        if let Some(cgroup) = &cgroup {
            complain("control group", cgroup.remove());
        }
        for limited in self.limited.take().into_values() {
            complain("control group with limits", limited.remove());
        }
        self.nodes.take();
        self.fabric.take();
        if let Some(registration) = self.registration.take() {
            complain("registration", registration.remove());
            complaints.extend(cleanup::leftovers(registration.path(), cgroup.as_ref()));
        }
        self.note_exits();
        complaints
    }
}

impl World for KernelWorld {
    fn kind(&self) -> WorldKind {
        WorldKind::Kernel
    }

    async fn up(&self) -> Result<(), Error> {
        self.bring_up().await
    }

    async fn apply(&self, entry: &Entry) -> Result<(), Error> {
        entry.action.apply(&entry.name, self).await?;
        self.note_exits();
        self.options.events.note("fault", &entry.name, "in force");
        Ok(())
    }

    async fn revert(&self, entry: &Entry) -> Result<(), Error> {
        entry.action.revert(&entry.name, self).await?;
        self.note_exits();
        self.options.events.note("revert", &entry.name, "no longer in force");
        Ok(())
    }

    async fn evidence(&self, entry: &Entry) -> BTreeMap<String, f64> {
        entry.action.evidence(&entry.name, self).await
    }

    async fn load(&self, load: &Load, times: LoadTimes, sink: RecordSink) -> Result<(), Error> {
        self.run_load(load, times, sink).await
    }

    async fn metrics(&self) -> Vec<Scrape> {
        self.sample().await
    }

    async fn final_metrics(&self) -> Vec<Scrape> {
        for _ in &self.plan.instances {
            self.read_next_counters().await;
        }
        self.sample().await
    }

    async fn ended(&self) -> Vec<ProcessExit> {
        self.note_exits();
        let ended = |exit: &Exit| ProcessExit {
            process: exit.name.clone(),
            at: Some(exit.at),
            how: exit.status.to_string(),
            log_tail: exit.log.last_lines(),
        };
        self.unexpected.borrow().iter().map(ended).collect()
    }

    async fn fidelity(&self) -> Fidelity {
        let backend = self.backend.borrow().clone();
        let mut fidelity = backend.map(|b| b.fidelity()).unwrap_or_default();
        fidelity.notes.extend(self.notes.borrow().iter().cloned());
        fidelity.notes.extend(self.capture.borrow().iter().flat_map(capture::Capture::notes));
        let (processes, loads) = (self.processes.borrow(), self.loads.borrow());
        let gaps = processes.values().chain(&*loads).filter(|process| process.log().has_gaps());
        let note =
            |process: &Rc<Process>| format!("the log of {} could not be written whole", process.name());
        fidelity.notes.extend(gaps.map(note));
        fidelity
    }

    async fn down(&self) -> Result<(), Error> {
        let processes: Vec<Rc<Process>> =
            self.loads.borrow().iter().chain(self.processes.borrow().values()).cloned().collect();
        for process in &processes {
            // A stopped process would keep the signal until it goes on.
            let _ = process.signal(Signal::SIGTERM);
            let _ = process.signal(Signal::SIGCONT);
        }
        let _ = timeout(GRACE, join_all(processes.iter().map(|p| p.ended()))).await;
        drop(processes);
        match self.tear_down() {
            left if left.is_empty() => Ok(()),
            left => Err(Error::Failed(format!("not everything could be removed: {}", left.join("; ")))),
        }
    }
}

impl Drop for KernelWorld {
    fn drop(&mut self) {
        for complaint in self.tear_down() {
            tracing::warn!("left behind by run {}: {complaint}", self.options.run_id);
        }
    }
}
