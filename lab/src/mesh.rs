//! How the parts of a mesh are referred to: processes and links, by the position of their
//! instances.

use serde::Serialize;

use crate::fabric::LinkProfile;

/// The base profile of one direction between two instances.
#[derive(Debug, Clone, Serialize)]
pub struct Link {
    /// Position of the sender.
    pub from: usize,
    /// Position of the receiver.
    pub to: usize,
    /// Delay, jitter, loss.
    pub profile: LinkProfile,
}

/// A process of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ProcessId {
    /// Position of the instance.
    pub instance: usize,
    /// Which of its processes.
    pub role: Role,
}

/// Which of an instance's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The app, or the authority where that is what the instance is.
    App,
    /// The sidecar.
    Sidecar,
}
