//! What is known of one cluster's endpoints, and how fresh it is. Pure.
//!
//! Invariants: endpoints are sorted by address and each address stands once; the version grows by
//! one with every change and only then; a source that fails changes no endpoint, unless the
//! configuration says after how long; an answer without endpoints takes the last ones away only
//! after the grace that the configuration gives them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Endpoint;

/// What a source tells.
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointUpdate {
    /// These are all the endpoints there are.
    Endpoints(Vec<Endpoint>),
    /// What was told last still holds.
    Confirmed,
    /// The source cannot be asked, and why.
    Lost(String),
    /// One of the endpoints cannot be used, and why. The others hold.
    Passed(String),
    /// The source answers, but with something that cannot be used; what was told last is kept.
    Rejected(String),
}

/// Whether what is known is what the source would say now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The source has not answered yet; why not, if that is known.
    Waiting(Option<String>),
    /// It is.
    Fresh,
    /// It may not be.
    Stale {
        /// Since when.
        since: Instant,
        /// Why.
        why: String,
    },
}

/// What is known of one cluster's endpoints.
#[derive(Debug)]
pub struct KnownEndpoints {
    endpoints: Arc<Vec<Endpoint>>,
    version: u64,
    state: State,
    empty_grace: Duration,
    stale_after: Option<Duration>,
    /// What the source told last, if it was given up since nobody confirmed it.
    given_up: Option<Arc<Vec<Endpoint>>>,
    /// Until when the last endpoints are kept although there should be none.
    empty_at: Option<Instant>,
}

impl KnownEndpoints {
    /// Nothing is known. `empty_grace` is how long endpoints are kept after the source says that
    /// there are none; `stale_after`, how long they are while it says nothing, if not for ever.
    pub fn new(empty_grace: Duration, stale_after: Option<Duration>) -> Self {
        let state = State::Waiting(None);
        let (endpoints, given_up, empty_at) = (Arc::default(), None, None);
        KnownEndpoints { endpoints, version: 0, state, empty_grace, stale_after, given_up, empty_at }
    }

    /// Takes an update; true if the endpoints are others now.
    pub fn hear(&mut self, update: EndpointUpdate, now: Instant) -> bool {
        match update {
            EndpointUpdate::Endpoints(endpoints) => {
                let endpoints = in_order(endpoints);
                if endpoints.is_empty() && !self.endpoints.is_empty() && !self.empty_grace.is_zero() {
                    self.empty_at.get_or_insert(now + self.empty_grace);
                    self.stale("the source names no endpoint any more".into(), now);
                    return self.tick(now);
                }
                (self.empty_at, self.given_up) = (None, None);
                self.state = State::Fresh;
                self.set(endpoints.into())
            }
            EndpointUpdate::Confirmed => {
                if self.empty_at.is_some() || self.version == 0 {
                    return false;
                }
                self.state = State::Fresh;
                self.given_up.take().is_some_and(|endpoints| self.set(endpoints))
            }
            EndpointUpdate::Passed(_) => false,
            EndpointUpdate::Lost(why) | EndpointUpdate::Rejected(why) => {
                self.stale(why, now);
                false
            }
        }
    }

    /// Lets time pass; true if the endpoints are others now, because a grace has ended.
    pub fn tick(&mut self, now: Instant) -> bool {
        let too_old = |limit| matches!(self.state, State::Stale { .. }) && self.age(now) >= limit;
        if self.empty_at.is_none() && self.stale_after.is_some_and(too_old) {
            // It stays stale: whether there are any is not known.
            let last = self.endpoints.clone();
            let changed = self.set(Arc::default());
            if changed {
                self.given_up = Some(last);
            }
            return changed;
        }
        if self.empty_at.is_none_or(|at| now < at) {
            return false;
        }
        self.empty_at = None;
        self.state = State::Fresh;
        self.set(Arc::default())
    }

    /// The endpoints.
    pub fn endpoints(&self) -> &Arc<Vec<Endpoint>> {
        &self.endpoints
    }

    /// How often they have changed; 0 until the source has answered for the first time.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether they are what the source would say now.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// For how long they may have been wrong; zero if they are fresh.
    pub fn age(&self, now: Instant) -> Duration {
        match &self.state {
            State::Stale { since, .. } => now.saturating_duration_since(*since),
            State::Waiting(_) | State::Fresh => Duration::ZERO,
        }
    }

    fn stale(&mut self, why: String, now: Instant) {
        self.state = match self.state {
            State::Waiting(_) => State::Waiting(Some(why)),
            State::Fresh => State::Stale { since: now, why },
            State::Stale { since, .. } => State::Stale { since, why },
        };
    }

    fn set(&mut self, endpoints: Arc<Vec<Endpoint>>) -> bool {
        if self.version > 0 && self.endpoints == endpoints {
            return false;
        }
        self.endpoints = endpoints;
        self.version += 1;
        true
    }
}

/// Sorted by address; of two at one address the first stays.
fn in_order(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoints(last: &[u8]) -> Vec<Endpoint> {
        last.iter().map(|last| Endpoint::at(([10, 0, 0, *last], 80).into())).collect()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_confirmed_before_something_was_told() {
        let mut known = KnownEndpoints::new(Duration::ZERO, None);
        assert!(!known.hear(EndpointUpdate::Confirmed, Instant::now()));
        assert_eq!(known.state(), &State::Waiting(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_source_takes_no_endpoint_away_and_shows_since_when() {
        let now = Instant::now();
        let mut known = KnownEndpoints::new(Duration::ZERO, None);
        assert!(!known.hear(EndpointUpdate::Lost("refused".into()), now));
        assert_eq!(known.state(), &State::Waiting(Some("refused".into())));
        assert!(known.hear(EndpointUpdate::Endpoints(endpoints(&[2, 1, 2])), now));
        assert_eq!((known.endpoints().to_vec(), known.version()), (endpoints(&[1, 2]), 1));
        assert!(!known.hear(EndpointUpdate::Lost("refused".into()), now + seconds(1)));
        assert!(!known.hear(EndpointUpdate::Lost("timed out".into()), now + seconds(5)));
        assert_eq!(known.endpoints().len(), 2);
        assert_eq!(known.age(now + seconds(9)), seconds(8));
        assert_eq!(known.state(), &State::Stale { since: now + seconds(1), why: "timed out".into() });
        assert!(!known.hear(EndpointUpdate::Confirmed, now + seconds(9)));
        assert_eq!((known.state(), known.age(now + seconds(9))), (&State::Fresh, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_answer_is_believed_at_once_unless_a_grace_is_given() {
        let now = Instant::now();
        let mut known = KnownEndpoints::new(Duration::ZERO, None);
        known.hear(EndpointUpdate::Endpoints(endpoints(&[1])), now);
        assert!(known.hear(EndpointUpdate::Endpoints(vec![]), now));
        assert!(known.endpoints().is_empty());

        let mut known = KnownEndpoints::new(seconds(10), None);
        assert!(known.hear(EndpointUpdate::Endpoints(vec![]), now), "the first answer may be empty");
        known.hear(EndpointUpdate::Endpoints(endpoints(&[1])), now);
        assert!(!known.hear(EndpointUpdate::Endpoints(vec![]), now + seconds(1)));
        assert!(
            !known.hear(EndpointUpdate::Endpoints(vec![]), now + seconds(5)),
            "the grace does not begin anew"
        );
        known.hear(EndpointUpdate::Confirmed, now + seconds(6));
        assert_eq!(known.age(now + seconds(9)), seconds(8), "a confirmed nothing is still doubted");
        assert!(!known.tick(now + seconds(10)) && known.tick(now + seconds(11)));
        assert!(known.endpoints().is_empty() && known.state() == &State::Fresh);

        known.hear(EndpointUpdate::Endpoints(endpoints(&[1])), now);
        known.hear(EndpointUpdate::Endpoints(vec![]), now);
        assert!(known.hear(EndpointUpdate::Endpoints(endpoints(&[2])), now + seconds(1)));
        assert!(!known.tick(now + seconds(60)), "an endpoint in time ends the grace");
    }

    fn update() -> impl Strategy<Value = EndpointUpdate> {
        prop_oneof![
            proptest::collection::vec(0..5_u8, 0..4)
                .prop_map(|last| EndpointUpdate::Endpoints(endpoints(&last))),
            Just(EndpointUpdate::Confirmed),
            Just(EndpointUpdate::Passed("passed".into())),
            Just(EndpointUpdate::Lost("lost".into())),
            Just(EndpointUpdate::Rejected("rejected".into())),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_confirms_is_given_up_after_the_time_that_was_set_and_not_before() {
        let begun = Instant::now();
        let endpoints = || vec![Endpoint::at(([10, 0, 0, 1], 80).into())];
        let mut known = KnownEndpoints::new(Duration::ZERO, Some(seconds(30)));
        known.hear(EndpointUpdate::Endpoints(endpoints()), begun);
        assert!(!known.tick(begun + seconds(100)), "as long as the source answers, its word holds");
        known.hear(EndpointUpdate::Lost("silence".into()), begun + seconds(100));
        assert!(!known.tick(begun + seconds(129)));
        assert!(known.tick(begun + seconds(130)) && known.endpoints().is_empty());
        assert!(matches!(known.state(), State::Stale { .. }) && !known.tick(begun + seconds(131)));
        assert!(known.hear(EndpointUpdate::Endpoints(endpoints()), begun + seconds(140)));
        assert_eq!((known.state(), known.endpoints().len()), (&State::Fresh, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_is_there_again_once_the_source_confirms_it_and_not_after_it_told_otherwise() {
        let (now, mut known) = (Instant::now(), KnownEndpoints::new(Duration::ZERO, Some(seconds(30))));
        for (told, left) in
            [(EndpointUpdate::Confirmed, &[1, 2][..]), (EndpointUpdate::Endpoints(vec![]), &[][..])]
        {
            known.hear(EndpointUpdate::Endpoints(endpoints(&[1, 2])), now);
            known.hear(EndpointUpdate::Lost("silence".into()), now);
            assert!(known.tick(now + seconds(30)) && known.endpoints().is_empty());
            known.hear(told, now + seconds(31));
            assert!(!known.hear(EndpointUpdate::Confirmed, now + seconds(32)));
            assert_eq!((known.state(), known.endpoints().to_vec()), (&State::Fresh, endpoints(left)));
        }
    }

    proptest! {
        #[test]
        fn the_version_counts_the_changes_and_nothing_else(
            story in proptest::collection::vec((update(), 0..20_u64), 0..40),
            grace in 0..15_u64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let mut now = Instant::now();
                let mut known = KnownEndpoints::new(seconds(grace), None);
                for (update, wait) in story {
                    now += seconds(wait);
                    let before = (known.version(), known.endpoints().clone());
                    let ticked = known.tick(now);
                    prop_assert!(!ticked || known.endpoints().is_empty());
                    let between = (known.version(), known.endpoints().clone());
                    prop_assert_eq!(between.0 - before.0, u64::from(ticked));
                    let mut told = None;
                    if let EndpointUpdate::Endpoints(endpoints) = &update {
                        told = Some(in_order(endpoints.clone()));
                    }
                    let heard = known.hear(update, now);
                    prop_assert_eq!(known.version() - between.0, u64::from(heard));
                    prop_assert!(heard || known.endpoints() == &between.1);
                    match told {
                        Some(told) if !told.is_empty() || grace == 0 => {
                            prop_assert_eq!(&**known.endpoints(), &told);
                            prop_assert_eq!(known.state(), &State::Fresh);
                        }
                        _ => {}
                    }
                }
                Ok(())
            })?;
        }
    }
}
