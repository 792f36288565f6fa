//! Faults: what each of them does to real processes and links, and what it leaves.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use lab::fabric::LinkProfile;
use lab::fault::{Action, Crash, Kill, Pause, Refuse};
use lab::mesh::{Link, ProcessId, Role};
use lab::world::World;

use super::testbed::*;

#[tokio::test]
async fn a_killed_app_is_gone_until_it_is_started_again() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("kill");
    let (world, events) = bench.world(plan(bench.helper("helper_app")), bench.script("exit 1"));
    world.up().await.unwrap();
    let app = ProcessId { instance: 1, role: Role::App };
    let at = SocketAddr::from(([10, 20, 0, 2], 8080));
    for (name, hard) in [("hard", true), ("soft", false)] {
        let kill = entry(name, Action::Kill(Kill { processes: vec![app], hard }));
        let before = world.pid(app).unwrap();
        world.apply(&kill).await.unwrap();
        assert!(!Path::new(&format!("/proc/{before}")).exists());
        assert_eq!(dial(&world, 0, at).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(world.evidence(&kill).await["killed"], 1.0);

        world.revert(&kill).await.unwrap();
        assert_ne!(world.pid(app).unwrap(), before);
        assert_eq!(dial(&world, 0, at).await.unwrap(), "orders-1");
        assert_eq!(world.evidence(&kill).await["restarted"], 1.0);
    }
    let starts = metric(
        &lab::metrics::samples(world.metrics().await),
        "process_starts_total",
        ("process", "orders-1/app"),
    );
    assert_eq!(starts, 3.0);
    let exits: Vec<_> = events.events().into_iter().filter(|e| e.kind == "exit").collect();
    assert_eq!(exits.len(), 2, "{exits:?}");
    assert!(exits[0].detail.contains("SIGKILL") && exits[0].detail.contains("as asked"), "{exits:?}");
    assert!(exits[1].detail.contains("SIGTERM"), "{exits:?}");

    // One that ended by itself was not killed by a later fault.
    let pid = nix::unistd::Pid::from_raw(world.pid(app).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("its death is noticed", || world.pid(app).is_none()).await;
    let late = entry("late", Action::Kill(Kill { processes: vec![app], hard: true }));
    world.apply(&late).await.unwrap();
    assert_eq!(world.evidence(&late).await.get("killed"), None);
    let last = events.events().into_iter().rfind(|e| e.kind == "exit").unwrap();
    assert!(last.detail.contains("by itself"), "{last:?}");

    world.down().await.unwrap();
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[tokio::test]
async fn a_paused_app_is_stopped_and_answers_once_it_goes_on() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("pause");
    let (world, _) = bench.world(plan(bench.helper("helper_app")), bench.script("exit 1"));
    world.up().await.unwrap();
    let app = ProcessId { instance: 1, role: Role::App };
    let pause = entry("pause", Action::Pause(Pause { processes: vec![app] }));
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.pid(app).unwrap())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    world.apply(&pause).await.unwrap();
    assert_eq!(state(), 'T');
    // The kernel accepts the connection for it; the answer comes when it goes on.
    let at = SocketAddr::from(([10, 20, 0, 2], 8080));
    let (answer, reverted) = tokio::join!(dial(&world, 0, at), world.revert(&pause));
    reverted.unwrap();
    assert_eq!(answer.unwrap(), "orders-1");
    assert_ne!(state(), 'T');
    let evidence = world.evidence(&pause).await;
    assert_eq!((evidence["stopped"], evidence["continued"]), (1.0, 1.0));

    // A world that is taken down with a paused process must not leave it.
    world.apply(&pause).await.unwrap();
    world.down().await.unwrap();
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[tokio::test]
async fn a_port_that_refuses_resets_new_connections_until_it_is_told_not_to() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("refuse");
    let (world, _) = bench.world(plan(bench.helper("helper_app")), bench.script("exit 1"));
    world.up().await.unwrap();
    let app = ProcessId { instance: 1, role: Role::App };
    let at = SocketAddr::from(([10, 20, 0, 2], 8080));
    let refuse = entry("refuse", Action::Refuse(Refuse { processes: vec![app] }));
    for round in 1..=2 {
        world.apply(&refuse).await.unwrap();
        assert_eq!(dial(&world, 0, at).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(world.evidence(&refuse).await["refused"], f64::from(round));
        world.revert(&refuse).await.unwrap();
        assert_eq!(dial(&world, 0, at).await.unwrap(), "orders-1");
        assert_eq!(world.evidence(&refuse).await["refused"], f64::from(round));
    }
    world.down().await.unwrap();
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}

#[tokio::test]
async fn a_machine_that_crashes_tells_nobody_and_is_back_without_its_connections() {
    if !can_run() {
        return;
    }
    let bench = Testbed::new("crash");
    let mut plan = plan(bench.helper("helper_app"));
    let cut = |from, to| Link { from, to, profile: LinkProfile::CUT };
    let crash = Action::Crash(Crash {
        processes: vec![ProcessId { instance: 1, role: Role::App }],
        links: vec![cut(0, 1), cut(1, 0), cut(1, 2), cut(2, 1)],
    });
    plan.timeline = vec![entry("crash", crash)];
    let crash = plan.timeline[0].clone();
    let (world, _) = bench.world(plan, bench.script("exit 1"));
    world.up().await.unwrap();
    let at = SocketAddr::from(([10, 20, 0, 2], 8080));
    world.apply(&crash).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(700), dial(&world, 0, at)).await;
    assert!(silent.is_err(), "a machine without power does not answer: {silent:?}");
    world.revert(&crash).await.unwrap();
    assert_eq!(dial(&world, 0, at).await.unwrap(), "orders-1");
    let evidence = world.evidence(&crash).await;
    assert_eq!((evidence["killed"], evidence["restarted"]), (1.0, 1.0));
    assert!(evidence["lost_packets"] >= 1.0, "{evidence:?}");
    world.down().await.unwrap();
    assert_eq!(bench.left_behind(), Vec::<String>::new());
}
