//! The lab as a library: a scenario that a test builds, in both worlds.

use std::path::PathBuf;
use std::time::Duration;

use lab::kernel::Options;
use lab::run::Verdict;
use lab::scenario::Scenario;
use lab::scenario::builder::{ExpectSpec, FaultSpec, HttpSpec, LoadSpec, ServiceSpec};

const SECOND: Duration = Duration::from_secs(1);

fn a_replica_dies() -> Scenario {
    let scenario = Scenario::builder("a replica dies")
        .duration(2 * SECOND)
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").replicas(2).http(8080, HttpSpec::default()))
        .load(LoadSpec::new("calls", "web", "http://orders:8080/", 50))
        .fault(FaultSpec::kill("orders-0").name("lose").at(SECOND / 2).restart(SECOND / 2))
        .expect(ExpectSpec::that(&["calls.errors == 0"]))
        .expect(ExpectSpec::that(&["killed == 2"]).evidence_of("lose"));
    scenario.build().unwrap_or_else(|errors| panic!("{errors:#?}"))
}

#[test]
fn a_scenario_that_is_built_runs_in_the_simulator() {
    let history = lab::simulate(&a_replica_dies(), 1).expect("a run that ends");
    assert!(history.passed(), "{:?}", history.reasons());
}

#[test]
fn it_runs_on_the_kernel_too() {
    let Some(_kernel) = tests::kernel() else { return };
    let dir = tests::open_folder();
    let exe = PathBuf::from(env!("CARGO_BIN_EXE_lab-under-test"));
    let report = lab::run_on_kernel(&a_replica_dies(), Options::new(exe, dir.path().join("run")));
    let report = report.expect("a mesh that comes up");
    // A busy machine may say that it cannot judge, but not that an expectation failed.
    assert!(matches!(report.verdict, Verdict::Passed | Verdict::Inconclusive), "{:?}", report.reasons);
    assert!(report.loads[0].requests >= 90, "{:?}", report.loads);
}
