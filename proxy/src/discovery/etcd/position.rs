//! Where a watch stands in etcd's history, and how it goes on after a break. Pure.
//!
//! After a break it asks for everything since the last revision that it has seen, so nothing is
//! missed and nothing is listed again. It lists anew if etcd has forgotten that part (compaction),
//! and if etcd stands *before* it or is another one: then its data was lost, and a watch would wait
//! in silence for a revision that may never come.

use super::wire::Header;

/// How to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read all keys.
    List,
    /// Watch from this revision on.
    Watch(i64),
}

/// Where a watch stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The last that was seen.
    seen: Option<Header>,
}

impl Position {
    /// How to go on.
    pub fn next(&self) -> Next {
        self.seen.map_or(Next::List, |seen| Next::Watch(seen.revision + 1))
    }

    /// All keys were read.
    pub fn listed(&mut self, header: Header) {
        self.seen = Some(header);
    }

    /// A watch has begun; false if its history is not the one that was seen, so that all keys must
    /// be read again.
    pub fn begun(&mut self, header: Header) -> bool {
        let same = self
            .seen
            .is_some_and(|seen| seen.cluster_id == header.cluster_id && seen.revision <= header.revision);
        if !same {
            self.seen = None;
        }
        same
    }

    /// All changes up to this revision were read.
    pub fn seen(&mut self, revision: i64) {
        if let Some(seen) = &mut self.seen {
            seen.revision = seen.revision.max(revision);
        }
    }

    /// What the watch asked for was forgotten.
    pub fn compacted(&mut self) {
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(revision: i64) -> Header {
        Header { cluster_id: 1, revision }
    }

    #[test]
    fn a_watch_goes_on_after_the_last_revision_that_was_seen() {
        let mut position = Position::default();
        assert_eq!(position.next(), Next::List);
        position.listed(at(5));
        assert_eq!(position.next(), Next::Watch(6));
        assert!(position.begun(at(5)));
        position.seen(9);
        assert_eq!(position.next(), Next::Watch(10));
        assert!(position.begun(at(30)), "others have changed other keys meanwhile");
        assert_eq!(position.next(), Next::Watch(10), "and what came first has not been read yet");
    }

    #[test]
    fn all_keys_are_read_again_after_a_compaction_or_when_etcd_has_lost_its_data() {
        let fresh = || {
            let mut position = Position::default();
            position.listed(at(5));
            position
        };
        let mut position = fresh();
        position.compacted();
        assert_eq!(position.next(), Next::List);
        let mut position = fresh();
        assert!(!position.begun(at(2)));
        assert_eq!(position.next(), Next::List);
        let mut position = fresh();
        assert!(!position.begun(Header { cluster_id: 2, revision: 50 }));
        assert_eq!(position.next(), Next::List);
    }

    proptest! {
        #[test]
        fn a_position_never_goes_back_without_reading_all_keys(revisions in proptest::collection::vec(0..100_i64, 1..30)) {
            let mut position = Position::default();
            position.listed(at(revisions[0]));
            for revision in &revisions {
                let before = position.next();
                position.seen(*revision);
                let (Next::Watch(before), Next::Watch(after)) = (before, position.next()) else {
                    panic!("nothing asked for a list");
                };
                prop_assert!(before <= after && *revision < after);
            }
        }
    }
}
