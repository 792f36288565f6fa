//! Tries after a failure.

/// Tries after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first; 0 switches retries off.
    pub attempts: u32,
}
