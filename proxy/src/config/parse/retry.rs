//! `[retry]` and `[cluster.retry]`.

use std::sync::Arc;

use crate::config::{Retry, model};

/// The retries of `given`, and where that is silent, of `general`.
pub(super) fn retry(given: Option<&model::Retry>, general: &Arc<Retry>) -> Arc<Retry> {
    let Some(given) = given else { return general.clone() };
    let attempts = given.attempts.as_ref().map(|attempts| *attempts.get_ref());
    Arc::new(Retry { attempts: attempts.unwrap_or(general.attempts) })
}
