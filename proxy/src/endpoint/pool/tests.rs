use tokio::time::advance;

use super::super::fake::{FakeNet, limits, metrics, run, target};
use super::*;
use crate::world::RngTree;

const TICK: Duration = Duration::from_millis(1);

#[test]
fn a_slot_has_as_many_places_as_it_is_told_once_those_that_are_too_many_are_free() {
    let slot = EndpointPool::new(2);
    let sizes = || (slot.size.get(), slot.permits.available_permits());
    slot.resize(5);
    assert_eq!(sizes(), (5, 5));
    slot.resize(3);
    assert_eq!(sizes(), (3, 3));
    let held = slot.permits.clone().try_acquire_many_owned(2).unwrap();
    slot.resize(1);
    assert_eq!(sizes(), (2, 0), "two are in use");
    drop(held);
    slot.resize(1);
    assert_eq!(sizes(), (1, 1));
}

#[test]
fn who_waits_counts_until_it_waits_no_more() {
    let count = Cell::new(0);
    let two = [Waiting::new(&count), Waiting::new(&count)];
    assert_eq!(count.get(), 2);
    drop(two);
    assert_eq!(count.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn connections_end_within_a_tenth_of_their_age_before_it_and_after() {
    let mut rng = RngTree::new(1).rng();
    let age = Duration::from_secs(100);
    let now = Instant::now();
    let ages: Vec<_> = (0..1000).map(|_| expiry(Some(age), &mut rng).unwrap() - now).collect();
    let (least, most) = (*ages.iter().min().unwrap(), *ages.iter().max().unwrap());
    assert!(least >= age.mul_f64(0.9) && least < age.mul_f64(0.92), "{least:?}");
    assert!(most <= age.mul_f64(1.1) && most > age.mul_f64(1.08), "{most:?}");
}

fn pool() -> (FakeNet, Pool<FakeNet>) {
    let net = FakeNet::default();
    (net.clone(), Pool::new(Connector::new(net, |_| None), RngTree::new(1).rng()))
}

/// Opens a connection, ready for a request.
async fn open(pool: &Pool<FakeNet>) -> Connection {
    let mut connection = pool.open(&target(), limits(), &metrics()).await.unwrap();
    connection.drive(&mut Context::from_waker(Waker::noop()));
    connection
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_usable_until_the_instant_at_which_it_is_too_old() {
    run(async {
        let (_net, pool) = pool();
        let mut connection = open(&pool).await;
        let now = Instant::now();
        connection.expires = Some(now + TICK);
        assert_eq!([now, now + TICK].map(|at| connection.is_usable(at)), [true, false]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_until_it_has_idled_for_longer_than_it_may() {
    run(async {
        let (net, pool) = pool();
        advance(limits().max_idle * 2).await;
        let now = Instant::now();
        let oldest = now - limits().max_idle;
        for (since, reused) in [(oldest - TICK, false), (oldest, true), (now, true)] {
            let connection = open(&pool).await;
            pool.slot(&target(), limits()).put(connection, since);
            let checkout = pool.checkout(&target(), None, limits(), &metrics()).await.unwrap();
            assert_eq!(checkout.reused, reused);
        }
        drop(net);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_to_one_workload_is_not_used_for_another_at_the_same_address() {
    run(async {
        let (_net, pool) = pool();
        let owned_by = |identity: &str| Target { identity: identity.parse().ok(), ..target() };
        let now = Instant::now();
        pool.slot(&owned_by("spiffe://mesh/orders"), limits()).put(open(&pool).await, now);
        for (target, reused) in [(target(), false), (owned_by("spiffe://mesh/billing"), false)] {
            let checkout = pool.checkout(&target, None, limits(), &metrics()).await.unwrap();
            assert_eq!(checkout.reused, reused, "{target:?}");
        }
        let orders = owned_by("spiffe://mesh/orders");
        assert!(pool.checkout(&orders, None, limits(), &metrics()).await.unwrap().reused);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_closes_what_has_idled_for_long_or_is_unusable_and_forgets_a_slot_without_anything() {
    run(async {
        let (_net, pool) = pool();
        let max_idle = limits().max_idle;
        let left = |pool: &Pool<FakeNet>| {
            let slots = pool.inner.slots.borrow();
            slots.values().map(|slot| slot.idle.borrow().len()).collect::<Vec<_>>()
        };
        pool.slot(&target(), limits()).put(open(&pool).await, Instant::now());
        let mut old = open(&pool).await;
        old.expires = Some(Instant::now() + TICK);
        pool.slot(&target(), limits()).put(old, Instant::now() + TICK * 2);
        advance(TICK).await;
        assert_eq!(left(&pool), [2]);
        pool.sweep(max_idle);
        assert_eq!(left(&pool), [1], "one is too old");
        advance(max_idle - TICK * 2).await;
        pool.sweep(max_idle);
        assert_eq!(left(&pool), [1]);
        advance(TICK).await;
        let held = pool.slot(&target(), limits());
        pool.sweep(max_idle);
        assert_eq!(left(&pool), [0], "somebody holds the slot");
        drop(held);
        pool.sweep(max_idle);
        assert!(left(&pool).is_empty());

        pool.slot(&target(), limits());
        pool.forget(&target());
        assert!(left(&pool).is_empty());
    })
    .await;
}
