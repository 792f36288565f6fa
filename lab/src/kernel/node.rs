//! One namespace per instance, and the threads that live in it.
//!
//! A namespace belongs to a thread, not to a process, so each node owns two threads for as long as
//! the world lives: the *worker* unshares the network and mount namespaces, starts processes and
//! configures the network; the *prober* makes blocking connections, so that a probe that hangs
//! never holds up the worker. Everything that must happen inside the namespace is a closure sent to
//! one of them. A child inherits both namespaces from the worker.
//!
//! Invariants: the worker outlives every process it started, because PR_SET_PDEATHSIG fires when
//! the *thread* that forked ends, not the process; nobody else calls setns or unshare. A panic in a
//! closure is an error for the caller and does not end the thread.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::fstat;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that runs closures one after another.
struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn spawn(name: &str) -> io::Result<Worker> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = queue.recv() {
                // The caller sees the panic as a closed channel; the thread must go on, see the
                // module's invariants.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        })?;
        Ok(Worker { jobs: Some(jobs), thread: Some(thread) })
    }

    fn submit(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A dead thread drops the job and with it the answer's sender, which is how the caller
            // learns of it.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A bind mount in a node's private mount namespace.
#[derive(Debug, Clone)]
pub struct Bind {
    /// What appears.
    pub source: PathBuf,
    /// Where it appears; must exist.
    pub target: PathBuf,
}

/// What a node's private view of the file system is made of.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// Must all succeed.
    pub binds: Vec<Bind>,
    /// Skipped where the target does not exist on this machine.
    pub optional: Vec<Bind>,
}

/// A network namespace (and a mount namespace) with the threads that live in it. Dropping it ends
/// both threads, which kills every process that was started from it.
pub struct Node {
    name: String,
    netns: OwnedFd,
    prober: Worker,
    worker: Worker,
}

impl Node {
    /// Makes the namespaces and mounts `mounts`. Errors name the step that failed.
    pub fn new(name: &str, mounts: Mounts) -> io::Result<Node> {
        let worker = Worker::spawn(&format!("ns:{name}"))?;
        let netns = call_blocking(&worker, name, move || enter_new_namespaces(&mounts))??;
        // A thread starts in the namespaces of the thread that starts it.
        let label = format!("probe:{name}");
        let prober = call_blocking(&worker, name, move || Worker::spawn(&label))??;
        Ok(Node { name: name.to_owned(), netns, prober, worker })
    }

    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network namespace.
    pub fn netns(&self) -> &OwnedFd {
        &self.netns
    }

    /// Runs `f` inside the namespaces and waits without blocking this thread. Fails if `f` panics.
    pub fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + 'static {
        call(&self.worker, &self.name, f)
    }

    /// Runs `f` inside the namespaces and blocks until it is done. Fails if `f` panics.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        call_blocking(&self.worker, &self.name, f)
    }

    /// Runs a blocking probe inside the network namespace, apart from everything that
    /// [`Node::call`] runs.
    pub fn probe<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + 'static {
        call(&self.prober, &self.name, f)
    }
}

fn call<T: Send + 'static>(
    worker: &Worker,
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = io::Result<T>> + 'static {
    let (done, result) = oneshot::channel();
    worker.submit(Box::new(move || {
        let _ = done.send(f());
    }));
    let name = name.to_owned();
    async move { result.await.map_err(|_| gone(&name)) }
}

fn call_blocking<T: Send + 'static>(
    worker: &Worker,
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = mpsc::sync_channel(1);
    worker.submit(Box::new(move || {
        let _ = done.send(f());
    }));
    result.recv().map_err(|_| gone(name))
}

fn gone(name: &str) -> io::Error {
    io::Error::other(format!("a thread of namespace {name} panicked"))
}

fn enter_new_namespaces(mounts: &Mounts) -> io::Result<OwnedFd> {
    let step = |what: String| move |error: nix::Error| io::Error::other(format!("{what}: {error}"));
    let before = fstat(File::open("/proc/thread-self/ns/net")?)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(step("cannot make a network and a mount namespace".into()))?;
    let netns = File::open("/proc/thread-self/ns/net")?;
    if fstat(&netns)?.st_ino == before.st_ino {
        return Err(io::Error::other("unshare(CLONE_NEWNET) did not change the network namespace"));
    }
    // Without this, every mount below would appear on the machine itself.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(step("cannot make the mounts private".into()))?;
    // /sys shows the namespace that it was mounted in: remounting makes /sys/class/net tell the
    // truth to apps. Where it is refused (some containers), apps see the machine's interfaces there
    // and nothing else changes.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>);
    let bind = |b: &Bind| -> io::Result<()> {
        mount(Some(&b.source), &b.target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(step(format!("cannot mount {} on {}", b.source.display(), b.target.display())))
    };
    mounts.binds.iter().try_for_each(bind)?;
    mounts.optional.iter().filter(|b| b.target.exists()).try_for_each(bind)?;
    Ok(netns.into())
}

/// Name resolution from files only: writes the files under `dir` and says where they belong.
///
/// Fails if the files cannot be written. Programs that ask a name server anyway find none.
pub fn name_files(dir: &Path, hosts: &str) -> io::Result<Mounts> {
    let file = |name: &str, text: &str| -> io::Result<Bind> {
        let source = dir.join(name);
        std::fs::write(&source, text)?;
        Ok(Bind { source, target: Path::new("/etc").join(name) })
    };
    Ok(Mounts {
        binds: vec![file("hosts", hosts)?],
        optional: vec![
            file("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")?,
            file("resolv.conf", "# No name server: every name is in /etc/hosts.\n")?,
        ],
    })
}
