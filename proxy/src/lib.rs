//! A service-mesh sidecar: it takes over an app's connections, finds out what they speak, and
//! carries them to an endpoint that works.
//!
//! # The life of a request
//!
//! 1. The app dials a service's virtual address. The rules of [`capture`] redirect the connection
//!    to port 15001, where [`capture::listener`] accepts it and [`outbound::carry`] asks the
//!    kernel where it was meant to go.
//! 2. The address names a [`balance::Cluster`] of the configuration [`config::Snapshot`] in force.
//!    Its protocol is configured, or [`detect`] looks at the first bytes. Opaque connections are
//!    carried by [`tcp`] from here on.
//! 3. [`http::serve`] or [`http::serve_h2`] reads the request. `outbound::http::handle` finds its
//!    [`route`], which may lead to another cluster, makes it fit for the next hop
//!    ([`http::forward`], [`http::bridge`]) and asks the balancer for an [`endpoint`].
//! 4. A kept connection of its own ([`endpoint::pool`]), or a stream of a shared one
//!    ([`endpoint::h2`]), carries it. If that fails and it is safe, [`retry`] gives it back for
//!    another endpoint; the endpoint's ejection state remembers.
//! 5. On the other machine the rules redirect the connection to port 15006. [`inbound`] does the
//!    same towards its app, from a source address that the rules let through.
//! 6. Whatever goes wrong has one row in the table of [`error`], which both sidecars and the client
//!    can read.
//!
//! Beside all that, [`discovery`] learns endpoints while the sidecar runs, and [`health`] asks them
//! whether they may be picked, and the local app whether it is ready.
//!
//! [`app`] starts and stops all of it; [`world`] is the only way to sockets, time and chance, so
//! that the same code runs in a simulator.

#![warn(missing_docs)]
#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic where nothing can be written: see `output`"
)]

pub mod access_log;
pub mod admin;
pub mod app;
pub mod audit;
pub mod authz;
pub mod backoff;
pub mod balance;
pub mod ca;
pub mod capture;
pub mod cli;
pub mod command;
pub mod config;
pub mod connect;
pub mod connection;
pub mod detect;
pub mod discovery;
pub mod drain;
pub mod endpoint;
pub mod error;
pub mod grpc;
pub mod health;
pub mod host;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod jwk_set;
pub mod key_sets;
pub mod limit;
pub mod lines;
pub mod mutant;
pub mod outbound;
pub mod output;
pub mod retry;
pub mod route;
pub mod side;
pub mod spiffe_id;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod world;
