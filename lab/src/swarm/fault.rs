//! The kinds of fault that a swarm run can have, and what each of them holds.

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// SIGKILL of an app.
    KillApp,
    /// SIGKILL of a sidecar.
    KillSidecar,
    /// SIGKILL of both at once.
    KillBoth,
    /// A power failure: both end silently.
    Crash,
    /// SIGTERM to a sidecar, which drains.
    Drain,
    /// SIGSTOP of an app.
    PauseApp,
    /// SIGSTOP of a whole instance.
    PauseBoth,
    /// No packet passes between the caller and an instance.
    Partition,
    /// No packet passes in one direction.
    OneWay,
    /// Some packets are lost.
    Loss,
    /// Packets take longer.
    Delay,
    /// Packets queue for a slow link.
    Narrow,
    /// An app takes no new connection.
    RefuseApp,
    /// A sidecar takes no new connection.
    RefuseSidecar,
    /// Sidecars take another configuration, in which requests have very little time.
    Reload,
    /// An app answers 503 to a share of its requests.
    Errors,
    /// An app is slow.
    Slow,
    /// An app breaks HTTP in a share of its answers.
    Malformed,
    /// An app fails a share of its health checks.
    Unhealthy,
    /// An app refuses a share of HTTP/2 streams unprocessed.
    RefuseStreams,
    /// An app ends connections by a GOAWAY, with a share of the calls that come over them.
    Goaway,
    /// An app breaks off its answers to a share of calls by RST_STREAM.
    ResetStreams,
}

impl FaultKind {
    /// Those of which some are chosen for a run. Kinds that were added later are drawn after
    /// everything else.
    pub(super) const FIRST: [FaultKind; 21] = [
        FaultKind::KillApp,
        FaultKind::KillSidecar,
        FaultKind::KillBoth,
        FaultKind::Crash,
        FaultKind::Drain,
        FaultKind::PauseApp,
        FaultKind::PauseBoth,
        FaultKind::Partition,
        FaultKind::OneWay,
        FaultKind::Loss,
        FaultKind::Delay,
        FaultKind::Narrow,
        FaultKind::RefuseApp,
        FaultKind::RefuseSidecar,
        FaultKind::Reload,
        FaultKind::Errors,
        FaultKind::Slow,
        FaultKind::Malformed,
        FaultKind::Unhealthy,
        FaultKind::RefuseStreams,
        FaultKind::Goaway,
    ];

    /// Whether a fault of this kind may be permanent, and the mesh must cope with it.
    pub(super) fn may_stay(self) -> bool {
        matches!(
            self,
            FaultKind::KillApp
                | FaultKind::KillSidecar
                | FaultKind::KillBoth
                | FaultKind::Crash
                | FaultKind::RefuseApp
                | FaultKind::RefuseSidecar
                | FaultKind::Errors
                | FaultKind::Malformed
        )
    }

    /// How often it is drawn. Processes end and links fail in many ways, each of them a kind; but
    /// there is one way only to lose a machine, to drain and to reload.
    pub(super) fn weight(self) -> usize {
        if matches!(self, FaultKind::Crash | FaultKind::Drain | FaultKind::Reload) { 3 } else { 1 }
    }

    /// Whether it changes how an app answers, which only a built-in HTTP app does.
    pub(super) fn is_of_http_app(self) -> bool {
        matches!(
            self,
            FaultKind::Errors
                | FaultKind::Slow
                | FaultKind::Malformed
                | FaultKind::Unhealthy
                | FaultKind::RefuseStreams
                | FaultKind::Goaway
                | FaultKind::ResetStreams
        )
    }

    /// Whether it ends processes, which a restart may bring back.
    pub(super) fn ends_processes(self) -> bool {
        matches!(
            self,
            FaultKind::KillApp
                | FaultKind::KillSidecar
                | FaultKind::KillBoth
                | FaultKind::Crash
                | FaultKind::Drain
        )
    }

    /// What it holds while it is in force.
    pub(super) fn holds(self) -> u8 {
        match self {
            FaultKind::KillApp
            | FaultKind::PauseApp
            | FaultKind::RefuseApp
            | FaultKind::Errors
            | FaultKind::Slow
            | FaultKind::Malformed
            | FaultKind::Unhealthy
            | FaultKind::RefuseStreams
            | FaultKind::Goaway
            | FaultKind::ResetStreams => APP,
            FaultKind::KillSidecar | FaultKind::RefuseSidecar | FaultKind::Drain => SIDECAR,
            FaultKind::KillBoth | FaultKind::PauseBoth => APP | SIDECAR,
            FaultKind::Partition
            | FaultKind::OneWay
            | FaultKind::Loss
            | FaultKind::Delay
            | FaultKind::Narrow => LINK,
            FaultKind::Crash => APP | SIDECAR | LINK,
            FaultKind::Reload => CONFIGURATION,
        }
    }
}

/// What faults hold.
pub(super) const APP: u8 = 1;
pub(super) const SIDECAR: u8 = 2;
pub(super) const LINK: u8 = 4;
/// Of all sidecars.
pub(super) const CONFIGURATION: u8 = 8;

/// One fault of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Where: which replica, modulo their number.
    pub replica: u8,
    /// When, milliseconds from the start.
    pub at: u16,
    /// For how long, milliseconds.
    pub lasts: u16,
    /// Severity, 1 to 100; its meaning depends on the kind.
    pub strength: u8,
    /// Whether it is never reverted.
    pub stays: bool,
}
