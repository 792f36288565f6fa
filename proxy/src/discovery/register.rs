//! Tells others where this sidecar's app is, for as long as it is ready: a document in etcd under a
//! lease.
//!
//! The lease makes a sidecar that was killed disappear within its time. A drain takes the document
//! away first and lets callers notice, before anything is refused. An app that is not ready is
//! taken out, and put in again once it is.
//!
//! What it leaves out: putting the document back if somebody else deletes it while the lease lives.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::document;
use super::etcd::lease::{Lease, LeaseStep};
use super::etcd::{EtcdClient, EtcdError};
use crate::backoff::Backoff;
use crate::config::Register;
use crate::config::defaults::DISCOVERY_BACKOFF;
use crate::mutant::Mutant;
use crate::telemetry::emit;
use crate::world::{Net, World};

/// Registers the app while `wanted` says so, for ever. The key is the prefix and `instance`. `tell`
/// learns whether the document stands there.
pub async fn run<N: Net>(
    world: World<N>,
    register: Register,
    instance: String,
    mut wanted: watch::Receiver<bool>,
    tell: impl Fn(bool),
) {
    let mut rng = world.rng.child("register", 0).rng();
    // A renewal is due after a third of the lease. One that hangs, or waits after a failure, must
    // leave time for another.
    let third = if Mutant::LetsItsLeaseRunOut.is_planted() { Duration::MAX } else { register.ttl / 3 };
    let client = EtcdClient::new(world.net, register.etcd.servers).patient(third);
    let key = format!("{}{instance}", register.etcd.prefix);
    let text = document::write(&register.endpoint);
    let ttl = register.ttl.as_secs_f64().ceil() as u64;
    let mut lease = Lease::default();
    let mut backoff = Backoff::new(DISCOVERY_BACKOFF);
    loop {
        lease.want(*wanted.borrow_and_update());
        let was_published = lease.is_published();
        let done = match lease.step(Instant::now()) {
            LeaseStep::Wait(until) => {
                tokio::select! {
                    biased;
                    changed = wanted.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    () = at(until) => {}
                }
                continue;
            }
            // The lease counts from before it was asked for, so that ours is never the longer one.
            LeaseStep::Grant => {
                let now = Instant::now();
                client.grant(ttl).await.map(|granted| lease.granted(granted.id, seconds(granted.ttl), now))
            }
            LeaseStep::Publish(id) => client.put(&key, &text, id).await.map(|_| lease.published()),
            LeaseStep::Renew(id) => {
                let now = Instant::now();
                client.renew(id).await.map(|ttl| lease.renewed(seconds(ttl), now))
            }
            LeaseStep::Withdraw(id) => client.revoke(id).await.map(|()| lease.ended()),
        };
        match done {
            Ok(()) => backoff.reset(),
            Err(EtcdError::NoLease) => {
                tracing::warn!(%key, "the registry does not know this sidecar's lease any more");
                lease.ended();
            }
            Err(error) => {
                tracing::warn!(%key, %error, "the registry does not do what it was asked to");
                lease.failed(backoff.next(&mut rng).min(third), Instant::now());
            }
        }
        if was_published != lease.is_published() {
            match was_published {
                true => emit!(NotRegistered { key }),
                false => emit!(Registered { key }),
            }
        }
        tell(lease.is_published());
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Etcd};
    use crate::discovery::etcd::fake::{Asked, FIRST, asked};
    use crate::world::fake::{self, FakeNet};
    use crate::world::{RngTree, SystemWall};

    /// How long a lease is.
    const TTL: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_after_a_third_of_it_and_a_renewal_that_hangs_leaves_time_for_another() {
        let net = FakeNet::default();
        let world = World::new(net.clone(), SystemWall, RngTree::new(1));
        let register = Register {
            etcd: Etcd { servers: vec![FIRST], prefix: "/web/".into() },
            ttl: TTL,
            endpoint: Endpoint::at(([10, 0, 1, 1], 80).into()).into(),
        };
        let (_want, wanted) = watch::channel(true);
        let registering = run(world, register, "web-1".into(), wanted, |_| {});
        let story = async {
            let next = async |path: &str| -> Asked {
                let asked = asked(&net).await;
                assert_eq!(asked.path, format!("/v3{path}"));
                asked
            };
            let grant = next("/lease/grant").await;
            assert_eq!(grant.body["TTL"], "3");
            grant.answer(200, r#"{"ID":"7","TTL":"3"}"#).await;
            next("/kv/put").await.answer(200, "{}").await;
            let granted = Instant::now();
            let renewal = next("/lease/keepalive").await;
            assert_eq!(granted.elapsed(), TTL / 3);
            renewal.answer(200, r#"{"result":{"ID":"7","TTL":"3"}}"#).await;
            let renewed = Instant::now();
            let _hangs = next("/lease/keepalive").await;
            assert_eq!(renewed.elapsed(), TTL / 3);
            let _another = next("/lease/keepalive").await;
            assert!(renewed.elapsed() < TTL, "after {:?} it has ended", renewed.elapsed());
        };
        fake::run(async {
            tokio::select! {
                () = registering => unreachable!("it registers for ever"),
                () = story => {}
            }
        })
        .await;
    }
}
