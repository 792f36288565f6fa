//! Connections to endpoints: how many, for how long, and that each comes back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::common::h2c::{self, ask, request};
use crate::common::{SERVICE, Seen, Side, TestNet, app, cluster, nobody, outbound, run, spawn, until};
use tokio::time::sleep;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";

/// An app that answers after a while, and the most connections that it ever had at once.
async fn slow(work: Duration) -> (std::net::SocketAddr, Rc<Cell<usize>>) {
    let (open, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let seen = most.clone();
    let at = app(move |_, mut wire| {
        let (open, most) = (open.clone(), most.clone());
        async move {
            open.set(open.get() + 1);
            most.set(most.get().max(open.get()));
            while wire.request().await.is_some() {
                sleep(work).await;
                wire.send(OK).await;
            }
            open.set(open.get() - 1);
        }
    })
    .await;
    (at, seen)
}

async fn before(endpoints: &[std::net::SocketAddr], more: &str) -> Side {
    outbound(TestNet::to(SERVICE), &cluster("http", endpoints, more)).await
}

#[test]
fn requests_past_the_limit_of_connections_wait_for_their_turn() {
    run(async {
        let (app, most) = slow(Duration::from_millis(10)).await;
        let near = Rc::new(before(&[app], "limits.endpoint_connections = 2").await);
        let answered = Rc::new(Cell::new(0));
        for _ in 0..10 {
            let (near, answered) = (near.clone(), answered.clone());
            spawn(async move {
                assert_eq!(near.client().await.ask(POST).await.text(), "ok");
                answered.set(answered.get() + 1);
            });
        }
        until("some wait", || near.count("proxy_requests_waiting", &[]) > 0).await;
        until("all are answered", || answered.get() == 10).await;
        assert_eq!(most.get(), 2);
        assert_eq!(near.count("proxy_requests_waiting", &[]), 0);
        near.at_rest().await;
    });
}

#[test]
fn a_request_that_would_wait_behind_too_many_is_refused_and_nobody_is_ejected_for_it() {
    run(async {
        let stuck = app(|_, mut wire| async move {
            wire.request().await;
            wire.closed().await;
        })
        .await;
        let more =
            "outlier_detection.consecutive_failures = 1\nlimits = { endpoint_connections = 1, pending = 0 }";
        let near = before(&[stuck], more).await;
        let mut first = near.client().await;
        first.send(POST).await;
        until("it is on its way", || near.table.load().clusters[0].endpoints[0].pending() == 1).await;
        let refused = near.client().await.ask(POST).await;
        assert_eq!(refused.status(), 503);
        assert!(
            refused.header("proxy-status").unwrap().contains("as many requests as it may"),
            "{refused:?}"
        );
        assert!(near.count("proxy_errors_total", &["\"pool_full\""]) > 0);
        assert_eq!(
            near.count("proxy_ejections_total", &[]),
            0,
            "the queue is ours, not the endpoint's fault"
        );
    });
}

#[test]
fn nobody_waits_for_a_connection_longer_than_opening_one_may_take() {
    run(async {
        let stuck = app(|_, mut wire| async move {
            wire.request().await;
            wire.closed().await;
        })
        .await;
        let near = before(&[stuck], "timeouts.connect = '30ms'\nlimits.endpoint_connections = 1").await;
        let mut first = near.client().await;
        first.send(POST).await;
        until("it is on its way", || near.table.load().clusters[0].endpoints[0].pending() == 1).await;
        let refused = near.client().await.ask(POST).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.header("proxy-status").unwrap().contains("no connection came back"), "{refused:?}");
    });
}

#[test]
fn clients_that_leave_at_any_moment_leak_no_place() {
    run(async {
        let (app, _) = slow(Duration::from_millis(3)).await;
        let near = before(&[app], "limits.endpoint_connections = 1").await;
        for wait in 0..20 {
            let mut leaves = near.client().await;
            leaves.send(if wait % 2 == 0 { GET } else { POST }).await;
            sleep(Duration::from_micros(400 * wait)).await;
            drop(leaves);
        }
        assert_eq!(near.client().await.ask(GET).await.text(), "ok");
        near.at_rest().await;
    });
}

#[test]
fn a_connection_that_has_come_of_age_is_not_used_again() {
    run(async {
        let seen = Seen::default();
        let near = before(&[seen.app(OK).await], "timeouts.pool_age = '40ms'").await;
        let mut client = near.client().await;
        client.ask(GET).await;
        client.ask(GET).await;
        assert_eq!(seen.connections(), 1);
        sleep(Duration::from_millis(60)).await;
        client.ask(GET).await;
        assert_eq!(seen.connections(), 2);
        near.at_rest_without(client).await;

        let (app, connections) = h2c::echo(100).await;
        let near = before(&[app], "timeouts.pool_age = '40ms'").await;
        let client = h2c::connect(near.at).await;
        let (response, mut send) =
            client.clone().send_request(request("POST", "/").body(()).unwrap(), false).unwrap();
        sleep(Duration::from_millis(60)).await;
        ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
        assert_eq!(connections.get(), 2, "new requests go over a new one");
        send.send_data(bytes::Bytes::from_static(b"late"), true).unwrap();
        let answer = h2c::answer(response.await.unwrap()).await.unwrap();
        assert_eq!(answer.body, b"late", "and what the old one carries comes to its end");
        drop((client, send));
        near.at_rest().await;
    });
}

#[test]
fn the_gauges_of_an_endpoint_tell_what_is_there_now_and_go_away_with_it() {
    run(async {
        let (plain, _) = slow(Duration::from_millis(20)).await;
        let (multi, _) = h2c::echo(100).await;
        let stays = nobody();
        let near = Rc::new(before(&[plain], "limits.endpoint_connections = 1").await);
        let gauges = |of: std::net::SocketAddr| {
            let of = format!("endpoint=\"{of}\"");
            let names = ["connections_open", "connections_idle", "requests_pending", "requests_waiting"];
            names.map(|gauge| near.count(&format!("proxy_endpoint_{gauge}"), &[&of]))
        };
        assert_eq!(gauges(plain), [0; 4]);
        let mut clients = [near.client().await, near.client().await];
        for client in &mut clients {
            client.send(GET).await;
        }
        until("one is there and one waits", || gauges(plain) == [1, 0, 2, 1]).await;
        for client in &mut clients {
            client.response(false).await;
        }
        until("its connection is kept", || gauges(plain) == [1, 1, 0, 0]).await;

        near.reload(&cluster("http", &[multi, stays], ""));
        assert_eq!(
            near.count("proxy_endpoint_connections_open", &[&plain.to_string()]),
            1,
            "it is still open"
        );
        (near.clear)();
        assert!(
            !near.metrics.text().contains(&plain.to_string()),
            "it has left and its connections are closed"
        );

        near.reload(&cluster("http", &[multi], ""));
        let client = h2c::connect(near.at).await;
        let upload = || client.clone().send_request(request("POST", "/").body(()).unwrap(), false).unwrap();
        let uploads = (upload(), upload());
        until("both are there", || gauges(multi) == [1, 0, 2, 0]).await;
        drop(uploads);
        until("nothing is left of them", || gauges(multi) == [1, 1, 0, 0]).await;
        drop((client, clients));
        near.at_rest().await;
    });
}
