//! The first of many routes that is for a request, without looking at all of them.
//!
//! Routes are kept by what they say about the path: those with a whole path by it, those with a
//! prefix by it, and the rest (expressions, any path) in a list. A request's own path and each of
//! its beginnings are looked up, so a thousand routes with different paths cost as much as a
//! handful. Whatever was found first in the order of the file counts, exactly as if one had looked
//! at one after the other. A search allocates nothing.
//!
//! What it leaves out: an index of hosts and headers. The routes of one cluster that say nothing of
//! the path are few.

use std::collections::BTreeMap;

use super::matcher::MatchInput;
use crate::config::route::{Match, PathMatch};

/// Routes in the order of the file, found by path.
#[derive(Debug, Default)]
pub struct Index {
    /// Positions of routes with this path, ascending.
    exact: BTreeMap<String, Vec<usize>>,
    /// Positions of routes with this prefix, ascending.
    prefixes: BTreeMap<String, Vec<usize>>,
    /// The most segments that a prefix has: an endless path of slashes is not looked up at each of
    /// them.
    deepest: usize,
    /// Positions of all others, ascending.
    rest: Vec<usize>,
}

impl Index {
    /// An index of `matches`.
    pub fn new<'m>(matches: impl IntoIterator<Item = &'m Match>) -> Self {
        let mut index = Index::default();
        for (position, matches) in matches.into_iter().enumerate() {
            let positions = match &matches.path {
                PathMatch::Exact(path) => index.exact.entry(path.clone()).or_default(),
                PathMatch::Prefix(prefix) => {
                    index.deepest = index.deepest.max(prefix.matches('/').count());
                    index.prefixes.entry(prefix.clone()).or_default()
                }
                PathMatch::Any | PathMatch::Regex(_) => &mut index.rest,
            };
            positions.push(position);
        }
        index
    }

    /// The position of the first route that is for `head`; `matches` gives what a route says.
    pub fn first<'m>(&self, head: MatchInput<'_>, matches: impl Fn(usize) -> &'m Match) -> Option<usize> {
        let mut best = usize::MAX;
        // The path is known to match but for those of the rest.
        let mut look = |positions: &[usize], is_for: &dyn Fn(usize) -> bool| {
            let earlier = positions.iter().copied().take_while(|position| *position < best);
            best = earlier.into_iter().find(|position| is_for(*position)).unwrap_or(best);
        };
        let by_rest = |position| matches(position).is_for_rest(head);
        if let Some(positions) = self.exact.get(head.path) {
            look(positions, &by_rest);
        }
        if !self.prefixes.is_empty() {
            let ends = head.path.match_indices('/').skip(1).map(|(at, _)| at);
            let ends = std::iter::once(0).chain(ends.take(self.deepest)).chain([head.path.len()]);
            for end in ends {
                if let Some(positions) = self.prefixes.get(&head.path[..end]) {
                    look(positions, &by_rest);
                }
            }
        }
        look(&self.rest, &|position| matches(position).is_for(head));
        (best != usize::MAX).then_some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::super::matcher::tests::{a_match, a_request};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_match_is_what_looking_at_all_in_turn_finds(
            all in prop::collection::vec(a_match(), 0..40),
            request in a_request(),
        ) {
            let head = MatchInput::of(&request);
            let naive = all.iter().position(|matches| matches.is_for(head));
            prop_assert_eq!(Index::new(&all).first(head, |position| &all[position]), naive);
        }
    }

    #[test]
    fn a_path_of_slashes_is_looked_up_only_as_deep_as_prefixes_go() {
        let all = ["/a/b", "/a", "//"].map(|prefix| Match {
            path: PathMatch::Prefix(prefix.trim_end_matches('/').into()),
            ..Match::default()
        });
        let index = Index::new(&all[..2]);
        assert_eq!(index.deepest, 2);
        let first = |path: &str| {
            let request = http::Request::builder().uri(path).body(()).unwrap();
            index.first(MatchInput::of(&request), |position| &all[position])
        };
        assert_eq!(first("/a/b"), Some(0));
        assert_eq!(first("/a/b/c/d/e"), Some(0));
        assert_eq!(first("/a/bc"), Some(1));
        assert_eq!(first("/a"), Some(1));
        assert_eq!(first(&format!("/{}", "/".repeat(50_000))), None);
    }
}
