//! Which protocol a connection is taken for, and what becomes of headers, versions and requests out of the ordinary.

mod common;

use common::{SERVICE, Seen, TestNet, Wire, answering, app, cluster, inbound, outbound, pair, run, until};

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
        drop(client);
        near.at_rest().await;
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
        drop(client);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn an_absolute_form_target_counts_more_than_host() {
    run(async {
        let seen = Seen::default();
        let (near, _far) = pair(seen.app(OK).await).await;
        near.client().await.ask("GET http://u@orders:81/a HTTP/1.1\r\nhost: other\r\n\r\n").await;
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
        drop(client);
        near.at_rest().await;
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
fn a_client_that_asks_for_continue_gets_it_when_its_body_is_wanted() {
    run(async {
        let seen = Seen::default();
        let (near, _far) = pair(seen.app(OK).await).await;
        let mut client: Wire = near.client().await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
        assert_eq!(client.response(false).await.status(), 100);
        client.send("hi").await;
        assert_eq!(client.response(false).await.text(), "ok");
        assert_eq!(seen.last().text(), "hi");
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
