//! When endpoints are ejected, over real connections: what counts against them, and what does not.

use std::cell::Cell;
use std::rc::Rc;

use crate::common::{SERVICE, Side, TestNet, answering, app, cluster, h2c, outbound, run, until};
use http::{HeaderMap, HeaderValue, Response};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\ncontent-length: 0\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn ejections(side: &Side, reason: &str) -> u64 {
    side.count("proxy_ejections_total", &[&format!("reason=\"{reason}\"")])
}

/// An endpoint that fails two of five requests, never two in a row.
async fn sick() -> std::net::SocketAddr {
    let nth = Rc::new(Cell::new(0));
    app(move |_, mut wire| {
        let nth = nth.clone();
        async move {
            while wire.request().await.is_some() {
                nth.set(nth.get() + 1);
                wire.send(if matches!(nth.get() % 5, 1 | 3) { BROKEN } else { OK }).await;
            }
        }
    })
    .await
}

#[test]
fn an_endpoint_that_fails_two_requests_of_five_is_ejected_and_the_healthy_one_gets_all() {
    run(async {
        let endpoints = [sick().await, answering(OK).await];
        // In turn: whoever looks at latency turns from it, perhaps before it has failed often
        // enough.
        let more = "outlier_detection = { base = '60s' }\nbalance = { policy = 'round_robin' }";
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &endpoints, more)).await;
        let mut client = near.client().await;
        for _ in 0..200 {
            client.ask(GET).await;
            if ejections(&near, "success_rate") == 1 {
                break;
            }
        }
        assert_eq!(ejections(&near, "success_rate"), 1);
        for _ in 0..50 {
            assert_eq!(client.ask(GET).await.status(), 200);
        }
    });
}

#[test]
fn an_endpoint_that_asks_for_less_is_ejected_by_rate_for_as_long_as_it_says() {
    run(async {
        let busy = answering(BUSY).await;
        let endpoints = [busy, answering(OK).await];
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &endpoints, "")).await;
        let mut client = near.client().await;
        for _ in 0..200 {
            client.ask(GET).await;
        }
        assert_eq!((ejections(&near, "success_rate"), ejections(&near, "consecutive_failures")), (1, 0));
        let table = near.table.load();
        let endpoint = table.clusters[0].endpoints.iter().find(|e| e.address() == busy).unwrap();
        let proxy::endpoint::Phase::Ejected(until, _) = endpoint.phase() else { panic!("it is ejected") };
        let left = until - tokio::time::Instant::now();
        assert!(left > std::time::Duration::from_secs(1), "two seconds were asked for: {left:?}");
    });
}

#[test]
fn clients_that_leave_are_not_held_against_an_endpoint() {
    run(async {
        let slow = app(|_, mut wire| async move {
            wire.request().await;
            wire.closed().await;
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[slow], "")).await;
        for n in 1..=10 {
            let mut client = near.client().await;
            client.send(GET).await;
            until("it is under way", || near.count("proxy_requests_total", &[]) == n).await;
            drop(client);
            until("it is given up", || near.count("proxy_abandoned_total", &[]) == n).await;
        }
        assert_eq!(near.count("proxy_ejections_total", &[]), 0);
        near.at_rest().await;
    });
}

#[test]
fn an_endpoint_that_lets_every_request_time_out_is_ejected() {
    run(async {
        let stuck = app(|_, mut wire| async move {
            wire.request().await;
            wire.closed().await;
        })
        .await;
        let more = "timeouts.request = '20ms'\noutlier_detection = { consecutive_failures = 3 }";
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[stuck], more)).await;
        let mut client = near.client().await;
        for _ in 0..3 {
            assert_eq!(client.ask(GET).await.status(), 504);
        }
        assert_eq!(ejections(&near, "consecutive_failures"), 1);
    });
}

#[test]
fn a_status_in_trailers_counts_and_the_answer_is_not_held_back_for_it() {
    run(async {
        let code = Rc::new(Cell::new("14"));
        let now = code.clone();
        let (endpoint, _) = h2c::app(100, move |_, mut respond| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(now.get()));
            async move {
                let head = Response::builder().header("content-type", "application/grpc");
                let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
                body.send_trailers(trailers).unwrap();
            }
        })
        .await;
        let more = "outlier_detection = { consecutive_failures = 3, success_rate = '0%' }";
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[endpoint], more)).await;
        let client = h2c::connect(near.at).await;
        for answer in ["14", "14", "0", "14", "14", "14"] {
            assert_eq!(near.count("proxy_ejections_total", &[]), 0, "before {answer}");
            code.set(answer);
            let call = h2c::call("/orders.Orders/Get").body(()).unwrap();
            let answered = h2c::ask(&client, call, "", None).await.unwrap();
            assert_eq!(answered.trailers["grpc-status"], answer);
        }
        assert_eq!(ejections(&near, "consecutive_failures"), 1);
    });
}

#[test]
fn an_answer_that_breaks_off_counts_against_its_endpoint() {
    run(async {
        let cut = answering_once_and_closing().await;
        let more = "outlier_detection = { min_requests = 4, window = '60s' }";
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[cut], more)).await;
        for _ in 0..4 {
            let mut client = near.client().await;
            client.send(GET).await;
            client.rest().await;
        }
        assert_eq!(ejections(&near, "success_rate"), 1);
    });
}

async fn answering_once_and_closing() -> std::net::SocketAddr {
    app(|_, mut wire| async move {
        wire.request().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    })
    .await
}
