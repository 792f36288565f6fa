//! What the sidecar costs, measured end to end: the parts of `benches/end_to_end.rs`.
//!
//! Read in the order of a run: [`options`] says what to measure; [`run`] goes through protocols and
//! rounds; a [`lane`] is one path from client to app, in two network namespaces, with real
//! processes; [`app`] and [`load`] are its two ends; [`usage`] asks the kernel what each process
//! used; [`report`] takes medians and prints. [`ours`] writes the configuration of our sidecar for
//! a [`place`], and [`envoy`], [`haproxy`] and [`nginx`] those of the peers that everything is
//! compared with; [`relay`] is the floor under them all.
//!
//! All lanes of a protocol are up at the same time, and each round visits all of them in turn, so
//! that whatever else this machine does hits all alike. Compare ratios and CPU per request, never
//! the throughput of two runs.
//!
//! The gate (`benches/gate`) compares two revisions with the same lanes and the load of
//! [`load::sliced`].
//!
//! Left out: any verdict.

pub mod app;
pub mod envoy;
pub mod haproxy;
pub mod lane;
pub mod load;
pub mod nginx;
pub mod options;
pub mod ours;
pub mod place;
pub mod relay;
pub mod report;
pub mod roles;
pub mod run;
pub mod usage;

/// Bytes of every answer's body: the reference measurements use about 1 KiB.
pub const BODY: usize = 1024;
/// What installs the peers.
pub const INSTALL: &str = "ci/peers";
/// Port of the app.
pub const APP_PORT: u16 = 8080;
