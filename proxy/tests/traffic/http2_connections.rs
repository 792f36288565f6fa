//! How HTTP/2 connections of clients and to endpoints begin and end.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::common::frames;
use crate::common::h2c::{self, ask, request};
use crate::common::{SERVICE, Seen, TestNet, Wire, app, cluster, inbound, outbound, run, spawn, until};
use http::Response;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
/// GET / of `a`: `:method`, `:scheme` and `:path` of the static table, and `:authority` in letters.
const GET: &[u8] = &[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'a'];

#[test]
fn a_client_that_sends_no_settings_after_the_preface_is_not_served() {
    run(async {
        let (app, _) = h2c::echo(10).await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        for (name, frames, served) in [
            ("SETTINGS", [SETTINGS, GET], true),
            ("HEADERS", [GET, SETTINGS], false),
            ("PING", [PING, SETTINGS], false),
            ("an acknowledgement", [&[0, 0, 0, 4, 1, 0, 0, 0, 0], GET], false),
            ("SETTINGS of a stream", [&[0, 0, 0, 4, 0, 0, 0, 0, 1], GET], false),
        ] {
            let mut client = near.client().await;
            let bytes = [PREFACE, frames[0], frames[1]].concat();
            client.io.write_all(&bytes).await.unwrap();
            if served {
                until("it has reached the endpoint", || near.count("proxy_requests_total", &[]) == 1).await;
            } else {
                let timer = Duration::from_secs(5);
                let rest = tokio::time::timeout(timer, client.rest()).await;
                assert!(rest.is_ok(), "{name}: the connection stays open");
                assert_eq!(near.count("proxy_requests_total", &[]), 1, "{name}");
            }
        }
    });
}

#[test]
fn an_endpoint_that_sends_no_settings_first_speaks_no_http2() {
    run(async {
        let app = app(|_, mut wire: Wire| async move {
            wire.io.write_all(PING).await.unwrap();
            wire.io.write_all(SETTINGS).await.unwrap();
            wire.rest().await;
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "retry.attempts = 0")).await;
        let client = h2c::connect(near.at).await;
        let answer = ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
        assert_eq!(answer.head.status(), 502);
        assert_eq!(near.count("proxy_errors_total", &["\"protocol\""]), 1);
    });
}

/// An app that answers nothing until it is told to.
async fn app_that_waits() -> (SocketAddr, watch::Sender<bool>) {
    let (go, gate) = watch::channel(false);
    let (app, _) = h2c::app(10, move |_, mut respond| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|go| *go).await.unwrap();
            respond.send_response(Response::new(()), true).unwrap();
        }
    })
    .await;
    (app, go)
}

#[test]
fn an_accepted_connection_that_carries_nothing_is_closed_and_one_that_carries_something_is_not() {
    run(async {
        let (app, go) = app_that_waits().await;
        let config = "service = 'orders'\ntimeouts.max_connection_idle = '50ms'";
        let far = inbound(TestNet::to(&app.to_string()), config).await;
        let [idle, busy] = [h2c::connect(far.at).await, h2c::connect(far.at).await];
        let (response, _) = busy.clone().send_request(request("GET", "/").body(()).unwrap(), true).unwrap();
        until("the idle one is closed", || far.count("proxy_connections_open", &[]) == 1).await;
        assert!(idle.clone().ready().await.is_err());
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(far.count("proxy_connections_open", &[]), 1, "the busy one is not idle");
        go.send(true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        until("it is idle, too", || far.count("proxy_connections_open", &[]) == 0).await;
    });
}

#[test]
fn an_accepted_connection_that_is_old_finishes_what_it_carries_and_takes_no_more() {
    run(async {
        let (app, go) = app_that_waits().await;
        let config = cluster("http", &[app], "timeouts.max_connection_age = '50ms'");
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let client = h2c::connect(near.at).await;
        let get = || request("GET", "/").body(()).unwrap();
        let (response, _) = client.clone().send_request(get(), true).unwrap();
        let mut told = false;
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            told = match client.clone().ready().await {
                Ok(mut client) => client.send_request(get(), true).is_err(),
                Err(_) => true,
            };
            if told {
                break;
            }
        }
        assert!(told, "its client is told to open another one");
        go.send(true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        until("it is closed", || near.count("proxy_connections_open", &[]) == 0).await;
    });
}

#[test]
fn a_client_may_have_as_many_streams_as_are_configured() {
    run(async {
        let (app, _) = h2c::echo(10).await;
        let near =
            outbound(TestNet::to(SERVICE), &cluster("http", &[app], "http2.max_concurrent_streams = 3"))
                .await;
        let client = h2c::connect(near.at).await;
        ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
        assert_eq!(client.current_max_send_streams(), 3);
    });
}

#[test]
fn who_waits_for_a_stream_gets_it_as_soon_as_the_endpoint_allows_more() {
    run(async {
        let (app, record) = frames::app(|turn| match turn.nth {
            1 => [frames::max_concurrent_streams(1), frames::answer(turn.stream)].concat(),
            2 => frames::max_concurrent_streams(2),
            _ => [frames::answer(turn.stream - 2), frames::answer(turn.stream)].concat(),
        })
        .await;
        let config = cluster("http", &[app], "limits.endpoint_connections = 1\ntimeouts.connect = '1m'");
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let mut client = h2c::connect(near.at).await;
        let get = || request("GET", "/").body(()).unwrap();
        ask(&client, get(), "", None).await.unwrap();
        let (first, mut upload) = client.send_request(request("POST", "/").body(()).unwrap(), false).unwrap();
        until("it has its stream", || record.count(frames::HEADERS) == 2).await;
        let (second, _) = client.send_request(get(), true).unwrap();
        until("it waits", || near.count("proxy_endpoint_requests_waiting", &[]) == 1).await;
        upload.send_data("end".into(), true).unwrap();
        for answer in [first, second] {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        assert_eq!(record.connections.get(), 1);
    });
}

#[test]
fn a_call_is_not_bound_where_the_endpoint_allows_fewer_streams_than_before() {
    run(async {
        let (app, record) = frames::app(|turn| {
            let most = if turn.nth == 1 { 10 } else { 1 };
            [frames::max_concurrent_streams(most), frames::answer(turn.stream)].concat()
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        let mut client = h2c::connect(near.at).await;
        let get = || request("GET", "/").body(()).unwrap();
        ask(&client, get(), "", None).await.unwrap();
        let (_open, _upload) = client.send_request(request("POST", "/").body(()).unwrap(), false).unwrap();
        until("it has its stream", || record.count(frames::HEADERS) == 2).await;
        ask(&client, get(), "", None).await.unwrap();
        assert_eq!(record.connections.get(), 1);
        ask(&client, get(), "", None).await.unwrap();
        assert_eq!(record.connections.get(), 2);
    });
}

#[test]
fn the_time_for_a_head_is_configured() {
    run(async {
        let (app, _) = h2c::echo(10).await;
        let near =
            outbound(TestNet::to(SERVICE), &cluster("http", &[app], "timeouts.request_headers = '50ms'"))
                .await;
        for begun in ["", "GET / HTTP/1.1\r\nhost:"] {
            let mut client = near.client().await;
            client.send(begun).await;
            let rest = tokio::time::timeout(Duration::from_secs(5), client.rest()).await;
            assert!(rest.is_ok(), "{begun:?}: the connection stays open");
        }
    });
}

/// A header in letters, as a client of HTTP/2 sends it that knows no tables.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A frame of the first stream.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1], payload].concat()
}

#[test]
fn pseudo_headers_in_trailers_say_nothing_to_the_app() {
    run(async {
        let seen = Seen::default();
        let app = seen.app("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let mut client = far.client().await;
        // POST / of `a`, then its body, then trailers with another path and another host.
        let head = [
            vec![0x83, 0x86, 0x84, 0x41, 1, b'a'],
            field("sidelab-orig-proto", "HTTP/1.1"),
            field("trailer", "x-sum"),
        ];
        let trailers = [field(":path", "/evil"), field(":authority", "evil"), field("x-sum", "7")];
        let bytes = [
            [PREFACE, SETTINGS].concat(),
            frame(1, 4, &head.concat()),
            frame(0, 0, b"hi"),
            frame(1, 5, &trailers.concat()),
        ];
        client.io.write_all(&bytes.concat()).await.unwrap();
        until("it is answered", || far.count("proxy_responses_total", &[]) == 1).await;
        let got = seen.last();
        assert!(got.head.starts_with("POST / HTTP/1.1\r\n"), "{got:?}");
        assert_eq!(got.header("host").as_deref(), Some("a"));
        assert_eq!((got.text(), got.trailers.as_str()), ("hi", "x-sum: 7\n"));
    });
}

#[test]
fn a_path_of_nothing_but_a_fragment_is_the_root_and_no_path_is_refused() {
    run(async {
        let seen = Seen::default();
        let app = seen.app("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let marked = field("sidelab-orig-proto", "HTTP/1.1");
        // GET of `a`, http.
        let fragment = [vec![0x82, 0x86, 0x41, 1, b'a'], field(":path", "#b"), marked.clone()];
        let nothing = [vec![0x82, 0x86], field("host", "a"), marked];
        for (n, head) in [(1, fragment.concat()), (2, nothing.concat())] {
            let mut client = far.client().await;
            let bytes = [PREFACE, SETTINGS, &frame(1, 5, &head)].concat();
            client.io.write_all(&bytes).await.unwrap();
            until("it is answered", || far.count("proxy_responses_total", &[]) == n).await;
            assert_eq!(seen.last().head.lines().next(), Some("GET / HTTP/1.1"));
            assert_eq!(far.count("proxy_errors_total", &["malformed"]), n - 1);
        }
        assert_eq!(seen.requests(), 1);
    });
}

#[test]
fn silent_clients_on_other_machines_are_pinged_as_often_as_configured_and_the_local_app_never() {
    run(async {
        let (app, _) = h2c::app(10, |_, mut respond| async move {
            // It is silent until it is given up.
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        })
        .await;
        let often = "http2.connection_keepalive_interval = '30ms'";
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], often)).await;
        let far = inbound(TestNet::to(&app.to_string()), &format!("service = 'orders'\n{often}")).await;
        let [local, remote] = [Rc::new(Cell::new(0)), Rc::new(Cell::new(0))];
        for (side, pings) in [(&near, &local), (&far, &remote)] {
            let (mut client, pings) = (side.client().await, pings.clone());
            client.io.write_all(&[PREFACE, SETTINGS, GET].concat()).await.unwrap();
            spawn(async move {
                loop {
                    let header = client.bytes(9).await;
                    let len = u32::from_be_bytes([0, header[0], header[1], header[2]]);
                    let payload = client.bytes(len as usize).await;
                    if header[3..5] == [6, 0] {
                        pings.set(pings.get() + 1);
                        let pong = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat();
                        client.io.write_all(&pong).await.unwrap();
                    }
                }
            });
        }
        until("the one is pinged three times", || remote.get() == 3).await;
        assert_eq!(local.get(), 0);
    });
}
