//! In a program with a tracing subscriber of its own, the swarm would see no log lines and find no
//! violation. This test is alone in its file, because a process has one subscriber for good.

use lab::sim::SimFailure;
use lab::swarm::{Drawn, SwarmOptions, run_schedule};

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
fn a_run_whose_log_cannot_be_read_fails() {
    tracing::subscriber::set_global_default(Another).expect("the first");
    let failure = run_schedule(&Drawn::new(1).schedule(), SwarmOptions::default()).err().expect("no run");
    assert!(
        matches!(&failure, SimFailure::Engine(why) if why.contains("another tracing subscriber")),
        "{failure}"
    );
}
