//! How the end of a connection crosses two sidecars: the table of `docs/sidecar.md`. Each row is
//! played directly and through the sidecars; where the two differ, the page says why. The same
//! table is played in the simulator and on the kernel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::config::defaults::READ_AHEAD;
use proxy::world::{KernelNet, Net};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{SERVICE, Side, TestNet, app, cluster, inbound, nobody, outbound, pair, run, until};
use crate::table::*;

/// A server that does as it is told, and its address.
async fn staged() -> (Stage, SocketAddr) {
    let stage = Stage::default();
    let part = stage.clone();
    let at = app(move |_, wire| {
        let part = part.clone();
        async move { part.serve(wire.io).await }
    })
    .await;
    (stage, at)
}

/// Opens connections to an address.
fn to(at: SocketAddr) -> impl Fn() -> Dialling {
    move || Box::pin(async move { KernelNet::default().connect(at, None).await })
}

type Dialling = std::pin::Pin<Box<dyn Future<Output = std::io::Result<TcpStream>>>>;

/// Nothing went wrong.
fn right(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two sidecars between a client and `server`, which speaks what nobody declared but that it is
/// TCP.
async fn opaque(server: SocketAddr, splices: bool) -> (Side, Side) {
    let net = |to: &str| if splices { TestNet::to(to).splicing() } else { TestNet::to(to) };
    let far = format!("service = 'orders'\nopaque_ports = [{}]", server.port());
    let far = inbound(net(&server.to_string()), &far).await;
    let near = outbound(net(SERVICE).redirect(server, far.at), &cluster("tcp", &[server], "")).await;
    (near, far)
}

/// Enough to be spliced.
const BULK: usize = 2 << 20;

#[test]
fn every_end_of_an_opaque_connection_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let (stage, server) = staged().await;
        right(opaque_rows(&stage, to(server), &[], &[]).await);
        let (near, far) = opaque(server, false).await;
        right(opaque_rows(&stage, to(near.at), &[], &[]).await);
        near.at_rest().await;
        far.at_rest().await;
        assert_eq!(near.count("proxy_tcp_bytes_spliced_total", &[]), 0);
    });
}

#[test]
fn every_end_of_a_spliced_connection_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let (stage, server) = staged().await;
        let (near, far) = opaque(server, true).await;
        let bulk = ([Bulk(BULK), Swallow(BULK)], [Swallow(BULK), Bulk(BULK)]);
        right(opaque_rows(&stage, to(near.at), &bulk.0, &bulk.1).await);
        near.at_rest().await;
        far.at_rest().await;
        assert!(near.count("proxy_tcp_bytes_spliced_total", &[]) > BULK as u64);
    });
}

#[test]
fn a_connection_that_a_limit_cuts_is_reset_on_both_sides_and_so_is_one_that_nobody_takes() {
    run(async {
        let (stage, server) = staged().await;
        let net = TestNet::to(SERVICE);
        for (limit, client) in [("tcp_idle", &[Rest][..]), ("half_close", &[Finish, Rest, Meet])] {
            let near =
                outbound(net.clone(), &cluster("tcp", &[server], &format!("timeouts.{limit} = '50ms'")))
                    .await;
            let part = if limit == "tcp_idle" { &[Rest][..] } else { &[Rest, Meet, Push] };
            let heard = stage.play(to(near.at)(), client, part).await;
            assert!(same(&heard, [Some(("", Reset)), Some(("", Reset))]), "{limit}: {heard:?}");
            near.at_rest().await;
        }
        let near = outbound(net, &cluster("tcp", &[nobody()], "retry.attempts = 0")).await;
        let mut client = near.client().await;
        assert_eq!(hear(&mut client.io).await, (String::new(), Reset));
    });
}

#[test]
fn every_end_of_a_tunnel_is_at_the_other_side_what_it_is_without_sidecars() {
    run(async {
        let (stage, server) = staged().await;
        let (near, far) = pair(server).await;
        right(tunnel_rows(&stage, to(server)).await);
        right(tunnel_rows(&stage, to(near.at)).await);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn every_end_of_an_http_connection_is_what_it_is_without_sidecars_or_what_the_page_says() {
    run(async {
        let (stage, server) = staged().await;
        let far = inbound(TestNet::to(&server.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(server, far.at);
        // Each row has one attempt, and those before do not matter.
        let once =
            "retry.attempts = 0\noutlier_detection = { consecutive_failures = 0, success_rate = '0%' }";
        let near = outbound(net, &cluster("detect", &[server], once)).await;
        right(http_rows(&stage, to(server), true).await);
        right(http_rows(&stage, to(near.at), false).await);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_request_that_is_cut_off_is_reset_at_the_app_which_directly_sees_the_fin() {
    run(async {
        let (stage, server) = staged().await;
        let (near, far) = pair(server).await;
        for (cut, direct) in [(Finish, Fin), (Transport, Reset)] {
            let ask = Say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf");
            let client = [ask, Meet, cut];
            let part = [HEAD, Hear("half"), Meet, Rest];
            let [_, heard] = stage.play(to(server)(), &client, &part).await;
            assert_eq!(heard, Ok(Some((String::new(), direct))));
            let [_, heard] = stage.play(to(near.at)(), &client, &part).await;
            assert_eq!(heard, Ok(Some((String::new(), Reset))));
        }
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_half_close_that_the_app_takes_for_leaving_is_not_tried_again_nor_held_against_its_endpoint() {
    run(async {
        let (stage, server) = staged().await;
        let far = inbound(TestNet::to(&server.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(server, far.at);
        let near =
            outbound(net, &cluster("http", &[server], "outlier_detection.consecutive_failures = 1")).await;
        for _ in 0..3 {
            let ask = Say("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            let heard = stage.play(to(near.at)(), &[ask, Finish, Rest], &[HEAD, Rest]).await;
            assert!(same(&heard, [Some(("", Fin)), Some(("", Fin))]), "{heard:?}");
        }
        for side in [&near, &far] {
            side.at_rest().await;
            assert_eq!(side.count("proxy_connects_total", &[]), 3);
            assert_eq!(side.count("proxy_abandoned_total", &[]), 3);
            for none in ["retries", "errors", "ejections"] {
                assert_eq!(side.count(&format!("proxy_{none}_total"), &[]), 0, "{none}");
            }
        }
    });
}

#[test]
fn over_a_bridge_a_client_that_half_closes_is_answered_and_one_that_closes_cancels_its_request() {
    run(async {
        let (stage, server) = staged().await;
        let far = inbound(TestNet::to(&server.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(server, far.at);
        let near = outbound(net, &(cluster("http", &[server], "") + "bridge = true\n")).await;
        let ask = Say("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let half: [&[Step]; 2] = [&[ask, Meet, Finish, Meet, Rest], &[HEAD, Meet, Meet, WHOLE]];
        let heard = stage.play(to(near.at)(), half[0], half[1]).await;
        assert!(same(&heard, [Some(("halfhalf", Fin)), None]), "{heard:?}");
        let before: [&[Step]; 2] = [&[ask, Meet], &[HEAD, Meet, Rest]];
        let within: [&[Step]; 2] = [&[ask, Hear("half")], &[HEAD, LENGTH, Rest]];
        for part in [before, within] {
            let heard = stage.play(to(near.at)(), part[0], part[1]).await;
            assert!(same(&heard, [None, Some(("", Reset))]), "{heard:?}");
        }
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn over_a_bridge_an_upload_that_breaks_off_is_the_clients_fault_and_not_held_against_the_endpoint() {
    run(async {
        let (stage, server) = staged().await;
        let far = inbound(TestNet::to(&server.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(server, far.at);
        let once = "outlier_detection.consecutive_failures = 1\n";
        let near = outbound(net, &(cluster("http", &[server], once) + "bridge = true\n")).await;
        let cut = Say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf");
        let chunked = Say("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        for (ask, broken) in [(cut, Finish), (chunked, Say("nonsense\r\n"))] {
            for _ in 0..3 {
                let heard = stage.play(to(near.at)(), &[ask, Meet, broken, Rest], &[HEAD, Meet, Rest]).await;
                assert!(same(&heard, [Some((" 400 ", Fin)), Some(("", Reset))]), "{heard:?}");
            }
        }
        near.at_rest().await;
        far.at_rest().await;
        assert_eq!(near.count("proxy_ejections_total", &[]), 0);
        assert_eq!(near.count("proxy_errors_total", &["kind=\"terminated\""]), 0);
    });
}

#[test]
fn a_client_that_closes_is_found_out_even_if_it_half_closed_before_and_nobody_has_a_word_for_it() {
    run(async {
        let silent = app(|_, mut wire| async move {
            wire.request().await;
            std::future::pending::<()>().await;
        })
        .await;
        for half_closes in [false, true] {
            let (near, far) = pair(silent).await;
            let mut client = near.client().await;
            client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            until("it is under way", || far.count("proxy_connects_total", &[]) == 1).await;
            if half_closes {
                client.io.shutdown().await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(near.count("proxy_abandoned_total", &[]), 0);
            near.at_rest_without(client).await;
            far.at_rest().await;
            assert_eq!(near.count("proxy_abandoned_total", &[]), 1);
            assert_eq!(far.count("proxy_abandoned_total", &[]), 1);
        }
    });
}

#[test]
fn what_a_client_sends_behind_its_request_does_not_hide_that_it_leaves() {
    run(async {
        let silent = app(|_, mut wire| async move {
            wire.request().await;
            std::future::pending::<()>().await;
        })
        .await;
        let ask = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let upload =
            format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 50000\r\n\r\n{}", "b".repeat(50_000));
        for behind in ["\r\n", "G", ask, &upload, "nonsense\n"] {
            for (at_once, resets) in [(false, false), (false, true), (true, false), (true, true)] {
                let (near, far) = pair(silent).await;
                let mut client = near.client().await;
                let (first, then) =
                    if at_once { ([ask, behind].concat(), "") } else { (ask.to_owned(), behind) };
                client.send(&first).await;
                until("it is under way", || far.count("proxy_connects_total", &[]) == 1).await;
                client.send(then).await;
                if resets {
                    client.reset();
                } else {
                    drop(client);
                }
                near.at_rest().await;
                far.at_rest().await;
                for side in [&near, &far] {
                    assert_eq!(
                        side.count("proxy_abandoned_total", &[]),
                        1,
                        "{behind:.20} {at_once} {resets}"
                    );
                }
            }
        }
    });
}

#[test]
fn a_client_on_another_host_that_half_closes_and_then_resets_cancels_its_request() {
    run(async {
        let (told, mut half_closed) = tokio::sync::mpsc::unbounded_channel();
        let patient = app(move |_, mut wire| {
            let told = told.clone();
            async move {
                wire.request().await;
                assert!(wire.request().await.is_none());
                told.send(()).unwrap();
                std::future::pending::<()>().await;
            }
        })
        .await;
        let net = TestNet::to(&patient.to_string()).with_remote_clients();
        let far = inbound(net, "service = 'orders'").await;
        let mut client = far.client().await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.io.shutdown().await.unwrap();
        half_closed.recv().await;
        assert_eq!(far.count("proxy_abandoned_total", &[]), 0);
        client.reset();
        far.at_rest().await;
        assert_eq!(far.count("proxy_abandoned_total", &[]), 1);
    });
}

#[test]
fn more_pipelined_requests_than_are_read_ahead_are_all_answered() {
    const REQUESTS: usize = 400;
    run(async {
        let served = app(|_, mut wire| async move {
            while let Some(request) = wire.request().await {
                let length = request.body.len();
                wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
                wire.io.write_all(&request.body).await.unwrap();
            }
        })
        .await;
        let (near, far) = pair(served).await;
        let mut client = near.client().await;
        // The kernel has room for all the answers.
        let body = |i: usize| i.to_string().repeat(300);
        let head =
            |body: &str| format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
        let all: String = (0..REQUESTS).map(|i| head(&body(i)) + &body(i)).collect();
        assert!(all.len() > 4 * READ_AHEAD);
        client.send(&all).await;
        client.io.shutdown().await.unwrap();
        for i in 0..REQUESTS {
            assert_eq!(client.response(false).await.text(), body(i));
        }
        assert_eq!(hear(&mut client.io).await, (String::new(), Fin));
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn requests_that_were_pipelined_before_a_half_close_are_all_answered_and_the_connection_then_ends() {
    run(async {
        let served = app(|_, mut wire| async move {
            while let Some(request) = wire.request().await {
                let path = request.head.split(' ').nth(1).unwrap().to_owned();
                tokio::time::sleep(Duration::from_millis(3)).await;
                wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len())).await;
            }
        })
        .await;
        let (near, far) = pair(served).await;
        let mut client = near.client().await;
        let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        client.send(&[ask("/one"), ask("/two"), ask("/three")].concat()).await;
        client.io.shutdown().await.unwrap();
        for path in ["/one", "/two", "/three"] {
            assert_eq!(client.response(false).await.text(), path);
        }
        assert_eq!(hear(&mut client.io).await, (String::new(), Fin));
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn an_opaque_connection_keeps_nothing_of_a_configuration_that_is_not_in_force_any_more() {
    run(async {
        let served = app(|_, mut wire| async move {
            wire.rest().await;
        })
        .await;
        let config = |more: &str| cluster("tcp", &[served], more);
        let near = outbound(TestNet::to(SERVICE), &config("")).await;
        let mut client = near.client().await;
        client.send("hello").await;
        until("it is carried", || near.count("proxy_tcp_bytes_sent_total", &[]) == 5).await;
        let old = Arc::downgrade(&near.table.load_full());
        near.reload(&config("timeouts.connect = '2s'"));
        until("the old table is gone", || old.strong_count() == 0).await;
        client.send("and more").await;
        until("it is still carried", || near.count("proxy_tcp_bytes_sent_total", &[]) == 13).await;
        near.at_rest_without(client).await;
    });
}

#[test]
fn an_answer_before_the_end_of_its_request_says_if_it_is_the_last_of_its_connection() {
    run(async {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[nobody], "retry.attempts = 0")).await;
        let seen = crate::common::Seen::default();
        let app = seen.app(crate::tls::OK).await;
        let deny = "service = 'orders'\n[[authorization.policy]]\nname = 'no'\naction = 'deny'\n\
                    rule = [{ to = [{ paths = ['/no'] }] }]";
        let far = inbound(TestNet::to(&app.to_string()), deny).await;
        for (side, status) in [(&near, 502), (&far, 403)] {
            for (length, body) in
                [("content-length: 3", "abc"), ("transfer-encoding: chunked", "3\r\nabc\r\n0\r\n\r\n")]
            {
                let mut client = side.client().await;
                client.send(&format!("POST /no HTTP/1.1\r\nhost: orders\r\n{length}\r\n\r\n")).await;
                let answer = client.response(false).await;
                assert_eq!(
                    (answer.status(), answer.header("connection").as_deref()),
                    (status, Some("close")),
                    "{length}"
                );
                client.send(body).await;
                client.closed().await;
                // Nobody has to close because of a request without a body.
                let mut client = side.client().await;
                for _ in 0..2 {
                    let answer = client.ask("GET /no HTTP/1.1\r\nhost: orders\r\n\r\n").await;
                    assert_eq!((answer.status(), answer.header("connection").as_deref()), (status, None));
                }
            }
        }
        // Nor because of one whose body was read.
        let mut client = far.client().await;
        for _ in 0..2 {
            let answer = client.ask("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 3\r\n\r\nabc").await;
            assert_eq!((answer.status(), answer.header("connection").as_deref()), (200, None));
        }
    });
}
