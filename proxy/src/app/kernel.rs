//! A sidecar as a process of its own: threads, signals, the child app, exit codes.
//!
//! First of all, before there is a thread or anything has been dialled, the process takes the
//! identity that the rules exempt and makes sure that its ports are free. Workers are threads that
//! outlive the listeners; control runs on the main thread. A worker, the control pages or an
//! essential task of control that panics ends the process: a sidecar that has lost a part of itself
//! must not go on saying that it is ready.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::control::{ControlListeners, control_at};
use super::log::{self, LOG};
use super::privileges::Privileges;
use super::stop::{Stopped, stop};
use super::threads::WorkerThreads;
use super::worker::{Signals, drains};
use super::{FAILED, Sidecar, ports};
use crate::command::{self, Inherited};
use crate::config::{self, Audit, LoadError, LogTarget, Snapshot, defaults, reload};
use crate::errln;
use crate::telemetry::emit;
use crate::world::{KernelDisk, KernelNet, LogFile, Net, RngTree, Stdout, SystemWall, World, raise_nofile};

/// How a sidecar is started, beside its configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Data-plane threads, instead of what the configuration says.
    pub workers: Option<usize>,
    /// The app and its arguments, to run as a child; empty if it runs elsewhere.
    pub command: Vec<OsString>,
    /// The group that the sidecar takes; the app keeps the one that it was started with.
    pub group: Option<u32>,
    /// The user that the sidecar becomes. Not with a child, which could not get its own back.
    pub user: Option<u32>,
}

/// Runs a sidecar on the kernel until it is told to stop, or its app ends. The exit code is the
/// app's, if it is a child.
pub fn run(path: &Path, options: Options) -> ExitCode {
    start_logging();
    let snapshot = match config::load(path) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            say_why_not(path, error);
            return ExitCode::from(2);
        }
    };
    let ended = run_kernel(path, snapshot, options);
    let code = match ended {
        Ok(ended) => {
            if ended.left > 0 {
                tracing::warn!(connections = ended.left, "drain deadline passed; connections cut");
            }
            ExitCode::from(ended.code)
        }
        Err(failure) => {
            LOG.say(&failure.error);
            ExitCode::from(failure.code)
        }
    };
    LOG.flush();
    code
}

/// Says what is wrong with the configuration at `path`. A person at a terminal sees the lines; what
/// is kept holds nothing of the file, in which there may be secrets.
fn say_why_not(path: &Path, error: LoadError) {
    if io::stderr().is_terminal() {
        errln!("{:?}", miette::Report::new(error));
        return;
    }
    for line in error.lines().into_iter().chain(where_to_see_more(path, &error)) {
        LOG.say(line);
    }
}

/// What shows the lines that a log must not hold.
fn where_to_see_more(path: &Path, error: &LoadError) -> Option<String> {
    let shown = matches!(error, LoadError::Invalid(_));
    shown.then(|| format!("`proxy check --config {}` shows the lines and what to write", path.display()))
}

/// Why a sidecar could not go on, and its exit code.
struct Failure {
    error: io::Error,
    code: u8,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure { error, code: FAILED }
    }
}

impl From<command::SpawnError> for Failure {
    fn from(not: command::SpawnError) -> Self {
        Failure { code: not.exit_code(), error: io::Error::other(not) }
    }
}

fn run_kernel(path: &Path, snapshot: Snapshot, options: Options) -> Result<Stopped, Failure> {
    let mut inherited = Inherited::now()?;
    if let Some(group) = options.group {
        inherited.become_group(group)?;
    }
    let has_child = !options.command.is_empty();
    Privileges { user: options.user, group: options.group, has_child }.keep_only(&snapshot)?;
    LOG.detach(io::stderr())?;
    warn_if_nothing_exempts(snapshot.mark);
    warn_of_doubts(&snapshot);
    let files = raise_nofile()?;
    let net = KernelNet::with_mark(snapshot.mark)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot set SO_MARK (it takes CAP_NET_ADMIN): {e}")))?;
    let rng = snapshot.seed.map_or_else(RngTree::from_os, RngTree::new);
    let cpus = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let workers = options.workers.or(snapshot.workers).unwrap_or_else(cpus);
    let (sizes, app) = ((workers, files), (options.command, inherited));
    local_runtime()?.block_on(serve_on_threads(path, snapshot, (net, rng), sizes, app))
}

/// Runs the workers, each on a thread of its own, and control on this one.
async fn serve_on_threads(
    path: &Path,
    snapshot: Snapshot,
    (net, rng): (KernelNet, RngTree),
    (workers, files): (usize, u64),
    app: (Vec<OsString>, Inherited),
) -> Result<Stopped, Failure> {
    let start = Arc::new(snapshot);
    let (failed, mut failure) = mpsc::unbounded_channel();
    ports::claim(&start.listen)?;
    // These are bound by one process at a time, so two that start together cannot both go on.
    let listeners = ControlListeners::open(&net, start.listen).await?;
    let sidecar = Sidecar::new(Snapshot::clone(&start), workers);
    sidecar.table.load().load.set_files(files);
    sidecar.loaded(&SystemWall);
    let alarmed = net.clone().with_alarm(failed.clone());
    // Before the workers, which must carry nothing if it cannot be logged.
    let world = with_logs(World::new(alarmed.clone(), SystemWall, rng.child("control", 0)), &start)?;
    let (signals, watches) = drains();
    let threads = WorkerThreads::default();
    for n in 0..workers {
        let world = World::new(net.clone(), SystemWall, rng.child("worker", n as u64));
        threads.start(n, world, sidecar.clone(), watches.clone(), failed.clone())?;
    }
    drop(watches);
    // Tools that rename logs send it, and it would end the process. There is nothing to do: the
    // access log is looked up by its name for each batch.
    let mut renamed = signal(SignalKind::user_defined1())?;
    alarmed.spawn("signals", async move { while renamed.recv().await.is_some() {} });
    // Its own task, because pages answer during the drain too.
    alarmed.spawn_essential("control", control_at(world, sidecar.clone(), listeners));
    tracing::info!(workers, files, service = %start.service, "sidecar started");
    let stopped = until_stopped(path, start, &sidecar, &signals, &mut failure, app).await;
    threads.cut(&sidecar).await;
    sidecar.write_last_lines().await;
    stopped
}

/// Serves until the sidecar is told to stop, its app ends or a part of it fails, and drains.
async fn until_stopped(
    path: &Path,
    start: Arc<Snapshot>,
    sidecar: &Sidecar,
    signals: &Signals,
    failure: &mut mpsc::UnboundedReceiver<io::Error>,
    (command, inherited): (Vec<OsString>, Inherited),
) -> Result<Stopped, Failure> {
    let mut app = None;
    let working = async {
        if command.is_empty() {
            return std::future::pending().await;
        }
        // An app that starts earlier would find its first connections refused (istio#11130).
        sidecar.started.notified().await;
        let started = app.insert(command::start(&command, inherited)?);
        Ok::<_, Failure>(Some(started.wait().await?))
    };
    let ended = tokio::select! {
        biased;
        result = told_to_stop(sidecar) => result.map(|()| None)?,
        Some(error) = failure.recv() => return Err(error.into()),
        ended = working => ended?,
        () = follow(path, start, sidecar) => None,
    };
    if let Some(code) = ended {
        tracing::info!(code, "the app has ended");
        // Nobody is left to drain for, but its last words may still be on their way.
        let deadline = Instant::now() + sidecar.timeouts().drain;
        let left = signals.outbound.drain(deadline).await;
        return Ok(Stopped { left, code });
    }
    sidecar.drain();
    let stop_app = async |limit| match &mut app {
        Some(app) => app.stop(limit).await,
        None => Ok(0),
    };
    tokio::select! {
        biased;
        // A second signal ends the wait.
        result = told_to_stop(sidecar) => Ok(result.map(|()| Stopped::default())?),
        Some(error) = failure.recv() => Err(error.into()),
        stopped = stop(sidecar, signals, stop_app) => Ok(stopped?),
    }
}

/// The same world with the disk of the audit log and the end of the access log, if there are any.
fn with_logs<N>(mut world: World<N>, start: &Snapshot) -> io::Result<World<N>> {
    if let Some(audit) = &start.audit {
        world = world.with_disk(audit_disk(audit)?);
    }
    Ok(match start.access_log.as_ref().map(|log| &log.target) {
        Some(LogTarget::Stdout) => world.with_log(Stdout),
        Some(LogTarget::File(path)) => world.with_log(log_file(path)?),
        None => world,
    })
}

/// The file of the access log, whose directory is made if there is none.
fn log_file(path: &Path) -> io::Result<LogFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("the access log cannot be {}: {error}", path.display()))
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let disk = KernelDisk::open(directory).map_err(named)?.with_any_file();
    Ok(LogFile { disk: Arc::new(disk), name })
}

/// The directory of the audit log. Lines of two processes in one file would be no chain.
fn audit_disk(audit: &Audit) -> io::Result<KernelDisk> {
    let disk = KernelDisk::open(&audit.directory).and_then(KernelDisk::locked);
    let disk = disk.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock => "another process writes one there; each needs its own".to_owned(),
            _ => error.to_string(),
        };
        let directory = audit.directory.display();
        io::Error::new(error.kind(), format!("the audit log cannot be in {directory}: {why}"))
    })?;
    Ok(disk.made_again())
}

/// Says so if the rules as they are by default would bring the sidecar's own connections back to
/// it.
fn warn_if_nothing_exempts(mark: Option<u32>) {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let exempt = defaults::EXEMPT_ID;
    if mark.is_none() && uid != exempt && gid != exempt {
        tracing::warn!(
            uid,
            gid,
            "no rule exempts the sidecar's own connections unless it was made with --uid or --gid; \
             run it as user or group {exempt} (--gid {exempt}), or set `mark` and give it to `proxy rules apply --mark`"
        );
    }
}

fn warn_of_doubts(snapshot: &Snapshot) {
    for doubt in snapshot.doubts() {
        tracing::warn!("{doubt}");
    }
}

/// A runtime for one thread.
///
/// # Errors
/// If the machine has no file descriptors for it.
pub fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// Waits for SIGTERM, SIGINT, or `POST /shutdown`.
async fn told_to_stop(sidecar: &Sidecar) -> io::Result<()> {
    tokio::select! {
        biased;
        told = told_to_end() => told,
        () = sidecar.stop.notified() => Ok(()),
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// If they cannot be waited for.
pub async fn told_to_end() -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Applies changes of the configuration file for ever. A wrong one is reported and the last good
/// one stays in force.
async fn follow(path: &Path, current: Arc<Snapshot>, sidecar: &Sidecar) {
    reload::follow(path.to_owned(), current, |outcome| match outcome {
        reload::ReloadOutcome::Applied { snapshot, ignored } => {
            warn_of_doubts(&snapshot);
            sidecar.apply(snapshot, &SystemWall);
            emit!(ConfigurationInForce);
            if !ignored.is_empty() {
                tracing::warn!(keys = ?ignored, "these are only read at start; restart to change them");
            }
        }
        reload::ReloadOutcome::Unchanged => tracing::info!("the configuration has not changed"),
        reload::ReloadOutcome::Refused(error) => {
            sidecar.metrics.reloaded(false);
            for line in error.lines().into_iter().chain(where_to_see_more(path, &error)) {
                tracing::error!("the new configuration is not in force: {line}");
            }
        }
        reload::ReloadOutcome::Blind(error) => {
            tracing::warn!(%error, "cannot watch the configuration file; its changes are noticed later, and SIGHUP reloads it");
        }
    })
    .await
}

/// Logs go to standard error; `RUST_LOG` sets the level, `info` by default.
pub fn start_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    std::panic::set_hook(Box::new(|panic| LOG.say_panic(panic)));
    // A process has one log; a second call, in a test, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .fmt_fields(log::fields())
        .with_writer(|| &LOG)
        // It would say so on standard error as well, and panic: a disk that is full, or a reader
        // that has gone, costs the log.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}
