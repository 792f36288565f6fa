//! Where a cluster's endpoints are learned while the sidecar runs, and where it tells of its own
//! app.
//!
//! A *source* (a watched [`file`], [`etcd::watch`], [`dns`]) is a task on the control thread that
//! tells what it finds as [`EndpointUpdate`]. The [`EndpointStore`] keeps what was heard for each
//! cluster ([`KnownEndpoints`]: the endpoints, a version, and whether the source still answers) and
//! [`EndpointStore::fill`] puts it into the configuration's snapshot. So requests, balancing and
//! health see a snapshot with endpoints and never learn where those came from, and an endpoint that
//! stays keeps its state.
//!
//! Stale is better than empty: a source that fails changes nothing but the age of what is known.
//! [`register`] is the other direction.
//!
//! What it leaves out: sharing one watch between clusters, and leaving clusters that nobody calls
//! unwatched.

pub mod dns;
pub mod document;
pub mod etcd;
#[cfg(test)]
mod fake;
mod file;
mod known;
mod pace;
pub mod register;
mod status;
mod store;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

pub use known::{EndpointUpdate, KnownEndpoints, State};
pub use pace::Pace;
pub use status::SourceStatus;
pub use store::EndpointStore;

use crate::config::Source;
use crate::config::defaults::DISCOVERY_TICK;
use crate::world::{Net, World};
use store::SourceId;

/// Tells the store what a source has found.
pub struct UpdateSender {
    task: SourceId,
    update: mpsc::UnboundedSender<(SourceId, EndpointUpdate)>,
}

impl UpdateSender {
    /// Tells it.
    pub fn tell(&self, update: EndpointUpdate) {
        // Nobody listens any more if the sidecar ends.
        let _ = self.update.send((self.task.clone(), update));
    }
}

/// Runs the sources that the store wants, for ever; `apply` is called whenever some cluster has
/// other endpoints.
pub async fn run<N: Net>(world: World<N>, store: Arc<EndpointStore>, apply: impl Fn()) {
    let (update, mut heard) = mpsc::unbounded_channel();
    // A task ends when the sender beside it is dropped.
    let mut running: Vec<(SourceId, oneshot::Sender<()>)> = Vec::new();
    let (mut pace, mut ticks) =
        (Pace::default(), interval_at(Instant::now() + DISCOVERY_TICK, DISCOVERY_TICK));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let wanted = store.tasks();
        running.retain(|(task, _)| wanted.iter().any(|(wanted, _)| wanted == task));
        for (task, source) in wanted {
            if running.iter().any(|(known, _)| *known == task) {
                continue;
            }
            let (running_on, stopped) = oneshot::channel::<()>();
            let updates = UpdateSender { task: task.clone(), update: update.clone() };
            let source = follow(world.clone(), source, updates);
            world.net.spawn_essential("discovery", async move {
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = source => {}
                }
            });
            running.push((task, running_on));
        }
        // Until every source has answered the sidecar waits to be ready, and nothing else waits.
        let (waited_for, mut changed) = (!store.has_heard_of_all(), false);
        let due = pace.due(Instant::now());
        tokio::select! {
            biased;
            () = store.changed() => {}
            Some((task, update)) = heard.recv() => {
                changed |= store.hear(&task, update, Instant::now());
                // What comes at once is applied at once.
                while let Ok((task, update)) = heard.try_recv() {
                    changed |= store.hear(&task, update, Instant::now());
                }
            }
            _ = ticks.tick() => changed |= store.tick(Instant::now()),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        if changed {
            pace.changed();
        }
        let now = Instant::now();
        if pace.due(now).is_some_and(|due| due <= now || waited_for) {
            apply();
            pace.applied(now, Instant::now());
        }
    }
}

async fn follow<N: Net>(world: World<N>, source: Source, updates: UpdateSender) {
    let rng = world.rng.child("discovery", updates.task.key()).rng();
    match source {
        Source::File(path) => file::follow(path, updates).await,
        Source::Dns(dns) => dns::follow(world.net, dns, rng, updates).await,
        Source::Etcd(etcd) => {
            etcd::watch::follow(etcd::EtcdClient::new(world.net, etcd.servers), etcd.prefix, rng, updates)
                .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::defaults::DISCOVERY_INTERVAL;
    use crate::telemetry::Metrics;
    use crate::world::fake::{FakeNet, run as run_test};
    use crate::world::{RngTree, SystemWall};
    use etcd::fake::asked;

    const LIST: &str = r#"{"header":{"revision":"5"}}"#;
    const BEGUN: &str = r#"{"header":{"revision":"5"},"created":true}"#;
    /// `{"address":"10.0.1.1:80"}` stands under the key `x`.
    const CHANGE: &str =
        r#"{"events":[{"kv":{"key":"eA==","value":"eyJhZGRyZXNzIjoiMTAuMC4xLjE6ODAifQ=="}}]}"#;

    #[tokio::test(start_paused = true)]
    async fn first_answers_come_into_force_at_once_and_later_changes_at_their_pace() {
        let cluster = |name| {
            format!(
                "[[cluster]]\nname = '{name}'\naddresses = ['10.96.0.1:80']\n\
                 discovery.etcd = {{ endpoints = ['10.0.0.1:2379'], prefix = '/{name}/' }}\n"
            )
        };
        let text = format!("service = 'web'\n{}{}", cluster("a"), cluster("b").replace("0.1:80", "0.2:80"));
        let (net, store) = (FakeNet::default(), Arc::new(EndpointStore::default()));
        store.want(&crate::config::parse("sidecar.toml", &text).unwrap(), &Metrics::default());
        let world = World::new(net.clone(), SystemWall, RngTree::new(1));
        let (apply, mut applied) = mpsc::unbounded_channel();
        let begun = Instant::now();
        let running = run(world, store, move || apply.send(begun.elapsed()).unwrap());
        let story = async {
            let gap = DISCOVERY_INTERVAL / 10;
            let (first, second) = (asked(&net).await, asked(&net).await);
            first.answer(200, LIST).await;
            let mut watch = asked(&net).await;
            sleep_until(begun + gap).await;
            second.answer(200, LIST).await;
            watch.begin(200).await;
            watch.tell(BEGUN).await;
            watch.tell(CHANGE).await;
            let times = [applied.recv().await, applied.recv().await, applied.recv().await];
            assert_eq!(times, [Duration::ZERO, gap, gap + DISCOVERY_INTERVAL].map(Some));
        };
        run_test(async {
            tokio::select! {
                () = running => unreachable!("it runs for ever"),
                () = story => {}
            }
        })
        .await;
    }
}
