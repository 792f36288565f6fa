//! Upgrades (WebSocket) and CONNECT through two sidecars, as bytes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::common::h2c;
use crate::common::{SERVICE, Seen, Side, TestNet, Wire, app, cluster, inbound, outbound, pair, run, until};
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const CONNECT: &str = "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n";

/// Reads exactly `text`.
async fn expect(wire: &mut Wire, text: &str) {
    assert_eq!(String::from_utf8(wire.bytes(text.len()).await).unwrap(), text);
}

fn open(side: &Side) -> u64 {
    side.count("proxy_tunnels_open", &[])
}

#[test]
fn a_websocket_is_opened_with_all_its_headers_and_carries_bytes_both_ways() {
    run(async {
        let app = app(|_, mut wire| async move {
            let request = wire.head().await.unwrap();
            assert!(request.head.starts_with("GET /chat HTTP/1.1\r\n"), "{}", request.head);
            for (name, value) in [
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-version", "13"),
            ] {
                assert_eq!(request.header(name).as_deref(), Some(value), "{}", request.head);
            }
            // The app's first words come with its answer.
            wire.send(&format!("{SWITCHING}first")).await;
            expect(&mut wire, "ping").await;
            wire.send("pong").await;
            assert_eq!(wire.rest().await, b"bye");
            wire.send("late").await;
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        client.send(UPGRADE).await;
        let answer = client.head().await.unwrap();
        assert_eq!(answer.status(), 101);
        for (name, value) in [
            ("connection", Some("upgrade")),
            ("upgrade", Some("websocket")),
            ("sec-websocket-accept", Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
            ("content-length", None),
            ("transfer-encoding", None),
        ] {
            assert_eq!(answer.header(name).as_deref(), value, "{}", answer.head);
        }
        expect(&mut client, "first").await;
        client.send("ping").await;
        expect(&mut client, "pong").await;
        assert_eq!((open(&near), open(&far)), (1, 1));
        // Half-close: the app hears the end and still has the last word.
        client.send("bye").await;
        client.io.shutdown().await.unwrap();
        assert_eq!(client.rest().await, b"late");
        for side in [&near, &far] {
            side.at_rest().await;
            assert_eq!(open(side), 0);
            assert_eq!(side.count("proxy_errors_total", &[]), 0);
        }
    });
}

#[test]
fn connect_opens_a_tunnel_early_bytes_are_kept_and_lengths_are_not_passed_on() {
    run(async {
        let app = app(|_, mut wire| async move {
            let request = wire.head().await.unwrap();
            assert!(request.head.starts_with("CONNECT db:5432 HTTP/1.1\r\n"), "{}", request.head);
            assert_eq!(request.header("host").as_deref(), Some("db:5432"));
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-kept: 1\r\n\r\nhello").await;
            assert_eq!(wire.rest().await, b"GET / HTTP/1.1\n\nearly and late");
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        // Not for the sidecar to judge: it is meant for the tunnel.
        client.send(&format!("{CONNECT}GET / HTTP/1.1\n\nearly")).await;
        let answer = client.head().await.unwrap();
        assert_eq!((answer.status(), answer.header("content-length")), (200, None));
        assert_eq!(
            (answer.header("transfer-encoding"), answer.header("x-kept").as_deref()),
            (None, Some("1"))
        );
        expect(&mut client, "hello").await;
        client.send(" and late").await;
        client.io.shutdown().await.unwrap();
        client.closed().await;
        for side in [&near, &far] {
            side.at_rest().await;
            assert_eq!(open(side), 0);
        }
    });
}

#[test]
fn connect_reaches_no_port_that_does_not_declare_it() {
    run(async {
        let seen = Seen::default();
        let app = seen.app("HTTP/1.1 200 OK\r\n\r\n").await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let mut client = far.client().await;
        client.send(&format!("{CONNECT}GET /private HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let answer = client.response(false).await;
        assert_eq!(answer.status(), 501);
        assert!(answer.header("proxy-status").unwrap().contains("connect = true"), "{}", answer.head);
        client.closed().await;
        let client = h2c::connect(far.at).await;
        let (response, _send) = client.clone().send_request(connect("db:5432"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 501);
        assert_eq!((seen.requests(), far.count("proxy_errors_total", &["unsupported"])), (0, 2));
    });
}

#[test]
fn an_answer_that_opens_no_tunnel_is_an_ordinary_one_and_nothing_may_follow_it() {
    run(async {
        for request in [UPGRADE, CONNECT] {
            let seen = Seen::default();
            let (near, far) =
                pair(seen.app("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await).await;
            let mut client = near.client().await;
            client.send(&format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let answer = client.response(false).await;
            assert_eq!((answer.status(), answer.text()), (403, "no"), "{request}");
            assert_eq!(answer.header("connection").as_deref(), Some("close"), "{request}");
            client.closed().await;
            assert_eq!(seen.requests(), 1, "{request}");
            for side in [&near, &far] {
                side.at_rest().await;
                assert_eq!(open(side), 0);
            }
        }
    });
}

#[test]
fn an_upgrade_that_is_not_hop_by_hop_has_a_body_or_leaves_a_choice_is_not_passed_on() {
    run(async {
        let seen = Seen::default();
        let (near, _far) = pair(seen.app(OK).await).await;
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket,H2C\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c/version-of-its-own\r\n\r\n",
        ] {
            let mut client = near.client().await;
            assert_eq!(client.ask(request).await.text(), "ok", "{request}");
            client.closed().await;
            assert_eq!(seen.last().header("upgrade"), None, "{request}");
        }
    });
}

#[test]
fn what_is_still_on_its_way_when_both_sides_have_closed_a_tunnel_arrives_whole() {
    run(async {
        let (go, over) = tokio::sync::watch::channel(false);
        let read = Rc::new(Cell::new(0));
        let seen = read.clone();
        let app = app(move |_, mut wire| {
            let (mut over, seen) = (over.clone(), seen.clone());
            async move {
                wire.head().await.unwrap();
                wire.send(SWITCHING).await;
                wire.io.shutdown().await.unwrap();
                let _ = over.wait_for(|over| *over).await;
                seen.set(wire.rest().await.len());
            }
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        let mut client = near.client().await;
        client.send(UPGRADE).await;
        assert_eq!(client.head().await.unwrap().status(), 101);
        // More than the app's kernel takes in, and less than the sidecar's keeps for it.
        const LONG: usize = 512 << 10;
        client.send(&"x".repeat(LONG)).await;
        client.io.shutdown().await.unwrap();
        client.closed().await;
        until("the tunnel is over", || open(&near) == 0).await;
        go.send_replace(true);
        until("the app has read to the end", || read.get() > 0).await;
        assert_eq!(read.get(), LONG);
        near.at_rest().await;
    });
}

#[test]
fn a_tunnel_that_is_silent_for_too_long_is_cut_and_counted() {
    run(async {
        let app = app(|_, mut wire| async move {
            wire.head().await.unwrap();
            wire.send(SWITCHING).await;
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                wire.send("x").await;
            }
            wire.closed().await;
        })
        .await;
        let config = cluster("http", &[app], "timeouts.tunnel_idle = '60ms'");
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let mut client = near.client().await;
        client.send(UPGRADE).await;
        assert_eq!(client.head().await.unwrap().status(), 101);
        assert_eq!(client.rest().await, b"xxxx");
        near.at_rest().await;
        assert_eq!(near.count("proxy_errors_total", &["tunnel_idle"]), 1);
        assert_eq!(open(&near), 0);
    });
}

#[test]
fn a_tunnel_holds_a_drain_until_it_ends() {
    run(async {
        let app = app(|_, mut wire| async move {
            wire.head().await.unwrap();
            wire.send(SWITCHING).await;
            expect(&mut wire, "last words").await;
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        let mut client = near.client().await;
        client.send(UPGRADE).await;
        assert_eq!(client.head().await.unwrap().status(), 101);
        let mut drain = std::pin::pin!(near.drain());
        let early = tokio::time::timeout(Duration::from_millis(50), drain.as_mut()).await;
        assert!(early.is_err(), "the tunnel is open");
        client.send("last words").await;
        client.io.shutdown().await.unwrap();
        client.closed().await;
        assert_eq!(drain.await, 0);
    });
}

#[test]
fn a_client_that_goes_away_takes_its_tunnel_and_the_apps_connection_with_it() {
    run(async {
        let app = app(|_, mut wire| async move {
            wire.head().await.unwrap();
            wire.send(SWITCHING).await;
            wire.closed().await;
        })
        .await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let near = outbound(net, &cluster("http", &[app], "")).await;
        let mut client = near.client().await;
        client.send(UPGRADE).await;
        assert_eq!(client.head().await.unwrap().status(), 101);
        until("the tunnel is open", || open(&near) == 1 && open(&far) == 1).await;
        drop(client);
        for side in [&near, &far] {
            side.at_rest().await;
            assert_eq!(open(side), 0);
        }
    });
}

fn connect(to: &str) -> http::Request<()> {
    http::Request::builder().method("CONNECT").uri(to).body(()).unwrap()
}

#[test]
fn connect_over_http2_makes_a_tunnel_of_its_stream_while_others_go_on() {
    run(async {
        let (app, connections) = h2c::app(100, |request, mut respond| async move {
            if request.method() != "CONNECT" {
                respond.send_response(http::Response::new(()), true).unwrap();
                return;
            }
            assert_eq!(request.uri().to_string(), "db:5432");
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            send.send_data("first".into(), false).unwrap();
            let (bytes, _) = h2c::read(request.into_body()).await.unwrap();
            send.send_data([&b"heard "[..], &bytes].concat().into(), true).unwrap();
        })
        .await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let (response, mut send) = client.clone().send_request(connect("db:5432"), false).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers().len()), (200, 0));
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "first");
        send.send_data("ping".into(), false).unwrap();
        assert_eq!((open(&near), open(&far)), (1, 1));
        assert_eq!(near.count("proxy_endpoint_requests_pending", &[]), 1, "the tunnel is in hand");
        let other = h2c::ask(&client, h2c::request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
        assert_eq!(other.head.status(), 200);
        // Half-close: the app hears the end and still has the last word.
        send.send_data(" pong".into(), true).unwrap();
        assert_eq!(h2c::read(response.into_body()).await.unwrap().0, b"heard ping pong");
        assert_eq!(connections.get(), 1);
        until("both tunnels are over", || open(&near) + open(&far) == 0).await;
        assert_eq!(near.count("proxy_errors_total", &[]) + far.count("proxy_errors_total", &[]), 0);
        drop((client, send));
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn an_http2_tunnel_that_is_refused_or_reset_or_idle_leaves_nothing_behind() {
    run(async {
        let (app, _) = h2c::app(100, |request, mut respond| async move {
            let status = if request.uri().host() == Some("no") { 403 } else { 200 };
            let response = http::Response::builder().status(status).body(()).unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            send.send_data("words".into(), status == 403).unwrap();
            let _ = h2c::read(request.into_body()).await;
        })
        .await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let refused = h2c::ask(&client, connect("no:1"), "", None).await.unwrap();
        assert_eq!((refused.head.status().as_u16(), &refused.body[..]), (403, &b"words"[..]));
        assert!(!refused.head.headers().contains_key("connection"), "{refused:?}");
        assert_eq!(open(&near), 0);

        let (response, mut send) = client.clone().send_request(connect("yes:1"), false).unwrap();
        let response = response.await.unwrap();
        until("it is open", || open(&near) == 1 && open(&far) == 1).await;
        send.send_reset(h2::Reason::CANCEL);
        drop((response, send));
        until("the reset has closed it", || open(&near) + open(&far) == 0).await;

        let (response, _send) = client.clone().send_request(connect("yes:1"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        until("it is open", || open(&near) == 1 && open(&far) == 1).await;
        let mut drain = std::pin::pin!(near.drain());
        let early = tokio::time::timeout(Duration::from_millis(50), drain.as_mut()).await;
        assert!(early.is_err(), "a tunnel holds a drain");
        drop((client, _send));
        assert_eq!(drain.await, 0);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn websocket_over_http2_is_not_offered_and_a_client_that_tries_has_its_stream_reset() {
    run(async {
        let (app, _) = h2c::echo(100).await;
        let (near, _far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        assert!(!client.is_extended_connect_protocol_enabled());
        let mut request =
            http::Request::builder().method("CONNECT").uri("http://orders/chat").body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, _send) = client.clone().send_request(request, false).unwrap();
        assert!(response.await.is_err());
        assert_eq!(near.count("proxy_requests_total", &[]), 0);
    });
}
