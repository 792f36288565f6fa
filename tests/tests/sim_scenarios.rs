//! Every scenario of the `scenarios` folder holds in the simulator, whatever the seed. A new file
//! is covered by itself.

mod sim_kit;

use lab::plan::SidecarKind;
use sim_kit::*;

/// Seeds for each file, from so many beyond its own on. The first six are simulated beside the
/// kernel (two_worlds.rs).
const SEEDS: u64 = 2;
const BEYOND: u64 = 6;

#[test]
fn every_scenario_holds_for_every_seed_in_every_form_that_it_asks_for() {
    let mut judged = 0;
    for path in files() {
        let mut scenario = read(&path);
        scenario.seed += BEYOND;
        for kind in scenario.sidecars() {
            if !supported(&path, &scenario, kind) {
                continue;
            }
            for_seeds(&path, &scenario, kind, SEEDS, |history| {
                judged += 1;
                passed(history)
            });
        }
    }
    assert!(judged >= SEEDS, "the simulator can run no scenario");
}

#[test]
fn a_killed_replica_costs_not_one_of_400_requests_a_second_in_50_histories() {
    let path = tests::scenario("failover");
    let scenario = read(&path);
    let mut tried_again = 0.0;
    for_seeds(&path, &scenario, SidecarKind::Ours, 50, |history| {
        passed(history)?;
        let report = history.result.as_ref().map_err(Clone::clone)?;
        for load in &report.loads {
            if load.ok != load.requests || load.requests == 0 {
                return Err(format!("{} of {} requests succeeded", load.ok, load.requests));
            }
        }
        tried_again += total(report, "web/sidecar", "proxy_retries_total");
        Ok(())
    });
    assert!(tried_again > 0.0, "no request ever met the fault");
}
