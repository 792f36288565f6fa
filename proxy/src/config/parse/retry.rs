//! `[retry]` and `[cluster.retry]`.

use crate::config::{Retry, model};

/// The retries of `given`, and where that is silent, of `general`.
pub(super) fn retry(given: Option<&model::Retry>, general: Retry) -> Retry {
    let attempts = given.and_then(|given| given.attempts.as_ref());
    Retry { attempts: attempts.map_or(general.attempts, |attempts| *attempts.get_ref()) }
}
