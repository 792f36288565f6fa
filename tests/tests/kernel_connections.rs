//! Many connections through one sidecar, as a real process: ten thousand that are kept and say
//! nothing, and a thousand that each have a request under way. All are held, and when they close
//! nothing is left: no gauge, no descriptor, and the memory is the system's again.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use lab::scenario::Scenario;
use lab::scenario::builder::{HttpSpec, ScenarioBuilder, ServiceSpec};
use nix::sys::signal::Signal;
use proxy::world::raise_nofile;
use tests::testbed::{Testbed, WITHIN, counter, inside, pid_of, text, wait_until};

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");
const METRICS: u16 = 15020;
const IDLE: usize = 10_000;
const ACTIVE: usize = 1_000;
/// Clients that ask at a time when idle connections are opened: fewer than any queue on the way
/// holds. In batches, because a sidecar closes a connection on which nothing has been asked for 30
/// s.
const BATCH: usize = 500;

/// Nobody calls but the test. A request to `slow` is under way long enough for a thousand to be at
/// once.
fn scenario() -> ScenarioBuilder {
    Scenario::builder("many connections")
        .warmup(Duration::from_millis(1))
        .duration(Duration::from_secs(600))
        .service(ServiceSpec::new("web"))
        .service(ServiceSpec::new("quick").http(8080, HttpSpec::default()))
        .service(ServiceSpec::new("slow").http(8080, HttpSpec::default().work(Duration::from_secs(3))))
}

/// A client's connection.
struct Client(TcpStream);

impl Client {
    fn connect(to: SocketAddr) -> Client {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        Client(stream)
    }

    fn send(&mut self) {
        self.0.write_all(b"GET / HTTP/1.1\r\nhost: it\r\n\r\n").unwrap();
    }

    /// Reads an answer to its end, which is known by its length.
    fn receive(&mut self) {
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let read = self.0.read(&mut piece).unwrap();
            assert!(read > 0, "closed: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
            let Some(head) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
            assert!(text.starts_with("http/1.1 200"), "{text}");
            let length = text.split_once("content-length: ").expect("a length").1.lines().next().unwrap();
            if answer.len() >= head + 4 + length.trim().parse::<usize>().unwrap() {
                return;
            }
        }
    }
}

/// Where apps find a service.
fn virtual_address(run: &Path, service: &str) -> SocketAddr {
    let plan = std::fs::read_to_string(run.join("plan.json")).unwrap();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let services = plan["services"].as_array().unwrap();
    let found = services.iter().find(|s| s["name"] == service).unwrap();
    (text(&found["vip4"]).parse::<Ipv4Addr>().unwrap(), 8080).into()
}

/// Opens [`IDLE`] connections and asks one request on each.
fn open_idle(run: &Path, to: SocketAddr) -> Vec<Client> {
    inside(run, "web", || {
        let mut clients: Vec<_> = Vec::new();
        while clients.len() < IDLE {
            let mut batch: Vec<_> = (0..BATCH).map(|_| Client::connect(to)).collect();
            batch.iter_mut().for_each(Client::send);
            batch.iter_mut().for_each(Client::receive);
            clients.append(&mut batch);
        }
        clients
    })
}

/// Resident memory of a process, KiB.
fn resident(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process with memory");
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn files(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Open files when nothing comes and goes any more: the scrape that found the sidecar at rest has a
/// connection of its own.
fn settled_files(pid: i32) -> usize {
    let mut last = 0;
    wait_until("no file is opened or closed", || {
        let before = std::mem::replace(&mut last, files(pid));
        before == last
    });
    last
}

#[test]
fn ten_thousand_idle_and_a_thousand_active_connections_are_held_and_leave_nothing_behind() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let descriptors = raise_nofile().unwrap();
    // One direction may take somewhat more than two thirds of them, and who is active takes two.
    if descriptors < ((IDLE + 2 * ACTIVE) * 3 / 2) as u64 {
        eprintln!("skipped: {descriptors} file descriptors are too few");
        return;
    }
    let lab = testbed.start(&testbed.write("many", &scenario().to_toml()), &[]);
    let run = &lab.up();
    let sidecar = pid_of(run, "web/sidecar");
    let (quick, slow) = (virtual_address(run, "quick"), virtual_address(run, "slow"));
    let gauge = |name: &str, labels: &[(&str, &str)]| counter(run, "web", METRICS, name, labels);
    // Everything that is made with the first request is made.
    inside(run, "web", || {
        let mut client = Client::connect(quick);
        client.send();
        client.receive();
    });
    let nothing_left = || {
        [
            "proxy_connections_open",
            "proxy_load_connections",
            "proxy_load_requests",
            "proxy_requests_waiting",
            "proxy_upstream_connections_open",
            "proxy_endpoint_connections_open",
            "proxy_endpoint_connections_idle",
            "proxy_endpoint_requests_pending",
            "proxy_endpoint_requests_waiting",
        ]
        .iter()
        .all(|name| gauge(name, &[]) == 0.0)
    };
    wait_until("the sidecar is at rest", nothing_left);
    let (before, files_before) = (resident(sidecar), settled_files(sidecar));

    let idle = open_idle(run, quick);
    let on_quick = [("cluster", "quick")];
    wait_until("its connections to the app are closed", || {
        gauge("proxy_endpoint_connections_open", &on_quick) == 0.0
    });
    assert_eq!(gauge("proxy_connections_open", &[("side", "outbound")]), IDLE as f64);
    let with_idle = resident(sidecar);
    let each = (with_idle - before) as f64 / IDLE as f64;
    println!("{IDLE} idle connections: {before} KiB before, {with_idle} KiB with them, {each:.1} KiB each");

    let mut active: Vec<_> =
        inside(run, "web", || (0..ACTIVE).map(|_| Client::connect(slow)).collect::<Vec<_>>());
    active.iter_mut().for_each(Client::send);
    wait_until("all are under way", || {
        gauge("proxy_endpoint_requests_pending", &[("cluster", "slow")]) == ACTIVE as f64
    });
    assert_eq!(gauge("proxy_connections_open", &[("side", "outbound")]), (IDLE + ACTIVE) as f64);
    let most = resident(sidecar);
    println!("{ACTIVE} active connections beside them: {most} KiB");
    active.iter_mut().for_each(Client::receive);
    assert_eq!(gauge("proxy_errors_total", &[]), 0.0);

    drop((idle, active));
    wait_until("nothing is counted any more", nothing_left);
    wait_until("as few files are open as before", || files(sidecar) <= files_before);
    let mut after = 0;
    let returned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until("the memory is given back", || {
            after = resident(sidecar);
            (after - before) * 5 < most - before
        });
    }));
    println!("after they have closed: {after} KiB of {most} KiB");
    assert!(returned.is_ok(), "{before} KiB before, {most} KiB at most, {after} KiB after");
    lab.signal(Signal::SIGINT);
    lab.end(Duration::from_secs(20)).expect(130);
}
