//! What a world offers to faults.
//!
//! Both worlds implement it, and every kind of fault is written in terms of it. `fault` is the name
//! of a timeline entry: what a primitive does is counted as evidence of that entry.

use std::collections::BTreeMap;

use crate::mesh::{Link, ProcessId};

/// What a world can do to a mesh, and what it can prove of it.
#[allow(async_fn_in_trait, reason = "every caller is generic and runs on one thread")]
pub trait Primitives {
    /// Why the world cannot do what is asked.
    type Error;

    /// Ends processes: by SIGKILL if `hard`, else by SIGTERM and, after a grace period, SIGKILL.
    /// Returns when they have ended. Counts `killed`.
    async fn end(&self, fault: &str, processes: &[ProcessId], hard: bool) -> Result<(), Self::Error>;

    /// Starts those processes that do not run, and returns when they are ready. Counts `restarted`.
    async fn start_again(&self, fault: &str, processes: &[ProcessId]) -> Result<(), Self::Error>;

    /// Stops processes (SIGSTOP). Counts `stopped`.
    async fn stop(&self, fault: &str, processes: &[ProcessId]) -> Result<(), Self::Error>;

    /// Lets stopped processes go on (SIGCONT). Counts `continued`.
    async fn resume(&self, fault: &str, processes: &[ProcessId]) -> Result<(), Self::Error>;

    /// Takes the power from the machines of these processes: their ends of connections vanish
    /// without a word. The processes themselves are for [`end`](Self::end).
    async fn power_off(&self, processes: &[ProcessId]) -> Result<(), Self::Error>;

    /// Gives it back.
    async fn power_on(&self, processes: &[ProcessId]) -> Result<(), Self::Error>;

    /// Refuses new connections to processes with a reset.
    async fn refuse(&self, fault: &str, processes: &[ProcessId]) -> Result<(), Self::Error>;

    /// Accepts new connections again. Counts those that were `refused`.
    async fn accept(&self, fault: &str, processes: &[ProcessId]) -> Result<(), Self::Error>;

    /// Connections to processes that have been refused since [`refuse`](Self::refuse), if that is
    /// in force.
    async fn refusals(&self, processes: &[ProcessId]) -> u64;

    /// Gives the sidecars these configurations, by position of the instance. Counts `reloaded`.
    async fn configure(&self, fault: &str, configs: &[String]) -> Result<(), Self::Error>;

    /// Gives the sidecars the configurations of the plan.
    async fn configure_as_planned(&self, fault: &str) -> Result<(), Self::Error>;

    /// Brings the count of `reloaded` up to date.
    async fn note_reloads(&self);

    /// Gives sidecars that do not run the certificate at this position in the plan, and the
    /// configurations at those of their instances; or what the plan gives them. Counts `replaced`
    /// in the former case.
    async fn deliver(
        &self,
        fault: &str,
        sidecars: &[ProcessId],
        certificate: Option<(usize, &[String])>,
    ) -> Result<(), Self::Error>;

    /// Lets the authority at this position in the plan announce a new root. Counts `announced`.
    async fn rotate_root(&self, fault: &str, authority: usize) -> Result<(), Self::Error>;

    /// Brings `retired` up to date: how many of the roots that were trusted before
    /// [`rotate_root`](Self::rotate_root) are gone.
    async fn note_roots(&self, fault: &str, authority: usize);

    /// Lets its authority revoke the certificates of the service at this position in the plan, and
    /// its tokens. Counts how many certificates were `revoked`.
    async fn revoke(&self, fault: &str, service: usize) -> Result<(), Self::Error>;

    /// Tells built-in apps how to answer; `query` is a path and query of their control port.
    async fn control_apps(&self, processes: &[ProcessId], query: &str) -> Result<(), Self::Error>;

    /// Brings `changed_requests` up to date: the requests that apps have answered otherwise than
    /// usual since the first call for this fault.
    async fn note_changed_requests(&self, fault: &str, processes: &[ProcessId]);

    /// Puts other profiles in force on links. Their packets are counted from here on.
    async fn impair(&self, fault: &str, links: &[Link]) -> Result<(), Self::Error>;

    /// Puts in force again what would be without this fault, and ends its count of packets.
    async fn heal(&self, fault: &str, links: &[Link]) -> Result<(), Self::Error>;

    /// `packets`, `lost_packets` and `delayed_packets` of links while the fault was in force.
    async fn packets(&self, fault: &str, links: &[Link]) -> BTreeMap<String, f64>;

    /// Everything else that was counted for a fault.
    async fn counted(&self, fault: &str) -> BTreeMap<String, f64>;
}
