//! The label sets of metrics.

use prometheus_client::encoding::EncodeLabelSet;

/// Declares label sets whose values are names that the program knows, besides the cluster's.
macro_rules! label_sets {
    ($($(#[$about:meta])* $name:ident { $($label:ident: $value:ty),+ })+) => {
        $(
            $(#[$about])*
            #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
            pub(super) struct $name {
                $(pub(super) $label: $value,)+
            }
        )+
    };
}

label_sets! {
    /// Of one side: `inbound` or `outbound`.
    Side { side: &'static str }
    SideResult { side: &'static str, result: &'static str }
    SideCluster { side: &'static str, cluster: String }
    SideClusterClass { side: &'static str, cluster: String, class: &'static str }
    SideClusterKind { side: &'static str, cluster: String, kind: &'static str }
    SideClusterReason { side: &'static str, cluster: String, reason: &'static str }
    SideClusterResult { side: &'static str, cluster: String, result: &'static str }
    Cluster { cluster: String }
    ClusterState { cluster: String, state: &'static str }
    ClusterResult { cluster: String, result: &'static str }
    ClusterRoute { cluster: String, route: String }
    ClusterRouteResult { cluster: String, route: String, result: &'static str }
    Probe { probe: &'static str }
    Provider { provider: String }
    ProviderResult { provider: String, result: &'static str }
    Outcome { result: &'static str }
}
