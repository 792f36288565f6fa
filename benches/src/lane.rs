//! One path from client to app: two network namespaces joined by a veth pair, and the processes in
//! them.
//!
//! Built from the lab's own parts (namespaces, processes, rules), without the fabric between the
//! ends: there is nothing to impair, and a bridge would add to every path alike. The load generator
//! is a process of its own, started for each measurement; app and sidecars live as long as the
//! lane. Dropping a lane kills its processes and with the last thread in them the namespaces go.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as File, PathBuf};
use std::time::Duration;

use lab::events::Clock;
use lab::kernel::link::{index_of, with_netlink};
use lab::kernel::node::{Bind, Mounts, Node};
use lab::kernel::process::{Launch, Log, Output, Process};
use lab::kernel::{probe, sysctl};
use lab::plan::{APP_UID, HEALTH_PORT, METRICS_PORT, SIDECAR_UID};
use nix::sys::signal::Signal;
use proxy::capture::rules::Rules;
use proxy::world::{SystemWall, Wall};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::load::{Job, LoadOutcome, sliced};
use crate::options::{Path, Protocol, Sidecar};
use crate::place::{APP, CLIENT, Place, SERVER, Side, VIRTUAL, write_certificates};
use crate::usage::{self, Memory};
use crate::{APP_PORT, envoy, haproxy, nginx, ours};

/// How long a process may take to become ready, and to answer one probe.
const READY_WITHIN: Duration = Duration::from_secs(30);
const PROBE_WITHIN: Duration = Duration::from_secs(1);
/// How long a load generator may take beyond what it was asked for.
const LOAD_WITHIN: Duration = Duration::from_secs(30);

/// The executables that lanes are made of.
#[derive(Debug, Clone)]
pub struct Programs {
    /// This bench: app and load generator.
    pub bench: PathBuf,
    /// Our sidecar.
    pub proxy: PathBuf,
    /// Envoy, if it is installed.
    pub envoy: Option<PathBuf>,
    /// HAProxy, if it is installed.
    pub haproxy: Option<PathBuf>,
    /// nginx, if it is installed.
    pub nginx: Option<PathBuf>,
    /// What our sidecar is run under: a program and its arguments, such as valgrind's.
    pub under: Vec<String>,
    /// How long the app waits before each answer.
    pub pause: Duration,
}

impl Programs {
    /// Our own, as they are.
    pub fn new(bench: PathBuf, proxy: PathBuf) -> Self {
        let (envoy, haproxy, nginx) = (None, None, None);
        Programs { bench, proxy, envoy, haproxy, nginx, under: Vec::new(), pause: Duration::ZERO }
    }
}

/// What it took until a sidecar of ours was ready.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// From the start of its process.
    pub wall: Duration,
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
}

/// A path that stands.
pub struct Lane {
    /// Which.
    pub path: Path,
    protocol: Protocol,
    // In the order in which they go: processes before the threads that they were started from.
    app: Process,
    /// `a` beside the client, `b` beside the app.
    sidecars: BTreeMap<String, Process>,
    client: Node,
    server: Node,
    stage: Stage,
    /// See [`Programs::under`].
    under: Vec<String>,
    started: BTreeMap<String, Started>,
}

/// A directory that every user may enter, where the executables appear inside the namespaces.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> io::Result<Stage> {
        let stage = tempfile::Builder::new().prefix("sidelab-bench-").tempdir()?;
        std::fs::set_permissions(stage.path(), std::fs::Permissions::from_mode(0o755))?;
        // For what sidecars write.
        let written = stage.path().join("written");
        std::fs::create_dir(&written)?;
        std::fs::set_permissions(written, std::fs::Permissions::from_mode(0o777))?;
        Ok(Stage(stage))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        Ok(path)
    }

    fn mounts(&self, programs: &Programs) -> io::Result<Mounts> {
        let named = [
            ("bench", Some(&programs.bench)),
            ("proxy", Some(&programs.proxy)),
            ("envoy", programs.envoy.as_ref()),
            ("haproxy", programs.haproxy.as_ref()),
            ("nginx", programs.nginx.as_ref()),
        ];
        let mut binds = Vec::new();
        for (name, source) in named {
            if let Some(source) = source {
                binds.push(Bind { source: source.clone(), target: self.write(name, "")? });
            }
        }
        Ok(Mounts { binds, optional: Vec::new() })
    }
}

impl Lane {
    /// Builds the path and waits until everything in it is ready.
    ///
    /// # Errors
    /// What could not be made or did not become ready, with the tail of its log.
    pub async fn up(path: Path, protocol: Protocol, programs: &Programs) -> io::Result<Lane> {
        let stage = Stage::new()?;
        if path.is_mtls() {
            write_certificates(stage.0.path())?;
        }
        let mounts = stage.mounts(programs)?;
        let (client, server) = (Node::new("client", mounts.clone())?, Node::new("server", mounts)?);
        for node in [&client, &server] {
            node.run(|| sysctl::instance(&[APP_PORT]))??;
        }
        join(&client, &server)?;
        let rules = rules(path);
        for (node, rules) in [(&client, rules.0), (&server, rules.1)] {
            if let Some(rules) = rules {
                node.run(move || rules.apply())?.map_err(io::Error::other)?;
            }
        }

        let bench = stage.path("bench").into_os_string();
        let name = serde_json::to_string(&protocol).map_err(io::Error::other)?;
        let pause = programs.pause.as_millis().to_string();
        let argv = vec![bench, "__app".into(), name.trim_matches('"').into(), pause.into()];
        let app = start(&stage, &server, "app", argv, APP_UID)?;
        ready(&server, &app, || probe::connect(local(APP_PORT), PROBE_WITHIN)).await?;
        let under = programs.under.clone();
        let (sidecars, started) = (BTreeMap::new(), BTreeMap::new());
        let mut lane = Lane { path, protocol, app, sidecars, client, server, stage, under, started };
        lane.start_sidecar(Side::App).await?;
        if path.is_double() {
            lane.start_sidecar(Side::Client).await?;
        }
        Ok(lane)
    }

    async fn start_sidecar(&mut self, side: Side) -> io::Result<()> {
        let node = if side == Side::Client { &self.client } else { &self.server };
        let folder = self.stage.0.path();
        let place = Place { path: self.path, protocol: self.protocol, side, folder };
        let (label, port, next) = (side.label(), place.port(), place.next());
        let (program, fixed, config) = match self.path.sidecar() {
            None => return Ok(()),
            Some(Sidecar::Floor) => ("bench", format!("__relay {port} {next}"), None),
            Some(Sidecar::Envoy) => {
                let fixed = "--concurrency 1 --disable-hot-restart --log-level warn --config-path";
                ("envoy", fixed.to_owned(), Some(("yaml", envoy::bootstrap(&place))))
            }
            Some(Sidecar::Haproxy) => ("haproxy", "-db -f".into(), Some(("cfg", haproxy::config(&place)))),
            Some(Sidecar::Nginx) => ("nginx", "-e stderr -c".into(), Some(("conf", nginx::config(&place)))),
            Some(Sidecar::Ours) => {
                ("proxy", "run --workers 1 --config".into(), Some(("toml", ours::config(&place))))
            }
        };
        let under = if self.path.is_ours() { &self.under[..] } else { &[] };
        let mut argv: Vec<OsString> = under.iter().map(OsString::from).collect();
        argv.push(self.stage.path(program).into_os_string());
        argv.extend(fixed.split(' ').map(OsString::from));
        if let Some((extension, text)) = config {
            argv.push(self.stage.write(&format!("{label}.{extension}"), &text)?.into());
        }
        let begun = Instant::now();
        let sidecar = start(&self.stage, node, label, argv, SIDECAR_UID)?;
        if self.path.is_ours() {
            ready(node, &sidecar, || match probe::get(local(HEALTH_PORT), "/ready", PROBE_WITHIN)? {
                (200, _) => Ok(()),
                (status, body) => Err(io::Error::other(format!("/ready says {status}: {body}"))),
            })
            .await?;
            let started = Started { wall: begun.elapsed(), cpu_ns: usage::cpu_ns(sidecar.pid())? };
            self.started.insert(label.to_owned(), started);
        } else {
            ready(node, &sidecar, move || probe::connect(local(port), PROBE_WITHIN)).await?;
        }
        self.sidecars.insert(label.to_owned(), sidecar);
        Ok(())
    }

    /// One measurement.
    ///
    /// # Errors
    /// If the load generator does not give an outcome. Failed requests are part of the outcome.
    pub async fn measure(&self, concurrency: u16, seconds: f64) -> io::Result<LoadOutcome> {
        let watch = self.processes();
        let warm_up = seconds / 4.0;
        let job = Job {
            to: self.dialled(),
            protocol: self.protocol,
            concurrency,
            warm_up,
            seconds,
            watch,
            idle: 0,
        };
        let limit = Duration::from_secs_f64(warm_up + seconds) + LOAD_WITHIN;
        let (load, outcome) = self.load(job, limit).await?;
        load.kill_and_reap();
        Ok(outcome)
    }

    /// Starts `job` in slices; its goal and what it watches are filled in.
    ///
    /// # Errors
    /// If the load generator cannot be started.
    pub fn start_slices(&self, job: sliced::Job) -> io::Result<Slices> {
        let job = sliced::Job { to: self.dialled(), protocol: self.protocol, watch: self.processes(), ..job };
        let job = serde_json::to_string(&job).map_err(io::Error::other)?;
        let (process, said) = self.start_load("__slices", job)?;
        Ok(Slices { process, said })
    }

    /// The sidecars, by label: `a` beside the client, `b` beside the app.
    pub fn pids(&self) -> BTreeMap<String, i32> {
        self.sidecars.iter().map(|(label, process)| (label.clone(), process.pid())).collect()
    }

    /// Asks the sidecars to end, waits until they have, and says which processes they were.
    ///
    /// # Errors
    /// If one does not end within `limit`.
    pub async fn end(self, limit: Duration) -> io::Result<BTreeMap<String, i32>> {
        for process in self.sidecars.values() {
            process.signal(Signal::SIGTERM)?;
        }
        for process in self.sidecars.values() {
            let late =
                || io::Error::other(format!("{} did not end{}", process.name(), process.log().log_tail()));
            timeout(limit, process.ended()).await.map_err(|_| late())?;
        }
        Ok(self.pids())
    }

    /// What it took to start the sidecars, if they are ours, by label.
    pub fn started(&self) -> &BTreeMap<String, Started> {
        &self.started
    }

    /// The sidecars and the app, by label.
    pub fn processes(&self) -> BTreeMap<String, i32> {
        let app = ("app".to_owned(), self.app.pid());
        self.pids().into_iter().chain([app]).collect()
    }

    fn dialled(&self) -> SocketAddr {
        if self.path.is_double() { VIRTUAL } else { APP }
    }

    /// Holds `idle` connections and says what that adds to each sidecar's memory, by label, with
    /// what it had before.
    ///
    /// # Errors
    /// If they cannot be opened.
    pub async fn hold(&self, idle: u32) -> io::Result<BTreeMap<String, (Memory, Memory)>> {
        let before = self.memory()?;
        let job = Job {
            to: self.dialled(),
            protocol: self.protocol,
            concurrency: 1,
            warm_up: 0.0,
            seconds: 0.0,
            watch: BTreeMap::new(),
            idle,
        };
        let (load, outcome) = self.load(job, LOAD_WITHIN + Duration::from_millis(u64::from(idle))).await?;
        let after = self.memory()?;
        load.kill_and_reap();
        if outcome.requests < u64::from(idle) {
            let why = outcome.first_error.unwrap_or_default();
            return Err(io::Error::other(format!(
                "{} of {idle} connections opened: {why}",
                outcome.requests
            )));
        }
        Ok(before.into_iter().map(|(label, before)| (label.clone(), (before, after[&label]))).collect())
    }

    /// The memory of each sidecar now, by label.
    ///
    /// # Errors
    /// If one is gone.
    pub fn memory(&self) -> io::Result<BTreeMap<String, Memory>> {
        self.sidecars.iter().map(|(label, p)| Ok((label.clone(), usage::memory(p.pid())?))).collect()
    }

    /// Starts a load generator and waits for the line that it prints.
    async fn load(&self, job: Job, limit: Duration) -> io::Result<(Process, LoadOutcome)> {
        let job = serde_json::to_string(&job).map_err(io::Error::other)?;
        let (load, mut said) = self.start_load("__load", job)?;
        let outcome = outcome(&load, &mut said, limit).await?;
        Ok((load, outcome))
    }

    fn start_load(&self, role: &str, job: String) -> io::Result<(Process, Said)> {
        let argv = vec![self.stage.path("bench").into_os_string(), role.into(), job.into()];
        let (lines, said) = mpsc::unbounded_channel();
        let load = start_with(&self.stage, &self.client, "load", argv, APP_UID, Output::Lines(lines))?;
        Ok((load, said))
    }

    /// As what our sidecars carried the traffic: as requests, or as bytes. `None` if there are none
    /// of ours.
    ///
    /// # Errors
    /// If a sidecar's metrics cannot be read.
    pub fn carried(&self) -> io::Result<Option<&'static str>> {
        if !self.path.is_ours() {
            return Ok(None);
        }
        for label in self.sidecars.keys() {
            let node = if label == "a" { &self.client } else { &self.server };
            let (_, text) = node.run(|| probe::get(local(METRICS_PORT), "/metrics", PROBE_WITHIN))??;
            let counts = text.lines().filter(|line| line.starts_with("proxy_requests_total"));
            let requests: f64 = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
            if requests == 0.0 {
                return Ok(Some("bytes"));
            }
        }
        Ok(Some("requests"))
    }

    /// The log tails of app and sidecars, for an error message.
    pub fn log_tail(&self) -> String {
        let all = self.sidecars.values().chain([&self.app]);
        all.map(|p| format!("\n{}{}", p.name(), p.log().log_tail())).collect()
    }
}

type Said = mpsc::UnboundedReceiver<String>;

/// The line that a load generator prints.
async fn outcome<T: DeserializeOwned>(load: &Process, said: &mut Said, limit: Duration) -> io::Result<T> {
    let line = timeout(limit, said.recv()).await;
    let failed = |what: &str| io::Error::other(format!("the load generator {what}{}", load.log().log_tail()));
    let line = line.map_err(|_| failed("did not end"))?.ok_or_else(|| failed("ended without an outcome"))?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

/// A load generator at work. Its connections stay open until it is dropped.
pub struct Slices {
    process: Process,
    said: Said,
}

impl Slices {
    /// The load generator.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// What came of it, within `limit` beyond what such a process may take anyway.
    ///
    /// # Errors
    /// If it gives no outcome in time, or a request failed.
    pub async fn outcome(&mut self, limit: Duration) -> io::Result<sliced::Sliced> {
        let done: sliced::Sliced = outcome(&self.process, &mut self.said, limit + LOAD_WITHIN).await?;
        match done.first_error {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(done),
        }
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        self.process.kill_and_reap();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.sidecars.values().chain([&self.app]).for_each(Process::kill_and_reap);
    }
}

/// The rules of the client's and of the app's side.
fn rules(path: Path) -> (Option<Rules>, Option<Rules>) {
    match path {
        Path::Direct => (None, None),
        Path::Iptables => {
            let exempt = vec![format!("{SERVER}/32").parse().expect("an address is a network")];
            let client = Rules { exclude_outbound_cidrs: exempt, ..Rules::default() };
            (Some(client), Some(Rules { inbound_port: APP_PORT, ..Rules::default() }))
        }
        _ => (path.is_double().then(Rules::default), Some(Rules::default())),
    }
}

/// A veth pair between two namespaces, with addresses.
fn join(client: &Node, server: &Node) -> io::Result<()> {
    let far = server.netns().as_raw_fd();
    client.run(move || {
        with_netlink(async |handle| {
            let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").setns_by_fd(far).build();
            let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
                .name("eth0")
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
            handle.link().add(pair).execute().await
        })
    })??;
    for (node, address) in [(client, CLIENT), (server, SERVER)] {
        node.run(move || {
            with_netlink(async |handle| {
                for name in ["lo", "eth0"] {
                    let link = index_of(&handle, name).await?;
                    handle.link().set(LinkUnspec::new_with_index(link).up().build()).execute().await?;
                }
                let link = index_of(&handle, "eth0").await?;
                // The prefix makes the virtual address routable; the rules rewrite it before
                // anybody looks for it.
                handle.address().add(link, address.into(), 16).execute().await
            })
        })??;
    }
    Ok(())
}

fn start(stage: &Stage, node: &Node, name: &str, argv: Vec<OsString>, uid: u32) -> io::Result<Process> {
    start_with(stage, node, name, argv, uid, Output::Log)
}

fn start_with(
    stage: &Stage,
    node: &Node,
    name: &str,
    argv: Vec<OsString>,
    uid: u32,
    output: Output,
) -> io::Result<Process> {
    let log = Log::open(File::new(&stage.path(&format!("{name}.log"))), Clock::new(SystemWall.now()))?;
    let launch = Launch {
        name: name.to_owned(),
        argv,
        env: Vec::new(),
        directory: "/".into(),
        uid,
        cgroup: None,
        limits: Vec::new(),
        log,
        output,
    };
    // Nobody listens for exits: a process that is gone shows by what it does not answer.
    let (exits, _) = mpsc::unbounded_channel();
    node.run(move || Process::spawn(launch, exits))?
}

async fn ready(
    node: &Node,
    process: &Process,
    is_ready: impl Fn() -> io::Result<()> + Clone + Send + 'static,
) -> io::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let Err(error) = node.probe(is_ready.clone()).await? else { return Ok(()) };
        if Instant::now() > deadline || !process.is_running() {
            let (name, words) = (process.name(), process.log().log_tail());
            return Err(io::Error::other(format!("{name} did not become ready: {error}{words}")));
        }
        sleep(Duration::from_millis(2)).await;
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
