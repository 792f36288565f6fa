//! HTTP/2 and gRPC through sidecars, and HTTP/1 over HTTP/2 between them.

use std::cell::Cell;
use std::rc::Rc;

use crate::common::h2c::{self, ask, call, request};
use crate::common::{
    SERVICE, Seen, TestNet, Wire, answering, app, cluster, inbound, nobody, outbound, pair, run, spawn, until,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
}

#[test]
fn http2_with_prior_knowledge_passes_through_two_sidecars_with_its_trailers() {
    run(async {
        let (app, _) = h2c::echo(100).await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let post = request("POST", "/a?b=c").header("te", "trailers").header("x-own", "1").body(()).unwrap();
        let answer = ask(&client, post, "hello", Some(trailers("x-sum", "7"))).await.unwrap();
        assert_eq!(answer.head.status(), 200);
        assert_eq!(answer.body, b"hello");
        assert_eq!(answer.trailers["x-sum"], "7");
        assert_eq!((answer.header("saw-method"), answer.header("saw-uri")), ("POST", "http://orders/a?b=c"));
        assert_eq!((answer.header("saw-te"), answer.header("saw-x-own")), ("trailers", "1"));
        assert_eq!(near.count("proxy_detections_total", &["http2"]), 1);
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn requests_at_the_same_time_share_a_connection_and_another_is_opened_before_the_peers_limit() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let (app, connections) = h2c::app(10, move |_, mut respond| {
            let mut gate = gate.clone();
            async move {
                gate.wait_for(|go| *go).await.unwrap();
                respond.send_response(Response::new(()), true).unwrap();
            }
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        let client = h2c::connect(near.at).await;
        let done = Rc::new(Cell::new(0));
        let start = |n: usize| {
            for _ in 0..n {
                let (client, done) = (client.clone(), done.clone());
                spawn(async move {
                    let answer = ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
                    assert_eq!(answer.head.status(), 200);
                    done.set(done.get() + 1);
                });
            }
        };
        let pending = || near.table.load().clusters[0].endpoints[0].pending();
        start(8);
        until("eight wait at the app", || pending() == 8).await;
        until("the app has accepted a connection", || connections.get() > 0).await;
        assert_eq!(connections.get(), 1, "four fifths of the limit fit");
        start(6);
        until("fourteen wait at the app", || pending() == 14).await;
        until("there is a second connection", || connections.get() == 2).await;
        go.send_replace(true);
        until("all are answered", || done.get() == 14).await;
        start(20);
        until("all are answered", || done.get() == 34).await;
        assert!(connections.get() <= 4, "{}", connections.get());
        near.at_rest_without(client).await;
    });
}

#[test]
fn http1_requests_share_an_http2_connection_between_sidecars_and_reach_the_app_as_http1() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'\ninstance = 'orders-1'").await;
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let near = outbound(net, &(cluster("detect", &[app], "") + "bridge = true\n")).await;
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(near.client().await);
        }
        for client in &mut clients {
            let answer = client
                .ask(
                    "POST /x?y HTTP/1.1\r\nhost: orders:81\r\ncookie: a=1\r\ncontent-length: 2\r\nte: trailers\r\n\
                     connection: te\r\nsidelab-orig-proto: HTTP/1.0\r\n\r\nhi",
                )
                .await;
            assert_eq!(answer.head.lines().next(), Some("HTTP/1.1 200 OK"));
            assert_eq!(answer.text(), "ok");
            let last = seen.last();
            assert_eq!(last.head.lines().next(), Some("POST /x?y HTTP/1.1"));
            assert_eq!(last.text(), "hi");
            assert_eq!(last.header("host").as_deref(), Some("orders:81"));
            assert_eq!(last.header("cookie").as_deref(), Some("a=1"));
            assert_eq!(last.header("content-length").as_deref(), Some("2"));
            assert_eq!(last.header("sidelab-orig-proto"), None, "the marker stays between the sidecars");
        }
        assert_eq!(far.count("proxy_connections_total", &[]), 1, "five clients share it");
        drop(clients);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_bridged_response_keeps_its_framing_for_every_kind_of_client() {
    run(async {
        for (request, answer, expected) in [
            ("HEAD / HTTP/1.1\r\nhost: o\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", ("5", "")),
            (GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", ("", "ok")),
            (GET, "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n", ("", "")),
            (GET, "HTTP/1.1 204 No Content\r\n\r\n", ("", "")),
        ] {
            let app = answering(answer).await;
            let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
            let net = TestNet::to(SERVICE).redirect(app, far.at);
            let near = outbound(net, &(cluster("http", &[app], "") + "bridge = true\n")).await;
            let got = near.client().await.ask(request).await;
            assert_eq!(got.header("content-length").unwrap_or_default(), expected.0, "{answer}");
            assert_eq!(got.text(), expected.1, "{answer}");
            near.at_rest().await;
        }
    });
}

#[test]
fn a_bridged_client_that_leaves_cancels_the_work_and_harms_no_other() {
    run(async {
        let gone = Rc::new(Cell::new(0));
        let count = gone.clone();
        let app = app(move |_, mut wire| {
            let count = count.clone();
            async move {
                while let Some(request) = wire.request().await {
                    if request.head.starts_with("GET /slow") {
                        wire.closed().await;
                        count.set(count.get() + 1);
                        return;
                    }
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let near = outbound(net, &(cluster("http", &[app], "") + "bridge = true\n")).await;
        let mut stays = near.client().await;
        assert_eq!(stays.ask(GET).await.text(), "ok");
        let mut leaves = near.client().await;
        leaves.send("GET /slow HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        until("it is on its way", || far.count("proxy_requests_total", &[]) == 2).await;
        drop(leaves);
        until("the app is told", || gone.get() == 1).await;
        assert_eq!(stays.ask(GET).await.text(), "ok");
        assert_eq!(far.count("proxy_connections_total", &[]), 1);
        drop(stays);
        near.at_rest().await;
    });
}

#[test]
fn an_http2_client_that_resets_its_stream_resets_the_one_to_the_app() {
    run(async {
        let reset = Rc::new(Cell::new(None));
        let told = reset.clone();
        let (app, _) = h2c::app(100, move |_, mut respond| {
            let told = told.clone();
            async move {
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                told.set(Some(reason.unwrap()));
            }
        })
        .await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let (response, _) = client.clone().send_request(request("GET", "/").body(()).unwrap(), true).unwrap();
        until("it is on its way", || far.count("proxy_requests_total", &[]) == 1).await;
        drop(response);
        until("the app is told", || reset.get() == Some(h2::Reason::CANCEL)).await;
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn an_endpoint_that_does_not_speak_http2_is_found_out_before_a_request_is_risked() {
    run(async {
        let old =
            answering("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        let (new, _) = h2c::echo(100).await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[old, new], "")).await;
        let client = h2c::connect(near.at).await;
        for _ in 0..20 {
            let post = request("POST", "/").body(()).unwrap();
            assert_eq!(ask(&client, post, "body", None).await.unwrap().body, b"body");
        }
        assert!(near.count("proxy_errors_total", &["\"protocol\""]) > 0);
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_grpc_call_that_cannot_be_carried_gets_a_grpc_status() {
    run(async {
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[nobody()], "")).await;
        let client = h2c::connect(near.at).await;
        let answer = ask(&client, call("/shop.Orders/Get").body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!(answer.head.status(), 200);
        assert_eq!(answer.header("content-type"), "application/grpc");
        assert_eq!(answer.header("grpc-status"), "14");
        assert!(answer.header("grpc-message").starts_with("cannot connect at 127.0.0.1:"), "{answer:?}");
        assert!(answer.header("proxy-status").contains("error=connection_refused"));
        // Behind its own sidecar as well.
        let (near, far) = pair(nobody()).await;
        let client = h2c::connect(near.at).await;
        let answer = ask(&client, call("/shop.Orders/Get").body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.header("grpc-status")), (200, "14"));
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn what_is_left_of_a_grpc_timeout_is_passed_on() {
    run(async {
        let (app, _) = h2c::echo(100).await;
        let (near, _far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let call = call("/shop.Orders/Get").header("grpc-timeout", "10S").body(()).unwrap();
        let answer = ask(&client, call, "x", None).await.unwrap();
        let left = answer.header("saw-grpc-timeout");
        let micros: u64 = left.strip_suffix('u').unwrap_or_else(|| panic!("{left}")).parse().unwrap();
        assert!((5_000_000..10_000_000).contains(&micros), "{left}");
    });
}

#[test]
fn a_deadline_that_passes_before_the_response_is_a_grpc_status_and_the_app_is_told() {
    run(async {
        let reset = Rc::new(Cell::new(false));
        let told = reset.clone();
        let (app, _) = h2c::app(100, move |_, mut respond| {
            let told = told.clone();
            async move {
                std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                told.set(true);
            }
        })
        .await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let call = call("/shop.Orders/Get").header("grpc-timeout", "50m").body(()).unwrap();
        let answer = ask(&client, call, "x", None).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.header("grpc-status")), (200, "4"));
        until("the app is told", || reset.get()).await;
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn a_deadline_that_passes_in_the_middle_of_a_stream_ends_it_with_a_status_in_trailers() {
    run(async {
        let (app, _) = h2c::app(100, |_, mut respond| async move {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_data(Bytes::from_static(b"first"), false).unwrap();
            let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
        })
        .await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let call = call("/shop.Orders/Watch").header("grpc-timeout", "80m").body(()).unwrap();
        let answer = ask(&client, call, "x", None).await.unwrap();
        assert_eq!(answer.body, b"first");
        assert_eq!(answer.trailers["grpc-status"], "4");
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn both_directions_of_a_grpc_stream_flow_at_the_same_time() {
    run(async {
        let (app, _) = h2c::app(100, |request, mut respond| async move {
            let mut body = request.into_body();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                send.send_data(data, false).unwrap();
            }
            send.send_trailers(trailers("grpc-status", "0")).unwrap();
        })
        .await;
        let (near, _far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let (response, mut send) =
            client.clone().send_request(call("/shop.Orders/Chat").body(()).unwrap(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for word in ["one", "two", "three"] {
            send.send_data(Bytes::from_static(word.as_bytes()), false).unwrap();
            let heard = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(heard.len()).unwrap();
            assert_eq!(heard, word, "each word is answered before the next is said");
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn announced_trailers_cross_the_bridge_both_ways_and_others_are_left_out() {
    run(async {
        let seen = Seen::default();
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                      2\r\nok\r\n0\r\nx-sum: 7\r\nx-other: 1\r\n\r\n";
        let app = seen.app(answer).await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let near = outbound(net, &(cluster("http", &[app], "") + "bridge = true\n")).await;
        let mut client = near.client().await;
        let got = client
            .ask(
                "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-check\r\n\r\n\
                 2\r\nhi\r\n0\r\nx-check: 9\r\nx-other: 1\r\n\r\n",
            )
            .await;
        assert_eq!((got.text(), &*got.trailers), ("ok", "x-sum: 7\n"));
        assert_eq!((seen.last().text(), &*seen.last().trailers), ("hi", "x-check: 9\n"));
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn a_websocket_of_a_bridged_cluster_keeps_http1() {
    run(async {
        let echo = crate::common::app(|_, mut wire| async move {
            let request = wire.request().await.unwrap();
            assert_eq!(request.header("upgrade").as_deref(), Some("websocket"));
            wire.send(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            )
            .await;
            wire.send("hello").await;
            wire.closed().await;
        })
        .await;
        let far = inbound(TestNet::to(&echo.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(echo, far.at);
        let near = outbound(net, &(cluster("http", &[echo], "") + "bridge = true\n")).await;
        let mut client = near.client().await;
        client.send("GET / HTTP/1.1\r\nhost: o\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        assert_eq!(client.head().await.unwrap().status(), 101);
        use tokio::io::AsyncWriteExt;
        client.io.shutdown().await.unwrap();
        assert_eq!(client.rest().await, b"hello");
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_drain_lets_streams_end_and_takes_no_new_one() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let (app, _) = h2c::app(100, move |_, mut respond| {
            let mut gate = gate.clone();
            async move {
                gate.wait_for(|go| *go).await.unwrap();
                respond.send_response(Response::new(()), true).unwrap();
            }
        })
        .await;
        let near = Rc::new(outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await);
        let client = h2c::connect(near.at).await;
        let answer = {
            let (response, _) =
                client.clone().send_request(request("GET", "/").body(()).unwrap(), true).unwrap();
            response
        };
        until("it is on its way", || near.count("proxy_requests_total", &[]) == 1).await;
        let drained = Rc::new(Cell::new(None));
        let (side, result) = (near.clone(), drained.clone());
        spawn(async move { result.set(Some(side.drain().await)) });
        until("the client is told", || {
            let mut late = client.clone();
            late.send_request(request("GET", "/late").body(()).unwrap(), true).is_err()
        })
        .await;
        assert_eq!(drained.get(), None);
        go.send_replace(true);
        assert_eq!(answer.await.unwrap().status(), 200);
        until("the drain is over", || drained.get() == Some(0)).await;
    });
}

#[test]
fn a_declared_http_port_takes_both_versions_and_answers_nonsense() {
    run(async {
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[answering(OK).await], "")).await;
        assert_eq!(near.client().await.ask(GET).await.text(), "ok");
        let client = h2c::connect(near.at).await;
        assert_eq!(
            ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap().head.status(),
            502
        );
        let mut nonsense: Wire = near.client().await;
        assert_eq!(nonsense.ask("\0\0\0\0\r\n\r\n").await.status(), 400);
    });
}
