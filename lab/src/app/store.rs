//! What a built-in app leaves behind for its next process: the keys and leases of a registry.
//!
//! One revision for every change, a history that watches resume from, and compaction, as in etcd.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::traffic::emit;

/// Changes that are kept for watches to resume from; older ones are compacted away.
const HISTORY: usize = 10_000;
/// Any number: which etcd this is.
pub(super) const CLUSTER_ID: &str = "7";

/// What outlives the process.
#[derive(Clone, Default)]
pub struct RegistryData(pub(super) Rc<RefCell<Store>>);

/// Keys and leases, as etcd has them.
#[derive(Default)]
pub(super) struct Store {
    pub(super) revision: i64,
    pub(super) keys: BTreeMap<Vec<u8>, Stored>,
    pub(super) leases: BTreeMap<i64, Lease>,
    pub(super) last_lease: i64,
    /// Every change since [`Store::compacted`], oldest first.
    pub(super) history: Vec<Change>,
    pub(super) compacted: i64,
}

pub(super) struct Stored {
    pub(super) value: Vec<u8>,
    pub(super) lease: i64,
}

pub(super) struct Lease {
    pub(super) ttl: u64,
    pub(super) ends: Instant,
}

#[derive(Clone)]
pub(super) struct Change {
    pub(super) revision: i64,
    pub(super) key: Vec<u8>,
    /// `None`: it is gone.
    pub(super) value: Option<Vec<u8>>,
}

/// Why a request is not answered with 200.
pub(super) type Refusal = (StatusCode, u32, &'static str);
const NO_LEASE: Refusal = (StatusCode::NOT_FOUND, 5, "etcdserver: requested lease not found");
pub(super) const NONSENSE: Refusal = (StatusCode::BAD_REQUEST, 3, "the request makes no sense");

impl Store {
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: i64) -> Result<(), Refusal> {
        if lease != 0 && !self.leases.contains_key(&lease) {
            return Err(NO_LEASE);
        }
        self.keys.insert(key.clone(), Stored { value: value.clone(), lease });
        self.change(vec![(key, Some(value))]);
        Ok(())
    }

    /// Deletes keys, all in one revision, as etcd does.
    pub(super) fn delete(&mut self, gone: impl Fn(&[u8], &Stored) -> bool) -> usize {
        let mut changes = Vec::new();
        self.keys.retain(|key, stored| {
            let gone = gone(key, stored);
            if gone {
                changes.push((key.clone(), None));
            }
            !gone
        });
        let count = changes.len();
        if count > 0 {
            self.change(changes);
        }
        count
    }

    fn change(&mut self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        emit!(RegistryChanged { keys: self.keys.len() });
        self.revision += 1;
        let revision = self.revision;
        self.history.extend(changes.into_iter().map(|(key, value)| Change { revision, key, value }));
        if self.history.len() > HISTORY {
            let forgotten = self.history.len() - HISTORY;
            let last = self.history[forgotten - 1].revision;
            self.history.retain(|change| change.revision > last);
            self.compacted = last;
        }
    }

    pub(super) fn end_lease(&mut self, lease: i64) -> Result<(), Refusal> {
        self.leases.remove(&lease).ok_or(NO_LEASE)?;
        self.delete(|_, stored| stored.lease == lease);
        Ok(())
    }

    pub(super) fn header(&self) -> Value {
        json!({ "cluster_id": CLUSTER_ID, "member_id": "1", "revision": self.revision.to_string(), "raft_term": "2" })
    }
}
