//! HTTP as both sides need it: the server's settings, bodies, what changes in a message on its way, and replies that the sidecar makes itself.

pub mod body;
pub mod forward;
pub mod headers;
pub mod informational;
pub mod reply;
pub mod serve;
pub mod strict;
pub mod tunnel;

pub use body::{RequestBody, ResponseBody};
