//! The kernel world on real namespaces: what it brings up works, what it breaks breaks, what it
//! leaves is nothing.
//!
//! Needs root and iptables; elsewhere each test says that it was skipped, or fails if
//! LAB_REQUIRE_KERNEL=1. The apps, the stand-in for a sidecar and the lab that gets killed are this
//! test binary itself, started again with one of the helpers at the end as its only job; in a
//! normal run a helper finds nobody to help and ends at once.

mod faults;
mod identity;
mod testbed;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lab::events::EventLog;
use lab::fabric::LinkProfile;
use lab::fault::{Action, Impair};
use lab::kernel::{Backend, KernelWorld, Options, cleanup, doctor};
use lab::load::{CallKind, Load, LoadTimes, Outcome, Record, Target, TcpCall};
use lab::mesh::{Link, ProcessId, Role};
use lab::plan::{Plan, SidecarKind};
use lab::world::{Error, World};
use tokio::time::Instant;

use testbed::*;

#[tokio::test]
async fn a_virtual_address_reaches_every_replica_in_both_families_and_nothing_is_left() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("dnat");
    let (world, events) = bench.world(plan(bench.helper("helper_app")), bench.script("exit 1"));
    world.up().await.unwrap();

    let vips: [IpAddr; 2] = ["10.96.0.2".parse().unwrap(), "fd96::2".parse().unwrap()];
    for vip in vips {
        let mut seen = BTreeSet::new();
        // One of two replicas is missed by chance once in 2^63 runs.
        for _ in 0..64 {
            seen.insert(dial(&world, 0, (vip, 8080).into()).await.unwrap());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["orders-1", "orders-2"], "{vip}");
    }
    for direct in ["10.20.0.2".parse::<IpAddr>().unwrap(), "fd20::2".parse().unwrap()] {
        assert_eq!(dial(&world, 0, (direct, 8080).into()).await.unwrap(), "orders-1");
    }
    // A replica that calls its own service may reach itself.
    let own = dial(&world, 1, (vips[0], 8080).into()).await.unwrap();
    assert!(own.starts_with("orders-"), "{own}");

    let resolved =
        world.node(0).unwrap().probe(|| ("orders", 8080).to_socket_addrs().map(|a| a.collect::<Vec<_>>()));
    let resolved: BTreeSet<IpAddr> = resolved.await.unwrap().unwrap().iter().map(SocketAddr::ip).collect();
    assert_eq!(resolved, vips.into_iter().collect());

    let mut redirected = 0.0;
    for _ in 0..3 {
        let samples = lab::metrics::samples(world.metrics().await);
        redirected = f64::max(redirected, metric(&samples, "iptables_redirected_total", ("instance", "web")));
        assert_eq!(metric(&samples, "process_starts_total", ("process", "orders-1/app")), 1.0);
    }
    assert!(redirected >= 128.0, "128 connections and the self-test's, but {redirected} were counted");

    let settings = events.events().into_iter().find(|e| e.kind == "sysctl").unwrap().detail;
    assert!(settings.contains("net.ipv4.conf.all.rp_filter=0"), "{settings}");
    for at in ["10.20.0.3:7070", "[fd20::3]:7070"] {
        let at: SocketAddr = at.parse().unwrap();
        let listener = world.node(2).unwrap().run(move || TcpListener::bind(at)).unwrap().unwrap();
        let client = world.node(0).unwrap().run(move || TcpStream::connect(at)).unwrap().unwrap();
        let (server, _) = listener.accept().unwrap();
        for socket in [client, server] {
            let control = socket2::SockRef::from(&socket).tcp_congestion().unwrap();
            assert!(control.starts_with(b"cubic"), "{at}: {}", String::from_utf8_lossy(&control));
        }
    }
    let fidelity = world.fidelity().await;
    assert_eq!(fidelity.link_backend, "bridge");
    assert!(fidelity.packets > 256, "{fidelity:?}");

    let pids: Vec<i32> = world.plan().processes().map(|p| world.pid(p).unwrap()).collect();
    world.down().await.unwrap();
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} still exists");
    }
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[tokio::test]
async fn a_bridge_refuses_what_it_cannot_do_and_dropping_the_world_is_enough() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("drop");
    let options = Options {
        run_id: bench.run_id.clone(),
        run_dir: bench.dir.path().join("run"),
        backend: Some(Backend::Bridge),
        exe: bench.script("exit 1"),
        events: EventLog::new(std::time::SystemTime::UNIX_EPOCH),
    };
    let world = KernelWorld::new(plan(bench.helper("helper_app")), options).unwrap();
    world.up().await.unwrap();
    assert!(!bench.left_behind().is_empty(), "the check for what is left must see a world that is up");
    let cut = entry(
        "cut",
        Action::Impair(Impair { links: vec![Link { from: 0, to: 1, profile: LinkProfile::CUT }] }),
    );
    let error = world.apply(&cut).await.unwrap_err().to_string();
    assert!(error.contains("from web to orders-1") && error.contains("bridge"), "{error}");
    let pid = world.pid(ProcessId { instance: 2, role: Role::App }).unwrap();
    drop(world);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[tokio::test]
async fn an_app_that_dies_at_once_is_named_with_the_tail_of_its_log() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("words");
    let command = ["/bin/sh", "-c", "echo no database; id -u >&2; exit 3"].map(str::to_owned).to_vec();
    let (world, _) = bench.world(plan(command), bench.script("exit 1"));
    let error = world.up().await.unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("orders-") && error.contains("/app ended before it was ready"), "{error}");
    assert!(error.contains("exit status: 3"), "{error}");
    assert!(error.contains("no database") && error.contains("2000"), "{error}");
    drop(world);
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[tokio::test]
async fn a_load_hands_over_its_records_and_a_failed_one_says_why() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("load");
    let exe = bench.script(
        r#"[ "$1" = __load ] && [ "$2" = --spec ] && [ "$4" = --start ] && [ "$6" = --until ] || exit 9
case "$3" in
*'"good"'*)
    [ $(( $7 - $5 )) -gt 400000000 ] && [ $(( $7 - $5 )) -lt 600000000 ] || exit 8
    echo '-5 10 1 ok'
    echo '7 20 2 503';;
*) echo "no route to the moon" >&2; exit 4;;
esac"#,
    );
    let (world, _) = bench.world(plan(bench.helper("helper_app")), exe);
    world.up().await.unwrap();
    let load = |name: &str| Load {
        name: name.into(),
        from: 0,
        target: Target { host: "orders".into(), port: 8080, call: CallKind::Tcp(TcpCall {}) },
        rate: 1.0,
        timeout: Duration::from_secs(1),
        part: None,
        seed: 1,
    };
    let records: Rc<RefCell<Vec<Record>>> = Rc::default();
    let sink = {
        let records = records.clone();
        Rc::new(move |r| records.borrow_mut().push(r))
    };
    let t0 = Instant::now();
    let end = t0 + Duration::from_millis(500);
    world.load(&load("good"), LoadTimes { t0, end }, sink.clone()).await.unwrap();
    let records = records.borrow().clone();
    assert_eq!(records.iter().map(|r| r.due_us).collect::<Vec<_>>(), [-5, 7]);
    assert_eq!(records[1].outcome, Outcome::Status(503));

    let error = world.load(&load("bad"), LoadTimes { t0, end }, sink).await.unwrap_err().to_string();
    assert!(error.contains("load bad") && error.contains("no route to the moon"), "{error}");
    world.down().await.unwrap();
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

/// The plan with a stand-in for a sidecar in every instance, and what starts it.
fn with_sidecars(bench: &Testbed, config: &str) -> (Plan, PathBuf) {
    let mut plan = plan(bench.helper("helper_app"));
    plan.sidecar = SidecarKind::Ours;
    for instance in &mut plan.instances {
        instance.sidecar = Some(config.to_owned());
    }
    let script = format!(
        "[ \"$1\" = __sidecar ] && [ \"$2\" = --config ] || exit 9\nSIDECAR=$(cat \"$3\") exec {}",
        bench.helper("helper_sidecar").join(" ")
    );
    let exe = bench.script(&script);
    (plan, exe)
}

/// What is said to a process of the sidecar's user that dials `to`.
async fn dial_as_sidecar(world: &KernelWorld, from: usize, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let script = format!("exec 3<>/dev/tcp/{}/{}; cat <&3", to.ip(), to.port());
    let ran = world
        .node(from)
        .unwrap()
        .call(move || Command::new("bash").args(["-c", &script]).uid(1337).gid(1337).output());
    String::from_utf8(ran.await.unwrap().unwrap().stdout).unwrap()
}

#[tokio::test]
async fn with_sidecars_both_directions_are_redirected_but_not_the_sidecars_own() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("sidecar");
    let (plan, exe) = with_sidecars(&bench, "counts");
    let (world, events) = bench.world(plan, exe);
    world.up().await.unwrap();
    let proven = events.events().into_iter().find(|e| e.kind == "intercept").unwrap();
    assert!(proven.detail.contains("2 connections"), "{proven:?}");

    // The stand-in says which of its ports took the connection.
    for to in ["10.96.0.2", "fd96::2", "10.20.0.2", "fd20::2"] {
        let to: IpAddr = to.parse().unwrap();
        assert_eq!(dial(&world, 0, (to, 8080).into()).await.unwrap(), "outbound of web", "{to}");
    }
    assert_eq!(dial_as_sidecar(&world, 0, "10.20.0.2:8080").await, "inbound of orders-1");
    // A sidecar that dials its own instance by address must come in through its own front door.
    assert_eq!(dial_as_sidecar(&world, 1, "10.20.0.2:8080").await, "inbound of orders-1");
    // By loopback it reaches the app itself.
    assert_eq!(dial_as_sidecar(&world, 1, "127.0.0.1:8080").await, "orders-1");

    let mut inbound = 0.0;
    for _ in 0..3 {
        let samples = lab::metrics::samples(world.metrics().await);
        let ours = samples.iter().find(|s| &*s.name == "proxy_connections_total").unwrap();
        assert_eq!((ours.labels.has("side", "outbound"), &*ours.process), (true, "web/sidecar"));
        inbound = samples.iter().filter(|s| s.labels.has("direction", "inbound")).map(|s| s.value).sum();
    }
    assert_eq!(inbound, 2.0);
    world.down().await.unwrap();
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[tokio::test]
async fn a_sidecar_that_does_not_see_its_connections_fails_the_self_test() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("blind");
    let (plan, exe) = with_sidecars(&bench, "blind");
    let (world, _) = bench.world(plan, exe);
    let error = world.up().await.unwrap_err().to_string();
    assert!(error.contains("2 connections from web were redirected, but its sidecar counts 0"), "{error}");
    drop(world);
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[tokio::test]
async fn after_a_lab_was_killed_the_next_one_clears_everything_away() {
    if !can_run() {
        return;
    }
    let mut bench = Testbed::new("killed");
    let mut lab = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_lab", "--nocapture"])
        .env(VICTIM, bench.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    bench.run_id = format!("test-victim-{}", lab.id());
    let mut lines = BufReader::new(lab.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids = lines.find_map(|l| l.split_once("UP ").map(|(_, p)| p.to_owned()));
    let pids = pids.expect("the victim came up");
    let pids: Vec<i32> = pids.split(' ').map(|p| p.parse().unwrap()).collect();
    cleanup::sweep();
    assert!(Path::new(&format!("/proc/{}", pids[0])).exists(), "a sweep must spare a run that lives");
    assert!(!bench.left_behind().is_empty(), "a sweep must spare a run that lives");

    lab.kill().unwrap();
    lab.wait().unwrap();
    for pid in pids {
        // A zombie that init has not reaped yet is dead, too.
        let stat = PathBuf::from(format!("/proc/{pid}/stat"));
        let dead = || std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "));
        wait_until("apps die with their lab", dead).await;
    }
    let left = cleanup::sweep().left;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[test]
fn the_doctor_finds_nothing_missing_where_the_other_tests_run() {
    if !can_run() {
        return;
    }
    let checks = doctor::doctor();
    let table = doctor::table(&checks);
    assert!(checks.iter().all(|c| c.state != doctor::State::Missing), "{table}");
    assert!(checks.iter().any(|c| c.name == "redirect IPv6"), "{table}");
}

fn dual_stack(port: u16) -> TcpListener {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()
}

/// An app for the other tests.
#[test]
fn helper_app() {
    let (Ok(name), Ok(port)) = (std::env::var("LAB_INSTANCE"), std::env::var("PORT")) else { return };
    for stream in dual_stack(port.parse().unwrap()).incoming() {
        // The caller may be gone already.
        let _ = stream.and_then(|mut s| s.write_all(name.as_bytes()));
    }
}

/// A stand-in for a sidecar for the other tests.
#[test]
fn helper_sidecar() {
    let (Ok(name), Ok(kind)) = (std::env::var("LAB_INSTANCE"), std::env::var("SIDECAR")) else { return };
    let seen = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for (side, port) in [("outbound", 15001), ("inbound", 15006)] {
            let (seen, name, counts) = (&seen, &name, kind == "counts" && side == "outbound");
            threads.spawn(move || {
                for stream in dual_stack(port).incoming() {
                    if counts {
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    let _ = stream.and_then(|mut s| write!(s, "{side} of {name}"));
                }
            });
        }
        for port in [15020, 15021] {
            let seen = &seen;
            threads.spawn(move || {
                for stream in dual_stack(port).incoming() {
                    let Ok(mut stream) = stream else { continue };
                    // The whole request first: closing with unread bytes would reset the
                    // connection.
                    let mut request = BufReader::new(&stream).lines().map_while(Result::ok);
                    while request.next().is_some_and(|l| !l.is_empty()) {}
                    let seen = seen.load(Ordering::Relaxed);
                    let body = format!("proxy_connections_total{{side=\"outbound\"}} {seen}\n");
                    let length = body.len();
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                }
            });
        }
    });
}

/// A lab for another test to kill.
#[tokio::test]
async fn helper_lab() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let bench = Testbed::new("victim");
    let (world, _) = bench.world(plan(bench.helper("helper_app")), bench.script("exit 1"));
    world.up().await.unwrap();
    let pids: Vec<String> = world.plan().processes().map(|p| world.pid(p).unwrap().to_string()).collect();
    println!("UP {}", pids.join(" "));
    std::future::pending::<()>().await;
}
