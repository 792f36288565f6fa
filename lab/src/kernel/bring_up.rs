//! From a plan to a running world, step by step; each step needs the ones before it.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use proxy::capture::rules::Family;
use tokio::time::{Instant, sleep};

use super::capture::Capture;
use super::identity::authority_command;
use super::intercept;
use super::limits::Limited;
use super::link::{self, Backend, Bridge, LinkBackend};
use super::netem::Netem;
use super::node::{Bind, Mounts, Node, name_files};
use super::process::{Launch, Log, Output, Process};
use super::wire::WireBackend;
use super::{Cgroup, KernelWorld, LOGS, Registration, cleanup, doctor, probe, sysctl};
use crate::app::{ForeignProgram, Place};
use crate::fabric::LinkProfile;
use crate::mesh::{ProcessId, Role};
use crate::plan::{APP_UID, CA_UID, ResourceLimits, SIDECAR_UID, Service};
use crate::sidecar::{self, Page, SidecarProgram};
use crate::world::Error;

/// How long a process may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long one probe may take.
const PROBE_WITHIN: Duration = Duration::from_secs(1);
/// How long the self-test waits for a connection, and for the sidecar's counter to show it.
const SELF_TEST_WITHIN: Duration = Duration::from_secs(2);
/// Name of the namespace between the instances; no service can have it.
const FABRIC: &str = "@fabric";
/// Wait between probes: short at first, because most processes are ready at once.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// Says what could not be done.
pub(super) fn failed<E: Display>(what: impl Display) -> impl FnOnce(E) -> Error {
    move |e| Error::Failed(format!("{what}: {e}"))
}

impl KernelWorld {
    pub(super) async fn bring_up(&self) -> Result<(), Error> {
        for what in cleanup::sweep().said() {
            self.options.events.note("sweep", "", what);
        }
        doctor::require_programs(&self.plan)?;
        self.register()?;
        self.found_authorities().await?;
        self.make_nodes()?;
        self.deliver_identities().await?;
        self.connect().await?;
        self.capture()?;
        self.load_rules().await?;
        self.start_all(Role::App).await?;
        self.start_all(Role::Sidecar).await?;
        self.test_interception().await?;
        self.options.events.note("up", "", format!("{} instances", self.plan.instances.len()));
        Ok(())
    }

    fn register(&self) -> Result<(), Error> {
        let run = &self.options.run_id;
        let registration = Registration::new(run).map_err(failed(format!("cannot register run {run}")))?;
        let group = Cgroup::place(run).and_then(|place| {
            registration.note_cgroup(&place)?;
            Cgroup::create(place)
        });
        match group {
            Ok(group) => *self.cgroup.borrow_mut() = Some(group),
            Err(e) => self.notes.borrow_mut().push(format!("processes run without control groups: {e}")),
        }
        *self.registration.borrow_mut() = Some(Rc::new(registration));
        Ok(())
    }

    pub(super) fn run_path(&self) -> Result<std::path::PathBuf, Error> {
        let registration = self.registration.borrow();
        registration
            .as_ref()
            .map(|r| r.path().to_owned())
            .ok_or_else(|| Error::Failed("the world is not up".into()))
    }

    fn make_nodes(&self) -> Result<(), Error> {
        let run = self.run_path()?;
        let mounts = self.prepare_files(&run).map_err(|e| {
            let run_dir = self.options.run_dir.display();
            Error::Machine(format!("cannot write into {run_dir} or {}: {e}", run.display()))
        })?;

        let fabric = Node::new(FABRIC, Mounts::default()).map_err(failed("the fabric's namespace"))?;
        fabric.run(sysctl::fabric).and_then(|r| r).map_err(failed("settings of the fabric"))?;
        *self.fabric.borrow_mut() = Some(Rc::new(fabric));

        let mut ports: Vec<u16> = self.plan.services.iter().filter_map(|s| s.port).collect();
        ports.sort_unstable();
        ports.dedup();
        for instance in &self.plan.instances {
            let mut mounts = mounts.clone();
            mounts.binds.extend(self.identity_mount(&run, instance));
            let node = Node::new(&instance.name, mounts)
                .map_err(failed(format!("namespace of {}", instance.name)))?;
            let ports = ports.clone();
            let settings = node
                .run(move || sysctl::instance(&ports))
                .and_then(|r| r)
                .map_err(failed(format!("settings of {}", instance.name)))?;
            if let Some(loopback) = settings.iter().find(|s| s.name == sysctl::LOOPBACK_CONGESTION_CONTROL)
                && loopback.value != link::CONGESTION_CONTROL
                && self.nodes.borrow().is_empty()
            {
                self.notes.borrow_mut().push(format!(
                    "connections between instances use {}, but those over loopback use {}: this machine does not let \
                     namespaces choose (net.ipv4.tcp_allowed_congestion_control)",
                    link::CONGESTION_CONTROL,
                    loopback.value,
                ));
            }
            let settings: Vec<String> =
                settings.iter().map(|s| format!("{}={}", s.name.replace('/', "."), s.value)).collect();
            self.options.events.note("sysctl", &instance.name, settings.join(" "));
            self.nodes.borrow_mut().push(Rc::new(node));
        }

        // Only after the last node: a namespace mounted earlier would be copied into every later
        // mount namespace.
        let registration = self.registration.borrow();
        if let Some(registration) = &*registration {
            let nodes = self.nodes.borrow();
            for node in self.fabric.borrow().iter().chain(&*nodes) {
                registration
                    .mount_namespace(node.name(), node.netns())
                    .map_err(failed(format!("cannot mount the namespace of {}", node.name())))?;
            }
        }
        Ok(())
    }

    fn config_path(&self, instance: &str) -> std::path::PathBuf {
        self.options.run_dir.join("config").join(format!("{instance}.toml"))
    }

    /// Whether the file of an instance's sidecar says anything but `text`.
    pub(super) fn has_other_config(&self, instance: usize, text: &str) -> bool {
        let path = self.config_path(&self.plan.instances[instance].name);
        std::fs::read_to_string(path).ok().as_deref() != Some(text)
    }

    /// Writes the configuration of an instance's sidecar in one step, so that a watcher never reads
    /// half of it.
    pub(super) fn write_config(&self, instance: &str, text: &str) -> io::Result<()> {
        let path = self.config_path(instance);
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644))?;
        std::fs::rename(&new, &path)
    }

    /// Writes what children read. They see it below the run's directory, which every user may
    /// enter, even if the executable and the run's own folder lie in a home directory that only its
    /// owner may.
    fn prepare_files(&self, run: &Path) -> io::Result<Mounts> {
        let config = self.options.run_dir.join("config");
        std::fs::create_dir_all(&config)?;
        std::fs::create_dir_all(self.options.run_dir.join(LOGS))?;
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o755))?;
        for instance in &self.plan.instances {
            if let Some(text) = &instance.sidecar {
                self.write_config(&instance.name, text)?;
            }
        }
        for instance in &self.plan.instances {
            let program = instance.app.as_ref().and_then(|app| app.kind.foreign());
            if program.is_some_and(ForeignProgram::keeps_data) {
                let data = data(run, &instance.name);
                std::fs::create_dir_all(&data)?;
                std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
                std::os::unix::fs::chown(&data, Some(APP_UID), Some(APP_UID))?;
            }
        }
        self.prepare_identities(run)?;
        let mut mounts = name_files(&run.join("etc"), &self.plan.hosts())?;
        let exe = run.join("exe");
        std::fs::File::create(&exe)?;
        mounts.binds.push(Bind { source: self.options.exe.clone(), target: exe });
        mounts.binds.push(Bind { source: config, target: run.join("config") });
        for entry in std::fs::read_dir(run.join("etc"))? {
            std::fs::set_permissions(entry?.path(), std::fs::Permissions::from_mode(0o644))?;
        }
        Ok(mounts)
    }

    async fn connect(&self) -> Result<(), Error> {
        let fabric =
            self.fabric.borrow().clone().ok_or_else(|| Error::Failed("the world is not up".into()))?;
        let nodes = self.nodes.borrow().clone();
        link::connect_instances(&self.plan, &nodes, &fabric)
            .map_err(failed("cannot connect the instances"))?;

        let kind = Backend::choose(&self.plan, self.options.backend, doctor::netem_works);
        let backend: Rc<dyn LinkBackend> = match kind {
            Backend::Bridge => {
                Rc::new(Bridge::start(fabric, nodes.len()).map_err(failed("cannot make the bridge"))?)
            }
            Backend::Netem => Rc::new(
                Netem::start(&self.plan, fabric, &nodes)
                    .map_err(failed("cannot set up the kernel's netem"))?,
            ),
            Backend::Wire => {
                Rc::new(WireBackend::start(&self.plan, &fabric).map_err(failed("cannot start the wire"))?)
            }
        };
        *self.backend.borrow_mut() = Some(backend.clone());
        let base = self.plan.links.iter().map(|l| (l.from, l.to, l.profile)).collect();
        backend.set_profiles(base).await.map_err(failed("cannot set up the links"))?;
        self.options.events.note("links", kind.name(), format!("{} base profiles", self.plan.links.len()));
        Ok(())
    }

    fn capture(&self) -> Result<(), Error> {
        if self.plan.captures.is_empty() {
            return Ok(());
        }
        let directory = self.options.run_dir.join("captures");
        let capture = Capture::start(&self.plan, &self.nodes.borrow(), &directory);
        *self.capture.borrow_mut() = Some(capture.map_err(failed("cannot capture packets"))?);
        Ok(())
    }

    async fn load_rules(&self) -> Result<(), Error> {
        let rules = Family::BOTH.map(|family| (family, intercept::text(&self.plan, family)));
        let loading: Vec<_> = self
            .nodes
            .borrow()
            .iter()
            .enumerate()
            // An authority calls nobody, and who calls it is led nowhere else.
            .filter(|(instance, _)| self.plan.authority(*instance).is_none())
            .map(|(_, node)| {
                let (rules, name) = (rules.clone(), node.name().to_owned());
                let done =
                    node.call(move || rules.iter().try_for_each(|(f, text)| intercept::load(*f, text)));
                async move { done.await.and_then(|r| r).map_err(failed(format!("rules of {name}"))) }
            })
            .collect();
        try_join_all(loading).await?;
        Ok(())
    }

    async fn start_all(&self, role: Role) -> Result<(), Error> {
        let processes: Vec<ProcessId> = self.plan.processes().filter(|p| p.role == role).collect();
        for &process in &processes {
            self.start(process)?;
        }
        try_join_all(processes.iter().map(|&p| self.ready(p))).await?;
        Ok(())
    }

    /// Starts a process; it is not ready yet. Blocks for the fork, so that no half-started process
    /// can get lost.
    pub(super) fn start(&self, id: ProcessId) -> Result<(), Error> {
        let run = self.run_path()?;
        let instance = &self.plan.instances[id.instance];
        let exe = run.join("exe").into_os_string();
        let authority = self.plan.authority(id.instance);
        let (role, uid, directory) = match (id.role, authority) {
            (Role::App, None) => ("app", APP_UID, Path::new("/")),
            (Role::App, Some(_)) => ("ca", CA_UID, Path::new("/")),
            (Role::Sidecar, _) => ("sidecar", SIDECAR_UID, &*run),
        };
        let mut env = vec![("LAB_INSTANCE".to_owned(), instance.name.clone())];
        let argv: Vec<OsString> = match (id.role, &instance.app) {
            (Role::App, None) if authority.is_some() => authority.map_or_else(Vec::new, |authority| {
                authority_command(Path::new(&exe), &data(&run, &instance.name), authority)
            }),
            (Role::App, None) => {
                return Err(Error::Failed(format!("{} has no app to start", instance.name)));
            }
            (Role::App, Some(app)) => match app.kind.foreign() {
                Some(program) => {
                    let data = data(&run, &instance.name);
                    let (address, port) = (instance.v4, app.port);
                    let place = Place { instance: &instance.name, address, port, data: &data };
                    let command = program.command(&place);
                    env.extend(command.env);
                    command.argv
                }
                None => {
                    let spec = serde_json::to_string(app).expect("an app's description is plain data");
                    let seed = self.plan.seed.to_string();
                    vec![exe, "__app".into(), "--spec".into(), spec.into(), "--seed".into(), seed.into()]
                }
            },
            (Role::Sidecar, _) => {
                let config = run.join("config").join(format!("{}.toml", instance.name));
                self.sidecar()?.argv(Path::new(&exe), &config)
            }
        };
        let name = self.plan.process_name(id);
        let limits = self.limit(id, role)?;
        let start = Start { role, argv, env, directory, uid, limits, output: Output::Log };
        let process = self.launch(id.instance, name, start)?;
        self.options.events.note("start", process.name(), format!("process {}", process.pid()));
        *self.starts.borrow_mut().entry(id).or_default() += 1;
        self.processes.borrow_mut().insert(id, process);
        Ok(())
    }

    /// The entrances of the groups that limit a process, made when it is first started.
    fn limit(&self, id: ProcessId, role: &str) -> Result<Vec<File>, Error> {
        let limits = self.plan.limits(id);
        if limits == ResourceLimits::default() {
            return Ok(Vec::new());
        }
        let name = self.plan.process_name(id);
        let cannot = |e: io::Error| Error::Machine(format!("cannot limit {name}: {e}"));
        let run = self.cgroup.borrow();
        let run = run.as_ref().ok_or_else(|| cannot(io::Error::other("there are no control groups")))?;
        let label = format!("{}.{role}", self.plan.instances[id.instance].name);
        let unique = format!("lab-{}.{label}", self.options.run_id);
        let registration = self.registration.borrow();
        let note = |path: &Path| registration.as_ref().map_or(Ok(()), |r| r.note_limited(path));
        let limited = run.child(&label).and_then(|own| Limited::create(run, &own, &unique, limits, note));
        let limited = limited.map_err(cannot)?;
        let entrances = limited.entrances().map_err(cannot)?;
        self.limited.borrow_mut().insert(id, limited);
        Ok(entrances)
    }

    pub(super) fn launch(
        &self,
        instance: usize,
        name: String,
        start: Start<'_>,
    ) -> Result<Rc<Process>, Error> {
        let Start { role, argv, env, directory, uid, limits, output } = start;
        let directory = directory.to_owned();
        let node = self.node(instance).ok_or_else(|| Error::Failed("the world is not up".into()))?;
        let label = format!("{}.{role}", node.name());
        let cannot = || format!("cannot start {name}");
        let path = self.options.run_dir.join(LOGS).join(format!("{label}.log"));
        let log = Log::open(&path, self.options.events.clock()).map_err(failed(cannot()))?;
        let join = |run: &Cgroup| {
            let cgroup = run.child(&label)?;
            let entrance = cgroup.entrance()?;
            Ok::<_, io::Error>((cgroup, entrance))
        };
        let cgroup = self.cgroup.borrow().as_ref().map(join).transpose().map_err(failed(cannot()))?;
        let launch = Launch { name: name.clone(), argv, env, directory, uid, cgroup, limits, log, output };
        let exits = self.exits.0.clone();
        let process = node.run(move || Process::spawn(launch, exits)).and_then(|r| r);
        process.map(Rc::new).map_err(failed(cannot()))
    }

    /// Waits until a process that was started is ready.
    pub(super) async fn ready(&self, id: ProcessId) -> Result<(), Error> {
        let started = Instant::now();
        let (Some(process), Some(node)) = (self.process(id), self.node(id.instance)) else {
            return Err(Error::Failed(format!("{} was not started", self.plan.process_name(id))));
        };
        let name = process.name().to_owned();
        let app_port = self.plan.way_in(id).unwrap_or_default();
        let readiness = sidecar::program(self.plan.sidecar).map(|program| program.readiness());
        let mut pause = BACK_OFF.0;
        loop {
            let probe = node.probe(move || match readiness.filter(|_| id.role == Role::Sidecar) {
                None => probe::connect(local(app_port), PROBE_WITHIN),
                Some(Page { port, path }) => match probe::get(local(port), path, PROBE_WITHIN)? {
                    (200, _) => Ok(()),
                    (status, body) => Err(io::Error::other(format!("{path} says {status}: {}", body.trim()))),
                },
            });
            let answer = tokio::select! {
                exit = process.ended() => {
                    self.note_exits();
                    let mut words = process.log().log_tail();
                    let service = &self.plan.services[self.plan.instances[id.instance].service];
                    words += hint(id.role, &service.settings, &words);
                    return Err(Error::Failed(format!("{name} ended before it was ready: {}{words}", exit.status)));
                }
                answer = probe => answer.and_then(|r| r),
            };
            let Err(error) = answer else { break };
            if started.elapsed() + pause >= READY_WITHIN {
                let words = process.log().log_tail();
                let within = READY_WITHIN.as_secs();
                return Err(Error::Failed(format!("{name} was not ready within {within} s: {error}{words}")));
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
        self.options.events.note("ready", name, format!("after {} ms", started.elapsed().as_millis()));
        Ok(())
    }

    /// Connects to every service's virtual address, in both families, and sees by the rules'
    /// counters and by the sidecar's own whether the connection took the way that the plan says.
    async fn test_interception(&self) -> Result<(), Error> {
        let Some(instance) = self.self_test_instance() else { return Ok(()) };
        let Some(node) = self.node(instance) else { return Ok(()) };
        let name = node.name().to_owned();
        let read = || node.call(intercept::counters);
        let cannot = || failed(format!("cannot read the rules' counters of {name}"));

        let has_sidecar = sidecar::program(self.plan.sidecar).is_some();
        let seen_before = if has_sidecar { self.outbound_seen(&node).await? } else { 0.0 };
        let mut connected = 0;
        let mut before = read().await.and_then(|r| r).map_err(cannot())?;
        let services: Vec<&Service> = self.plan.services.iter().filter(|s| s.port.is_some()).collect();
        for (service, family) in services.iter().flat_map(|s| Family::BOTH.map(|f| (*s, f))) {
            let to = SocketAddr::new(intercept::vip(service, family), service.port.unwrap_or_default());
            // As root: not the sidecar's user, so the rules must take it.
            let outcome = node.probe(move || probe::connect(to, SELF_TEST_WITHIN)).await.and_then(|r| r);
            let after = read().await.and_then(|r| r).map_err(cannot())?;
            let said = outcome.as_ref().map_or_else(ToString::to_string, |()| "it was accepted".to_owned());
            if after.outbound == before.outbound {
                return Err(Error::Failed(format!(
                    "interception does not work: a connection from {name} to {} ({to}) was not redirected ({said})",
                    service.name,
                )));
            }
            // Whoever resets has accepted before: a policy may refuse this connection at once.
            let is_refused = outcome.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::ConnectionReset);
            if has_sidecar && is_refused {
                return Err(Error::Failed(format!(
                    "interception does not work: a connection from {name} to {} ({to}) was redirected, but the sidecar \
                     did not take it: {said}",
                    service.name,
                )));
            }
            before = after;
            connected += 1;
        }
        self.redirected.borrow_mut()[instance] = before;

        let started = Instant::now();
        let mut pause = BACK_OFF.0;
        loop {
            let seen = if has_sidecar { self.outbound_seen(&node).await? - seen_before } else { 0.0 };
            if !has_sidecar || seen >= f64::from(connected) {
                break;
            }
            if started.elapsed() >= SELF_TEST_WITHIN {
                return Err(Error::Failed(format!(
                    "interception does not work: {connected} connections from {name} were redirected, but its sidecar \
                     counts {seen} in proxy_connections_total{{side=\"outbound\"}}"
                )));
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
        self.options.events.note("intercept", name, format!("{connected} connections were redirected"));
        Ok(())
    }

    /// The first instance that has a load or no app: one that calls others anyway.
    fn self_test_instance(&self) -> Option<usize> {
        if self.plan.services.iter().all(|s| s.port.is_none()) {
            return None;
        }
        let calls = |i: usize| {
            self.plan.instances[i].app.is_none() || self.plan.loads.iter().any(|load| load.from == i)
        };
        let mut all = (0..self.plan.instances.len()).filter(|&i| self.plan.authority(i).is_none());
        all.clone().find(|&i| calls(i)).or(all.next())
    }

    /// The program of the plan's sidecars.
    pub(super) fn sidecar(&self) -> Result<&'static dyn SidecarProgram, Error> {
        let program = sidecar::program(self.plan.sidecar);
        program.ok_or_else(|| Error::Failed("this plan has no sidecars".into()))
    }

    async fn outbound_seen(&self, node: &Node) -> Result<f64, Error> {
        let program = self.sidecar()?;
        let Page { port, path } = program.metrics();
        let answer = node.probe(move || probe::get(local(port), path, PROBE_WITHIN)).await;
        let (_, text) =
            answer.and_then(|r| r).map_err(failed(format!("metrics of {}/sidecar", node.name())))?;
        let samples = crate::metrics::parse(&format!("{}/sidecar", node.name()), &text);
        Ok(program.outbound_connections(&samples))
    }

    /// Waits until all of `processes` are ready; the first error wins, but all have been waited
    /// for.
    pub(super) async fn all_ready(&self, processes: &[ProcessId]) -> Result<(), Error> {
        join_all(processes.iter().map(|&p| self.ready(p))).await.into_iter().collect()
    }

    /// The base profile of one direction.
    pub(super) fn base_profile(&self, from: usize, to: usize) -> LinkProfile {
        let link = self.plan.links.iter().find(|l| l.from == from && l.to == to);
        link.map(|l| l.profile).unwrap_or_default()
    }
}

/// What else to say of a process that has ended with these words: where its sidecar may write.
fn hint(role: Role, settings: &toml::Table, words: &str) -> &'static str {
    let writes = ["audit", "access_log"].iter().any(|key| settings.contains_key(*key));
    match role == Role::Sidecar && writes && words.contains("Permission denied") {
        true => {
            "\n  a sidecar writes as user 1337: docs/scenario.md, \"Files that a sidecar writes\", says where it may"
        }
        false => "",
    }
}

/// How a process is started.
pub(super) struct Start<'a> {
    /// Its part of the instance's name.
    pub role: &'a str,
    pub argv: Vec<OsString>,
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub directory: &'a Path,
    pub uid: u32,
    pub limits: Vec<File>,
    pub output: Output,
}

/// Where a process keeps what must outlive it.
pub(super) fn data(run: &Path, instance: &str) -> std::path::PathBuf {
    run.join("data").join(instance)
}

pub(super) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_write_its_log_is_told_where_it_may() {
        let audited = toml::Table::from_iter([("audit".to_owned(), toml::Table::new().into())]);
        let denied = "the audit log cannot be in /root/a: Permission denied (os error 13)";
        let told = hint(Role::Sidecar, &audited, denied);
        assert!(told.contains(&format!("user {SIDECAR_UID}")) && told.contains("docs/scenario.md"), "{told}");
        let page = include_str!("../../../docs/scenario.md");
        assert!(page.contains("## Files that a sidecar writes\n"), "the page has what the hint names");
        assert_eq!(hint(Role::App, &audited, denied), "");
        assert_eq!(hint(Role::Sidecar, &toml::Table::new(), denied), "");
        assert_eq!(hint(Role::Sidecar, &audited, "something else"), "");
    }
}
