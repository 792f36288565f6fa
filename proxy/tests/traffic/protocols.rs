//! Which protocol a connection is taken for, and what becomes of headers, versions and requests out
//! of the ordinary.

use crate::common::{SERVICE, Seen, TestNet, answering, app, cluster, inbound, outbound, pair, run, until};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn http_is_found_out_on_an_undeclared_port_also_byte_by_byte() {
    run(async {
        let (near, far) = pair(answering(OK).await).await;
        let mut client = near.client().await;
        for byte in "PATCH /x HTTP/1.1\r\nhost: a\r\n\r\n".split_inclusive(|_| true) {
            client.send(byte).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.response(false).await.text(), "ok");
        assert_eq!(near.count("proxy_detections_total", &["http1"]), 1);
        assert_eq!(far.count("proxy_detections_total", &["http1"]), 1);
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn opaque_bytes_on_an_undeclared_port_pass_both_ways_and_half_close_is_kept() {
    run(async {
        let app = app(|_, mut wire| async move {
            let said = wire.rest().await;
            wire.send(&format!("{} bytes", said.len())).await;
        })
        .await;
        for said in ["\0\x01binary", "*1\r\n$4\r\nPING\r\n", "short", "BREW /pot HTCPCP/1.0\r\n"] {
            let (near, far) = pair(app).await;
            let mut client = near.client().await;
            client.send(said).await;
            tokio::io::AsyncWriteExt::shutdown(&mut client.io).await.unwrap();
            assert_eq!(
                String::from_utf8(client.rest().await).unwrap(),
                format!("{} bytes", said.len()),
                "{said}"
            );
            for side in [&near, &far] {
                side.at_rest().await;
                assert_eq!(side.count("proxy_detections_total", &["opaque"]), 1, "{said}");
            }
        }
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once_if_declared_and_after_the_time_out_if_not() {
    run(async {
        let app = app(|_, mut wire| async move { wire.send("220 hello\r\n").await }).await;
        for (protocol, timeouts) in [("tcp", 0), ("detect", 1)] {
            let far =
                inbound(TestNet::to(&app.to_string()), "service = 'orders'\ntimeouts.detect = '20ms'").await;
            let net = TestNet::to(SERVICE).redirect(app, far.at);
            let near = outbound(net, &cluster(protocol, &[app], "timeouts.detect = '20ms'")).await;
            assert_eq!(near.client().await.rest().await, b"220 hello\r\n");
            near.at_rest().await;
            far.at_rest().await;
            assert_eq!(near.count("proxy_detections_total", &["timeout"]), timeouts);
        }
    });
}

#[test]
fn a_request_id_is_made_once_and_kept_all_the_way() {
    run(async {
        let seen = Seen::default();
        let (near, _far) = pair(seen.app(OK).await).await;
        let mut client = near.client().await;
        client.ask("GET / HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\n\r\n").await;
        assert_eq!(seen.last().header("x-request-id").as_deref(), Some("mine"));
        client.get("/").await;
        let first = seen.last().header("x-request-id").expect("one is made");
        client.get("/").await;
        let second = seen.last().header("x-request-id").expect("one is made");
        assert!(first.len() == 36 && second.len() == 36 && first != second, "{first} {second}");
    });
}

#[test]
fn headers_of_one_connection_do_not_reach_the_next_in_either_direction() {
    run(async {
        let seen = Seen::default();
        let app = seen
            .app(
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive, x-theirs\r\nkeep-alive: timeout=5\r\n\
                 x-theirs: 1\r\nx-kept: 1\r\n\r\nok",
            )
            .await;
        let (near, _far) = pair(app).await;
        let mut client = near.client().await;
        let response = client
            .ask(
                "GET /a?b=c HTTP/1.1\r\nhost: orders:8080\r\nconnection: keep-alive, x-mine, host\r\nkeep-alive: 1\r\n\
                 proxy-connection: keep-alive\r\nx-mine: 1\r\ncookie: a\r\ncookie: b\r\n\r\n",
            )
            .await;
        for gone in ["x-theirs", "keep-alive"] {
            assert_eq!(response.header(gone), None);
        }
        assert_eq!(response.header("x-kept").as_deref(), Some("1"));
        let request = seen.last();
        assert!(request.head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{}", request.head);
        for gone in ["connection", "x-mine", "keep-alive", "proxy-connection"] {
            assert_eq!(request.header(gone), None, "{gone}");
        }
        assert_eq!(request.header("host").as_deref(), Some("orders:8080"));
        assert_eq!(request.header("cookie").as_deref(), Some("a, b"));
    });
}

#[test]
fn an_http_1_0_client_is_served_in_its_own_terms_and_the_app_sees_a_valid_request() {
    run(async {
        let seen = Seen::default();
        let app = seen.app("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
        let (near, _far) = pair(app).await;
        let mut client = near.client().await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let response = String::from_utf8(client.rest().await).unwrap();
        assert!(response.starts_with("HTTP/1.0 200") && response.ends_with("\r\n\r\nok"), "{response}");
        assert!(seen.last().head.starts_with("GET / HTTP/1.1"), "{}", seen.last().head);
        assert_eq!(seen.last().header("host").as_deref(), Some(SERVICE));
    });
}

#[test]
fn a_response_that_ends_with_its_connection_does_not_end_the_clients() {
    run(async {
        let app = app(|_, mut wire| async move {
            wire.request().await;
            wire.send("HTTP/1.0 200 OK\r\n\r\nold").await;
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        for _ in 0..3 {
            let response = client.get("/").await;
            assert!(response.head.starts_with("HTTP/1.1 200"), "{}", response.head);
            assert_eq!(response.text(), "old");
        }
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn an_absolute_form_target_counts_more_than_host() {
    run(async {
        let seen = Seen::default();
        let (near, _far) = pair(seen.app(OK).await).await;
        near.client().await.ask("GET http://orders:81/a HTTP/1.1\r\nhost: other\r\n\r\n").await;
        assert!(seen.last().head.starts_with("GET /a HTTP/1.1\r\n"), "{}", seen.last().head);
        assert_eq!(seen.last().header("host").as_deref(), Some("orders:81"));
    });
}

#[test]
fn an_offer_of_h2c_is_ignored_and_a_coding_that_nobody_undoes_is_refused_with_a_reason() {
    run(async {
        let seen = Seen::default();
        let (near, far) = pair(seen.app(OK).await).await;
        let request = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
        let answer = near.client().await.ask(request).await;
        assert_eq!(answer.status(), 501);
        assert_eq!(answer.text(), "this sidecar does not carry transfer codings other than chunked\n");
        assert_eq!(seen.requests(), 0);
        assert_eq!(near.count("proxy_errors_total", &["unsupported"]), 1);
        let offer = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
                     http2-settings: AAMAAABk\r\n\r\n";
        let mut client = near.client().await;
        for _ in 0..2 {
            assert_eq!(client.ask(offer).await.text(), "ok");
            assert_eq!((seen.last().header("upgrade"), seen.last().header("http2-settings")), (None, None));
        }
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn an_app_that_switches_protocols_without_being_asked_is_not_believed() {
    run(async {
        let app =
            answering("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nbytes")
                .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "retry.attempts = 0")).await;
        let answer = near.client().await.get("/").await;
        assert_eq!(answer.status(), 502);
        assert!(answer.header("proxy-status").unwrap().contains("http_protocol_error"), "{answer:?}");
        near.at_rest().await;
    });
}

#[test]
fn an_app_that_does_not_speak_http_is_named_as_the_cause() {
    run(async {
        let app = answering("220 mail.example ESMTP\r\n").await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "retry.attempts = 0")).await;
        let answer = near.client().await.get("/").await;
        assert_eq!(answer.status(), 502);
        assert!(answer.header("proxy-status").unwrap().contains("http_protocol_error"), "{answer:?}");
        assert_eq!(near.count("proxy_errors_total", &["\"protocol\""]), 1);
    });
}

#[test]
fn a_client_of_http_1_0_may_keep_its_connection_and_never_gets_chunks() {
    run(async {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        for (answer, kept) in [(OK, true), (chunked, false)] {
            let seen = Seen::default();
            let (near, far) = pair(seen.app(answer).await).await;
            let mut client = near.client().await;
            for _ in 0..if kept { 3 } else { 1 } {
                client.send("GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n").await;
                let response = client.response(false).await;
                assert!(response.head.starts_with("HTTP/1.0 200"), "{}", response.head);
                assert_eq!((response.text(), response.header("transfer-encoding")), ("ok", None));
                let said = response.header("connection").as_deref() == Some("keep-alive");
                assert_eq!(said, kept, "{}", response.head);
            }
            if !kept {
                client.closed().await;
            }
            drop(client);
            assert_eq!(seen.connections(), 1, "the app's connection is the sidecar's business");
            near.at_rest().await;
            far.at_rest().await;
        }
    });
}

#[test]
fn an_app_of_http_1_0_gets_each_request_on_a_new_connection_and_no_body_is_lost() {
    run(async {
        // hyper would not chunk for a server that once answered in HTTP/1.0, and send no body at
        // all.
        let answer = "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok";
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(answer).await], "")).await;
        let mut client = near.client().await;
        for n in 1..4 {
            let request =
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
            let response = client.ask(request).await;
            assert!(response.head.starts_with("HTTP/1.1 200"), "{}", response.head);
            assert_eq!((response.text(), seen.last().text(), seen.connections()), ("ok", "hi", n));
        }
        near.at_rest_without(client).await;
    });
}

#[test]
fn answers_to_head_and_304_keep_the_length_that_a_get_would_have_had() {
    run(async {
        let full = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\netag: \"a\"\r\n\r\n";
        let unchanged = "HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: \"a\"\r\n\r\n";
        for (method, answer) in [("HEAD", full), ("GET", unchanged)] {
            let seen = Seen::default();
            let (near, _far) = pair(seen.app(answer).await).await;
            let mut client = near.client().await;
            for _ in 0..2 {
                let got = client.ask(&format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).await;
                assert_eq!(got.header("content-length").as_deref(), Some("1000"), "{}", got.head);
                assert_eq!(got.header("transfer-encoding"), None);
            }
            assert_eq!(seen.connections(), 1, "{method}");
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    run(async {
        let app = app(|_, mut wire| async move {
            while let Some(request) = wire.request().await {
                let path = request.head.split(' ').nth(1).unwrap().to_owned();
                let (length, body) = (path.len(), request.text().to_owned());
                wire.send(&format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}{body}",
                    length + body.len()
                ))
                .await;
            }
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        let posts = (0..20).map(|n| match n % 2 {
            0 => format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n"),
            _ => format!(
                "POST /{n} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
            ),
        });
        client.send(&posts.collect::<String>()).await;
        for n in 0..20 {
            assert_eq!(client.response(false).await.text(), format!("/{n}{}", ["", "x"][n % 2]));
        }
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn header_names_keep_their_case_if_asked_and_are_lower_case_if_not() {
    run(async {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-WeIrD: 1\r\nx-weird: 2\r\n\r\nok";
        for (keep, names) in [("true", ["X-CaSe: 1", "X-WeIrD: 1"]), ("false", ["x-case: 1", "x-weird: 1"])] {
            let seen = Seen::default();
            let at = seen.app(answer).await;
            let more = format!("preserve_header_case = {keep}");
            let far = inbound(TestNet::to(&at.to_string()), &format!("service = 'orders'\n{more}")).await;
            let near =
                outbound(TestNet::to(SERVICE).redirect(at, far.at), &cluster("http", &[at], &more)).await;
            let got = near.client().await.ask("GET / HTTP/1.1\r\nHost: a\r\nX-CaSe: 1\r\n\r\n").await;
            for (head, name) in [(seen.last().head, names[0]), (got.head, names[1])] {
                assert!(head.lines().any(|line| line == name), "{name} in {head}");
            }
        }
    });
}

#[test]
fn who_made_a_request_is_said_if_asked_and_by_the_callers_sidecar_only() {
    run(async {
        let request = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.1.1.1\r\nx-forwarded-for: 10.1.1.2\r\n\
                       x-forwarded-proto: https\r\nforwarded: for=10.1.1.1\r\n\r\n";
        for (how, addresses, scheme, forwarded) in [
            ("off", "10.1.1.1, 10.1.1.2", "https", Some("for=10.1.1.1")),
            ("append", "10.1.1.1, 10.1.1.2, 127.0.0.1", "https", Some("for=10.1.1.1")),
            ("replace", "127.0.0.1", "http", None),
        ] {
            let seen = Seen::default();
            let at = seen.app(OK).await;
            let more = format!("forwarded = '{how}'");
            let far = inbound(TestNet::to(&at.to_string()), &format!("service = 'orders'\n{more}")).await;
            let near =
                outbound(TestNet::to(SERVICE).redirect(at, far.at), &cluster("http", &[at], &more)).await;
            near.client().await.ask(request).await;
            let last = seen.last();
            assert_eq!(last.header("x-forwarded-for").as_deref(), Some(addresses), "{how}");
            assert_eq!(last.header("x-forwarded-proto").as_deref(), Some(scheme), "{how}");
            assert_eq!(last.header("forwarded").as_deref(), forwarded, "{how}");
            near.client().await.get("/").await;
            let said = seen.last().header("x-forwarded-for");
            assert_eq!(said.as_deref(), (how != "off").then_some("127.0.0.1"), "{how}");
        }
    });
}

#[test]
fn heads_past_the_configured_limits_are_refused_on_the_way_in_and_on_the_way_back() {
    run(async {
        let lines = |n: usize| (0..n).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
        let limits = "limits = { header_bytes = 10000, headers = 120 }\nretry.attempts = 0";
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(OK).await], limits)).await;
        for (more, status) in [
            (lines(119), 200),
            (lines(120), 431),
            (format!("x: {}\r\n", "y".repeat(9900)), 200),
            (format!("x: {}\r\n", "y".repeat(9990)), 431),
        ] {
            let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{more}\r\n");
            assert_eq!(near.client().await.ask(&request).await.status(), status, "{} bytes", request.len());
        }
        assert_eq!(seen.requests(), 2);
        assert_eq!(near.count("proxy_connections_refused_total", &["headers_too_large"]), 2);
        for (more, status) in [(9900, 200), (9990, 502)] {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: {}\r\n\r\n", "y".repeat(more));
            let at = answering(answer.leak()).await;
            let near = outbound(TestNet::to(SERVICE), &cluster("http", &[at], limits)).await;
            assert_eq!(near.client().await.get("/").await.status(), status, "{more}");
        }
    });
}

#[test]
fn addresses_outside_every_cluster_are_passed_through() {
    run(async {
        let app = answering(OK).await;
        let near = outbound(TestNet::to(&app.to_string()), "service = 'web'").await;
        assert_eq!(near.client().await.get("/").await.text(), "ok");
        until("it is closed", || near.count("proxy_connections_open", &[]) == 0).await;
        assert_eq!(near.count("proxy_requests_total", &[]), 0);
    });
}
