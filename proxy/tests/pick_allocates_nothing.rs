//! A pick takes no memory, whatever the policy. In a program of its own, because it counts what the
//! allocator gives.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use proxy::balance::{Attempted, PickContext, Table};
use proxy::config;
use proxy::telemetry::Metrics;
use proxy::world::RngTree;
use tokio::time::Instant;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[allow(
    unsafe_code,
    reason = "an allocator is unsafe by its trait; this one only counts before the system's does the work"
)]
// SAFETY: every call is passed on to the system's allocator with the arguments that it was given.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, so from the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::test(start_paused = true)]
async fn a_pick_takes_no_memory() {
    for policy in ["p2c", "least_request", "round_robin", "random", "ring_hash", "maglev"] {
        for weights in [[1, 1, 1], [1, 2, 3]] {
            let hash = if ["ring_hash", "maglev"].contains(&policy) { ", hash = 'source'" } else { "" };
            let endpoints: Vec<_> = (0..30)
                .map(|i| {
                    let (weight, zone, priority) = (weights[i % 3], i % 2, i / 20);
                    format!("{{ address = '10.0.0.{i}:80', weight = {weight}, zone = '{zone}', priority = {priority} }}")
                })
                .collect();
            let text = format!(
                "service = 'web'\nzone = '0'\n[[cluster]]\nname = 'c'\naddresses = ['10.96.0.1:80']\n\
                 endpoints = [{}]\nbalance = {{ policy = '{policy}'{hash} }}\n",
                endpoints.join(", ")
            );
            let snapshot = config::parse("sidecar.toml", &text).expect("a valid configuration");
            let now = Instant::now();
            let table = Table::new(Arc::new(snapshot), None, &Metrics::default(), now);
            let mut rng = RngTree::new(1).rng();
            let mut pick = |hash, attempted| {
                let context = PickContext { hash: Some(hash), subset: 0 };
                table.clusters[0].pick(now, &mut rng, context, attempted).expect("there is somebody").position
            };
            // The first pick looks around.
            let mut attempted = Attempted::default();
            attempted.insert(pick(0, attempted));
            let before = ALLOCATIONS.with(Cell::get);
            for hash in 0..1000 {
                pick(hash, Attempted::default());
                pick(hash, attempted);
            }
            assert_eq!(ALLOCATIONS.with(Cell::get), before, "{policy}");
            assert!(before > 0, "the allocator counts");
        }
    }
}
