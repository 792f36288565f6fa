//! How much a sidecar takes on: connections, requests in flight, memory. Past a limit it says no at
//! once, which costs next to nothing, instead of taking on what it cannot carry: callers go
//! elsewhere, and those already served are not harmed.
//!
//! The two directions are counted apart, because an app that is flooded still has to ask others for
//! its answers; file descriptors are what they share, and neither may take the last quarter of
//! them. The counts belong to the whole sidecar and survive configuration changes. What one client
//! may take of them is in [`client`]. What it leaves out: limits on how fast requests come.

pub mod adaptive;
pub mod client;
pub mod concurrency;
pub mod memory;
pub mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

use client::Clients;

use crate::config::Limits;
use crate::config::defaults::{FILES_ONE_WAY, FILES_SHARE};
use crate::error::Kind;
use crate::telemetry::{Direction, DirectionGauges, LoadGauges, Open};

/// What the sidecar carries now.
#[derive(Debug, Default)]
pub struct Load {
    gauges: LoadGauges,
    out_of_memory: AtomicBool,
    /// How many files the process may open; 0 if nobody has said.
    files: AtomicUsize,
    /// What clients of the inbound side hold of it.
    pub clients: Arc<Clients>,
}

impl Load {
    /// Nothing yet, counted where it can be read.
    pub fn new(gauges: LoadGauges) -> Self {
        Load { gauges, ..Load::default() }
    }

    /// Takes on a connection, until the guard is dropped.
    ///
    /// # Errors
    /// [`Kind::Overload`].
    pub fn connection(&self, direction: Direction, limits: &Limits) -> Result<Open, Kind> {
        self.take(&self.gauges.one_way(direction).connections, self.connection_limit(direction, limits))
    }

    /// How many connections of one direction there may be.
    pub fn connection_limit(&self, direction: Direction, limits: &Limits) -> usize {
        let (own, other) = match direction {
            Direction::Inbound => (&self.gauges.inbound, &self.gauges.outbound),
            Direction::Outbound => (&self.gauges.outbound, &self.gauges.inbound),
        };
        match self.files.load(Ordering::Relaxed) {
            0 => limits.connections,
            files => {
                let affordable = files as f64 * FILES_SHARE;
                let most = (affordable * FILES_ONE_WAY) as usize;
                let most = most.min((affordable as usize).saturating_sub(files_of(other)));
                let upstream = usize::try_from(own.upstream.get()).unwrap_or(0);
                limits.connections.min(most.saturating_sub(upstream))
            }
        }
    }

    /// Takes on a request, until the guard is dropped.
    ///
    /// # Errors
    /// [`Kind::Overload`].
    pub fn request(&self, direction: Direction, limits: &Limits) -> Result<Open, Kind> {
        self.take(&self.gauges.one_way(direction).requests, limits.requests)
    }

    fn take(&self, count: &Gauge, limit: usize) -> Result<Open, Kind> {
        if self.out_of_memory.load(Ordering::Relaxed) {
            return Err(Kind::Overload);
        }
        let open = Open::new(count);
        // Counted first: two workers that look before they count would both find the last permit.
        if count.get() > i64::try_from(limit).unwrap_or(i64::MAX) { Err(Kind::Overload) } else { Ok(open) }
    }

    /// Counts the parked connections of one direction.
    pub fn parked(&self, direction: Direction) -> Gauge {
        self.gauges.one_way(direction).parked.clone()
    }

    /// Connections and requests, those to endpoints included: those that take buffers, and those
    /// that are parked.
    pub fn carried(&self) -> [i64; 2] {
        let ways = [&self.gauges.inbound, &self.gauges.outbound];
        let busy = |way: &DirectionGauges| {
            way.connections.get() - way.parked.get() + way.requests.get() + way.upstream.get()
        };
        [ways.map(busy).iter().sum(), ways.iter().map(|way| way.parked.get()).sum()]
    }

    /// How many connections each of the sidecar's own ports may have: as configured, or a share of
    /// the files that the data plane leaves alone, if that is less.
    pub fn admin_connections(&self, limits: &Limits) -> usize {
        match self.files.load(Ordering::Relaxed) {
            0 => limits.admin_connections,
            // Three ports, and as much again for probes and reloads.
            files => limits.admin_connections.min((files as f64 * (1.0 - FILES_SHARE) / 4.0) as usize).max(1),
        }
    }

    /// Notes how many files the process may open.
    pub fn set_files(&self, files: u64) {
        self.files.store(usize::try_from(files).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Notes whether memory is short; says whether that is news.
    pub fn set_out_of_memory(&self, short: bool) -> bool {
        self.gauges.shedding.set(i64::from(short));
        self.out_of_memory.swap(short, Ordering::Relaxed) != short
    }
}

/// File descriptors that one direction takes.
fn files_of(way: &DirectionGauges) -> usize {
    usize::try_from(way.connections.get() + way.upstream.get()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Direction::{Inbound, Outbound};
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 1,
        requests: 2,
        endpoint_connections: 1,
        pending: 1,
        client_share: 1.0,
        memory: None,
        admin_connections: 32,
    };

    #[test]
    fn what_ends_makes_room() {
        let load = Load::default();
        let _first = load.request(Inbound, &LIMITS).unwrap();
        let second = load.request(Inbound, &LIMITS).unwrap();
        assert_eq!(load.request(Inbound, &LIMITS).unwrap_err(), Kind::Overload);
        drop(second);
        assert!(load.request(Inbound, &LIMITS).is_ok());
        assert!(load.connection(Inbound, &LIMITS).is_ok(), "connections are counted apart");
    }

    #[test]
    fn a_direction_that_is_full_leaves_the_other_alone() {
        let load = Load::default();
        let _requests = [load.request(Inbound, &LIMITS).unwrap(), load.request(Inbound, &LIMITS).unwrap()];
        let _connection = load.connection(Inbound, &LIMITS).unwrap();
        assert_eq!(load.connection(Inbound, &LIMITS).unwrap_err(), Kind::Overload);
        assert!(load.request(Outbound, &LIMITS).is_ok() && load.connection(Outbound, &LIMITS).is_ok());
    }

    #[test]
    fn neither_direction_takes_the_last_quarter_of_the_files() {
        let load = Load::default();
        let limits = Limits { connections: 1000, ..LIMITS };
        load.set_files(100);
        let all =
            |direction| std::iter::from_fn(|| load.connection(direction, &limits).ok()).collect::<Vec<_>>();
        let inbound = all(Inbound);
        let outbound = all(Outbound);
        assert_eq!((inbound.len(), outbound.len()), (67, 23));
        drop(inbound);
        let upstream: Vec<_> = (0..50).map(|_| Open::new(&load.gauges.outbound.upstream)).collect();
        assert_eq!(load.connection(Outbound, &limits).unwrap_err(), Kind::Overload);
        assert_eq!(all(Inbound).len(), 90 - 73);
        drop(upstream);
        assert!(load.connection(Outbound, &limits).is_ok());
    }

    #[test]
    fn what_is_carried_is_connections_and_requests_and_what_is_open_to_endpoints_both_ways() {
        let load = Load::default();
        let limits = Limits { connections: 9, requests: 9, ..LIMITS };
        let _inbound = (load.connection(Inbound, &limits).unwrap(), Open::new(&load.gauges.inbound.upstream));
        let _requests = [(); 3].map(|()| load.request(Inbound, &limits).unwrap());
        let _outbound = [(); 2].map(|()| load.connection(Outbound, &limits).unwrap());
        let _upstream = [(); 4].map(|()| Open::new(&load.gauges.outbound.upstream));
        assert_eq!(load.carried(), [11, 0]);
        let _parked = Open::new(&load.parked(Outbound));
        assert_eq!(load.carried(), [10, 1]);
    }

    #[test]
    fn the_sidecars_own_ports_stay_within_the_files_that_are_left() {
        let load = Load::default();
        for (files, each) in [(0, 32), (1 << 20, 32), (1024, 25), (256, 6), (20, 1)] {
            load.set_files(files);
            assert_eq!(load.admin_connections(&LIMITS), each, "{files}");
        }
    }

    #[test]
    fn without_memory_nothing_is_taken_on() {
        let load = Load::default();
        assert!(load.set_out_of_memory(true) && !load.set_out_of_memory(true));
        for direction in [Inbound, Outbound] {
            assert_eq!(load.request(direction, &LIMITS).unwrap_err(), Kind::Overload);
            assert_eq!(load.connection(direction, &LIMITS).unwrap_err(), Kind::Overload);
        }
        assert!(load.set_out_of_memory(false));
        assert!(load.request(Inbound, &LIMITS).is_ok());
    }
}
