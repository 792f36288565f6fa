//! What the machine can do, found out by doing it: every kernel feature is tried in a throwaway
//! namespace, because a module list or a version number says little about a container or a
//! distribution's kernel.
//!
//! Each check that fails names the command that mends it. `setup` runs that command where it is a
//! Debian package; everything else is left to the owner of the machine.
#![allow(unsafe_code, reason = "sched_setscheduler has no safe wrapper; see the one block below")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use proxy::capture::rules::Family;
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::cgroup::Cgroup;
use super::intercept;
use super::link::{with_congestion_control, with_netlink};
use super::node::{Mounts, Node};
use crate::app::registry::{ETCD, ETCD_PACKAGE};
use crate::plan::{Plan, SIDECAR_UID};
use crate::world::Error;

/// Tools that the lab runs, all from one Debian package.
const TOOLS: [&str; 4] = ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"];
const INSTALL_ETCD: &str = "apt-get install etcd-server (only scenarios with a registry need it)";
const INSTALL_IPTABLES: &str = "apt-get install iptables";
/// Index of the loopback interface, the same in every namespace.
const LO: u32 = 1;
/// A port for the redirect probe, in a namespace of its own.
const PROBE_PORT: u16 = 15001;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It works.
    Ok,
    /// The lab cannot run without it.
    Missing,
    /// The lab runs without it, less well.
    Optional,
}

/// One thing that was tried.
#[derive(Debug, Clone)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it went.
    pub state: State,
    /// What was found, or why it failed.
    pub detail: String,
    /// What mends it.
    pub fix: Option<String>,
}

/// Tries everything that the lab needs or likes to have. Takes about a second; leaves nothing
/// behind.
pub fn doctor() -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |name, needed: bool, result: Result<String, String>, fix: &str| {
        let (state, detail) = match result {
            Ok(detail) => (State::Ok, detail),
            Err(detail) if needed => (State::Missing, detail),
            Err(detail) => (State::Optional, detail),
        };
        checks.push(Check { name, state, detail, fix: (state != State::Ok).then(|| fix.to_owned()) });
    };

    check("root", true, root(), "run with sudo");
    for tool in TOOLS {
        let found = find(tool).map(|p| p.display().to_string()).ok_or_else(|| "not found in PATH".to_owned());
        check(tool, true, found, INSTALL_IPTABLES);
    }
    let etcd = find(ETCD).map(|p| p.display().to_string()).ok_or_else(|| "not found in PATH".to_owned());
    check(ETCD, false, etcd, INSTALL_ETCD);
    match Node::new("doctor", Mounts::default()) {
        Err(e) => {
            check("namespaces", true, Err(e.to_string()), "a kernel with CONFIG_NET_NS, and CAP_SYS_ADMIN");
        }
        Ok(node) => {
            check("namespaces", true, Ok("network and mount".into()), "");
            let mut inside = |name, needed, fix: &str, f: fn() -> io::Result<String>| {
                let result = node.run(f).and_then(|r| r).map_err(|e| e.to_string());
                check(name, needed, result, fix);
            };
            inside("veth", true, "modprobe veth", veth);
            inside("bridge", true, "modprobe bridge", bridge);
            inside("AF_PACKET", true, "modprobe af_packet", packet_socket);
            let modules = "modprobe -a xt_owner xt_REDIRECT nf_nat";
            inside("redirect IPv4", true, modules, || redirect(Family::V4));
            inside("redirect IPv6", true, modules, || redirect(Family::V6));
            inside("cubic", true, "modprobe tcp_cubic", cubic);
            inside("netem", false, "modprobe sch_netem (the userspace wire takes its place)", netem);
            let fifo = "run with CAP_SYS_NICE (the userspace wire is less punctual without)";
            inside("SCHED_FIFO", false, fifo, fifo_priority);
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let cgroup = Cgroup::mount_point(&mounts);
    let cgroup = cgroup.map(|p| p.display().to_string()).ok_or_else(|| "not mounted".to_owned());
    let fix = "mount -t cgroup2 none /sys/fs/cgroup (processes are killed one by one without)";
    check("cgroup2", false, cgroup, fix);
    checks
}

/// The checks as lines for a terminal.
pub fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let state = match check.state {
            State::Ok => "ok      ",
            State::Missing => "missing ",
            State::Optional => "optional",
        };
        text += &format!("{state}  {:width$}  {}\n", check.name, check.detail);
        if let Some(fix) = &check.fix {
            text += &format!("          {:width$}  -> {fix}\n", "");
        }
    }
    text
}

/// The quick part of [`doctor`], before a run: who we are and the tools.
pub fn require() -> Result<(), Error> {
    root().map_err(|e| Error::Machine(format!("the kernel world needs root: {e}; run it with sudo")))?;
    let missing: Vec<&str> = TOOLS.into_iter().filter(|t| find(t).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Machine(format!("{} not found in PATH; install with: {INSTALL_IPTABLES}", missing.join(", "))))
}

/// The programs that only some plans need.
pub fn require_programs(plan: &Plan) -> Result<(), Error> {
    for instance in &plan.instances {
        let Some(app) = &instance.app else { continue };
        let Some(program) = app.kind.foreign() else { continue };
        let (name, key) = (program.name(), app.kind.key());
        // Started by an ordinary user, who may not enter every folder of root's PATH: the kernel
        // would say "permission denied" of what is nowhere.
        if exists(name) {
            continue;
        }
        return Err(Error::Machine(match program.package() {
            Some(package) => format!(
                "{name} not found in PATH, and this scenario has a {key}; install with: apt-get install {package}"
            ),
            None => format!(
                "the program of {}/app, `{name}` was not found: install it, or write its whole path",
                instance.name
            ),
        }));
    }
    Ok(())
}

/// Whether there is such a program: at its path, which counts from `/` as for the app itself, or in
/// PATH.
fn exists(program: &str) -> bool {
    match program.contains('/') {
        true => Path::new("/").join(program).exists(),
        false => find(program).is_some(),
    }
}

/// Installs the Debian packages that are missing, and says what it did, one sentence each.
pub fn setup() -> Result<Vec<String>, Error> {
    let iptables = TOOLS.into_iter().all(|t| find(t).is_some());
    let wanted = [("iptables", iptables), (ETCD_PACKAGE, find(ETCD).is_some())];
    let missing: Vec<&str> = wanted.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
    if missing.is_empty() {
        return Ok(vec!["iptables and etcd are there already".into()]);
    }
    let packages = missing.join(" ");
    root().map_err(|e| Error::Machine(format!("installing packages needs root: {e}; run it with sudo")))?;
    if find("apt-get").is_none() {
        return Err(Error::Machine(format!(
            "there is no apt-get: install {packages} with this system's package manager"
        )));
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    let mut said = Vec::new();
    if apt_get(&install).is_err() {
        // Most often the package lists are too old or were never fetched.
        apt_get(&["update"])?;
        said.push("ran apt-get update".into());
        apt_get(&install)?;
    }
    said.push(format!("installed {packages}"));
    require()?;
    Ok(said)
}

/// Whether the kernel's emulator works here: `tc` is installed and the kernel takes the qdisc.
pub fn netem_works() -> bool {
    Node::new("netem?", Mounts::default()).and_then(|node| node.run(netem)?).is_ok()
}

fn apt_get(arguments: &[&str]) -> Result<(), Error> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::Machine(format!("apt-get: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Machine(format!("apt-get {} failed: {}", arguments.join(" "), said.trim())))
}

/// The first executable of that name in PATH.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|d| d.join(tool))
        .find(|p| nix::unistd::access(p, nix::unistd::AccessFlags::X_OK).is_ok())
}

fn root() -> Result<String, String> {
    match nix::unistd::geteuid() {
        uid if uid.is_root() => Ok("yes".into()),
        uid => Err(format!("running as user {uid}")),
    }
}

fn veth() -> io::Result<String> {
    with_netlink(async |handle| handle.link().add(LinkVeth::new("a", "b").build()).execute().await)?;
    Ok("made a pair".into())
}

fn bridge() -> io::Result<String> {
    with_netlink(async |handle| handle.link().add(LinkBridge::new("br0").build()).execute().await)?;
    Ok("made one".into())
}

fn packet_socket() -> io::Result<String> {
    socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None)?;
    Ok("opened a raw socket".into())
}

/// Redirects a connection to an address that nobody has, and sees whether it arrives.
fn redirect(family: Family) -> io::Result<String> {
    intercept::load(
        family,
        &format!(
            "*nat\n-A OUTPUT -p tcp -m owner ! --uid-owner {SIDECAR_UID} -j REDIRECT --to-ports {PROBE_PORT}\nCOMMIT\n"
        ),
    )?;
    // Addresses for documentation: certain to be nobody's.
    let (listen, nobody): (SocketAddr, SocketAddr) = match family {
        Family::V4 => ((Ipv4Addr::LOCALHOST, PROBE_PORT).into(), (Ipv4Addr::new(192, 0, 2, 1), 80).into()),
        Family::V6 => {
            let nobody = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            ((Ipv6Addr::LOCALHOST, PROBE_PORT).into(), (nobody, 80).into())
        }
    };
    with_netlink(async |handle| {
        handle.link().set(LinkUnspec::new_with_index(LO).up().build()).execute().await?;
        let route = match family {
            Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().output_interface(LO).build(),
            Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(LO).build(),
        };
        handle.route().add(route).execute().await
    })?;
    let _listener = TcpListener::bind(listen)?;
    TcpStream::connect_timeout(&nobody, Duration::from_secs(2))
        .map_err(|e| io::Error::new(e.kind(), format!("the rules loaded but did not redirect: {e}")))?;
    Ok("redirected a connection".into())
}

fn cubic() -> io::Result<String> {
    with_netlink(async |handle| {
        handle.link().set(LinkUnspec::new_with_index(LO).up().build()).execute().await?;
        let somewhere = Ipv4Addr::new(198, 51, 100, 0);
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(somewhere, 24).output_interface(LO);
        handle.route().add(with_congestion_control(route.build())).execute().await
    })?;
    Ok("a route took it".into())
}

fn netem() -> io::Result<String> {
    let arguments = ["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"];
    let output = Command::new("tc").args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok("added a qdisc".into());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn fifo_priority() -> io::Result<String> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: a system call that only reads the struct, which lives across the call. It changes the
    // calling thread alone, which is a throwaway node's; its previous policy is restored below all
    // the same.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &lowest) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let normal = libc::sched_param { sched_priority: 0 };
    // SAFETY: as above.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &normal) };
    Ok("allowed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_mends_a_missing_tool() {
        let checks = [
            Check { name: "root", state: State::Ok, detail: "yes".into(), fix: None },
            Check {
                name: "iptables-save",
                state: State::Missing,
                detail: "not found in PATH".into(),
                fix: Some(INSTALL_IPTABLES.into()),
            },
        ];
        let table = table(&checks);
        assert!(table.contains("ok        root           yes\n"), "{table}");
        assert!(table.contains("missing   iptables-save  not found in PATH\n"), "{table}");
        assert!(table.contains("-> apt-get install iptables\n"), "{table}");
    }
}
