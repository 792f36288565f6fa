//! Small plans and small programs, so that the simulator is tested without the proxy.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use lab::app::{APP_METRICS_PORT, AppKind, AppSpec, LineServer};
use lab::fabric::LinkProfile;
use lab::load::{CallKind, Load, LoadJob, LoadTimes, Outcome, Record, Target, TcpCall};
use lab::mesh::{Link, ProcessId, Role};
use lab::plan::*;
use lab::sim::{Main, Programs, SimIo, SimNet, Term};
use proxy::world::{Listener, Net, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

#[path = "../plans/mod.rs"]
mod plans;

pub use plans::entry;

pub const PORT: u16 = 8080;

/// `web`, which only calls, and `orders` with some replicas that run a TCP app.
pub fn plan(sidecar: SidecarKind, replicas: usize) -> Plan {
    let instance = |index: usize, name: String, service: usize| {
        let app = (service == 1).then(|| AppSpec {
            instance: name.clone(),
            port: PORT,
            kind: AppKind::Tcp(LineServer { greeting: String::new() }),
        });
        Instance {
            app,
            sidecar: (sidecar == SidecarKind::Ours)
                .then(|| (1..=replicas).map(|i| format!("{}\n", v4(i))).collect()),
            name,
            service,
            v4: v4(index),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, index as u16 + 2),
            mac: [2, 0, 0, 0, 0, index as u8],
            zone: None,
            weight: None,
            labels: Default::default(),
            identity: None,
        }
    };
    let service = |name: &str, n: u8, port, instances| {
        let vips = (Ipv4Addr::new(10, 78, n, 1), Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, n.into()));
        plans::service(name, vips, port, instances)
    };
    let mut instances = vec![instance(0, "web".into(), 0)];
    instances.extend((0..replicas).map(|n| instance(n + 1, format!("orders-{n}"), 1)));
    Plan {
        name: "test".into(),
        seed: 1,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(60),
        sidecar,
        services: vec![
            service("web", 1, None, vec![0]),
            service("orders", 2, Some(PORT), (1..=replicas).collect()),
        ],
        instances,
        authorities: Vec::new(),
        certificates: Vec::new(),
        captures: Vec::new(),
        links: Vec::new(),
        loads: vec![load(100.0)],
        timeline: Vec::new(),
        expectations: Vec::new(),
        left_out: 0,
    }
}

fn v4(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, index as u8 + 2)
}

pub fn load(rate: f64) -> Load {
    let target = Target { host: "orders".into(), port: PORT, call: CallKind::Tcp(TcpCall {}) };
    Load { name: "calls".into(), from: 0, target, rate, timeout: Duration::from_secs(1), part: None, seed: 1 }
}

pub fn orders() -> SocketAddr {
    "10.78.2.1:8080".parse().expect("an address")
}

/// The instance at this position, on its own address.
pub fn at(index: usize) -> SocketAddr {
    SocketAddr::new(v4(index).into(), PORT)
}

/// Both directions between `web` and the first replica.
pub fn both(profile: LinkProfile) -> Vec<Link> {
    vec![Link { from: 0, to: 1, profile }, Link { from: 1, to: 0, profile }]
}

pub fn app(instance: usize) -> ProcessId {
    ProcessId { instance, role: Role::App }
}

/// The app echoes bytes; the sidecar forwards by the original
/// destination; the load generator sends one line a connection.
#[derive(Clone, Default)]
pub struct Kit;

impl Programs for Kit {
    fn app(&self, world: World<SimNet>, spec: AppSpec) -> Main {
        Box::pin(async move {
            let listener = world.net.bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), spec.port)).await?;
            let metrics =
                world.net.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), APP_METRICS_PORT)).await?;
            pages(&world.net, metrics, "/metrics", "app_up{instance=\"x\"} 1\n");
            serve(&world.net, listener, |_, mut io, _| async move {
                let mut bytes = vec![0; 64 * 1024];
                loop {
                    match io.read(&mut bytes).await? {
                        0 => return io.shutdown().await,
                        n => io.write_all(&bytes[..n]).await?,
                    }
                }
            })
            .await
        })
    }

    fn sidecar(&self, world: World<SimNet>, config: watch::Receiver<String>, term: Term) -> Main {
        Box::pin(async move {
            let any = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            let outbound = world.net.bind(any(OUTBOUND_PORT)).await?;
            let inbound = world.net.bind(any(INBOUND_PORT)).await?;
            let health = world.net.bind(any(HEALTH_PORT)).await?;
            let metrics = world.net.bind(any(METRICS_PORT)).await?;
            pages(&world.net, health, "/ready", "ready");
            pages(&world.net, metrics, "/metrics", "proxy_up 1\n");
            // Replicas in turn.
            let replicas: Vec<IpAddr> =
                config.borrow().lines().map(|l| l.parse().expect("an address")).collect();
            let turn = Rc::new(std::cell::Cell::new(0));
            let net = world.net.clone();
            world.net.spawn("inbound", async move {
                let _ = serve(&net, inbound, |net: SimNet, mut io, _| async move {
                    let to = net.orig_dst(&mut io).await.ok_or(io::ErrorKind::InvalidInput)?;
                    let from: IpAddr = "127.0.0.6".parse().expect("an address");
                    forward(io, net.connect(to, Some(from)).await?).await
                })
                .await;
            });
            let net = world.net.clone();
            world.net.spawn("outbound", async move {
                let _ = serve(&net, outbound, move |net: SimNet, mut io, _| {
                    let (replicas, turn) = (replicas.clone(), turn.clone());
                    async move {
                        let mut to = net.orig_dst(&mut io).await.ok_or(io::ErrorKind::InvalidInput)?;
                        if to == orders() {
                            to.set_ip(replicas[turn.replace(turn.get() + 1) % replicas.len()]);
                        }
                        forward(io, net.connect(to, None).await?).await
                    }
                })
                .await;
            });
            term.wait().await;
            Ok(())
        })
    }

    fn load(&self, world: World<SimNet>, job: LoadJob) -> Main {
        Box::pin(async move {
            let LoadJob { load, address, times: LoadTimes { t0, end }, sink } = job;
            let mut due = t0;
            while due < end {
                tokio::time::sleep_until(due).await;
                let late = due.elapsed();
                let asked = tokio::time::timeout(load.timeout, ask(&world.net, address, b"hello")).await;
                let outcome = match asked {
                    Ok(Ok(answer)) if answer == b"hello" => Outcome::Ok,
                    Ok(Ok(_)) => Outcome::Mismatch,
                    Ok(Err(_)) => Outcome::Connect,
                    Err(_) => Outcome::Timeout,
                };
                sink(Record {
                    due_us: due.duration_since(t0).as_micros() as i64,
                    latency_us: due.elapsed().as_micros() as u64,
                    late_us: late.as_micros() as u64,
                    outcome,
                });
                due += Duration::from_secs_f64(1.0 / load.rate);
            }
            Ok(())
        })
    }
}

/// Accepts for ever; each connection is a task.
pub async fn serve<F>(
    net: &SimNet,
    mut listener: <SimNet as Net>::Listener,
    each: impl Fn(SimNet, SimIo, SocketAddr) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + 'static,
{
    loop {
        let (io, peer) = listener.accept().await?;
        let task = each(net.clone(), io, peer);
        net.spawn("connection", async move {
            // The peer sees the end of the connection.
            let _ = task.await;
        });
    }
}

async fn forward(mut a: SimIo, mut b: SimIo) -> io::Result<()> {
    tokio::io::copy_bidirectional(&mut a, &mut b).await.map(drop)
}

fn pages(net: &SimNet, listener: <SimNet as Net>::Listener, path: &'static str, text: &'static str) {
    let task = net.clone();
    net.spawn("pages", async move {
        let _ = serve(&task, listener, move |_, mut io, _| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(io.read_u8().await?);
            }
            let status =
                if head.starts_with(format!("GET {path} ").as_bytes()) { "200 OK" } else { "404 No" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            io.write_all(answer.as_bytes()).await
        })
        .await;
    });
}

/// Sends bytes on a connection of its own and returns everything that comes back.
pub async fn ask(net: &SimNet, to: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut io = net.connect(to, None).await?;
    io.write_all(bytes).await?;
    io.shutdown().await?;
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await?;
    Ok(answer)
}
