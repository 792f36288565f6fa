//! How connections end, on the kernel: the table of `ends` through two sidecars, as real processes
//! behind real rules.

mod ends;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use ends::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy::world::{KernelNet, Listener, Net};
use tests::testbed::{Testbed, inside, pid_of, text};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;

const EXE: &str = env!("CARGO_BIN_EXE_lab-under-test");
const SCENARIO: &str = include_str!("ends/scenario.toml");
/// The app of a service is killed as soon as the mesh is up, so that the test can stand in for it.
const KILLS: &str = "
[[timeline]]
at = \"0s\"
kill = { process = \"raw/app\" }

[[timeline]]
at = \"0s\"
kill = { process = \"site/app\" }
";

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(future)
}

/// Stands in for the app of an instance until it is told to stop. The port is free once the app has
/// been killed.
async fn stand_in(stage: Stage, port: u16, mut stop: watch::Receiver<bool>) {
    let net = KernelNet::default();
    let serve = async {
        let mut listener = loop {
            match net.bind((Ipv4Addr::UNSPECIFIED, port).into()).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        loop {
            let (io, _) = listener.accept().await.expect("a connection");
            stage.serve(io).await;
        }
    };
    tokio::select! {
        () = serve => {}
        _ = stop.changed() => {}
    }
}

type Dialling = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// Opens connections to a service, which takes some once its app has been replaced.
fn dials(run: &Path, service: &str) -> impl Fn() -> Dialling + use<> {
    let plan = std::fs::read_to_string(run.join("plan.json")).expect("a plan");
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("a plan");
    let found = plan["services"].as_array().expect("services").iter().find(|s| s["name"] == service);
    let found = found.expect("the service");
    let ip: Ipv4Addr = text(&found["vip4"]).parse().expect("an address");
    let port = found["port"].as_u64().expect("a port") as u16;
    let to = SocketAddr::from((ip, port));
    move || Box::pin(async move { KernelNet::default().connect(to, None).await })
}

/// Waits until the stand-in is the one that answers.
async fn until_replaced(stage: &Stage, dials: &impl Fn() -> Dialling) {
    for _ in 0..600 {
        let heard = stage.play(dials(), &[Finish, Rest], &[Say("here")]).await;
        if matches!(&heard[0], Ok(Some((text, _))) if text == "here") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the stand-in is never asked");
}

#[test]
fn every_connection_ends_through_real_sidecars_as_the_table_says() {
    let Some(testbed) = Testbed::new(EXE) else { return };
    let lab = testbed.start(&testbed.write("ends", &format!("{SCENARIO}{KILLS}")), &[]);
    let at = &lab.up();
    let (stop, stopped) = watch::channel(false);
    let (raw, site) = (Stage::default(), Stage::default());
    let bulk = 2 << 20;
    let wrong = std::thread::scope(|threads| {
        for (stage, name, port) in [(&raw, "raw", 7000), (&site, "site", 8080)] {
            let (stage, stopped) = (stage.clone(), stopped.clone());
            threads.spawn(move || inside(at, name, || run(stand_in(stage, port, stopped))));
        }
        let wrong = inside(at, "web", || {
            run(async {
                let (to_raw, to_site) = (dials(at, "raw"), dials(at, "site"));
                until_replaced(&raw, &to_raw).await;
                let mut wrong = opaque_rows(&raw, &to_raw, &[], &[]).await;
                let (client, server) = ([Bulk(bulk), Swallow(bulk)], [Swallow(bulk), Bulk(bulk)]);
                let spliced = opaque_rows(&raw, &to_raw, &client, &server).await;
                wrong.extend(spliced.into_iter().map(|row| format!("spliced, {row}")));
                wrong.extend(http_rows(&site, &to_site, false).await);
                wrong.extend(tunnel_rows(&site, &to_site).await);
                // A drain is over after half a second, and this connection is not.
                let heard = raw.play(to_raw(), &[Say("half"), Rest], &[Hear("half"), Rest]);
                let drain = async {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    kill(Pid::from_raw(pid_of(at, "web/sidecar")), Signal::SIGTERM).expect("a sidecar");
                };
                let (heard, ()) = tokio::join!(heard, drain);
                if !same(&heard, [Some(("", Reset)), Some(("", Reset))]) {
                    wrong.push(format!("the end of a drain: {heard:?}"));
                }
                wrong
            })
        });
        let _ = stop.send(true);
        wrong
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    lab.signal(Signal::SIGINT);
    // A sidecar has ended, which is no success of the run.
    assert!(lab.ends_within(Duration::from_secs(20)));
}
