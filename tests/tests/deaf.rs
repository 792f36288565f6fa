//! In a program that logs by itself the swarm's laws would hear nothing, and nothing would ever be against a day. Alone in
//! its file, because a program has one subscriber for good.

use lab::sim::SimFailure;
use lab::swarm::{Drawn, Options, scheduled};

struct Another;

impl tracing::Subscriber for Another {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        false
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, _: &tracing::Id) {}
}

#[test]
fn a_day_that_nobody_can_hear_does_not_hold() {
    tracing::subscriber::set_global_default(Another).expect("the first");
    let failure = scheduled(&Drawn::new(1).schedule(), Options::default()).err().expect("no day");
    assert!(
        matches!(&failure, SimFailure::Engine(why) if why.contains("another tracing subscriber")),
        "{failure}"
    );
}
