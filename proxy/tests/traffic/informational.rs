//! `Expect: 100-continue` and other 1xx answers through two sidecars.

use std::cell::Cell;
use std::rc::Rc;

use crate::common::{SERVICE, Seen, TestNet, app, cluster, outbound, pair, run, until};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const EXPECT: &str = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";

#[test]
fn a_client_gets_100_when_the_app_says_so_and_not_before() {
    run(async {
        let said = Rc::new(Cell::new(false));
        let says = said.clone();
        let app = app(move |_, mut wire| {
            let says = says.clone();
            async move {
                while let Some(head) = wire.head().await {
                    assert_eq!(head.header("expect").as_deref(), Some("100-continue"));
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                    says.set(true);
                    wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                    let request = wire.body(head, false).await;
                    assert_eq!(request.text(), "hi");
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        for _ in 0..3 {
            said.set(false);
            client.send(EXPECT).await;
            assert_eq!(client.response(false).await.status(), 100);
            assert!(said.get(), "100 came from a sidecar");
            client.send("hi").await;
            assert_eq!(client.response(false).await.text(), "ok");
        }
        drop(client);
        assert_eq!(near.count("proxy_connects_total", &[]), 1);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_final_answer_without_100_reaches_the_client_and_the_body_is_not_sent() {
    run(async {
        for (answer, status) in [
            ("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno", 417),
            ("HTTP/1.1 401 Unauthorized\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 401),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", 200),
            ("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n", 413),
        ] {
            let bodies = Rc::new(Cell::new(None));
            let sent = bodies.clone();
            let app = app(move |_, mut wire| {
                let sent = sent.clone();
                async move {
                    wire.head().await.unwrap();
                    wire.send(answer).await;
                    sent.set(Some(wire.rest().await.len()));
                }
            })
            .await;
            let (near, far) = pair(app).await;
            let mut client = near.client().await;
            client.send(EXPECT).await;
            let got = client.response(false).await;
            assert_eq!(got.status(), status);
            assert_eq!(got.body, if status == 413 { "" } else { "no" }.as_bytes());
            assert_eq!(got.header("connection").as_deref(), Some("close"), "the body is not read");
            client.closed().await;
            until("the app's connection is closed", || bodies.get().is_some()).await;
            assert_eq!(bodies.get(), Some(0), "{status}: bytes of the body");
            near.at_rest().await;
            far.at_rest().await;
        }
    });
}

#[test]
fn an_app_that_never_says_100_gets_the_body_after_a_while() {
    run(async {
        let seen = Seen::default();
        let (near, far) = pair(seen.app(OK).await).await;
        let mut client = near.client().await;
        client.send(EXPECT).await;
        assert_eq!(client.response(false).await.status(), 100);
        client.send("hi").await;
        assert_eq!(client.response(false).await.text(), "ok");
        assert_eq!(seen.last().text(), "hi");
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

/// Two interim responses, one of which nobody asked for, and the answer, all at once.
const HINTED: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
                      HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn early_hints_pass_two_sidecars_before_the_app_has_answered() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(0);
        let app = app(move |_, mut wire| {
            let mut gate = gate.clone();
            async move {
                for n in 1.. {
                    let Some(_) = wire.request().await else { return };
                    wire.send(&format!(
                        "HTTP/1.1 103 Early Hints\r\nLink: </{n}.css>\r\nLink: </x>\r\nConnection: x-own\r\n\
                         X-Own: 1\r\nContent-Length: 5\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
                    ))
                    .await;
                    gate.wait_for(|answered| *answered == n).await.unwrap();
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        for n in 1..4 {
            client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let hint = client.head().await.unwrap();
            assert_eq!((hint.status(), hint.header("link")), (103, Some(format!("</{n}.css>, </x>"))));
            assert_eq!(hint.head.lines().count(), 3, "what belongs to the connection stays there: {hint:?}");
            assert_eq!(client.head().await.unwrap().status(), 102);
            go.send_replace(n);
            assert_eq!(client.response(false).await.text(), "ok");
        }
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn early_hints_that_come_with_the_answer_stand_before_it_and_a_100_that_nobody_asked_for_is_dropped() {
    run(async {
        let seen = Seen::default();
        let (near, _far) = pair(seen.app(HINTED).await).await;
        let mut client = near.client().await;
        for _ in 0..2 {
            let hint = client.get("/").await;
            assert_eq!((hint.status(), hint.header("link").as_deref()), (103, Some("</a.css>")));
            let got = client.response(false).await;
            assert_eq!((got.status(), got.text(), got.header("link")), (200, "ok", None));
        }
        assert_eq!(seen.connections(), 1);
    });
}

#[test]
fn early_hints_and_100_continue_both_reach_a_client_that_waits_to_send() {
    run(async {
        let app = app(|_, mut wire| async move {
            while let Some(head) = wire.head().await {
                wire.send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
                    .await;
                assert_eq!(wire.body(head, false).await.text(), "hi");
                wire.send("HTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\n").await;
                wire.send(OK).await;
            }
        })
        .await;
        let (near, _far) = pair(app).await;
        let mut client = near.client().await;
        for _ in 0..2 {
            client.send(EXPECT).await;
            let mut first = [client.head().await.unwrap().status(), client.head().await.unwrap().status()];
            first.sort_unstable();
            assert_eq!(first, [100, 103]);
            client.send("hi").await;
            assert_eq!(client.head().await.unwrap().header("link").as_deref(), Some("</b>"));
            assert_eq!(client.response(false).await.text(), "ok");
        }
    });
}

#[test]
fn pipelined_requests_get_their_own_interim_responses_or_none_and_whole_answers() {
    run(async {
        const REQUESTS: usize = 20;
        // Answers larger than what the kernel keeps for a client that does not read.
        const BODY: usize = 1 << 20;
        let app = app(|_, mut wire| async move {
            while let Some(request) = wire.request().await {
                let n = request.header("n").unwrap();
                wire.send(&format!("HTTP/1.1 103 Early Hints\r\nn: {n}\r\n\r\n")).await;
                tokio::task::yield_now().await;
                wire.send(&format!("HTTP/1.1 200 OK\r\nn: {n}\r\ncontent-length: {BODY}\r\n\r\n")).await;
                wire.send(&"b".repeat(BODY)).await;
            }
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        let requests: String =
            (0..REQUESTS).map(|n| format!("GET / HTTP/1.1\r\nhost: a\r\nn: {n}\r\n\r\n")).collect();
        client.send(&requests).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let mut hints = 0;
        for n in 0..REQUESTS {
            let mut answer = client.response(false).await;
            while answer.status() == 103 {
                assert_eq!(answer.header("n"), Some(n.to_string()));
                hints += 1;
                answer = client.response(false).await;
            }
            assert_eq!((answer.status(), answer.header("n")), (200, Some(n.to_string())));
            assert!(
                answer.body.len() == BODY && answer.body.iter().all(|b| *b == b'b'),
                "{n}: a broken body"
            );
        }
        assert!(hints > 0, "the first at least had nothing in its way");
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn a_client_of_http_1_0_and_one_behind_http_2_get_the_answer_alone() {
    run(async {
        let app = Seen::default().app(HINTED).await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        let got = client.ask("GET / HTTP/1.0\r\n\r\n").await;
        assert_eq!((got.status(), got.text()), (200, "ok"));
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let bridged = outbound(net, &(cluster("detect", &[app], "") + "bridge = true\n")).await;
        let got = bridged.client().await.get("/").await;
        assert_eq!((got.status(), got.text()), (200, "ok"));
    });
}

#[test]
fn a_client_of_http_1_0_gets_no_100_and_the_app_sees_no_expectation() {
    run(async {
        let seen = Seen::default();
        let (near, _far) = pair(seen.app(OK).await).await;
        let mut client = near.client().await;
        client.send(&EXPECT.replace("HTTP/1.1", "HTTP/1.0")).await;
        client.send("hi").await;
        assert_eq!(client.response(false).await.status(), 200);
        assert_eq!((seen.last().header("expect"), seen.last().text()), (None, "hi"));
    });
}

#[test]
fn a_client_that_goes_away_before_100_takes_the_apps_connection_with_it() {
    run(async {
        let app = app(|_, mut wire| async move {
            wire.head().await.unwrap();
            wire.closed().await;
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        client.send(EXPECT).await;
        until("the request is on its way", || far.count("proxy_connects_total", &[]) == 1).await;
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}
