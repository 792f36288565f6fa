//! A sidecar on the real kernel, as a real process, under load: it takes a new configuration and it
//! goes away without anybody noticing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use lab::scenario::Scenario;
use lab::scenario::builder::{ExpectSpec, HttpSpec, LoadSpec, ScenarioBuilder, ServiceSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::testbed::{
    Ended, Lab, Testbed, WITHIN, conclusive, counter, events, inside, load, number, page, pid_of, text,
    wait_until,
};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");
const METRICS: u16 = 15020;
const HEALTH: u16 = 15021;
const APP_METRICS: u16 = 9100;

/// How many requests reached the app of an instance.
fn reached(run: &Path, instance: &str) -> f64 {
    counter(run, instance, APP_METRICS, "app_requests_total", &[])
}

fn reloads(run: &Path, result: &str) -> f64 {
    counter(run, "web", METRICS, "proxy_config_reloads_total", &[("result", result)])
}

/// Waits until `orders-0` and `orders-1` together have been asked `more` times from now on.
fn wait_for_requests(run: &Path, more: f64) {
    let both = || reached(run, "orders-0") + reached(run, "orders-1");
    let goal = both() + more;
    wait_until("more requests arrive", || both() >= goal);
}

/// Gives web's sidecar another configuration, by the file that the lab wrote for it and a SIGHUP.
fn reload(run: &Path, config: &str, result: &str) {
    let before = reloads(run, result);
    // In place: the file lies in a folder that is mounted elsewhere for the sidecar.
    std::fs::write(run.join("config/web.toml"), config).unwrap();
    kill(Pid::from_raw(pid_of(run, "web/sidecar")), Signal::SIGHUP).unwrap();
    wait_until("the sidecar has seen its new configuration", || reloads(run, result) > before);
}

/// What happens to the sidecar of web while hello runs.
fn change_endpoints(lab: Lab) -> Ended {
    let run = &lab.under_load();
    let original = std::fs::read_to_string(run.join("config/web.toml")).unwrap();
    wait_until("every replica is used", || (0..3).all(|i| reached(run, &format!("orders-{i}")) > 0.0));

    // Without the last endpoint.
    let mut fewer: toml::Table = original.parse().unwrap();
    let clusters = fewer["cluster"].as_array_mut().unwrap();
    let orders = clusters.iter_mut().find(|c| c["name"].as_str() == Some("orders")).unwrap();
    let removed = orders["endpoints"].as_array_mut().unwrap().pop().unwrap();
    reload(run, &toml::to_string(&fewer).unwrap(), "applied");
    let (_, clusters) = page(run, "web", 15000, "/clusters").unwrap();
    assert!(!clusters.contains(removed.as_str().unwrap()), "{clusters}");
    // Requests that were under way when it was removed may still arrive.
    wait_for_requests(run, 20.0);
    let last = reached(run, "orders-2");
    wait_for_requests(run, 100.0);
    assert_eq!(reached(run, "orders-2"), last, "the removed endpoint got new requests");

    // A broken one changes nothing.
    let applied = reloads(run, "applied");
    reload(run, &original.replace("endpoints", "endpionts"), "rejected");
    wait_for_requests(run, 50.0);
    assert_eq!((reached(run, "orders-2"), reloads(run, "applied")), (last, applied));
    let log = std::fs::read_to_string(run.join("logs/web.sidecar.log")).unwrap();
    assert!(log.contains("the new configuration is not in force") && log.contains("endpionts"), "{log}");

    // And back: nothing is known of it, so the balancer tries it at once.
    reload(run, &original, "applied");
    wait_until("the endpoint is used again", || reached(run, "orders-2") > last);
    let (_, clusters) = page(run, "web", 15000, "/clusters").unwrap();
    assert!(clusters.contains(removed.as_str().unwrap()), "{clusters}");
    assert!(page(run, "web", HEALTH, "/ready").unwrap().0 == 200);
    lab.end(WITHIN)
}

#[test]
fn a_sidecar_takes_a_new_configuration_under_load_without_dropping_a_request() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let hello = std::fs::read_to_string(tests::scenario("hello")).unwrap();
    let hello = testbed.write("hello", &hello.replace("duration = \"5s\"", "duration = \"8s\""));
    let ended = conclusive(|| change_endpoints(testbed.start(&hello, &[])));
    // The verdict covers the conservation check too: every request crossed both sidecars, whatever
    // was changed.
    ended.expect(0);
    let results = ended.results(0);
    let checkout = load(&results, "checkout");
    assert_eq!(number(&checkout["requests"]), 1600.0);
    assert_eq!(checkout["ok"], checkout["requests"]);
}

/// Nobody calls but the test.
fn slow() -> ScenarioBuilder {
    let work = Duration::from_millis(800);
    Scenario::builder("one slow service")
        .duration(Duration::from_secs(60))
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("orders").http(8080, HttpSpec::default().work(work)))
        .load(LoadSpec::new("rare", "web", "http://orders:8080/", 1).set("rate", "0.05/s"))
        .expect(ExpectSpec::that(&["rare.requests > 0"]))
}

/// One request to `to` on a connection that is meant to be kept: the answer, and the connection.
fn ask(to: SocketAddr) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream.write_all(b"POST /slow HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap().to_lowercase();
    let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or_else(|| panic!("no length: {head}"))];
    stream.read_exact(&mut body).unwrap();
    (head, stream)
}

#[test]
fn a_sidecar_that_is_told_to_end_finishes_what_it_carries() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let slow = testbed.write("slow", &slow().to_toml());
    // The one beside the caller, and the one beside the app.
    for instance in ["web", "orders"] {
        let lab = testbed.start(&slow, &[]);
        let run = &lab.under_load();
        let plan: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(run.join("plan.json")).unwrap()).unwrap();
        let services = plan["services"].as_array().unwrap();
        let vip = text(&services.iter().find(|s| s["name"] == "orders").unwrap()["vip4"]);
        let to: SocketAddr = (vip.parse::<std::net::Ipv4Addr>().unwrap(), 8080).into();
        let sidecar = pid_of(run, &format!("{instance}/sidecar"));
        let before = reached(run, "orders");

        std::thread::scope(|threads| {
            let asking = threads.spawn(|| inside(run, "web", || ask(to)));
            wait_until("the app works on the request", || reached(run, "orders") > before);
            kill(Pid::from_raw(sidecar), Signal::SIGTERM).unwrap();
            // Until the process is gone its pages answer, even though it takes no more connections.
            let mut said = Vec::new();
            wait_until("it says that it drains", || {
                said.push(
                    page(run, instance, HEALTH, "/ready").map(|(status, body)| format!("{status} {body}")),
                );
                said.last().is_some_and(|s| s.as_ref().is_ok_and(|s| s.starts_with("503 draining")))
                    || said.last().is_some_and(Result::is_err)
            });
            let last = said.pop().unwrap();
            assert!(last.as_ref().is_ok_and(|s| s.starts_with("503 draining")), "{last:?} after {said:?}");
            let (answer, mut connection) = asking.join().unwrap();
            assert!(answer.starts_with("http/1.1 200"), "{answer}");
            assert!(answer.contains("x-served-by: orders"), "{answer}");
            // The sidecar that goes away does not keep its caller's connection.
            if instance == "web" {
                assert_eq!(connection.read(&mut [0]).unwrap(), 0);
            }
        });

        // A lab looks at its processes' ends each time that it samples.
        let name = format!("{instance}/sidecar");
        let mut how = String::new();
        wait_until("the end of the sidecar is noted", || {
            let events = events(run);
            let exit = events.iter().find(|e| e["kind"] == "exit" && e["subject"] == name.as_str());
            how = exit.map(|e| text(&e["detail"]).to_owned()).unwrap_or_default();
            !how.is_empty()
        });
        assert!(how.starts_with("exit status: 0"), "{how}");
        lab.signal(Signal::SIGINT);
        lab.end(Duration::from_secs(20)).expect(130);
    }
}
