//! HTTP as both sides need it: the server's settings, bodies, headers, and replies that the sidecar makes itself.

pub mod body;
pub mod headers;
pub mod reply;
pub mod serve;

pub use body::{RequestBody, ResponseBody};
