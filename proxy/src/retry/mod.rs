//! Whether a request is tried again, when, and who pays for it.
//!
//! Safe by default: a request is repeated if nobody can have begun with it, or if its method is
//! idempotent (RFC 9110 section 9.2.2 lets a proxy repeat only those). Everything else gets the
//! failure: a payment that may have happened must not happen twice. Each question is a plain struct
//! or function of its own:
//!
//! - [`condition`]: is this a failure that retries are for?
//! - [`Attempts`]: may this request be made again, and how does it look then?
//! - [`backoff`]: how long to wait before.
//! - [`Budget`]: can the cluster afford it? Successes pay, so that an outage has no retries to grow
//!   on.
//!
//! Only one hop repeats a request: one that an outer hop repeats already carries
//! [`X_RETRY_ATTEMPT`](crate::http::headers::X_RETRY_ATTEMPT).

mod attempts;
pub mod backoff;
mod budget;
pub mod condition;

pub use attempts::{Attempts, is_repeated, mark};
pub use budget::Budget;
pub use condition::AttemptOutcome;
