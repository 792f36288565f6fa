//! A whole sidecar on ports of its own: how it drains, and what its own pages stand.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use proxy::app::serve_and_reload;
use proxy::config::Snapshot;
use proxy::world::{RngTree, SystemWall, World};
use tokio::sync::{Notify, mpsc};

use crate::common::{SERVICE, TestNet, Wire, app, cluster, run, spawn, until};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\n\r\n";

/// A sidecar that runs, before an app that answers `/last` at once and everything else only when it
/// is told to.
struct Sidecar {
    ports: [u16; 5],
    release: Rc<Notify>,
    stop: Rc<Notify>,
    ended: Rc<Notify>,
    reload: mpsc::UnboundedSender<String>,
    config: Box<dyn Fn(&str) -> String>,
}

impl Sidecar {
    async fn start(more: &str) -> Sidecar {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let release = Rc::new(Notify::new());
        let go = release.clone();
        let app = app(move |_, mut wire| {
            let go = go.clone();
            async move {
                while let Some(request) = wire.request().await {
                    if !request.head.contains("/last") {
                        go.notified().await;
                    }
                    wire.send(OK).await;
                }
            }
        })
        .await;
        // Below the range from which the kernel gives out ports, and apart from another run of
        // these tests.
        let first =
            10_000 + 20 * (std::process::id() % 400) as u16 + 5 * NEXT.fetch_add(1, Ordering::Relaxed);
        let ports = [0, 1, 2, 3, 4].map(|n| first + n);
        let [out, into, admin, metrics, health] = ports;
        let listen = format!(
            "listen = {{ outbound = {out}, inbound = {into}, admin = {admin}, metrics = {metrics}, health = {health} }}"
        );
        let config = Box::new(move |more: &str| cluster("http", &[app], &format!("{listen}\n{more}")));
        let parsed = |text: &str| -> Snapshot { proxy::config::parse("a", text).unwrap() };
        let (stop, ended) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (reload, mut texts) = mpsc::unbounded_channel::<String>();
        let (stopped, end, snapshot) = (stop.clone(), ended.clone(), parsed(&config(more)));
        spawn(async move {
            let world = World::new(TestNet::to(SERVICE), SystemWall, RngTree::new(1));
            let next = async || match texts.recv().await {
                Some(text) => parsed(&text),
                None => std::future::pending().await,
            };
            serve_and_reload(world, snapshot, next, async move { stopped.notified().await }).await.unwrap();
            end.notify_one();
        });
        let sidecar = Sidecar { ports, release, stop, ended, reload, config };
        until("it listens", || std::net::TcpStream::connect(local(health)).is_ok()).await;
        sidecar
    }

    /// A connection to one of its ports.
    async fn dial(&self, port: usize) -> Wire {
        Wire::connect(local(self.ports[port])).await
    }

    /// Puts another configuration in force.
    async fn reload(&self, more: &str) {
        self.reload.send((self.config)(more)).unwrap();
        let mut pages = self.dial(METRICS).await;
        let applied = "proxy_config_reloads_total{result=\"applied\"} 1";
        while !pages.get("/metrics").await.text().contains(applied) {}
    }

    /// Tells it to end, and waits until it says that it drains.
    async fn stop(&self) {
        self.stop.notify_one();
        let mut probe = self.dial(HEALTH).await;
        while probe.get("/ready").await.text() != "draining\n" {}
    }
}

const OUTBOUND: usize = 0;
const ADMIN: usize = 2;
const METRICS: usize = 3;
const HEALTH: usize = 4;

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn the_way_out_takes_connections_until_the_end_of_a_drain() {
    run(async {
        let sidecar = Sidecar::start("timeouts.drain_min = '0s'").await;
        let mut client = sidecar.dial(OUTBOUND).await;
        client.send(GET).await;
        let mut pages = sidecar.dial(ADMIN).await;
        while !pages.page("/clusters").await.text().contains("pending 1") {}
        sidecar.stop().await;
        // The app goes on to work and asks for more. Once the drain has come to it, each answer
        // says that it is the last one.
        let mut told = 0;
        while told < 3 {
            let answer = sidecar.dial(OUTBOUND).await.ask(LAST).await;
            assert_eq!(answer.text(), "ok");
            let last = answer.header("connection").as_deref() == Some("close");
            assert!(last || told == 0);
            told += u32::from(last);
        }
        sidecar.release.notify_one();
        assert_eq!(client.response(false).await.text(), "ok");
        sidecar.ended.notified().await;
    });
}

#[test]
fn a_drain_takes_as_long_as_the_configuration_in_force_says() {
    run(async {
        let sidecar = Sidecar::start("timeouts = { drain_min = '1h', drain = '1h' }").await;
        let mut client = sidecar.dial(OUTBOUND).await;
        client.send(GET).await;
        sidecar.reload("timeouts = { drain_min = '10ms', drain = '10ms' }").await;
        sidecar.stop.notify_one();
        // The request is never answered, so what ends it is the deadline.
        sidecar.ended.notified().await;
    });
}

#[test]
fn connections_that_do_nothing_keep_nobody_from_the_sidecars_own_pages() {
    run(async {
        let sidecar = Sidecar::start("limits.admin_connections = 3").await;
        for (port, path) in [(ADMIN, "/clusters"), (METRICS, "/metrics"), (HEALTH, "/live")] {
            let mut idle = Vec::new();
            for _ in 0..10 {
                idle.push(sidecar.dial(port).await);
            }
            let mut page = sidecar.dial(port).await;
            assert_eq!(page.page(path).await.status(), 200);
            for mut gone in idle.drain(..8) {
                gone.closed().await;
            }
            assert_eq!(page.page(path).await.status(), 200);
            assert_eq!(idle[1].page(path).await.status(), 200, "one that is not in the way stays");
        }
    });
}
