//! The time limits of requests: each ends what it is meant to end, with its own name, and lets go
//! of the endpoint.

use std::time::Duration;

use crate::common::h2c::{self, ask, call};
use crate::common::{
    Message, SERVICE, Side, TestNet, Wire, answering, app, cluster, inbound, outbound, run, until,
};
use tokio::time::sleep;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";

/// A sidecar before an app that reads requests and says `answer` and then nothing more.
async fn before_an_app_that_says(answer: &'static str, timeouts: &str) -> Side {
    let silent = app(move |_, mut wire| async move {
        while wire.request().await.is_some() {
            wire.send(answer).await;
        }
    })
    .await;
    let more = format!("retry.attempts = 0\ntimeouts = {timeouts}");
    outbound(TestNet::to(SERVICE), &cluster("http", &[silent], &more)).await
}

fn is_timed_out(answer: &Message, words: &str) {
    assert_eq!(answer.status(), 504);
    let why = answer.header("proxy-status").expect("it says why");
    assert!(why.contains(words), "{why}");
}

#[test]
fn an_attempt_that_is_not_answered_in_time_goes_on_at_another_endpoint() {
    run(async {
        let silent = app(|_, mut wire| async move { while wire.request().await.is_some() {} }).await;
        let endpoints = [silent, answering(OK).await];
        let near = outbound(
            TestNet::to(SERVICE),
            &(cluster("http", &endpoints, "") + "timeouts = { per_try = '30ms' }\n"),
        )
        .await;
        let mut client = near.client().await;
        for _ in 0..10 {
            assert_eq!(client.ask(GET).await.text(), "ok");
        }
        let late = near.count("proxy_errors_total", &["\"try_timeout\""]);
        assert!(late > 0 && late == near.count("proxy_retries_total", &[]), "{late}");
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_client_hears_which_endpoint_did_not_answer_in_time() {
    run(async {
        let near = before_an_app_that_says("", "{ per_try = '30ms' }").await;
        let answer = near.client().await.ask(GET).await;
        let endpoint = near.table.load().clusters[0].endpoints[0].address();
        is_timed_out(&answer, &format!("next-hop=\"{endpoint}\""));
        near.at_rest().await;
    });
}

#[test]
fn a_request_to_the_app_takes_no_longer_than_it_may_on_its_port() {
    run(async {
        let silent = app(|_, mut wire| async move { while wire.request().await.is_some() {} }).await;
        let to = || TestNet::to(&silent.to_string());
        let general = "service = 'web'\ntimeouts.request = '50ms'\n";
        let far = inbound(to(), general).await;
        is_timed_out(&far.client().await.ask(GET).await, "error=http_response_timeout");
        assert_eq!(far.count("proxy_errors_total", &["\"request_timeout\""]), 1);
        far.at_rest().await;
        // What is said of a port goes before what is said of all.
        let port = silent.port();
        for (general, own, ends) in [("1h", "50ms", true), ("50ms", "0s", false)] {
            let port = format!("[[inbound]]\nport = {port}\ntimeouts.request = '{own}'");
            let config = format!(
                "service = 'web'\ntimeouts = {{ request = '{general}', stream_idle = '300ms' }}\n{port}"
            );
            let far = inbound(to(), &config).await;
            assert_eq!(far.client().await.ask(GET).await.status(), 504);
            let why = if ends { "\"request_timeout\"" } else { "\"idle\"" };
            assert_eq!(far.count("proxy_errors_total", &[why]), 1, "{}", far.metrics.text());
        }
    });
}

#[test]
fn a_response_that_does_not_begin_in_time_is_given_up() {
    run(async {
        let near = before_an_app_that_says("", "{ response = '50ms' }").await;
        let mut client = near.client().await;
        // The upload is slow, and its time does not count.
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nh").await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!(near.count("proxy_responses_total", &[]), 0);
        client.send("i").await;
        is_timed_out(&client.response(false).await, "the response did not begin in time");
        assert_eq!(near.count("proxy_errors_total", &["\"response_timeout\""]), 1);
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_request_that_takes_too_long_is_given_up_before_and_after_its_response_began() {
    run(async {
        let near = before_an_app_that_says("", "{ request = '50ms' }").await;
        let mut client = near.client().await;
        is_timed_out(&client.ask(POST).await, "the request took too long");
        assert_eq!(client.ask(POST).await.status(), 504, "the client's connection stays");
        near.at_rest_without(client).await;

        let half = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf";
        let near = before_an_app_that_says(half, "{ request = '50ms' }").await;
        let mut client = near.client().await;
        client.send(GET).await;
        assert_eq!(client.head().await.unwrap().status(), 200);
        assert_eq!(client.rest().await, b"half", "and the connection ends, so the client knows");
        assert_eq!(near.count("proxy_errors_total", &["\"request_timeout\""]), 1);
        near.at_rest_without(client).await;
    });
}

#[test]
fn silence_ends_a_request_and_anything_that_moves_keeps_it() {
    run(async {
        let near = before_an_app_that_says("", "{ stream_idle = '80ms' }").await;
        let mut client = near.client().await;
        is_timed_out(&client.ask(GET).await, "nothing moved for too long");
        near.at_rest_without(client).await;

        let drip = app(|_, mut wire: Wire| async move {
            wire.request().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await;
            for _ in 0..8 {
                sleep(Duration::from_millis(30)).await;
                wire.send(".").await;
            }
            wire.closed().await;
        })
        .await;
        let near =
            outbound(TestNet::to(SERVICE), &cluster("http", &[drip], "timeouts.stream_idle = '80ms'")).await;
        let mut client = near.client().await;
        client.send(GET).await;
        assert_eq!(client.head().await.unwrap().status(), 200);
        assert_eq!(client.rest().await, b"........", "it is cut in the silence after the last drop");
        assert_eq!(near.count("proxy_errors_total", &["\"idle\""]), 1);
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_grpc_call_hears_of_a_limit_as_a_status() {
    run(async {
        let (silent, _) = h2c::app(10, |_, mut respond| async move {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        })
        .await;
        let near =
            outbound(TestNet::to(SERVICE), &cluster("http", &[silent], "timeouts.request = '50ms'")).await;
        let client = h2c::connect(near.at).await;
        let answer = ask(&client, call("/shop.Orders/Get").body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.header("grpc-status")), (200, "4"));
        assert_eq!(near.count("proxy_errors_total", &["\"request_timeout\""]), 1);
        drop(client);
        until("nothing is left", || near.count("proxy_connections_open", &[]) == 0).await;
        near.at_rest().await;
    });
}

#[test]
fn what_is_passed_on_of_the_callers_time_is_what_is_left_when_the_request_leaves() {
    run(async {
        let busy = app(|_, mut wire| async move {
            wire.request().await;
            sleep(Duration::from_millis(200)).await;
            wire.send(OK).await;
            let late = wire.request().await.expect("the one that waited");
            let left = late.header("x-request-timeout").expect("it is told");
            wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{left}", left.len())).await;
        })
        .await;
        let config = cluster("http", &[busy], "limits.endpoint_connections = 1");
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let (mut first, mut second) = (near.client().await, near.client().await);
        first.send(GET).await;
        until("it is under way", || near.count("proxy_connects_total", &[]) == 1).await;
        let answer = second.ask("GET / HTTP/1.1\r\nhost: a\r\nx-request-timeout: 10s\r\n\r\n").await;
        let left: u64 = answer.text().strip_suffix("ms").expect("milliseconds").parse().expect("a number");
        assert!(left < 9_900, "it waited for the connection, and {left} ms are left");
        assert_eq!(first.response(false).await.text(), "ok");
        drop((first, second));
        near.at_rest().await;
    });
}
