//! What a request is called, by its generator, in logs and in the app.

use std::fmt;

/// What sets a request apart from all others of the run.
#[derive(Clone, Copy)]
pub struct Id<'a> {
    /// The load's name.
    pub load: &'a str,
    /// Its number; negative before the measured part.
    pub k: i64,
}

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.load, self.k)
    }
}
