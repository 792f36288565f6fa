//! The page of a run, opened in Chromium: wide and narrow, light and dark, by pointer and keys.
//!
//! `probe.js` looks at the page in four frames and says what is wrong with it, a line each.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::scenario::Scenario;
use lab::scenario::builder::{ExpectSpec, FaultSpec, HttpSpec, LoadSpec, ScenarioBuilder, ServiceSpec};
use tempfile::TempDir;
use tests::testbed::{Testbed, WITHIN};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");

/// A run with something to show in every part of its page.
fn story() -> ScenarioBuilder {
    let ms = Duration::from_millis;
    Scenario::builder("a replica dies, and another one fails now and then")
        .warmup(ms(500))
        .duration(ms(3_000))
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").replicas(2).http(8080, HttpSpec::default().fail(0.2)))
        .load(LoadSpec::new("checkout", "web", "http://orders:8080/", 100))
        .load(LoadSpec::new("search", "web", "http://orders:8080/search", 20))
        .fault(FaultSpec::kill("orders-1").name("lose-one").at(ms(1_000)).restart(ms(500)))
        .expect(ExpectSpec::that(&["checkout.requests > 0"]).set("name", "requests are sent"))
        .expect(ExpectSpec::that(&["checkout.errors == 0"]).set("name", "nothing fails"))
        .expect(ExpectSpec::that(&["killed >= 1"]).set("fault", "lose-one"))
}

/// Looks at a page, and requires that nothing is wrong with it and that it has these charts.
fn look(page: &Path, charts: &[&str]) {
    let text = std::fs::read_to_string(page).expect("a page");
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
    let folder = TempDir::new().expect("a scratch folder");
    let frames = folder.path().join("frames.html");
    let address = format!("file://{}", page.canonicalize().expect("a path").display());
    let probe = include_str!("probe.js").replace("PAGE", &address);
    let html = format!("<!doctype html><body><pre id=\"said\">not done</pre><script>{probe}</script></body>");
    std::fs::write(&frames, html).expect("a file");
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile])
        .args(["--allow-file-access-from-files", "--enable-logging=stderr", "--window-size=1400,900"])
        .args(["--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("file://{}", frames.display()))
        .output()
        .expect("Chromium runs (apt-get install chromium)");
    let complaints = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = complaints.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let document = String::from_utf8_lossy(&output.stdout);
    let said = document.split_once("<pre id=\"said\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (said, _) = said.unwrap_or_else(|| panic!("Chromium has shown nothing: {output:?}"));
    let (wrong, shown): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| !line.starts_with("chart "));
    assert_eq!(wrong, ["done"], "{said}");
    for chart in charts {
        assert!(shown.contains(&format!("chart {chart}").as_str()), "no chart {chart} in {said}");
    }
}

/// Charts that every run has whose requests fail here and there.
const CHARTS: [&str; 6] =
    ["topology", "spans", "Answered requests", "Latency of checkout", "Errors", "checkout, lose-one"];

#[test]
fn a_simulated_run_has_a_page_to_look_at() {
    let folder = TempDir::new().expect("a scratch folder");
    let (scenario, page) = (folder.path().join("story.toml"), folder.path().join("page.html"));
    std::fs::write(&scenario, story().to_toml()).expect("a scenario");
    let output =
        Command::new(EXE).arg("sim").arg(&scenario).arg("--html").arg(&page).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    look(&page, &CHARTS);
    let text = std::fs::read_to_string(&page).expect("a page");
    assert!(text.contains("\"log of") || text.contains("/sidecar"), "its processes are told of");
}

#[test]
fn a_page_is_for_one_history() {
    let folder = TempDir::new().expect("a scratch folder");
    let scenario = folder.path().join("story.toml");
    std::fs::write(&scenario, story().to_toml()).expect("a scenario");
    for args in [&["--seeds", "2"][..], &["--faults", "swarm"]] {
        let page = folder.path().join("page.html");
        let mut lab = Command::new(EXE);
        let output =
            lab.arg("sim").arg(&scenario).args(args).arg("--html").arg(&page).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("--html is for one"), "{output:?}");
        assert!(!page.exists());
    }
}

#[test]
fn a_run_on_the_kernel_has_a_page_with_what_its_processes_use_and_say() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let scenario = testbed.write("looked-at", &story().to_toml());
    let lab = testbed.start(&scenario, &["--sidecar", "ours"]);
    let ended = lab.end(WITHIN);
    ended.expect(1);
    let page = testbed.out().join(&testbed.runs()[0]).join("page.html");
    assert!(ended.said.contains(&format!("to look at: {}", page.display())), "{}", ended.said);
    look(&page, &[&CHARTS[..], &["CPU", "Memory", "Connects, retries and failures of sidecars"]].concat());
    let text = std::fs::read_to_string(&page).expect("a page");
    for part in ["web/sidecar", "load checkout", "orders-0.sidecar", "sudo lab "] {
        assert!(text.contains(part), "{part}");
    }
}
