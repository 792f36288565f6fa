//! How much a sidecar takes on: connections, requests in flight, memory. Past a limit it says no at once, which costs next
//! to nothing, instead of taking on what it cannot carry: callers go elsewhere, and those already served are not harmed.
//!
//! The counts belong to the whole sidecar and survive configuration changes. What one client may take of them is in [`client`].
//! What it leaves out: limits on how fast requests come.

pub mod adaptive;
pub mod client;
pub mod concurrency;
pub mod memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

use client::Clients;

use crate::config::Limits;
use crate::config::defaults::FILES_SHARE;
use crate::error::Kind;
use crate::telemetry::Open;

/// What the sidecar carries now.
#[derive(Debug, Default)]
pub struct Load {
    connections: Gauge,
    requests: Gauge,
    /// 1 while load is shed for want of memory.
    shedding: Gauge,
    out_of_memory: AtomicBool,
    /// Connections to endpoints, which take file descriptors as well.
    upstream: Gauge,
    /// How many sockets there are file descriptors for; 0 if nobody has said.
    affordable: AtomicUsize,
    /// What clients of the inbound side hold of it.
    pub clients: Arc<Clients>,
}

impl Load {
    /// Nothing yet, counted where it can be read.
    pub fn new(connections: Gauge, requests: Gauge, shedding: Gauge) -> Self {
        Load { connections, requests, shedding, ..Load::default() }
    }

    /// Takes on a connection, until the guard is dropped.
    ///
    /// # Errors
    /// [`Kind::Overload`].
    pub fn connection(&self, limits: &Limits) -> Result<Open, Kind> {
        self.take(&self.connections, self.connection_limit(limits))
    }

    /// How many connections there may be.
    pub fn connection_limit(&self, limits: &Limits) -> usize {
        match self.affordable.load(Ordering::Relaxed) {
            0 => limits.connections,
            affordable => {
                let upstream = usize::try_from(self.upstream.get()).unwrap_or(0);
                limits.connections.min(affordable.saturating_sub(upstream))
            }
        }
    }

    /// Takes on a request, until the guard is dropped.
    ///
    /// # Errors
    /// [`Kind::Overload`].
    pub fn request(&self, limits: &Limits) -> Result<Open, Kind> {
        self.take(&self.requests, limits.requests)
    }

    fn take(&self, count: &Gauge, limit: usize) -> Result<Open, Kind> {
        if self.out_of_memory.load(Ordering::Relaxed) {
            return Err(Kind::Overload);
        }
        let open = Open::new(count);
        // Counted first: two workers that look before they count would both find the last place.
        if count.get() > i64::try_from(limit).unwrap_or(i64::MAX) { Err(Kind::Overload) } else { Ok(open) }
    }

    /// Connections and requests, those to endpoints included.
    pub fn carried(&self) -> i64 {
        self.connections.get() + self.requests.get() + self.upstream.get()
    }

    /// The count of connections to endpoints.
    pub fn upstream(&self) -> Gauge {
        self.upstream.clone()
    }

    /// Notes how many files the process may open.
    pub fn set_files(&self, files: u64) {
        self.affordable.store((files as f64 * FILES_SHARE) as usize, Ordering::Relaxed);
    }

    /// Notes whether memory is short; says whether that is news.
    pub fn set_out_of_memory(&self, short: bool) -> bool {
        self.shedding.set(i64::from(short));
        self.out_of_memory.swap(short, Ordering::Relaxed) != short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 1,
        requests: 2,
        endpoint_connections: 1,
        pending: 1,
        client_share: 1.0,
        memory: None,
    };

    #[test]
    fn what_ends_makes_room() {
        let load = Load::default();
        let _first = load.request(&LIMITS).unwrap();
        let second = load.request(&LIMITS).unwrap();
        assert_eq!(load.request(&LIMITS).unwrap_err(), Kind::Overload);
        drop(second);
        assert!(load.request(&LIMITS).is_ok());
        assert!(load.connection(&LIMITS).is_ok(), "connections are counted apart");
    }

    #[test]
    fn no_more_connections_are_taken_on_than_there_are_files_for() {
        let load = Load::default();
        let limits = Limits { connections: 100, ..LIMITS };
        load.set_files(4);
        let _open = [load.connection(&limits).unwrap(), load.connection(&limits).unwrap()];
        let upstream = Open::new(&load.upstream());
        assert_eq!(load.connection(&limits).unwrap_err(), Kind::Overload);
        drop(upstream);
        assert!(load.connection(&limits).is_ok());
    }

    #[test]
    fn without_memory_nothing_is_taken_on() {
        let load = Load::default();
        assert!(load.set_out_of_memory(true) && !load.set_out_of_memory(true));
        assert_eq!(load.request(&LIMITS).unwrap_err(), Kind::Overload);
        assert_eq!(load.connection(&LIMITS).unwrap_err(), Kind::Overload);
        assert!(load.set_out_of_memory(false));
        assert!(load.request(&LIMITS).is_ok());
    }
}
