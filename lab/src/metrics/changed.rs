//! How many requests apps have answered otherwise than usual since a fault began: its evidence, and
//! the same in both worlds.

use std::collections::BTreeMap;

use super::parse;
use crate::app::metrics::{CHANGED, Growth};
use crate::mesh::ProcessId;

/// The changed requests of apps, each since it was first looked at.
#[derive(Debug, Default)]
pub struct ChangedRequests(BTreeMap<ProcessId, Growth>);

impl ChangedRequests {
    /// Takes the page of metrics that the app `id` shows now. What was seen of an app that does not
    /// answer any more stays as it is.
    pub fn show(&mut self, id: ProcessId, page: &str) {
        let samples = parse("", page);
        let value = samples.iter().find(|s| &*s.name == CHANGED).map_or(0.0, |s| s.value);
        self.0.entry(id).or_insert_with(|| Growth::from(value)).show(value);
    }

    /// All of them, as far as they were seen.
    pub fn so_far(&self) -> f64 {
        self.0.values().map(Growth::so_far).sum()
    }
}
