//! What the sidecar, or an authority, gives up before it has done anything: its user, capabilities,
//! the chance to gain privileges again, and copies of its memory on a disk.
//!
//! Capabilities belong to a thread, and threads inherit them, so this must run while the process
//! has one. A sidecar with an app as its child keeps what it was started with, because the app gets
//! that back; it only keeps its memory to itself.
//!
//! What it leaves out: a filter of system calls. The list of those that the standard library, tokio
//! and the allocator need differs with the architecture and changes with their versions, and a call
//! that is missing in it would end a sidecar in production. A container's runtime has such a list.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::config::Snapshot;

/// Ports below it take CAP_NET_BIND_SERVICE (ip(7)).
const PRIVILEGED: u16 = 1024;

/// What a sidecar becomes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Privileges {
    /// The user that it takes.
    pub(super) user: Option<u32>,
    /// The group that it has taken already.
    pub(super) group: Option<u32>,
    /// Whether the app is its child.
    pub(super) has_child: bool,
}

impl Privileges {
    /// Gives up everything else. `snapshot` says what is needed.
    ///
    /// # Errors
    /// If the process may not become that user, or the kernel refuses.
    pub(super) fn keep_only(self, snapshot: &Snapshot) -> io::Result<()> {
        if !self.has_child {
            become_and_keep(self.user, self.group, &needed(snapshot))?;
        }
        // Last: what another user had kept private, the kernel may open again.
        if snapshot.identity.is_some() {
            keep_memory_private()?;
        }
        Ok(())
    }
}

/// Makes of the process an authority that runs as `user`, and as the group of the same number
/// unless there is a `group`. What it takes to bind `port` is kept until [`drop_capabilities`].
///
/// # Errors
/// If the process may not become that user, or the kernel refuses.
pub(crate) fn become_authority(user: Option<u32>, group: Option<u32>, port: u16) -> io::Result<()> {
    let bind = (port < PRIVILEGED).then_some(Capability::CAP_NET_BIND_SERVICE);
    become_and_keep(user, group, &bind.into_iter().collect())?;
    keep_memory_private()
}

/// Gives up what capabilities are left, while the process has one thread.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    keep(&CapsHashSet::new()).map_err(io::Error::other)
}

/// Becomes `user`, with no capability but what is `needed`.
fn become_and_keep(user: Option<u32>, group: Option<u32>, needed: &CapsHashSet) -> io::Result<()> {
    let has = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let kept = has.intersection(needed).copied().collect();
    if let Some(user) = user {
        become_user(user, group)?;
    }
    keep(&kept).map_err(io::Error::other)?;
    // For what may be started one day: no program gains more by its file.
    prctl::set_no_new_privs().map_err(Into::into)
}

fn become_user(user: u32, group: Option<u32>) -> io::Result<()> {
    let group = Gid::from_raw(group.unwrap_or(user));
    let uid = Uid::from_raw(user);
    // What is permitted stays so, which it would not if the last of the ids stops to be root's.
    prctl::set_keepcaps(true)?;
    setgroups(&[group])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|e| io::Error::other(format!("cannot become user {user} (it takes root): {e}")))?;
    prctl::set_keepcaps(false).map_err(Into::into)
}

/// Neither a core dump nor another process of the same user shows the keys in it.
///
/// # Errors
/// What `prctl` says.
fn keep_memory_private() -> io::Result<()> {
    prctl::set_dumpable(false).map_err(Into::into)
}

/// What the configuration takes.
fn needed(snapshot: &Snapshot) -> CapsHashSet {
    let mut needed = CapsHashSet::new();
    if snapshot.mark.is_some() {
        needed.insert(Capability::CAP_NET_ADMIN);
    }
    if snapshot.listen.ports().into_iter().any(|(_, port)| port < PRIVILEGED) {
        needed.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    needed
}

fn keep(kept: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    // Of what is permitted only: an older kernel knows nothing of the ambient ones.
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, kept)?;
    caps::set(None, CapSet::Permitted, kept)
}
