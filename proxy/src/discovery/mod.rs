//! Where a cluster's endpoints are learned while the sidecar runs, and where it tells of its own app.
//!
//! A *source* (a watched [`file`], [`etcd::watch`], [`dns`]) is a task on the control thread that tells what it finds as
//! [`News`]. The [`Board`] keeps what was heard for each cluster ([`Known`]: the endpoints, a version, and whether the
//! source still answers) and [`Board::fill`] puts it into the configuration's snapshot. So requests, balancing and health
//! see a snapshot with endpoints and never learn where those came from, and an endpoint that stays keeps its state.
//!
//! Stale is better than empty: a source that fails changes nothing but the age of what is known. [`register`] is the other
//! direction.
//!
//! What it leaves out: sharing one watch between clusters, and leaving clusters that nobody calls unwatched.

pub mod backoff;
mod board;
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

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

pub use board::Board;
pub use known::{Known, News, State};
pub use pace::Pace;
pub use status::SourceStatus;

use crate::config::Source;
use crate::world::{Net, World};
use board::Task;

/// How often the ages of what is known are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Tells the board what a source has found.
pub struct Teller {
    task: Task,
    news: mpsc::UnboundedSender<(Task, News)>,
}

impl Teller {
    /// Tells it.
    pub fn tell(&self, news: News) {
        // Nobody listens any more if the sidecar ends.
        let _ = self.news.send((self.task.clone(), news));
    }
}

/// Runs the sources that the board wants, for ever; `apply` is called whenever some cluster has other endpoints.
pub async fn run<N: Net>(world: World<N>, board: Arc<Board>, apply: impl Fn()) {
    let (news, mut heard) = mpsc::unbounded_channel();
    // A task ends when the sender beside it is dropped.
    let mut running: Vec<(Task, oneshot::Sender<()>)> = Vec::new();
    let (mut pace, mut ticks) = (Pace::default(), interval_at(Instant::now() + TICK, TICK));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let wanted = board.tasks();
        running.retain(|(task, _)| wanted.iter().any(|(wanted, _)| wanted == task));
        for (task, source) in wanted {
            if running.iter().any(|(known, _)| *known == task) {
                continue;
            }
            let (running_on, stopped) = oneshot::channel::<()>();
            let teller = Teller { task: task.clone(), news: news.clone() };
            let source = follow(world.clone(), source, teller);
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
        let (waited_for, mut changed) = (!board.has_heard_of_all(), false);
        let due = pace.due(Instant::now());
        tokio::select! {
            biased;
            () = board.changed() => {}
            Some((task, news)) = heard.recv() => {
                changed |= board.hear(&task, news, Instant::now());
                // What comes at once is applied at once.
                while let Ok((task, news)) = heard.try_recv() {
                    changed |= board.hear(&task, news, Instant::now());
                }
            }
            _ = ticks.tick() => changed |= board.tick(Instant::now()),
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

async fn follow<N: Net>(world: World<N>, source: Source, teller: Teller) {
    let rng = world.rng.child("discovery", teller.task.key()).rng();
    match source {
        Source::File(path) => file::follow(path, teller).await,
        Source::Dns(dns) => dns::follow(world.net, dns, rng, teller).await,
        Source::Etcd(etcd) => {
            etcd::watch::follow(etcd::Client::new(world.net, etcd.servers), etcd.prefix, rng, teller).await;
        }
    }
}

#[cfg(test)]
mod tests {
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
        let (net, board) = (FakeNet::default(), Arc::new(Board::default()));
        board.want(&crate::config::parse("sidecar.toml", &text).unwrap(), &Metrics::default());
        let world = World::new(net.clone(), SystemWall, RngTree::new(1));
        let (apply, mut applied) = mpsc::unbounded_channel();
        let begun = Instant::now();
        let running = run(world, board, move || apply.send(begun.elapsed()).unwrap());
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
