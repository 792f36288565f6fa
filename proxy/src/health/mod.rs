//! Questions that a sidecar asks: of the endpoints of its clusters whether they may be picked
//! ([`active`]), and of its own app whether it has started, takes requests and is alive ([`app`]).
//!
//! All of it runs on the control thread, so that a busy data plane delays no answer, and each check
//! opens a connection of its own: what is asked includes whether one can be opened. What the
//! results add up to is pure policy ([`crate::endpoint::health`]).
//!
//! A check of an endpoint that has a sidecar passes through that sidecar's inbound side, so it asks
//! for both. One that only opens a connection (`tcp`) is then answered by the sidecar alone,
//! whatever its app does.

pub mod active;
pub mod app;
mod ask;
mod grpc;
