//! The simulated network, seen from programs on it: interception, links, loss, cuts, and the death
//! of processes.

mod sim_kit;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use lab::fabric::LinkProfile;
use lab::fault::{Action, Crash, Impair, Kill, Pause, Refuse};
use lab::plan::{Plan, SidecarKind};
use lab::sim::{SimNet, SimWorld, Simulation, Who};
use lab::world::World as _;
use proxy::world::{Disk, Listener, Net, World};
use sim_kit::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn run<T, F>(plan: &Plan, seed: u64, drive: impl FnOnce(Rc<SimWorld>) -> F + 'static) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let run = Simulation::new(plan, seed, Kit).run(|world| async move {
        world.up().await.expect("up");
        let value = drive(world.clone()).await;
        world.down().await.expect("down");
        value
    });
    run.expect("the simulation ends").value
}

fn delayed(ms: u64) -> LinkProfile {
    LinkProfile { delay: MS * ms as u32, ..LinkProfile::default() }
}

/// Runs a client on `web`.
async fn on_web<T, F>(world: &SimWorld, f: impl FnOnce(World<SimNet>) -> F + 'static) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    world.inside(0, Who::Load, "client", f).await.expect("the client ends")
}

/// Sends a byte to the first replica's app and reads its echo: when the connection was open, and
/// when the echo was there.
async fn timed_exchange(net: &SimNet) -> io::Result<(Duration, Duration)> {
    let start = Instant::now();
    let mut io = net.connect(at(1), None).await?;
    let connected = start.elapsed();
    io.write_all(b"x").await?;
    io.read_u8().await?;
    Ok((connected, start.elapsed()))
}

#[test]
fn an_echo_crosses_both_sidecars_and_keeps_its_original_destination() {
    let run = Simulation::new(&plan(SidecarKind::Ours, 2), 1, Kit).trace(true).run(|world| async move {
        world.up().await.expect("up");
        on_web(&world, |world| async move { ask(&world.net, orders(), b"ping").await }).await
    });
    let run = run.expect("the simulation ends");
    assert_eq!(run.value.expect("an answer"), b"ping");
    let opened: Vec<&str> =
        run.trace.lines().iter().filter_map(|l| Some(l.split_once(" open ")?.1)).collect();
    let crossed = |from: &str, to: &str| opened.iter().any(|l| l.starts_with(from) && l.ends_with(to));
    assert!(crossed("web 10.77.0.2:", "web 127.0.0.1:15001 for 10.78.2.1:8080"), "{opened:#?}");
    assert!(crossed("web 10.77.0.2:", "orders-0 10.77.0.3:15006 for 10.77.0.3:8080"), "{opened:#?}");
    assert!(crossed("orders-0 127.0.0.6:", "orders-0 10.77.0.3:8080"), "{opened:#?}");
}

#[test]
fn without_sidecars_connections_spread_over_all_replicas_and_see_no_original_destination() {
    let counts = run(&plan(SidecarKind::None, 3), 1, |world| async move {
        for _ in 0..60 {
            on_web(&world, |world| async move { ask(&world.net, orders(), b"x").await })
                .await
                .expect("an answer");
        }
        let samples = lab::metrics::samples(world.metrics().await);
        let of = |to: usize| {
            let to = format!("orders-{to}");
            let packets = samples.iter().filter(|s| &*s.name == "link_packets_total");
            packets.filter(|s| s.labels.has("to", &to)).map(|s| s.value).sum::<f64>()
        };
        [of(0), of(1), of(2)]
    });
    assert!(counts.iter().all(|&packets| packets >= 30.0), "{counts:?}");
}

#[test]
fn a_delay_is_honoured_to_the_tick_each_way_and_by_the_handshake() {
    let mut plan = plan(SidecarKind::None, 1);
    plan.links = both(delayed(25));
    let times = run(&plan, 1, |world| async move {
        on_web(&world, |world| async move { timed_exchange(&world.net).await }).await
    });
    assert_eq!(times.expect("an answer"), (50 * MS, 100 * MS));
}

#[test]
fn a_server_that_speaks_first_waits_for_the_end_of_the_handshake() {
    let mut plan = plan(SidecarKind::None, 1);
    plan.links = both(delayed(10));
    let (accepted, heard) = run(&plan, 1, |world| async move {
        let server = world.clone();
        let listening = Instant::now();
        let accept = server.inside(1, Who::Tool, "greeter", |world| async move {
            let mut listener = world.net.bind("0.0.0.0:99".parse().expect("an address")).await?;
            let start = Instant::now();
            let (mut io, _) = listener.accept().await?;
            let waited = start.elapsed();
            io.write_all(b"g").await?;
            io::Result::Ok(waited)
        });
        let client = world.inside(0, Who::Load, "client", |world| async move {
            // The listener is there after at most one turn of its host.
            tokio::time::sleep(5 * MS).await;
            let start = Instant::now();
            let mut io = world.net.connect("10.77.0.3:99".parse().expect("an address"), None).await?;
            io.read_u8().await?;
            io::Result::Ok(start.elapsed())
        });
        let (accepted, heard) = tokio::join!(accept, client);
        assert!(listening.elapsed() >= 45 * MS);
        (accepted.expect("ends").expect("accepted"), heard.expect("ends").expect("greeted"))
    });
    assert_eq!(heard, 40 * MS, "two round trips");
    assert!((30 * MS..=36 * MS).contains(&accepted), "one and a half round trips, not {accepted:?}");
}

#[test]
fn loss_delays_by_retransmission_and_loses_no_byte() {
    let mut plan = plan(SidecarKind::None, 1);
    plan.links = both(LinkProfile { delay: 5 * MS, loss: 0.1, ..LinkProfile::default() });
    plan.duration = 600 * SECOND;
    let (answer, sent, slow) = run(&plan, 3, |world| async move {
        let bytes: Vec<u8> = (0..400_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        let sent = bytes.clone();
        let answer = on_web(&world, move |world| async move {
            let io = world.net.connect(at(1), None).await?;
            let (mut reader, mut writer) = tokio::io::split(io);
            let mut answer = Vec::new();
            let write = async {
                writer.write_all(&bytes).await?;
                writer.shutdown().await
            };
            tokio::try_join!(write, reader.read_to_end(&mut answer))?;
            io::Result::Ok(answer)
        })
        .await
        .expect("all of it");
        let slow = on_web(&world, |world| async move {
            let mut io = world.net.connect(at(1), None).await?;
            let mut slow = 0;
            for _ in 0..100 {
                let start = Instant::now();
                io.write_all(b"x").await?;
                io.read_u8().await?;
                let took = start.elapsed();
                // 10 ms of delay, and for each loss a timeout of 200 ms and a round trip.
                assert!(took == 10 * MS || took >= 210 * MS, "{took:?}");
                slow += u32::from(took > 10 * MS);
            }
            io::Result::Ok(slow)
        })
        .await
        .expect("all answers");
        (answer, sent, slow)
    });
    assert!(answer == sent, "{} of {} bytes arrived as sent", answer.len(), sent.len());
    assert!((5..=45).contains(&slow), "about 19 of 100 exchanges lose a segment, not {slow}");
}

#[test]
fn three_later_arrivals_repair_a_loss_without_a_time_out() {
    let mut plan = plan(SidecarKind::None, 1);
    plan.links = both(delayed(5));
    let took = run(&plan, 1, |world| async move {
        let cut =
            entry("cut", Action::Impair(Impair { links: both(LinkProfile { loss: 1.0, ..delayed(5) }) }));
        let (go, gone) = tokio::sync::oneshot::channel();
        let (tell, told) = tokio::sync::oneshot::channel();
        let client = world.inside(0, Who::Load, "client", |world| async move {
            let mut io = world.net.connect(at(1), None).await?;
            tell.send(()).expect("the driver listens");
            gone.await.expect("the driver cuts");
            io.write_all(b"lost").await?;
            // The link heals while this waits, well before the timeout.
            tokio::time::sleep(20 * MS).await;
            let start = Instant::now();
            for _ in 0..3 {
                io.write_all(b"fine").await?;
            }
            let mut answer = [0; 16];
            io.read_exact(&mut answer).await?;
            assert_eq!(&answer, b"lostfinefinefine");
            io::Result::Ok(start.elapsed())
        });
        let drive = async {
            told.await.expect("the client connects");
            world.apply(&cut).await.expect("applied");
            go.send(()).expect("the client listens");
            tokio::time::sleep(10 * MS).await;
            world.revert(&cut).await.expect("reverted");
        };
        tokio::join!(client, drive).0.expect("ends").expect("answers")
    });
    assert_eq!(took, 20 * MS, "a round trip until the loss is known, and one for the answer");
}

#[test]
fn a_cut_link_swallows_connections_and_healing_lets_the_next_syn_through() {
    let took = run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let cut = entry("cut", Action::Impair(Impair { links: both(LinkProfile::CUT) }));
        world.apply(&cut).await.expect("applied");
        let refused = on_web(&world, |world| async move {
            timeout(500 * MS, world.net.connect(at(1), None)).await.map(drop)
        });
        assert!(refused.await.is_err(), "a black hole does not answer");
        let connect = on_web(&world, |world| async move {
            let start = Instant::now();
            ask(&world.net, at(1), b"x").await.map(|_| start.elapsed())
        });
        let heal = async {
            tokio::time::sleep(1500 * MS).await;
            world.revert(&cut).await.expect("reverted");
            world.evidence(&cut).await
        };
        let (took, evidence) = tokio::join!(connect, heal);
        assert_eq!((evidence["packets"], evidence["lost_packets"]), (3.0, 3.0), "SYNs at 0, 0 and 1 s");
        took.expect("an answer")
    });
    assert!((3 * SECOND..=3 * SECOND + 4 * MS).contains(&took), "SYNs leave at 0, 1 and 3 s: {took:?}");
}

#[test]
fn a_machine_that_crashes_is_silent_and_answers_with_a_reset_when_it_is_back() {
    let (silent, told, again, evidence) = run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let crash =
            entry("crash", Action::Crash(Crash { processes: vec![app(1)], links: both(LinkProfile::CUT) }));
        let client = on_web(&world, |world| async move {
            let mut io = world.net.connect(at(1), None).await?;
            io.write_all(b"x").await?;
            io.read_u8().await?;
            // The machine crashes now, and is back two seconds later.
            let silent = timeout(SECOND, io.read_u8()).await.is_err();
            io.write_all(b"y").await?;
            let told = timeout(4 * SECOND, io.read_u8()).await;
            let again = ask(&world.net, at(1), b"z").await;
            io::Result::Ok((silent, told.map(|read| read.map_err(|e| e.kind())), again))
        });
        let drive = async {
            tokio::time::sleep(20 * MS).await;
            world.apply(&crash).await.expect("applied");
            tokio::time::sleep(2 * SECOND).await;
            world.revert(&crash).await.expect("reverted");
            world.evidence(&crash).await
        };
        let (client, evidence) = tokio::join!(client, drive);
        let (silent, told, again) = client.expect("the client ends");
        (silent, told, again, evidence)
    });
    assert!(silent, "nobody says that the machine is gone");
    assert_eq!(told, Ok(Err(ErrorKind::ConnectionReset)), "its new kernel does not know the connection");
    assert_eq!(again.expect("an answer"), b"z");
    assert_eq!((evidence["killed"], evidence["restarted"]), (1.0, 1.0));
    assert!(evidence["lost_packets"] >= 1.0);
}

#[test]
fn a_machine_that_crashes_loses_what_was_not_synced_and_a_process_that_is_killed_does_not() {
    let (killed, crashed) = run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let disk = world.disk(app(1));
        disk.append("journal", b"synced".to_vec()).await.expect("room");
        disk.sync("journal").await.expect("synced");
        disk.append("journal", b" and written".to_vec()).await.expect("room");
        let kill = entry("kill", Action::Kill(Kill { processes: vec![app(1)], hard: true }));
        let crash = Crash { processes: vec![app(1)], links: both(LinkProfile::CUT) };
        let crash = entry("crash", Action::Crash(crash));
        let mut found = Vec::new();
        for fault in [&kill, &crash] {
            world.apply(fault).await.expect("applied");
            world.revert(fault).await.expect("reverted");
            found.push(world.disk(app(1)).read("journal").await.expect("it is there"));
        }
        (found.remove(0), found.remove(0))
    });
    assert_eq!(killed, b"synced and written");
    assert_eq!(crashed, b"synced");
}

#[test]
fn a_port_that_refuses_resets_new_connections_and_keeps_the_old() {
    run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let refuse = entry("refuse", Action::Refuse(Refuse { processes: vec![app(1)] }));
        let client = on_web(&world, |world| async move {
            let mut io = world.net.connect(at(1), None).await?;
            tokio::time::sleep(50 * MS).await;
            let refused = world.net.connect(at(1), None).await.map(drop).map_err(|e| e.kind());
            assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
            io.write_all(b"x").await?;
            assert_eq!(io.read_u8().await?, b'x', "an open connection goes on");
            tokio::time::sleep(50 * MS).await;
            ask(&world.net, at(1), b"y").await
        });
        let drive = async {
            tokio::time::sleep(20 * MS).await;
            world.apply(&refuse).await.expect("applied");
            tokio::time::sleep(50 * MS).await;
            assert_eq!(world.evidence(&refuse).await["refused"], 1.0);
            world.revert(&refuse).await.expect("reverted");
            assert_eq!(world.evidence(&refuse).await["refused"], 1.0);
        };
        assert_eq!(tokio::join!(client, drive).0.expect("an answer"), b"y");
    });
}

#[test]
fn a_narrow_link_takes_the_time_that_its_bandwidth_says() {
    let mut plan = plan(SidecarKind::None, 1);
    let narrow = LinkProfile { bandwidth: 1_000_000, ..LinkProfile::default() };
    plan.links = both(narrow);
    let took = run(&plan, 1, |world| async move {
        on_web(&world, |world| async move {
            let mut io = world.net.connect(at(1), None).await?;
            let start = Instant::now();
            io.write_all(&[7; 50_000]).await?;
            io.read_exact(&mut [0; 50_000]).await?;
            io::Result::Ok(start.elapsed())
        })
        .await
        .expect("an answer")
    });
    // 52 kB with their headers are 418 ms at 1 Mbit/s, each way.
    assert!((830 * MS..880 * MS).contains(&took), "{took:?}");
}

#[test]
fn an_established_connection_survives_a_cut_link() {
    let took = run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let cut = entry("cut", Action::Impair(Impair { links: both(LinkProfile::CUT) }));
        let client = on_web(&world, |world| async move {
            let mut io = world.net.connect(at(1), None).await?;
            tokio::time::sleep(10 * MS).await;
            let start = Instant::now();
            for n in 0..50_u8 {
                io.write_all(&[n]).await?;
            }
            for n in 0..50_u8 {
                assert_eq!(io.read_u8().await?, n);
            }
            io::Result::Ok(start.elapsed())
        });
        let drive = async {
            tokio::time::sleep(5 * MS).await;
            world.apply(&cut).await.expect("applied");
            tokio::time::sleep(SECOND).await;
            world.revert(&cut).await.expect("reverted");
        };
        tokio::join!(client, drive).0.expect("all bytes")
    });
    // Retransmissions at 0.2, 0.6 and 1.4 s.
    assert!((1400 * MS..=1410 * MS).contains(&took), "{took:?}");
}

#[test]
fn a_connection_into_a_link_that_stays_cut_times_out_like_linux() {
    let mut plan = plan(SidecarKind::None, 1);
    plan.links = both(LinkProfile::CUT);
    plan.duration = 200 * SECOND;
    let (kind, took) = run(&plan, 1, |world| async move {
        on_web(&world, |world| async move {
            let start = Instant::now();
            let error = world.net.connect(at(1), None).await.map(drop).expect_err("nobody answers");
            (error.kind(), start.elapsed())
        })
        .await
    });
    assert_eq!((kind, took), (ErrorKind::TimedOut, 127 * SECOND));
}

#[test]
fn after_a_kill_peers_see_the_end_new_connections_are_refused_and_a_restart_serves_again() {
    run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let kill = entry("kill", Action::Kill(Kill { processes: vec![app(1)], hard: true }));
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let client = world.inside(0, Who::Load, "client", |world| async move {
            let mut io = world.net.connect(at(1), None).await.expect("connects");
            io.write_all(b"x").await.expect("writes");
            io.read_u8().await.expect("an echo");
            ready.send(()).expect("the driver waits");
            let end = io.read(&mut [0]).await.expect("an orderly end");
            let first = io.write(b"y").await.map(drop);
            tokio::time::sleep(2 * MS).await;
            let second = io.write(b"z").await.map(drop);
            let refused = world.net.connect(at(1), None).await.map(drop);
            (end, first.map_err(|e| e.kind()), second.map_err(|e| e.kind()), refused.map_err(|e| e.kind()))
        });
        let drive = async {
            is_ready.await.expect("the client is ready");
            world.apply(&kill).await.expect("applied");
        };
        let (seen, ()) = tokio::join!(client, drive);
        let seen = seen.expect("ends");
        assert_eq!(seen, (0, Ok(()), Err(ErrorKind::BrokenPipe), Err(ErrorKind::ConnectionRefused)));
        world.revert(&kill).await.expect("restarted");
        let answer = on_web(&world, |world| async move { ask(&world.net, at(1), b"again").await }).await;
        assert_eq!(answer.expect("served"), b"again");
        let evidence = world.evidence(&kill).await;
        assert_eq!((evidence["killed"], evidence["restarted"]), (1.0, 1.0));
    });
}

#[test]
fn a_process_that_dies_with_unread_bytes_resets_its_peer_after_the_links_delay() {
    let mut plan = plan(SidecarKind::None, 1);
    plan.links = both(delayed(30));
    let (kind, took) = run(&plan, 1, |world| async move {
        let server = world.inside(1, Who::Tool, "deaf", |world| async move {
            let mut listener = world.net.bind("0.0.0.0:99".parse().expect("an address")).await.expect("free");
            let (mut io, _) = listener.accept().await.expect("accepted");
            // The first byte is here, so the second is too: it ends with that one unread.
            io.read_u8().await.expect("a byte");
        });
        let client = world.inside(0, Who::Load, "client", |world| async move {
            tokio::time::sleep(5 * MS).await;
            let mut io =
                world.net.connect("10.77.0.3:99".parse().expect("an address"), None).await.expect("connects");
            let start = Instant::now();
            io.write_all(b"ab").await.expect("written");
            let error = io.read(&mut [0]).await.expect_err("reset");
            (error.kind(), start.elapsed())
        });
        let (server, client) = tokio::join!(server, client);
        server.expect("ends");
        client.expect("ends")
    });
    assert_eq!((kind, took), (ErrorKind::ConnectionReset, 60 * MS));
}

#[test]
fn bytes_written_before_a_kill_still_arrive() {
    let mut plan = plan(SidecarKind::None, 1);
    plan.links = both(delayed(100));
    let got = run(&plan, 1, |world| async move {
        let server = world.inside(1, Who::Tool, "last-words", |world| async move {
            let mut listener = world.net.bind("0.0.0.0:99".parse().expect("an address")).await.expect("free");
            let (mut io, _) = listener.accept().await.expect("accepted");
            io.write_all(b"last words").await.expect("written");
        });
        let client = world.inside(0, Who::Load, "client", |world| async move {
            tokio::time::sleep(5 * MS).await;
            let mut io =
                world.net.connect("10.77.0.3:99".parse().expect("an address"), None).await.expect("connects");
            let mut got = String::new();
            io.read_to_string(&mut got).await.map(|_| got)
        });
        let (server, client) = tokio::join!(server, client);
        server.expect("ends");
        client.expect("ends")
    });
    assert_eq!(got.expect("an orderly end"), "last words");
}

#[test]
fn a_stopped_process_gets_connections_from_its_backlog_and_answers_when_it_goes_on() {
    run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let pause = entry("pause", Action::Pause(Pause { processes: vec![app(1)] }));
        world.apply(&pause).await.expect("applied");
        let client = on_web(&world, |world| async move { timed_exchange(&world.net).await });
        let drive = async {
            tokio::time::sleep(SECOND).await;
            world.revert(&pause).await.expect("reverted");
        };
        let (connected, answered) = tokio::join!(client, drive).0.expect("an answer");
        assert_eq!(connected, Duration::ZERO, "the kernel completes the handshake");
        assert!((SECOND - 5 * MS..=SECOND + 5 * MS).contains(&answered), "{answered:?}");
        let evidence = world.evidence(&pause).await;
        assert_eq!((evidence["stopped"], evidence["continued"]), (1.0, 1.0));
    });
}

#[test]
fn a_writer_waits_when_nobody_reads_and_goes_on_when_somebody_does() {
    run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let server = world.inside(1, Who::Tool, "slow", |world| async move {
            let mut listener = world.net.bind("0.0.0.0:99".parse().expect("an address")).await.expect("free");
            let (mut io, _) = listener.accept().await.expect("accepted");
            tokio::time::sleep(SECOND).await;
            let mut all = Vec::new();
            io.read_to_end(&mut all).await
        });
        let client = world.inside(0, Who::Load, "client", |world| async move {
            tokio::time::sleep(5 * MS).await;
            let mut io =
                world.net.connect("10.77.0.3:99".parse().expect("an address"), None).await.expect("connects");
            let mut free = 0;
            while let Ok(n) = timeout(10 * MS, io.write(&[7; 10_000])).await {
                free += n.expect("written");
            }
            io.write_all(&[7; 500_000]).await.expect("goes on");
            free
        });
        let (read, free) = tokio::join!(server, client);
        let (read, free) = (read.expect("ends").expect("read"), free.expect("ends"));
        assert_eq!((free, read), (256 * 1024, 256 * 1024 + 500_000));
    });
}

#[test]
fn one_half_of_a_connection_may_end_before_the_other() {
    run(&plan(SidecarKind::Ours, 1), 1, |world| async move {
        let answer = on_web(&world, |world| async move {
            let mut io = world.net.connect(orders(), None).await?;
            io.write_all(b"question").await?;
            io.shutdown().await?;
            assert_eq!(io.write(b"more").await.expect_err("ended").kind(), ErrorKind::BrokenPipe);
            let mut answer = String::new();
            io.read_to_string(&mut answer).await?;
            io::Result::Ok(answer)
        });
        assert_eq!(answer.await.expect("an answer"), "question");
    });
}

#[test]
fn a_port_belongs_to_one_process_at_a_time() {
    run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let taken = world.inside(1, Who::Tool, "second", |world| async move {
            let any = |port| -> SocketAddr { format!("0.0.0.0:{port}").parse().expect("an address") };
            let taken = world.net.bind(any(PORT)).await.map(drop).expect_err("the app has it").kind();
            let first = world.net.bind(any(99)).await.expect("free");
            let again = world.net.bind(any(99)).await.map(drop);
            let chosen = world.net.bind(any(0)).await.expect("free").local_addr().expect("an address").port();
            let elsewhere = world.net.bind(at(0)).await.map(drop).expect_err("not its address").kind();
            drop(first);
            (taken, again.is_ok(), chosen > 0, elsewhere)
        });
        let expected = (ErrorKind::AddrInUse, true, true, ErrorKind::AddrNotAvailable);
        assert_eq!(taken.await.expect("ends"), expected, "workers of one process may share a port");
    });
}

#[test]
fn the_wall_clock_starts_at_the_epoch_and_follows_virtual_time() {
    run(&plan(SidecarKind::None, 1), 1, |world| async move {
        let begun = world.elapsed();
        let (before, after) = on_web(&world, |world| async move {
            let before = world.wall.now();
            tokio::time::sleep(3600 * MS).await;
            (before, world.wall.now())
        })
        .await;
        assert_eq!(after.duration_since(before).expect("forward"), 3600 * MS);
        let start = std::time::SystemTime::UNIX_EPOCH + lab::sim::EPOCH;
        let since = before.duration_since(start).expect("after the epoch");
        assert!(since >= begun && since <= begun + 2 * MS, "{since:?}");
        assert_eq!(lab::sim::EPOCH.as_secs() % 86_400, 0, "midnight");
    });
}
