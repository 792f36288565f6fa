//! Whether the sidecar's ports are free, and who has them if not.
//!
//! Workers share their listeners' ports (`SO_REUSEPORT`), and the kernel lets any process of the
//! same user join them: two sidecars would each get some of the connections. So a sidecar looks
//! first whether it could have each port to itself.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;

/// Refuses to go on if one of the ports is taken.
///
/// # Errors
/// Which port it is, and whose, if that can be found.
pub(super) fn claim(listen: &Listen) -> io::Result<()> {
    for (name, port) in listen.ports() {
        if is_taken(port) {
            let whose = owner(port).map_or_else(String::new, |owner| format!(" by {owner}"));
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("port {port} ({name}) is taken{whose}; give this sidecar another one in [listen]"),
            ));
        }
    }
    Ok(())
}

/// Whether somebody listens on `port`, on any address. What else is wrong with it is found when it
/// is bound.
fn is_taken(port: u16) -> bool {
    let all: [SocketAddr; 2] = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    all.into_iter().any(|at| bind_alone(at).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse))
}

/// Binds without sharing. What is left of old connections does not count.
fn bind_alone(at: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())
}

/// The process that listens on `port`, as far as `/proc` shows it to this one.
fn owner(port: u16) -> Option<String> {
    let mut sockets = BTreeSet::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        sockets.extend(listening(&text, port).map(|inode| format!("socket:[{inode}]")));
    }
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|to| sockets.contains(name(&to)))
    };
    let pid = pids.into_iter().find(has)?;
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", program.trim_end()))
}

fn name(link: &Path) -> &str {
    link.to_str().unwrap_or_default()
}

/// The inodes of sockets that listen on `port`, in the words of `/proc/net/tcp` (proc_net_tcp in
/// the kernel's documentation).
fn listening(table: &str, port: u16) -> impl Iterator<Item = &str> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let ours = u16::from_str_radix(local_port, 16) == Ok(port) && *fields.get(3)? == LISTEN;
        fields.get(9).copied().filter(|_| ours)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_on_a_port_is_found() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        listener.set_reuse_port(true).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let port = listener.local_addr().unwrap().as_socket().unwrap().port();
        listener.listen(1).unwrap();
        assert!(is_taken(port));
        let owner = owner(port).unwrap();
        assert!(owner.starts_with(&format!("process {} (", std::process::id())), "{owner}");
        drop(listener);
        assert!(!is_taken(port));
    }
}
