//! The account of HTTP/2's streams at an endpoint, and that nobody is held up by what others do not
//! read.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::common::h2c::{self, ask, call, request};
use crate::common::{SERVICE, Side, TestNet, Wire, app, cluster, inbound, outbound, pair, run, spawn, until};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

/// More than all buffers between an app and a client of one answer hold.
const MUCH: usize = 32 * 1024 * 1024;

fn ok() -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))])
}

/// An app that answers every call at once and to the end, and reads its upload only then.
async fn early(streams: u32) -> (SocketAddr, Rc<Cell<usize>>, Rc<RefCell<Vec<String>>>) {
    let uploads = Rc::new(RefCell::new(Vec::new()));
    let ends = uploads.clone();
    let (at, connections) = h2c::app(streams, move |request, mut respond| {
        let ends = ends.clone();
        async move {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_trailers(ok()).unwrap();
            let end = match h2c::read(request.into_body()).await {
                Ok((bytes, _)) => String::from_utf8(bytes).unwrap(),
                Err(error) => format!("{:?}", error.reason()),
            };
            ends.borrow_mut().push(end);
        }
    })
    .await;
    (at, connections, uploads)
}

#[test]
fn a_call_that_was_answered_and_left_open_takes_no_stream_from_another_client() {
    run(async {
        let (app, connections, uploads) = early(5).await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        let leaves_open = h2c::connect(near.at).await;
        let mut open = Vec::new();
        for _ in 0..5 {
            let mut client = leaves_open.clone().ready().await.unwrap();
            let (response, send) =
                client.send_request(call("/shop.Orders/Put").body(()).unwrap(), false).unwrap();
            let answer = h2c::answer(response.await.unwrap()).await.unwrap();
            assert_eq!(answer.trailers["grpc-status"], "0");
            open.push(send);
        }
        let other = h2c::connect(near.at).await;
        let answer = ask(&other, call("/shop.Orders/Get").body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!(answer.trailers["grpc-status"], "0");
        assert_eq!(connections.get(), 2, "the first has no stream left");
        for mut send in open {
            send.send_data(Bytes::from_static(b"late"), true).unwrap();
        }
        until("what came late was read", || {
            uploads.borrow().iter().filter(|end| *end == "late").count() == 5
        })
        .await;
        drop((leaves_open, other));
        near.at_rest().await;
    });
}

#[test]
fn an_upload_that_is_silent_after_its_answer_is_reset_and_one_that_moves_is_not() {
    run(async {
        let (app, _, uploads) = early(5).await;
        let more = "timeouts.half_close = '80ms'";
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], more)).await;
        let client = h2c::connect(near.at).await;
        let begin = || client.clone().send_request(request("POST", "/").body(()).unwrap(), false).unwrap();
        let (silent, _keep) = begin();
        let (moving, mut send) = begin();
        h2c::answer(silent.await.unwrap()).await.unwrap();
        h2c::answer(moving.await.unwrap()).await.unwrap();
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            send.send_data(Bytes::from_static(b"."), false).unwrap();
        }
        until("the silent one is reset", || *uploads.borrow() == ["Some(CANCEL)"]).await;
        send.send_data(Bytes::new(), true).unwrap();
        until("the other one ends", || uploads.borrow().get(1).is_some_and(|end| end == "........")).await;
    });
}

#[test]
fn an_answer_that_is_given_up_takes_its_upload_along() {
    run(async {
        let reason = Rc::new(Cell::new(None));
        let told = reason.clone();
        let (app, _) = h2c::app(5, move |request, mut respond| {
            let told = told.clone();
            async move {
                let _send = respond.send_response(Response::new(()), false).unwrap();
                told.set(h2c::read(request.into_body()).await.unwrap_err().reason());
            }
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        let client = h2c::connect(near.at).await;
        let late = call("/shop.Orders/Watch").header("grpc-timeout", "80m").body(()).unwrap();
        let (response, _send) = client.clone().send_request(late, false).unwrap();
        let answer = h2c::answer(response.await.unwrap()).await.unwrap();
        assert_eq!(answer.trailers["grpc-status"], "4");
        until("the app is told", || reason.get() == Some(h2::Reason::CANCEL)).await;
    });
}

#[test]
fn a_burst_of_calls_past_the_peers_limit_of_streams_is_carried_over_more_connections() {
    run(async {
        for (limit, burst) in [(1, 3_usize), (10, 15), (10, 75)] {
            // Nobody is answered before all have arrived.
            let (arrived, all) = watch::channel(0);
            let arrived = Rc::new(arrived);
            let (app, connections) = h2c::app(limit, move |_, mut respond| {
                let (arrived, mut all) = (arrived.clone(), all.clone());
                async move {
                    arrived.send_modify(|n| *n += 1);
                    all.wait_for(|n| *n == burst).await.unwrap();
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    send.send_trailers(ok()).unwrap();
                }
            })
            .await;
            let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
            let client = h2c::connect(near.at).await;
            let done = Rc::new(Cell::new(0));
            for _ in 0..burst {
                let (client, done) = (client.clone(), done.clone());
                spawn(async move {
                    let asked = call("/shop.Orders/Get").body(()).unwrap();
                    assert_eq!(ask(&client, asked, "x", None).await.unwrap().trailers["grpc-status"], "0");
                    done.set(done.get() + 1);
                });
            }
            until(&format!("all {burst} are answered at a limit of {limit}"), || done.get() == burst).await;
            assert!(connections.get() >= burst.div_ceil(limit as usize));
            near.at_rest_without(client).await;
        }
    });
}

/// A sidecar before an app that allows two streams on its one connection and holds the calls until
/// it is told. It counts how many have arrived.
async fn two_at_a_time(connect: &str) -> (Side, watch::Sender<bool>, Rc<Cell<usize>>) {
    let (go, gate) = watch::channel(false);
    let arrived = Rc::new(Cell::new(0));
    let count = arrived.clone();
    let (app, _) = h2c::app(2, move |_, mut respond| {
        let (mut gate, count) = (gate.clone(), count.clone());
        async move {
            count.set(count.get() + 1);
            gate.wait_for(|go| *go).await.unwrap();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_trailers(ok()).unwrap();
        }
    })
    .await;
    let more =
        format!("timeouts.connect = '{connect}'\nlimits = {{ endpoint_connections = 1, pending = 4 }}");
    (outbound(TestNet::to(SERVICE), &cluster("http", &[app], &more)).await, go, arrived)
}

#[test]
fn a_call_that_finds_no_stream_in_time_is_refused_for_a_reason_of_its_own() {
    run(async {
        let (near, _go, arrived) = two_at_a_time("500ms").await;
        let client = h2c::connect(near.at).await;
        let begin = || client.clone().send_request(request("POST", "/").body(()).unwrap(), true).unwrap();
        let _held = [begin(), begin()];
        // Before that, all three would wait for the connection, and any two of them get its streams.
        until("both have arrived", || arrived.get() == 2).await;
        let answer = ask(&client, call("/shop.Orders/Get").body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.header("grpc-status")), (200, "14"));
        assert!(answer.header("proxy-status").contains("error=connection_limit_reached"), "{answer:?}");
        assert!(answer.header("grpc-message").contains("no stream was free within 500ms"), "{answer:?}");
        assert!(near.count("proxy_errors_total", &["\"pool_timeout\""]) > 0);
        assert_eq!(
            near.count("proxy_ejections_total", &[]),
            0,
            "the queue is ours, not the endpoint's fault"
        );
    });
}

#[test]
fn calls_that_wait_for_a_stream_get_one_in_turn_and_no_more_wait_than_may() {
    run(async {
        let (near, go, _) = two_at_a_time("9s").await;
        let client = h2c::connect(near.at).await;
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..6 {
            let (client, order) = (client.clone(), order.clone());
            spawn(async move {
                ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
                order.borrow_mut().push(n);
            });
            until("it is there", || near.count("proxy_requests_total", &[]) == n + 1).await;
        }
        until("four wait", || near.count("proxy_requests_waiting", &[]) == 4).await;
        let refused = ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
        assert_eq!(refused.head.status(), 503);
        assert!(near.count("proxy_errors_total", &["\"pool_full\""]) > 0);
        go.send_replace(true);
        until("all are answered", || order.borrow().len() == 6).await;
        // Of two that begin together either may be answered first.
        let mut pairs: Vec<u64> = order.borrow().clone();
        pairs.chunks_mut(2).for_each(<[u64]>::sort_unstable);
        assert_eq!(pairs, [0, 1, 2, 3, 4, 5], "in turn");
        near.at_rest_without(client).await;
    });
}

/// An app of HTTP/1 that answers `/much` with more than anybody's buffers hold.
async fn generous() -> SocketAddr {
    app(|_, mut wire| async move {
        while let Some(request) = wire.request().await {
            if !request.head.starts_with("GET /much") {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                continue;
            }
            wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n")).await;
            let piece = vec![b'x'; 64 * 1024];
            for _ in 0..MUCH / piece.len() {
                if wire.io.write_all(&piece).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

#[test]
fn bridged_clients_that_do_not_read_hold_up_nobody_else() {
    run(async {
        let app = generous().await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let near = outbound(net, &(cluster("http", &[app], "") + "bridge = true\n")).await;
        let mut stalled: Vec<Wire> = Vec::new();
        for _ in 0..20 {
            let mut client = near.client().await;
            client.send("GET /much HTTP/1.1\r\nhost: orders\r\n\r\n").await;
            assert_eq!(client.head().await.unwrap().status(), 200);
            stalled.push(client);
        }
        // Until the windows are full.
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..12 {
            assert_eq!(near.client().await.get("/").await.text(), "ok");
        }
        assert_eq!(near.count("proxy_connects_total", &[]), 1, "over the same connection");
        drop(stalled);
        near.at_rest().await;
    });
}

#[test]
fn grpc_answers_that_one_caller_does_not_read_hold_up_no_other_at_the_apps_sidecar() {
    run(async {
        let (app, connections) = h2c::app(100, |request, mut respond| async move {
            let much = request.uri().path() == "/much";
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_data(vec![b'x'; if much { MUCH } else { 2 }].into(), false).unwrap();
            send.send_trailers(ok()).unwrap();
            let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
        })
        .await;
        let (near, far) = pair(app).await;
        let slow = h2c::connect(near.at).await;
        let mut stalled = Vec::new();
        for _ in 0..20 {
            let mut slow = slow.clone().ready().await.unwrap();
            let (response, _) = slow.send_request(call("/much").body(()).unwrap(), true).unwrap();
            stalled.push(response.await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let other = h2c::connect(near.at).await;
        for _ in 0..12 {
            let answer = ask(&other, call("/").body(()).unwrap(), "x", None).await.unwrap();
            assert_eq!(answer.trailers["grpc-status"], "0");
        }
        assert_eq!(connections.get(), 1, "over the same connection");
        assert_eq!(far.count("proxy_connects_total", &[]), 1);
        drop(stalled);
    });
}

#[test]
fn uploads_that_the_app_does_not_read_hold_up_no_other_request_of_the_same_sidecar() {
    run(async {
        let app = app(|_, mut wire| async move {
            while let Some(head) = wire.head().await {
                if head.head.starts_with("POST /much") {
                    // It never reads what follows.
                    std::future::pending::<()>().await;
                }
                wire.body(head, false).await;
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        })
        .await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let near = outbound(net, &(cluster("http", &[app], "") + "bridge = true\n")).await;
        for _ in 0..20 {
            let mut client = near.client().await;
            client.send(&format!("POST /much HTTP/1.1\r\nhost: o\r\ncontent-length: {MUCH}\r\n\r\n")).await;
            spawn(async move {
                let _ = client.io.write_all(&vec![b'x'; MUCH]).await;
                client.rest().await;
            });
        }
        until("they are there", || far.count("proxy_requests_total", &[]) == 20).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..12 {
            let posted =
                near.client().await.ask("POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 2\r\n\r\nhi").await;
            assert_eq!(posted.text(), "ok");
        }
        assert_eq!(near.count("proxy_connects_total", &[]), 1, "over the same connection");
    });
}
