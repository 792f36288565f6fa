//! Active checks of endpoints: each endpoint of a cluster with `[cluster.health]` has a task that
//! asks it now and then and notes the result in [`Endpoint`], where balancers see it.
//!
//! A task belongs to an endpoint and not to a configuration: after a reload it goes on with what
//! the new one says, and it ends when its endpoint is gone or is not to be checked any more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::ask::ask;
use crate::balance::{Cluster, Table};
use crate::config::Health as Config;
use crate::config::defaults::CHECK_JITTER;
use crate::config::defaults::CHECK_LOOK;
use crate::connect::{Connector, Target};
use crate::endpoint::health::Health;
use crate::endpoint::{Checked, Endpoint};
use crate::mutant::Mutant;
use crate::telemetry::emit;
use crate::world::{Net, RngTree};

/// The endpoints that are checked, by cluster and target. One that left and came back is
/// another endpoint: it gets a task of its own at once, while the one of its predecessor may still
/// sleep.
type Running = Rc<RefCell<BTreeMap<(String, Target), Arc<Endpoint>>>>;

/// Checks endpoints for ever, on this thread.
pub async fn run<N: Net>(connector: Connector<N>, rng: RngTree, table: Arc<ArcSwap<Table>>) {
    let running = Running::default();
    let mut entities = 0;
    loop {
        let clusters = table.load().clusters.clone();
        for cluster in clusters.iter().filter(|cluster| cluster.config.health.is_some()) {
            for endpoint in cluster.endpoints.iter() {
                let key = (cluster.config.name.clone(), endpoint.target.clone());
                let before = running.borrow_mut().insert(key.clone(), endpoint.clone());
                if before.is_some_and(|before| Arc::ptr_eq(&before, endpoint)) {
                    continue;
                }
                entities += 1;
                let rng = rng.child("check", entities).rng();
                let checking = check(connector.clone(), rng, table.clone(), key.0.clone(), endpoint.clone());
                let (running, endpoint) = (running.clone(), endpoint.clone());
                connector.net().spawn_essential("check", async move {
                    checking.await;
                    let mut running = running.borrow_mut();
                    if running.get(&key).is_some_and(|now| Arc::ptr_eq(now, &endpoint)) {
                        running.remove(&key);
                    }
                });
            }
        }
        drop(clusters);
        sleep(CHECK_LOOK).await;
    }
}

/// Checks one endpoint for as long as it is there and to be checked.
async fn check<N: Net>(
    connector: Connector<N>,
    mut rng: StdRng,
    table: Arc<ArcSwap<Table>>,
    name: String,
    endpoint: Arc<Endpoint>,
) {
    sleep(CHECK_LOOK.mul_f64(rng.random())).await;
    let mut seen = None;
    while let Some((cluster, config)) = find(&table, &name, &endpoint) {
        let timer = if Mutant::ChecksTakeTheirTime.is_planted() { 20 } else { 1 };
        let result = ask(&connector, &endpoint.target, &config.ask, config.timeout * timer).await;
        let checked = endpoint.on_check(result.is_ok(), config.thresholds, Instant::now());
        cluster.metrics.checked(result.is_ok());
        tell(&name, &endpoint, checked, &result);
        if Mutant::ChecksUntilOneFails.is_planted() && result.is_err() {
            return std::future::pending().await;
        }
        let now = cluster.metrics.traffic();
        let wait = interval(&config, checked, seen.replace(now).is_some_and(|before| before != now));
        drop(cluster);
        let jitter = 1.0 + rng.random_range(-CHECK_JITTER..CHECK_JITTER);
        let due = Instant::now() + wait.mul_f64(jitter);
        while Instant::now() < due {
            sleep((due - Instant::now()).min(config.interval.mul_f64(jitter))).await;
            let Some((cluster, _)) = find(&table, &name, &endpoint) else { break };
            // Once it is used, what is known of it must not be as old as it may be while it is not.
            if cluster.metrics.traffic() != now {
                break;
            }
        }
    }
    endpoint.forget_checks(Instant::now());
}

fn find(table: &ArcSwap<Table>, name: &str, endpoint: &Arc<Endpoint>) -> Option<(Arc<Cluster>, Arc<Config>)> {
    let table = table.load();
    let cluster = table.cluster(name)?;
    cluster.endpoints.iter().find(|other| Arc::ptr_eq(other, endpoint))?;
    Some((cluster.clone(), cluster.config.health.clone()?))
}

/// How long until the next check. A cluster that nobody used since the last one need not be known
/// so exactly.
fn interval(config: &Config, checked: Checked, traffic: bool) -> Duration {
    if checked.in_doubt && !Mutant::DoesNotHurryInDoubt.is_planted() {
        config.edge_interval
    } else if traffic {
        config.interval
    } else {
        config.no_traffic_interval
    }
}

fn tell(cluster: &str, endpoint: &Endpoint, checked: Checked, result: &Result<(), String>) {
    let address = endpoint.address();
    if checked.restored {
        emit!(EndpointRestoredByCheck { cluster, endpoint: address });
    }
    match (checked.turned, result) {
        (Some(Health::Unhealthy), Err(why)) => {
            emit!(EndpointUnhealthy { cluster, endpoint: address, why });
        }
        (Some(_), _) => emit!(EndpointHealthy { cluster, endpoint: address }),
        (None, Err(why)) => emit!(CheckFailed { cluster, endpoint: address, why }),
        (None, Ok(())) => emit!(CheckPassed { cluster, endpoint: address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ProbeRequest, Thresholds};
    use crate::telemetry::Metrics;
    use crate::world::fake::{self, FakeNet};

    /// Checks `endpoints` of one cluster, every ten seconds while it is used and else every
    /// thousand.
    fn checking(endpoints: &str) -> (FakeNet, Arc<Cluster>, impl Future<Output = ()>) {
        let text = format!(
            "service = 'web'\n[[cluster]]\nname = 'orders'\naddresses = ['10.96.0.1:80']\nendpoints = [{endpoints}]\n\
             [cluster.health]\ntcp = true\ninterval = '10s'\nno_traffic_interval = '1000s'\n"
        );
        let snapshot = Arc::new(crate::config::parse("sidecar.toml", &text).unwrap());
        let table = Table::new(snapshot, None, &Metrics::default(), Instant::now());
        let (net, cluster) = (FakeNet { is_empty: true, ..FakeNet::default() }, table.clusters[0].clone());
        (
            net.clone(),
            cluster,
            run(Connector::new(net, |_| None), RngTree::new(1), Arc::new(ArcSwap::from_pointee(table))),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_came_together_are_not_checked_together() {
        fake::run(async {
            let (net, _, checks) = checking("'10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80'");
            let _ = tokio::time::timeout(CHECK_LOOK, checks).await;
            let asked = net.asked.borrow();
            let [first, second, third] = asked[..] else { panic!("{asked:?}") };
            assert!(first < second && second < third);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_is_checked_often_after_it_was_used_and_seldom_after_it_was_not() {
        fake::run(async {
            let (net, cluster, checks) = checking("'10.0.0.1:80'");
            let mut checks = std::pin::pin!(checks);
            let _ = tokio::time::timeout(Duration::from_secs(500), checks.as_mut()).await;
            drop(cluster.metrics.request_log(0));
            let _ = tokio::time::timeout(Duration::from_secs(1300), checks).await;
            let asked = net.asked.borrow();
            let waits: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
            // It was used after 500 s, which is seen at the latest when a check would have been
            // due.
            assert!(matches!(waits[..], [500..=511, 9..=11, 900..=1100]), "{waits:?}");
        })
        .await;
    }

    #[test]
    fn checks_hurry_while_in_doubt_and_rest_while_nobody_cares() {
        let config = Config {
            ask: ProbeRequest::Tcp,
            interval: Duration::from_secs(5),
            edge_interval: Duration::from_secs(1),
            no_traffic_interval: Duration::from_secs(60),
            timeout: Duration::from_secs(1),
            thresholds: Thresholds { healthy: 1, unhealthy: 1 },
        };
        for (in_doubt, traffic, seconds) in
            [(false, true, 5), (false, false, 60), (true, true, 1), (true, false, 1)]
        {
            let checked = Checked { turned: None, restored: false, in_doubt };
            assert_eq!(interval(&config, checked, traffic), Duration::from_secs(seconds));
        }
    }
}
