//! Kernel settings of a namespace, each with its reason, read back after writing so that the report
//! can show what was in force and not what was asked for.

use std::io;
use std::path::Path;

/// A setting and the value that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Path below /proc/sys, with slashes.
    pub name: &'static str,
    /// What the kernel says now.
    pub value: String,
}

/// Settings of every instance, in the order in which they are written. Interfaces made later
/// inherit `default`.
const INSTANCE: &[(&str, &str)] = &[
    // Answers come back through rewriting; a strict reverse-path check would drop them.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    // Addresses are unique by construction, and detection would hold them back for more than a
    // second.
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    // There are no routers: no solicitations and no link-local address, so no packet that nobody
    // asked for.
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    // Apps run without privileges and still listen on port 80.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    // A load generator without keep-alive uses one port per request; below stay the ports of apps
    // and sidecars.
    ("net/ipv4/ip_local_port_range", "16384 65535"),
];

/// Settings of the fabric namespace: it forwards frames and has no addresses of its own.
const FABRIC: &[(&str, &str)] =
    &[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];

/// Congestion control of connections over loopback; those that leave the instance get theirs from
/// the routes.
pub const LOOPBACK_CONGESTION_CONTROL: &str = "net/ipv4/tcp_congestion_control";

/// Applies the settings of an instance to the calling thread's namespace. `ports` are those of
/// apps: the kernel must not give them to outgoing connections, or a restarted app could not listen
/// again.
pub fn instance(ports: &[u16]) -> io::Result<Vec<Sysctl>> {
    let mut settings = INSTANCE.iter().map(|(n, v)| apply(n, v)).collect::<io::Result<Vec<_>>>()?;
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    settings.push(apply("net/ipv4/ip_local_reserved_ports", &ports.join(","))?);
    // A namespace may only choose what the machine's owner allows everyone; the caller sees what it
    // got.
    let wish = apply(LOOPBACK_CONGESTION_CONTROL, super::link::CONGESTION_CONTROL);
    settings.push(wish.or_else(|_| read(LOOPBACK_CONGESTION_CONTROL))?);
    Ok(settings)
}

/// Applies the settings of the fabric to the calling thread's namespace.
pub fn fabric() -> io::Result<Vec<Sysctl>> {
    FABRIC.iter().map(|(n, v)| apply(n, v)).collect()
}

/// How long the kernel goes on repeating what it sends for processes that have ended, in the
/// calling thread's namespace: as long as it always does, or, of a machine without power, hardly at
/// all.
pub fn remembers_the_dead(yes: bool) -> io::Result<()> {
    // 0 stands for the kernel's own choice, 8. One repetition comes after 200 ms and a round trip,
    // the end 400 ms later.
    apply("net/ipv4/tcp_orphan_retries", if yes { "0" } else { "1" }).map(drop)
}

fn apply(name: &'static str, value: &str) -> io::Result<Sysctl> {
    let path = Path::new("/proc/sys").join(name);
    // An empty list is written as a line end: an empty write would be no write.
    let written = std::fs::write(&path, format!("{value}\n"));
    written.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    read(name)
}

fn read(name: &'static str) -> io::Result<Sysctl> {
    let path = Path::new("/proc/sys").join(name);
    let now = std::fs::read_to_string(&path);
    let now = now.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Ok(Sysctl { name, value: now.split_whitespace().collect::<Vec<_>>().join(" ") })
}
