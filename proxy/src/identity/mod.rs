//! Who this workload is, and how it learns that of others: names of workloads today, and what
//! obtains, proves and renews them.
//!
//! The name itself is a type that everything below may use, so it stands in [`crate::spiffe_id`];
//! it is named here because this is where one looks for it.

pub use crate::spiffe_id::{SpiffeId, SpiffeIdError, check_trust_domain};
