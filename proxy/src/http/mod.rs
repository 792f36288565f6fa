//! HTTP as both sides need it: the servers' settings, request bodies, what changes in a message on
//! its way, and replies that the sidecar makes itself.

mod body;
pub mod bridge;
pub mod closing;
pub mod cork;
pub mod deadline;
pub mod fetch;
pub mod forward;
pub mod header_limits;
pub mod headers;
pub mod informational;
pub mod interim;
pub mod preface;
pub mod refusal;
pub mod replay;
pub mod reply;
pub mod resets;
pub mod serve;
pub mod serve_h2;
pub mod strict;
pub mod target;
pub mod timer;
pub mod tunnel;
pub mod version;

pub use body::{Copied, PolledFrame, RequestBody, Upload, poll_cleaned};
