//! Tables of metrics. The owner of a metric lists it once: field, type, name and help.

use prometheus_client::registry::{Metric, Registry};

/// Declares a struct of metrics, one a row, and a constructor that registers them.
macro_rules! families {
    (
        $(#[$about:meta])*
        $visibility:vis struct $table:ident {
            $($field:ident: $metric:ty = $name:literal, $help:literal;)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug)]
        $visibility struct $table {
            $($field: $metric,)+
        }

        impl $table {
            /// Registers all of them.
            $visibility fn register(registry: &mut prometheus_client::registry::Registry) -> Self {
                $table { $($field: $crate::telemetry::families::register(registry, $name, $help),)+ }
            }
        }
    };
}
pub(super) use families;

/// Registers a metric and gives it back.
pub(super) fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}
