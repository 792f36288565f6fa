//! What frames and routes a message means the same in every version and on every way: hosts,
//! lengths, trailers.

use std::time::Duration;

use crate::common::h2c::{self, ask, request};
use crate::common::{SERVICE, Seen, Side, TestNet, answering, cluster, inbound, outbound, pair, run};
use http::Version;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// How long an answer may take that should come at once; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fields that belong to a connection, frame a message, route it or say whose it is.
const NO_TRAILERS: [&str; 13] = [
    "TE",
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "Upgrade",
    "Transfer-Encoding",
    "Trailer",
    "Content-Length",
    "Host",
    "Set-Cookie",
    "x-forwarded-client-cert",
    "X_Forwarded_For",
    "Cookie",
];

/// Two sidecars between a client and `app`, whose cluster is bridged or not.
async fn pair_with(app: std::net::SocketAddr, bridge: bool) -> (Side, Side) {
    let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'\ninstance = 'orders-1'").await;
    let net = TestNet::to(SERVICE).redirect(app, far.at);
    (outbound(net, &format!("{}bridge = {bridge}\n", cluster("http", &[app], ""))).await, far)
}

#[test]
fn an_authority_that_is_none_is_refused_over_http2_as_over_http1() {
    run(async {
        let (app, _) = h2c::echo(100).await;
        let (near, _far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        for (uri, host, expected) in [
            ("http://orders/", None, 200),
            ("http://orders:8080/", None, 200),
            ("http://[::1]:80/", Some("orders"), 200),
            ("http://u@orders/", None, 400),
            ("http://orders:x/", None, 400),
            ("http://orders:-1/", None, 400),
            ("http://orders:99999/", None, 400),
            ("http://a,b/", None, 400),
            ("http://orders/", Some("a,b"), 400),
            ("http://orders/", Some("u@orders"), 400),
        ] {
            let mut get = http::Request::builder().uri(uri);
            if let Some(host) = host {
                get = get.header("host", host);
            }
            let answer = ask(&client, get.body(()).unwrap(), "", None).await.unwrap();
            assert_eq!(answer.head.status(), expected, "{uri} {host:?}");
            if expected == 200 {
                assert!(answer.header("saw-uri").starts_with(uri), "{uri} {host:?}");
                assert!(!answer.head.headers().contains_key("saw-host"), "{uri} {host:?}");
            } else {
                assert!(answer.header("proxy-status").contains("error=http_request_error"), "{uri} {host:?}");
            }
        }
    });
}

#[test]
fn the_authority_of_a_bridged_request_is_what_the_app_hears_and_not_a_host_beside_it() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let client = h2c::connect(far.at).await;
        let marked = || request("GET", "/").header("sidelab-orig-proto", "HTTP/1.1");
        let get = marked().header("host", "evil").body(()).unwrap();
        let answer = ask(&client, get, "", None).await.unwrap();
        assert_eq!(answer.head.status(), 200);
        assert_eq!(seen.last().header("host").as_deref(), Some("orders"));
        let get = marked().header("host", "orders").header("host", "orders").body(()).unwrap();
        let answer = ask(&client, get, "", None).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), seen.requests()), (400, 1));
    });
}

#[test]
fn a_request_has_one_length_or_none_over_http2_too() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'").await;
        let client = h2c::connect(far.at).await;
        for (lengths, body) in [(&["2", "2"][..], "hi"), (&[""], ""), (&["0", "0"], "")] {
            for marked in [true, false] {
                let mut post = request("POST", "/");
                for length in lengths {
                    post = post.header("content-length", *length);
                }
                if marked {
                    post = post.header("sidelab-orig-proto", "HTTP/1.1");
                }
                // A connection that takes it for a broken stream says so, too.
                if let Ok(answer) = ask(&client, post.body(()).unwrap(), body, None).await {
                    assert_eq!(answer.head.status(), 400, "{lengths:?}");
                }
                assert_eq!(seen.requests(), 0, "{lengths:?}: {:?}", seen.last());
            }
        }
    });
}

#[test]
fn an_answer_without_a_body_has_a_length_that_is_one_or_none() {
    run(async {
        for (method, head) in [("HEAD", "200 OK"), ("GET", "304 Not Modified")] {
            for lengths in ["", "18446744073709551616", "99999999999999999999999", "-1", "1, 1", "0x1"] {
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {lengths}\r\n\r\n");
                let app = answering(answer.leak()).await;
                for bridge in [false, true] {
                    let (near, far) = pair_with(app, bridge).await;
                    let mut client = near.client().await;
                    let ask = client.ask_as(method, "/");
                    let got = tokio::time::timeout(PATIENCE, ask).await.expect("an answer");
                    assert_eq!(got.status(), 502, "{method} {head} {lengths:?} bridge={bridge}: {got:?}");
                    near.at_rest_without(client).await;
                    far.at_rest().await;
                }
            }
        }
    });
}

#[test]
fn an_answer_of_an_http2_app_has_one_length_or_none() {
    run(async {
        let (app, _) = h2c::app(100, |_, mut respond| async move {
            let response =
                http::Response::builder().header("content-length", "0").header("content-length", "0");
            let _ = respond.send_response(response.body(()).unwrap(), true);
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "retry.attempts = 0")).await;
        let client = h2c::connect(near.at).await;
        let answer = ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.head.version()), (502, Version::HTTP_2));
    });
}

#[test]
fn what_belongs_to_a_connection_is_taken_out_of_the_trailers_of_a_request() {
    run(async {
        let seen = Seen::default();
        let app = seen.app(OK).await;
        for bridge in [false, true] {
            let (near, far) = pair_with(app, bridge).await;
            for name in NO_TRAILERS {
                let post = format!(
                    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, {name}\r\n\r\n\
                     2\r\nhi\r\n0\r\n{name}: x\r\nx-sum: 1\r\n\r\n"
                );
                let mut client = near.client().await;
                let answer = tokio::time::timeout(PATIENCE, client.ask(&post)).await.expect("an answer");
                assert_eq!(answer.status(), 200, "{name} bridge={bridge}: {answer:?}");
                assert_eq!(
                    (seen.last().text(), seen.last().trailers.as_str()),
                    ("hi", "x-sum: 1\n"),
                    "{name}"
                );
            }
            near.at_rest().await;
            far.at_rest().await;
        }
    });
}

#[test]
fn what_belongs_to_a_connection_is_taken_out_of_the_trailers_of_a_response() {
    run(async {
        for name in NO_TRAILERS {
            let answer = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, {name}\r\n\r\n\
                 2\r\nok\r\n0\r\n{name}: x\r\nx-sum: 1\r\n\r\n"
            );
            let app = answering(answer.leak()).await;
            for bridge in [false, true] {
                let (near, far) = pair_with(app, bridge).await;
                let mut client = near.client().await;
                let get = "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n";
                let got = tokio::time::timeout(PATIENCE, client.ask(get)).await.expect("an answer");
                assert_eq!((got.status(), got.text()), (200, "ok"), "{name} bridge={bridge}: {got:?}");
                assert_eq!(got.trailers, "x-sum: 1\n", "{name} bridge={bridge}");
                near.at_rest_without(client).await;
                far.at_rest().await;
            }
        }
    });
}

#[test]
fn a_target_means_the_same_in_path_and_query_and_in_both_versions() {
    run(async {
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(OK).await], "")).await;
        let (echo, _) = h2c::echo(100).await;
        let near2 = outbound(TestNet::to(SERVICE), &cluster("http", &[echo], "")).await;
        let client = h2c::connect(near2.at).await;
        for c in "!$%&'()*+,-./:;=?@[]\\^_{|}~\u{fc}\"<>".chars() {
            let expected = if "\"<>".contains(c) { 400 } else { 200 };
            for target in [format!("/a{c}b?c"), format!("/a?b={c}c")] {
                let get = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
                let answer = near.client().await.ask(&get).await;
                assert_eq!(answer.status(), expected, "{target}");
                if expected == 200 {
                    assert!(seen.last().head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}");
                }
                // The client's library has no word for most of the others.
                let Ok(uri) = format!("http://orders{target}").parse::<http::Uri>() else { continue };
                let get = http::Request::builder().uri(uri).body(()).unwrap();
                let answer = ask(&client, get, "", None).await.unwrap();
                assert_eq!(answer.head.status(), expected, "{target}");
            }
        }
    });
}
