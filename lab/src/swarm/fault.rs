//! What can go wrong on a bad day, one thing at a time.

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of an app.
    KillApp,
    /// SIGKILL of a sidecar.
    KillSidecar,
    /// SIGKILL of both at once.
    KillBoth,
    /// The power fails: both end, and nobody hears of it.
    Crash,
    /// SIGTERM to a sidecar, which drains.
    Drain,
    /// SIGSTOP of an app.
    PauseApp,
    /// SIGSTOP of a whole instance.
    PauseBoth,
    /// Nothing passes between the caller and an instance.
    Partition,
    /// Nothing passes in one direction.
    OneWay,
    /// Some packets are lost.
    Loss,
    /// Packets take longer.
    Delay,
    /// They queue for a slow link.
    Narrow,
    /// An app takes no new connection.
    RefuseApp,
    /// A sidecar takes none.
    RefuseSidecar,
    /// Sidecars take another configuration, in which requests have very little time.
    Reload,
    /// An app answers 503 to a share of its requests.
    Errors,
    /// An app takes its time.
    Slow,
    /// An app breaks HTTP in a share of its answers.
    Malformed,
    /// An app says that it is not well in a share of its answers to checks.
    Unhealthy,
    /// An app refuses a share of HTTP/2 streams before it looks at them.
    RefuseStreams,
    /// An app ends connections by a GOAWAY, with a share of the calls that come over them.
    Goaway,
    /// An app breaks off its answers to a share of calls by RST_STREAM.
    ResetStreams,
}

impl Kind {
    /// Those of which some are chosen for a day. What was thought of later is drawn after everything else.
    pub(super) const FIRST: [Kind; 21] = [
        Kind::KillApp,
        Kind::KillSidecar,
        Kind::KillBoth,
        Kind::Crash,
        Kind::Drain,
        Kind::PauseApp,
        Kind::PauseBoth,
        Kind::Partition,
        Kind::OneWay,
        Kind::Loss,
        Kind::Delay,
        Kind::Narrow,
        Kind::RefuseApp,
        Kind::RefuseSidecar,
        Kind::Reload,
        Kind::Errors,
        Kind::Slow,
        Kind::Malformed,
        Kind::Unhealthy,
        Kind::RefuseStreams,
        Kind::Goaway,
    ];

    /// Whether a fault of this kind may stay for ever, with the mesh expected to live with it.
    pub(super) fn may_stay(self) -> bool {
        matches!(
            self,
            Kind::KillApp
                | Kind::KillSidecar
                | Kind::KillBoth
                | Kind::Crash
                | Kind::RefuseApp
                | Kind::RefuseSidecar
                | Kind::Errors
                | Kind::Malformed
        )
    }

    /// How often it is drawn. Processes end and links fail in many ways, each of them a kind; but there is one way only to lose a
    /// machine, to drain and to reload.
    pub(super) fn weight(self) -> usize {
        if matches!(self, Kind::Crash | Kind::Drain | Kind::Reload) { 3 } else { 1 }
    }

    /// What it holds while it is in force.
    pub(super) fn holds(self) -> u8 {
        match self {
            Kind::KillApp
            | Kind::PauseApp
            | Kind::RefuseApp
            | Kind::Errors
            | Kind::Slow
            | Kind::Malformed
            | Kind::Unhealthy
            | Kind::RefuseStreams
            | Kind::Goaway
            | Kind::ResetStreams => APP,
            Kind::KillSidecar | Kind::RefuseSidecar | Kind::Drain => SIDECAR,
            Kind::KillBoth | Kind::PauseBoth => APP | SIDECAR,
            Kind::Partition | Kind::OneWay | Kind::Loss | Kind::Delay | Kind::Narrow => LINK,
            Kind::Crash => APP | SIDECAR | LINK,
            Kind::Reload => CONFIGURATION,
        }
    }
}

/// What faults hold.
pub(super) const APP: u8 = 1;
pub(super) const SIDECAR: u8 = 2;
pub(super) const LINK: u8 = 4;
/// Of all sidecars.
pub(super) const CONFIGURATION: u8 = 8;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Where: which replica, modulo their number.
    pub replica: u8,
    /// When, milliseconds from the start.
    pub at: u16,
    /// For how long, milliseconds.
    pub lasts: u16,
    /// How bad, 1 to 100; what that means depends on the kind.
    pub strength: u8,
    /// Whether it is never taken back.
    pub stays: bool,
}
