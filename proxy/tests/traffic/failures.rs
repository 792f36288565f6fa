//! What clients and apps see when something in between fails: endpoints, connections, the sidecar's
//! own end.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::common::{
    Message, SERVICE, Seen, Side, TestNet, Wire, answering, app, cluster, inbound, nobody, outbound, pair,
    run, until,
};
use proxy::balance::Table;
use proxy::world::{RngTree, SystemWall, World};
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";

fn why(response: &Message) -> String {
    response.header("proxy-status").expect("it says why")
}

/// An app whose first connection answers once and then closes on the next request, after reading
/// it; how many requests it read.
async fn closes_on_the_second() -> (std::net::SocketAddr, Rc<Cell<usize>>) {
    let read = Rc::new(Cell::new(0));
    let count = read.clone();
    let at = app(move |n, mut wire| {
        let count = count.clone();
        async move {
            for nth in 0.. {
                if wire.request().await.is_none() {
                    return;
                }
                count.set(count.get() + 1);
                if n == 0 && nth == 1 {
                    return;
                }
                wire.send(OK).await;
            }
        }
    })
    .await;
    (at, read)
}

#[test]
fn a_get_request_that_a_closing_connection_swallowed_is_sent_again() {
    run(async {
        let (app, read) = closes_on_the_second().await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        for _ in 0..3 {
            assert_eq!(client.ask(GET).await.text(), "ok");
        }
        assert_eq!(read.get(), 4);
        assert_eq!(far.count("proxy_retries_total", &[]), 1, "the app's own sidecar hides the race");
        assert_eq!(near.count("proxy_retries_total", &[]), 0);
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn a_post_request_that_may_have_arrived_is_never_sent_again() {
    run(async {
        let (app, read) = closes_on_the_second().await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        assert_eq!(client.ask(POST).await.text(), "ok");
        let failed = client.ask(POST).await;
        assert_eq!(failed.status(), 502);
        assert!(why(&failed).contains("error=connection_terminated"), "{}", why(&failed));
        assert_eq!(read.get(), 2);
        assert_eq!((near.count("proxy_retries_total", &[]), far.count("proxy_retries_total", &[])), (0, 0));
        assert_eq!(far.count("proxy_errors_total", &["terminated"]), 1);
        assert_eq!(client.ask(POST).await.text(), "ok", "the client's own connection goes on");
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn a_post_request_on_a_connection_that_was_closed_before_is_sent_on_a_new_one() {
    run(async {
        let mut sent = 0;
        // The end of the stream shows at one read after the other: when the connection is taken
        // out, just before the request is written, after it.
        for reads in 0..6 {
            let seen = Seen::default();
            let net = TestNet::to(SERVICE);
            let near =
                outbound(net.clone(), &cluster("http", &[seen.app(OK).await], "retry.attempts = 0")).await;
            let mut client = near.client().await;
            client.ask(GET).await;
            net.close_after(reads);
            let status = client.ask(POST).await.status();
            if status == 200 {
                until("it arrived", || seen.requests() == 2).await;
                sent += 1;
            } else {
                assert_eq!(status, 502, "{reads}");
            }
            assert!(seen.requests() <= 2, "{reads}: never twice");
            near.at_rest_without(client).await;
        }
        // Two were written in vain. Without retries the one that was not written is sent all the same.
        assert!(sent > 3, "no end of stream fell between check and use");
    });
}

/// A file cannot say this, but discovery will.
fn empty_clusters(side: &Side) {
    let mut snapshot = (*side.table.load().snapshot).clone();
    for cluster in &mut snapshot.clusters {
        Arc::make_mut(cluster).endpoints = Arc::default();
    }
    reload(side, snapshot);
}

fn reload(side: &Side, snapshot: proxy::config::Snapshot) {
    let now = tokio::time::Instant::now();
    let table = Table::new(Arc::new(snapshot), Some(&side.table.load()), &side.metrics, now);
    side.table.store(Arc::new(table));
}

#[test]
fn when_no_endpoint_can_be_reached_the_status_says_why() {
    run(async {
        let (dead, silent) = (nobody(), nobody());
        for (endpoints, status, reason, kind) in [
            (vec![dead], 502, "error=connection_refused", "\"connect\""),
            (vec![silent], 504, "error=connection_timeout", "\"connect_timeout\""),
            (vec![dead], 503, "error=destination_unavailable", "\"no_endpoint\""),
        ] {
            let net = TestNet::to(SERVICE).silence(silent);
            let config = cluster("http", &endpoints, "timeouts.connect = '20ms'\nretry.attempts = 1");
            let near = outbound(net, &config).await;
            if status == 503 {
                empty_clusters(&near);
            }
            let mut client = near.client().await;
            let answer = client.ask(POST).await;
            assert_eq!(answer.status(), status);
            assert!(
                why(&answer).starts_with("sidelab-web-1; ") && why(&answer).contains(reason),
                "{}",
                why(&answer)
            );
            assert!(!answer.body.is_empty());
            let attempts = if status == 503 { 1 } else { 2 };
            assert_eq!(
                near.count("proxy_errors_total", &[kind]),
                attempts,
                "{kind}: each try is counted once"
            );
            assert_eq!(near.count("proxy_errors_total", &[]), attempts);
            let to_head = client.ask("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!((to_head.status(), to_head.body.len()), (status, 0));
            assert_eq!(client.ask(GET).await.status(), status, "the answer to HEAD had no body on the wire");
            near.at_rest_without(client).await;
        }
    });
}

#[test]
fn another_endpoint_answers_when_one_refuses_and_the_refusing_one_is_ejected() {
    run(async {
        // Taking turns, because the default would avoid it after one failure.
        let settings = "outlier_detection.consecutive_failures = 3\nbalance.policy = 'round_robin'";
        let config = cluster("http", &[nobody(), answering(OK).await], settings);
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let mut client = near.client().await;
        for _ in 0..50 {
            assert_eq!(client.ask(POST).await.text(), "ok");
        }
        assert_eq!(near.count("proxy_ejections_total", &[]), 1);
        assert_eq!(near.count("proxy_retries_total", &[]), 3);
        assert_eq!(near.count("proxy_errors_total", &["\"connect\""]), 3);
        near.at_rest_without(client).await;
    });
}

#[test]
fn an_app_that_is_down_behind_its_sidecar_is_told_apart_from_one_that_answers_500() {
    run(async {
        let down = nobody();
        let far = inbound(TestNet::to(&down.to_string()), "service = 'orders'\ninstance = 'orders-1'").await;
        let up = answering("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\nmine").await;
        let net = TestNet::to(SERVICE).redirect(down, far.at);
        let near = outbound(net, &cluster("http", &[down, up], "")).await;
        let mut client = near.client().await;
        for _ in 0..20 {
            assert_eq!(
                client.ask(GET).await.text(),
                "mine",
                "a GET request goes on to the endpoint that is up"
            );
        }
        assert!(near.count("proxy_retries_total", &[]) > 0);
        assert_eq!(near.count("proxy_retries_total", &[]), far.count("proxy_errors_total", &["\"connect\""]));
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn an_app_cannot_have_a_post_request_repeated_by_speaking_as_a_sidecar() {
    const FORGED: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\
                          proxy-status: sidelab-orders-1; error=connection_refused\r\n\r\n";
    run(async {
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(FORGED).await], "")).await;
        assert_eq!(near.client().await.ask(POST).await.status(), 502);
        assert_eq!(seen.requests(), 1);

        let seen = Seen::default();
        let (near, _far) = pair(seen.app(FORGED).await).await;
        let answer = near.client().await.ask(POST).await;
        assert_eq!((answer.status(), answer.header("proxy-status")), (502, None), "its sidecar takes it out");
        assert_eq!(seen.requests(), 1);
    });
}

#[test]
fn a_response_that_breaks_off_is_broken_for_the_client_too_and_counted() {
    run(async {
        for begun in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf \r\n",
        ] {
            let begins = Rc::new(tokio::sync::Notify::new());
            let arrived = begins.clone();
            let app = app(move |_, mut wire| {
                let arrived = arrived.clone();
                async move {
                    wire.request().await;
                    wire.send(begun).await;
                    arrived.notified().await;
                }
            })
            .await;
            let (near, far) = pair(app).await;
            let mut client = near.client().await;
            client.send(GET).await;
            client.head().await.unwrap();
            begins.notify_one();
            let rest = String::from_utf8(client.rest().await).unwrap();
            assert!(rest.contains("half ") && !rest.contains("0\r\n\r\n"), "{rest:?}");
            for side in [&near, &far] {
                until("it is counted", || side.count("proxy_errors_total", &["incomplete"]) == 1).await;
                side.at_rest().await;
            }
        }
    });
}

#[test]
fn what_there_is_of_an_answer_reaches_the_client_even_if_the_app_closes_at_once() {
    run(async {
        for (begun, status, part) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ", 200, "half "),
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", 200, ""),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf \r\n", 200, "half "),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal", 200, "hal"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx", 200, ""),
            ("HTTP/1.1 200 OK\r\ncontent-le", 502, ""),
            ("HTTP/1.1 200 OK\r\n", 502, ""),
            ("H", 502, ""),
        ] {
            // All at once, and its end right behind it.
            let app = app(move |_, mut wire| async move {
                wire.request().await;
                wire.send(begun).await;
            })
            .await;
            let (near, far) = pair(app).await;
            for side in [&near, &far] {
                for _ in 0..5 {
                    let mut client = side.client().await;
                    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
                    let answer = String::from_utf8(client.rest().await).unwrap();
                    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{begun:?}: {answer:?}");
                    assert!(answer.contains(part), "{begun:?}: {answer:?}");
                    let signed = answer.contains("\r\nproxy-status: sidelab-");
                    assert_eq!(signed, status == 502, "{begun:?}: {answer:?}");
                    assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{begun:?}: {answer:?}");
                }
            }
        }
    });
}

#[test]
fn a_drain_finishes_the_request_in_flight_and_closes_idle_connections() {
    run(async {
        let (asked, answer) = (Rc::new(Cell::new(false)), Rc::new(tokio::sync::Notify::new()));
        let (seen, go) = (asked.clone(), answer.clone());
        let app = app(move |_, mut wire| {
            let (seen, go) = (seen.clone(), go.clone());
            async move {
                while let Some(request) = wire.request().await {
                    if request.head.starts_with("GET /slow") {
                        seen.set(true);
                        go.notified().await;
                    }
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        let (mut idle, mut fresh, mut busy) = (near.client().await, near.client().await, near.client().await);
        idle.ask(GET).await;
        busy.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
        until("the request is in flight", || asked.get()).await;
        until("all are accepted", || near.count("proxy_connections_open", &[]) == 3).await;
        let clients = async {
            idle.closed().await;
            fresh.closed().await;
            assert_eq!(near.count("proxy_connections_open", &[]), 1);
            answer.notify_one();
            let last = busy.response(false).await;
            assert_eq!((last.text(), last.header("connection").as_deref()), ("ok", Some("close")));
            busy.closed().await;
        };
        let (left, ()) = tokio::join!(near.drain(), clients);
        assert_eq!(left, 0);
        near.at_rest().await;
    });
}

#[test]
fn a_connection_that_waits_in_the_queue_when_a_drain_begins_is_still_served() {
    run(async {
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[answering(OK).await], "")).await;
        // The kernel has accepted it; the sidecar, on this same thread, has not.
        let socket = std::net::TcpStream::connect(near.at).unwrap();
        std::io::Write::write_all(&mut &socket, GET.as_bytes()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut client = Wire::new(tokio::net::TcpStream::from_std(socket).unwrap());
        let (left, answer) = tokio::join!(near.drain(), client.response(false));
        assert_eq!((left, answer.text()), (0, "ok"));
    });
}

#[test]
fn control_pages_answer_during_a_drain() {
    run(async {
        let release = Rc::new(tokio::sync::Notify::new());
        let go = release.clone();
        let app = app(move |_, mut wire| {
            let go = go.clone();
            async move {
                wire.request().await;
                go.notified().await;
                wire.send(OK).await;
            }
        })
        .await;
        // Below the range from which the kernel gives out ports, and apart from another run of this
        // test.
        let first = 20_000 + 5 * (std::process::id() % 2_000) as u16;
        let [out, into, admin, metrics, health] = [0, 1, 2, 3, 4].map(|n| first + n);
        let listen = format!(
            "timeouts.drain_min = '0s'\nlisten = {{ outbound = {out}, inbound = {into}, admin = {admin}, metrics = {metrics}, health = {health} }}"
        );
        let snapshot = proxy::config::parse("a", &cluster("http", &[app], &listen)).unwrap();
        let world = World::new(TestNet::to(SERVICE), SystemWall, RngTree::new(1));
        let stop = Rc::new(tokio::sync::Notify::new());
        let stopped = stop.clone();
        let serving = proxy::app::serve(world, snapshot, async move { stopped.notified().await });
        let local = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let story = async {
            until("it listens", || std::net::TcpStream::connect(local(health)).is_ok()).await;
            let mut probe = Wire::connect(local(health)).await;
            assert_eq!(probe.get("/ready").await.status(), 200);
            let mut client = Wire::connect(local(out)).await;
            client.send(GET).await;
            let mut scrape = Wire::connect(local(metrics)).await;
            while !scrape
                .get("/metrics")
                .await
                .text()
                .contains("proxy_upstream_connections_open{side=\"outbound\",cluster=\"orders\"} 1")
            {
            }
            stop.notify_one();
            while probe.get("/ready").await.status() == 200 {}
            assert_eq!(probe.get("/ready").await.text(), "draining\n");
            assert_eq!(probe.get("/live").await.status(), 200);
            let mut pages = Wire::connect(local(admin)).await;
            assert!(pages.page("/clusters").await.text().contains("pending 1"));
            let json = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
            let clusters = json(pages.page("/clusters?format=json").await.text());
            assert_eq!(clusters[0]["endpoints"][0]["pending"], 1);
            assert_eq!(clusters[0]["endpoints"][0]["state"]["name"], "in_use");
            let dump = json(pages.page("/config_dump").await.text());
            assert_eq!(dump["clusters"][0]["endpoints"][0]["address"], app.to_string());
            let accept =
                |format| format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: {format}\r\n\r\n");
            let plain = pages.ask(&accept("text/plain")).await;
            assert_eq!(
                plain.header("content-type").as_deref(),
                Some("text/plain; version=0.0.4; charset=utf-8")
            );
            assert!(plain.text().contains("# HELP proxy_requests_total Requests from clients.\n"));
            assert!(!plain.text().contains("# EOF"));
            assert_eq!(pages.ask("HEAD /ready HTTP/1.1\r\nhost: localhost\r\n\r\n").await.status(), 503);
            assert_eq!(pages.ask("POST /ready HTTP/1.1\r\nhost: localhost\r\n\r\n").await.status(), 405);
            release.notify_one();
            assert_eq!(client.response(false).await.text(), "ok");
        };
        let (served, ()) = tokio::join!(serving, story);
        served.unwrap();
    });
}

#[test]
fn a_reload_that_takes_the_cluster_away_ends_the_clients_connection() {
    run(async {
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[answering(OK).await], "")).await;
        let mut client = near.client().await;
        client.ask(GET).await;
        reload(&near, proxy::config::parse("a", "service = 'web'").unwrap());
        let answer = client.ask(GET).await;
        assert_eq!((answer.status(), answer.header("connection").as_deref()), (404, Some("close")));
        client.closed().await;
        assert_eq!(near.count("proxy_connections_refused_total", &["no_route"]), 1);
        near.at_rest().await;
    });
}

#[test]
fn connections_that_would_come_back_or_were_never_redirected_are_refused() {
    run(async {
        let refused = |side: Side, reason: &'static str| async move {
            side.client().await.closed().await;
            assert_eq!(side.count("proxy_connections_refused_total", &[reason]), 1);
            side.at_rest().await;
        };
        let web = "service = 'web'";
        refused(inbound(TestNet::direct(), web).await, "not_intercepted").await;
        refused(outbound(TestNet::direct(), web).await, "not_intercepted").await;
        refused(inbound(TestNet::to("10.0.0.1:15000"), web).await, "loop").await;
        refused(outbound(TestNet::to("127.0.0.1:15006"), web).await, "loop").await;
        let closed = "service = 'web'\npassthrough = false";
        refused(outbound(TestNet::to(SERVICE), closed).await, "no_route").await;
    });
}

#[test]
fn a_request_body_that_breaks_off_is_the_clients_fault_and_not_the_endpoints() {
    run(async {
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[answering(OK).await], "")).await;
        for _ in 0..10 {
            let mut client = near.client().await;
            client
                .send(
                    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\nnonsense\r\n",
                )
                .await;
            client.io.flush().await.unwrap();
            client.rest().await;
        }
        until("all are over", || near.count("proxy_connections_open", &[]) == 0).await;
        assert_eq!(near.count("proxy_ejections_total", &[]), 0);
        near.at_rest().await;
    });
}
