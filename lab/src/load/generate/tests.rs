//! The generator, mostly on a network in memory with a virtual clock, where every latency is exact.

use std::cell::RefCell;
use std::net::SocketAddr;

use proxy::world::{KernelNet, Listener, RngTree, SystemWall};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use super::*;
use crate::app::{self, AppKind, AppSpec, HttpEcho, LineServer, RegistryData};
use crate::load::memory::{MemoryListener, MemoryNet};
use crate::load::{CallKind, HttpCall, Load, LoadJob, LoadTimes, RecordSink, Target, TcpCall};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

fn world<N: Net>(net: N) -> World<N> {
    World::new(net, SystemWall, RngTree::new(1))
}

fn load(rate: f64, timeout_ms: u64, target: Target) -> Load {
    let timeout = Duration::from_millis(timeout_ms);
    Load { name: "calls".into(), from: 0, target, rate, timeout, part: None, seed: 1 }
}

fn http(path: &str, body: u32) -> Target {
    let method = if body == 0 { "GET" } else { "POST" }.to_owned();
    let call =
        HttpCall { path: path.into(), method, body, headers: Default::default(), read_delay: Duration::ZERO };
    target(CallKind::Http(call))
}

fn tcp() -> Target {
    target(CallKind::Tcp(TcpCall {}))
}

fn target(call: CallKind) -> Target {
    Target { host: "orders".into(), port: 8080, call }
}

/// The records of `load` for `ms` from now, in the order of their due times.
async fn records<N: Net>(net: N, load: Load, address: SocketAddr, ms: u64) -> Vec<Record> {
    let records = Rc::new(RefCell::new(Vec::new()));
    let sink: RecordSink = {
        let records = records.clone();
        Rc::new(move |record| records.borrow_mut().push(record))
    };
    let t0 = Instant::now();
    let times = LoadTimes { t0, end: t0 + Duration::from_millis(ms) };
    generate(world(net), LoadJob { load, address, times, sink }).await.unwrap();
    let mut records = records.take();
    records.sort_by_key(|r| r.due_us);
    records
}

/// Serves each connection of a network in memory with `each`.
async fn server<F: Future<Output = ()> + 'static>(
    net: &MemoryNet,
    each: impl Fn(tokio::io::DuplexStream) -> F + 'static,
) {
    let mut listener: MemoryListener = net.bind(SERVER).await.unwrap();
    let spawner = net.clone();
    net.spawn("server", async move {
        while let Ok((io, _)) = listener.accept().await {
            spawner.spawn("connection", each(io));
        }
    });
}

/// A server that accepts and never answers.
async fn silent(io: tokio::io::DuplexStream) {
    std::future::pending::<()>().await;
    drop(io);
}

/// Starts a built-in app on a network in memory.
async fn app(net: &MemoryNet, kind: AppKind) {
    let listener = net.bind(SERVER).await.unwrap();
    let metrics = net.bind(SocketAddr::new(SERVER.ip(), 9100)).await.unwrap();
    let spec = AppSpec { instance: "orders".into(), port: 8080, kind };
    let world = world(net.clone());
    net.spawn("app", async move {
        app::serve_on(world, spec, RegistryData::default(), listener, metrics).await.unwrap()
    });
}

fn outcomes(records: &[Record]) -> Vec<Outcome> {
    let mut all: Vec<Outcome> = records.iter().map(|r| r.outcome.clone()).collect();
    all.dedup();
    all
}

#[tokio::test(start_paused = true)]
async fn every_request_that_is_due_during_a_stall_shows_the_rest_of_it() {
    let test = async {
        let net = MemoryNet::default();
        let t0 = Instant::now();
        let (stall, over) = (t0 + Duration::from_millis(200), t0 + Duration::from_millis(500));
        // Answers at once, but not between 200 ms and 500 ms.
        server(&net, move |mut io| async move {
            let mut buffer = [0; 4096];
            while io.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                if Instant::now() >= stall {
                    tokio::time::sleep_until(over).await;
                }
                if io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
        })
        .await;
        records(net, load(100.0, 1_000, http("/", 0)), SERVER, 1_000).await
    };
    let records = LocalSet::new().run_until(test).await;
    assert_eq!(records.len(), 100);
    assert_eq!(outcomes(&records), [Outcome::Ok]);
    for r in records {
        let expected = if (200_000..500_000).contains(&r.due_us) { 500_000 - r.due_us as u64 } else { 0 };
        // The clock moves in steps of a millisecond.
        assert!(r.latency_us.abs_diff(expected) <= 1_000, "due at {} us: {} us", r.due_us, r.latency_us);
        assert!(r.late_us <= 1_000, "the stall delayed the sending of the request due at {} us", r.due_us);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_due_on_the_grid_of_t0_from_now_until_the_end() {
    let test = async {
        let net = MemoryNet::default();
        app(&net, AppKind::Http(HttpEcho { size: 10, ..HttpEcho::default() })).await;
        let due = Rc::new(RefCell::new(Vec::new()));
        let sink: RecordSink = {
            let due = due.clone();
            Rc::new(move |record| due.borrow_mut().push(record.due_us))
        };
        // Now lies 25 ms before t0 and between two points of the grid.
        let t0 = Instant::now() + Duration::from_millis(25);
        let load = load(100.0, 1_000, http("/", 0));
        let times = LoadTimes { t0, end: t0 + Duration::from_millis(40) };
        generate(world(net), LoadJob { load, address: SERVER, times, sink }).await.unwrap();
        due.take()
    };
    assert_eq!(LocalSet::new().run_until(test).await, [-20_000, -10_000, 0, 10_000, 20_000, 30_000]);
}

#[test]
fn due_times_do_not_drift() {
    let base = Duration::from_secs(1_000);
    let start = LocalSet::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    start.block_on(&runtime, async move {
        let t0 = Instant::now() + base;
        let schedule = SendSchedule::new(t0, 3.0).unwrap();
        assert_eq!(schedule.due(3_000_000).at, t0 + Duration::from_secs(1_000_000));
        assert_eq!(schedule.due(-3).at, t0 - Duration::from_secs(1));
        assert_eq!(schedule.due(-1).us, -333_334);
        for k in -10..10 {
            assert_eq!(schedule.first(schedule.due(k).at), k);
            assert_eq!(schedule.first(schedule.due(k).at + Duration::from_nanos(1)), k + 1);
        }
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(SendSchedule::new(t0, rate).is_err(), "{rate}");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn each_way_to_fail_has_its_outcome() {
    let mid_body = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".as_slice();
    let other = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-lab-request: calls 999\r\n\r\n".as_slice();
    let garbage = b"220 mail.example ESMTP\r\n\r\n".as_slice();
    for (answer, hang, target, expected) in [
        (b"".as_slice(), false, http("/", 0), Outcome::Reset),
        (b"".as_slice(), true, http("/", 0), Outcome::Timeout),
        (mid_body, false, http("/", 0), Outcome::Reset),
        (mid_body, true, http("/", 0), Outcome::Timeout),
        (other, true, http("/", 0), Outcome::Mismatch),
        (garbage, true, http("/", 0), Outcome::Mismatch),
        (b"".as_slice(), false, tcp(), Outcome::Reset),
        (b"hello\n".as_slice(), false, tcp(), Outcome::Reset),
        (b"hello\n".as_slice(), true, tcp(), Outcome::Timeout),
        (b"hello\nsomething else\n".as_slice(), true, tcp(), Outcome::Mismatch),
    ] {
        let case = format!("{} hang={hang} {target:?}", String::from_utf8_lossy(answer));
        let test = async {
            let net = MemoryNet::default();
            server(&net, move |mut io| async move {
                // A client that speaks first is heard first.
                if !answer.starts_with(b"hello") && (!answer.is_empty() || !hang) {
                    let _ = tokio::time::timeout(Duration::from_millis(5), io.read(&mut [0; 4096])).await;
                }
                let _ = io.write_all(answer).await;
                if hang {
                    std::future::pending::<()>().await;
                }
            })
            .await;
            records(net, load(100.0, 50, target), SERVER, 30).await
        };
        let records = LocalSet::new().run_until(test).await;
        assert_eq!(records.len(), 3, "{case}");
        assert_eq!(outcomes(&records), [expected], "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_refuses_is_a_failed_connect() {
    for target in [http("/", 0), tcp()] {
        let test = records(MemoryNet::default(), load(100.0, 50, target), SERVER, 30);
        let records = LocalSet::new().run_until(test).await;
        assert_eq!(outcomes(&records), [Outcome::Connect]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_counted_when_it_expires() {
    let test = async {
        let net = MemoryNet::default();
        server(&net, silent).await;
        records(net, load(10.0, 70, http("/", 0)), SERVER, 200).await
    };
    let records = LocalSet::new().run_until(test).await;
    assert_eq!(outcomes(&records), [Outcome::Timeout]);
    assert!(records.iter().all(|r| (70_000..=72_000).contains(&r.latency_us)), "{records:?}");
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_on_requests_under_way_they_are_dropped_and_said_so() {
    let test = async {
        let net = MemoryNet::default();
        server(&net, silent).await;
        records(net, load(100_000.0, 10_000, tcp()), SERVER, 150).await
    };
    let records = LocalSet::new().run_until(test).await;
    assert_eq!(records.len(), 15_000);
    let dropped = records.iter().filter(|r| r.outcome == Outcome::Dropped).count();
    assert_eq!(dropped, 15_000 - MAX_IN_FLIGHT);
    assert!(records[..MAX_IN_FLIGHT].iter().all(|r| r.outcome == Outcome::Timeout));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_reused_until_it_has_been_idle_for_too_long() {
    for (rate, expected) in [(10.0, 1), (0.4, 4)] {
        let test = async {
            let net = MemoryNet::default();
            let accepted = Rc::new(Cell::new(0));
            let counter = accepted.clone();
            server(&net, move |mut io| {
                counter.set(counter.get() + 1);
                async move {
                    while io.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {
                        let _ = io.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                    }
                }
            })
            .await;
            let records = records(net, load(rate, 1_000, http("/", 0)), SERVER, 10_000).await;
            assert_eq!(outcomes(&records), [Outcome::Ok]);
            accepted.get()
        };
        assert_eq!(LocalSet::new().run_until(test).await, expected, "at {rate}/s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_after_each_answer_costs_connections_and_no_errors() {
    let test = async {
        let net = MemoryNet::default();
        server(&net, |mut io| async move {
            let _ = io.read(&mut [0; 4096]).await;
            // No `connection: close`: the client learns it from the end of the stream.
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        })
        .await;
        records(net, load(100.0, 1_000, http("/", 0)), SERVER, 500).await
    };
    assert_eq!(outcomes(&LocalSet::new().run_until(test).await), [Outcome::Ok]);
}

#[tokio::test]
async fn the_generator_and_the_apps_understand_each_other_on_the_kernel() {
    let echo = |size| AppKind::Http(HttpEcho { size, ..HttpEcho::default() });
    for (kind, target, expected) in [
        (echo(0), http("/", 0), Outcome::Ok),
        (echo(100_000), http("/pay?x=1", 100_000), Outcome::Ok),
        (echo(128), http("/status/503", 0), Outcome::Status(503)),
        (AppKind::Tcp(LineServer { greeting: "hello".into() }), tcp(), Outcome::Ok),
    ] {
        let test = async {
            let net = KernelNet::default();
            let any = SocketAddr::new(SERVER.ip(), 0);
            let (listener, metrics) = (net.bind(any).await.unwrap(), net.bind(any).await.unwrap());
            let at = listener.local_addr().unwrap();
            let spec = AppSpec { instance: "orders".into(), port: at.port(), kind };
            let world = world(net.clone());
            net.spawn("app", async move {
                app::serve_on(world, spec, RegistryData::default(), listener, metrics).await.unwrap()
            });
            records(net, load(500.0, 5_000, target), at, 200).await
        };
        let records = LocalSet::new().run_until(test).await;
        assert_eq!(outcomes(&records), [expected]);
        // Some may already have been overdue when it began; from then on none is missing.
        let due: Vec<i64> = records.iter().map(|r| r.due_us).collect();
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 2_000), "{due:?}");
        assert_eq!(due.last(), Some(&198_000));
    }
}
