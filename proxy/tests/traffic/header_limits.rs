//! How large a head may be: the same for every version, at the first hop and at the second.

use std::fmt::Write;

use crate::common::h2c::{self, ask, call, request};
use crate::common::{SERVICE, Seen, Side, TestNet, answering, cluster, inbound, outbound, run};
use http::request::Builder;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What a client's sidecar may add: an id, who asks, how long it will wait.
const MORE: &str = "forwarded = 'append'\n";

/// Two sidecars between a client and `app`, whose cluster is bridged or not.
async fn pair_with(app: std::net::SocketAddr, bridge: bool) -> (Side, Side) {
    let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'\ninstance = 'orders-1'").await;
    let net = TestNet::to(SERVICE).redirect(app, far.at);
    (outbound(net, &format!("{}bridge = {bridge}\n", cluster("http", &[app], MORE))).await, far)
}

/// A request of this many header lines, and bytes of its head.
fn http1(lines: usize, bytes: Option<usize>) -> String {
    let mut head = "GET /path HTTP/1.1\r\nHost: orders\r\nx-request-timeout: 5s\r\n".to_owned();
    for n in 2..lines {
        write!(head, "x-{n}: y\r\n").unwrap();
    }
    if let Some(bytes) = bytes {
        let more = bytes - head.len() - "x: \r\n\r\n".len();
        write!(head, "x: {}\r\n", "y".repeat(more)).unwrap();
    }
    head + "\r\n"
}

/// `start` with this many header lines more.
fn with_lines(mut start: Builder, lines: usize) -> Builder {
    for n in 0..lines {
        start = start.header(format!("x-{n}"), "y");
    }
    start
}

#[test]
fn what_the_first_hop_lets_pass_is_not_refused_by_the_second_for_what_the_first_has_added() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        for bridge in [false, true] {
            let (near, far) = pair_with(app, bridge).await;
            for (name, text, expected) in [
                ("100 lines", http1(100, None), 200),
                ("101 lines", http1(101, None), 431),
                ("65536 bytes", http1(3, Some(65_536)), 200),
                ("65537 bytes", http1(3, Some(65_537)), 431),
                ("both", http1(99, Some(65_536)), 200),
            ] {
                let answer = near.client().await.ask(&text).await;
                assert_eq!(answer.status(), expected, "{name} bridge={bridge}: {answer:?}");
                if expected == 200 {
                    assert!(seen.last().header("x-forwarded-for").is_some(), "{name}");
                }
            }
            near.at_rest().await;
            far.at_rest().await;
        }
    });
}

#[test]
fn what_a_route_adds_counts_at_the_hop_that_adds_it() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let route = "[[cluster.route]]\nrequest_headers = { set = { x-a = '1', x-b = '2' } }\n";
        let near = outbound(net, &(cluster("http", &[app], "") + route)).await;
        // The time that the client waits is one of those that do not count.
        for (lines, expected) in [(99, 200), (100, 431)] {
            let answer = near.client().await.ask(&http1(lines, None)).await;
            assert_eq!(answer.status(), expected, "{lines}: {answer:?}");
        }
        assert_eq!(near.count("proxy_errors_total", &["headers_too_large"]), 1);
        assert_eq!(far.count("proxy_errors_total", &[]), 0);
    });
}

#[test]
fn a_head_over_http2_has_as_many_lines_and_bytes_as_over_http1() {
    run(async {
        let (app, _) = h2c::app(100, |_, mut respond| async move {
            let _ = respond.send_response(http::Response::new(()), true);
        })
        .await;
        let (near, far) = pair_with(app, false).await;
        for side in [&near, &far] {
            let client = h2c::connect(side.at).await;
            let get = || request("GET", "/path");
            for (name, get, expected) in [
                ("99 lines and the authority", with_lines(get(), 99), 200),
                ("100 lines and the authority", with_lines(get(), 100), 431),
                ("300 lines", with_lines(get(), 300), 431),
                ("65536 bytes", get().header("x", "y".repeat(65_536 - 41)), 200),
                ("65537 bytes", get().header("x", "y".repeat(65_537 - 41)), 431),
                ("100 kB", get().header("x", "y".repeat(100_000)), 431),
            ] {
                let answer = ask(&client, get.body(()).unwrap(), "", None).await.unwrap();
                assert_eq!(answer.head.status(), expected, "{name}");
                if expected == 431 {
                    assert!(answer.header("proxy-status").contains("error=http_request_error"), "{name}");
                }
            }
            let metadata = with_lines(call("/shop.Orders/Get"), 1).header("x-bin", "y".repeat(70_000));
            let answer = ask(&client, metadata.body(()).unwrap(), "", None).await.unwrap();
            assert_eq!((answer.head.status().as_u16(), answer.header("grpc-status")), (200, "8"));
            let metadata = with_lines(call("/shop.Orders/Get"), 120);
            let answer = ask(&client, metadata.body(()).unwrap(), "", None).await.unwrap();
            assert_eq!((answer.head.status().as_u16(), answer.header("grpc-status")), (200, "8"));
        }
    });
}

#[test]
fn an_answers_head_means_the_same_at_each_hop_too() {
    run(async {
        for (lines, bytes, expected) in [(100, 10, 200), (101, 10, 502), (3, 65_480, 200), (3, 65_600, 502)] {
            // Without a length: the sidecars frame it anew.
            let mut answer = "HTTP/1.1 200 OK\r\n".to_owned();
            for n in 1..lines {
                write!(answer, "x-{n}: y\r\n").unwrap();
            }
            write!(answer, "x: {}\r\n\r\nok", "y".repeat(bytes)).unwrap();
            let app = crate::common::app(move |_, mut wire| {
                let answer = answer.clone();
                async move {
                    wire.request().await;
                    wire.send(&answer).await;
                }
            })
            .await;
            for bridge in [false, true] {
                let (near, _far) = pair_with(app, bridge).await;
                let got = near.client().await.get("/").await;
                assert_eq!(got.status(), expected, "{lines} lines, {bytes} bytes, bridge={bridge}");
            }
        }
    });
}

#[test]
fn limits_that_are_configured_hold_for_every_version() {
    run(async {
        let app = answering(OK).await;
        let limits = "limits = { headers = 5, header_bytes = 8192 }";
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], limits)).await;
        let client = h2c::connect(near.at).await;
        for (lines, expected) in [(5, 200), (6, 431)] {
            assert_eq!(near.client().await.ask(&http1(lines, None)).await.status(), expected, "{lines}");
        }
        for (bytes, expected) in [(100, 200), (9000, 431), (15_000, 431)] {
            let get =
                request("GET", "/").header("x", "y".repeat(bytes)).header("sidelab-orig-proto", "HTTP/1.1");
            let answer = ask(&client, get.body(()).unwrap(), "", None).await;
            // The app speaks HTTP/1, so that it does not understand what passes.
            let status = answer.map_or(200, |answer| answer.head.status().as_u16());
            assert_eq!(status == 431, expected == 431, "{bytes}: {status}");
        }
    });
}
