//! What the whole sidecar carries now, in gauges: limits read them, and a scrape shows them.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::families::{families, register};
use super::labels::Side;

families! {
    struct LoadFamilies {
        connections: Family<Side, Gauge> =
            "load_connections", "Accepted connections that count against the limit";
        parked: Family<Side, Gauge> =
            "load_connections_parked", "Of these, HTTP/1 connections that were idle and keep no buffers";
        requests: Family<Side, Gauge> =
            "load_requests", "Requests in flight that count against the limit";
    }
}

/// Where a connection or a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From others, to the app.
    Inbound,
    /// From the app.
    Outbound,
}

impl Direction {
    /// The one of this name.
    pub fn of(label: &str) -> Self {
        if label == "inbound" { Direction::Inbound } else { Direction::Outbound }
    }

    /// Its name as a label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// What is carried in one direction. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DirectionGauges {
    /// Connections accepted that are open.
    pub connections: Gauge,
    /// Of these, such as keep no buffers because nothing is asked.
    pub parked: Gauge,
    /// Requests in flight.
    pub requests: Gauge,
    /// Connections to endpoints or the app, which take file descriptors as well.
    pub upstream: Gauge,
}

/// What the sidecar carries now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LoadGauges {
    /// To the app.
    pub inbound: DirectionGauges,
    /// From the app.
    pub outbound: DirectionGauges,
    /// 1 while load is shed for want of memory.
    pub shedding: Gauge,
}

impl LoadGauges {
    /// Registers them.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let families = LoadFamilies::register(registry);
        let one_way = |direction: Direction| {
            let side = Side { side: direction.label() };
            DirectionGauges {
                connections: families.connections.get_or_create_owned(&side),
                parked: families.parked.get_or_create_owned(&side),
                requests: families.requests.get_or_create_owned(&side),
                upstream: Gauge::default(),
            }
        };
        LoadGauges {
            inbound: one_way(Direction::Inbound),
            outbound: one_way(Direction::Outbound),
            shedding: register(registry, "load_shedding", "1 while nothing is taken on for want of memory"),
        }
    }

    /// Those of one direction.
    pub fn one_way(&self, direction: Direction) -> &DirectionGauges {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// Connections to the endpoints of a cluster that are open, and with them all of their direction.
#[derive(Debug, Clone, Default)]
pub struct Sockets {
    pub(super) cluster: Gauge,
    pub(super) all: Gauge,
}

impl Sockets {
    /// How many of the cluster's are open.
    pub fn count(&self) -> i64 {
        self.cluster.get()
    }

    /// Counts one, until the guards are dropped.
    pub fn open(&self) -> [Open; 2] {
        [Open::new(&self.cluster), Open::new(&self.all)]
    }
}

/// A gauge that counts itself down when dropped.
#[derive(Debug)]
pub struct Open(Gauge);

impl Open {
    /// Counts up.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Open(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{Inbound, Outbound};
    use super::*;

    #[test]
    fn a_direction_is_known_by_its_label() {
        for (direction, label) in [(Inbound, "inbound"), (Outbound, "outbound")] {
            assert_eq!((direction.label(), Direction::of(label).label()), (label, label));
        }
    }
}
