//! Retries after a failure, as clients and apps see them: what is repeated and what never is, when,
//! and who pays.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::common::h2c::{self, ask, call};
use crate::common::{Message, SERVICE, Seen, Side, TestNet, Wire, answering, app, cluster, outbound, run};
use bytes::Bytes;
use http::Response;
use tokio::time::Instant;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";

/// An app that gives its n-th request the n-th answer, and all later ones the last; what it got.
async fn answers(all: &'static [&'static str]) -> (SocketAddr, Rc<RefCell<Vec<Message>>>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let got = seen.clone();
    let at = app(move |_, mut wire| {
        let got = got.clone();
        async move {
            while let Some(request) = wire.request().await {
                let n = got.borrow().len();
                got.borrow_mut().push(request);
                wire.send(all[n.min(all.len() - 1)]).await;
            }
        }
    })
    .await;
    (at, seen)
}

async fn before(endpoints: &[SocketAddr], more: &str) -> Side {
    outbound(TestNet::to(SERVICE), &cluster("http", endpoints, more)).await
}

/// The same before one app that always gives this answer, with a client; what the app got.
async fn before_app(answer: &'static str, more: &str) -> (Seen, Side, Wire) {
    let seen = Seen::default();
    let near = before(&[seen.app(answer).await], more).await;
    let client = near.client().await;
    (seen, near, client)
}

fn retries(side: &Side, reason: &str) -> u64 {
    side.count("proxy_retries_total", &[&format!("reason=\"{reason}\"")])
}

fn denied(side: &Side, reason: &str) -> u64 {
    side.count("proxy_retries_denied_total", &[&format!("reason=\"{reason}\"")])
}

#[test]
fn callers_of_one_replica_of_three_that_says_503_see_no_failure() {
    run(async {
        let endpoints = [answering(BUSY).await, answering(OK).await, answering(OK).await];
        let near = before(&endpoints, "").await;
        let mut client = near.client().await;
        for _ in 0..200 {
            assert_eq!(client.ask(GET).await.text(), "ok");
        }
        assert!(retries(&near, "gateway-error") > 0);
        assert_eq!(retries(&near, "gateway-error"), near.count("proxy_retries_total", &[]));
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_post_request_is_not_repeated_once_it_was_sent_and_the_answer_is_the_apps_own() {
    run(async {
        let (seen, near, mut client) = before_app(BUSY, "").await;
        let answer = client.ask(POST).await;
        assert_eq!((answer.status(), answer.text(), answer.header("proxy-status")), (503, "busy", None));
        assert_eq!((seen.requests(), denied(&near, "unsafe")), (1, 1));
        near.at_rest_without(client).await;
    });
}

#[test]
fn when_all_attempts_fail_the_last_answer_is_passed_on() {
    run(async {
        let (seen, near, mut client) = before_app(BUSY, "retry.attempts = 3").await;
        let answer = client.ask(GET).await;
        assert_eq!((answer.status(), answer.text(), seen.requests()), (503, "busy", 4));
        assert_eq!(seen.last().header("x-retry-attempt").as_deref(), Some("3"));
        assert_eq!(seen.connections(), 1, "the answers that nobody got left the connection usable");
        assert_eq!(denied(&near, "attempts"), 1);
        near.at_rest_without(client).await;
    });
}

#[test]
fn an_answer_in_several_pieces_that_nobody_gets_leaves_its_connection_usable() {
    const PIECES: &str = "HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: chunked\r\n\r\n\
                          4\r\nbusy\r\n5\r\nstill\r\n0\r\n\r\n";
    run(async {
        let (seen, near, mut client) = before_app(PIECES, "").await;
        assert_eq!(client.ask(GET).await.text(), "busystill");
        assert_eq!((seen.requests(), seen.connections()), (3, 1));
        near.at_rest_without(client).await;
    });
}

#[test]
fn who_wants_no_retries_is_not_told_that_one_was_denied() {
    run(async {
        let (seen, near, mut client) = before_app(BUSY, "retry.attempts = 0").await;
        assert_eq!(client.ask(GET).await.text(), "busy");
        assert_eq!((seen.requests(), near.count("proxy_retries_denied_total", &[])), (1, 0));
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_body_is_played_again_with_its_trailers_if_the_user_says_that_it_may_be() {
    const UPLOAD: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                          4\r\nfour\r\n5\r\n five\r\n0\r\nx-sum: 9\r\n\r\n";
    run(async {
        let (app, seen) = answers(&[BUSY, OK]).await;
        let near = before(&[app], "retry.unsafe_methods = true").await;
        let mut client = near.client().await;
        assert_eq!(client.ask(UPLOAD).await.text(), "ok");
        let seen = seen.take();
        let [first, second] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((first.text(), &*first.trailers), ("four five", "x-sum: 9\n"));
        assert_eq!((second.text(), &*second.trailers), ("four five", "x-sum: 9\n"));
        assert_eq!(first.header("x-retry-attempt"), None);
        assert_eq!(second.header("x-retry-attempt").as_deref(), Some("1"));
        near.at_rest_without(client).await;
    });
}

#[test]
fn an_upload_that_an_endpoint_dropped_half_way_begins_anew_at_another() {
    run(async {
        let hangs_up = app(|_, mut wire| async move {
            wire.head().await;
            wire.bytes(4).await;
        })
        .await;
        let seen = Seen::default();
        let near = before(&[hangs_up, seen.app(OK).await], "").await;
        // Whichever is picked first: after a few of them both have been.
        for _ in 0..8 {
            let mut client = near.client().await;
            client.send("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nfour").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            client.send(" five.").await;
            assert_eq!(client.response(false).await.text(), "ok");
            assert_eq!(seen.last().text(), "four five.");
        }
        assert!(retries(&near, "reset") > 0);
        near.at_rest().await;
    });
}

#[test]
fn a_body_that_is_longer_than_what_is_kept_is_sent_once() {
    run(async {
        let (seen, near, mut client) = before_app(BUSY, "retry.body = '1KiB'").await;
        let long = format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000\r\n\r\n{:2000}", "");
        assert_eq!(client.ask(&long).await.text(), "busy");
        let chunked = format!(
            "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{:2000}\r\n0\r\n\r\n",
            ""
        );
        assert_eq!(client.ask(&chunked).await.text(), "busy");
        assert_eq!((seen.requests(), seen.last().body.len(), denied(&near, "body")), (2, 2000, 2));
        near.at_rest_without(client).await;
    });
}

#[test]
fn an_answer_that_asks_for_time_gets_it_and_one_that_asks_for_too_much_is_passed_on() {
    const ONE: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
    const TWO: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\ncontent-length: 0\r\n\r\n";
    run(async {
        let (app, seen) = answers(&[ONE, OK, TWO]).await;
        let near = before(&[app], "").await;
        let mut client = near.client().await;
        let begun = Instant::now();
        assert_eq!(client.ask(GET).await.text(), "ok");
        assert!(begun.elapsed() >= Duration::from_secs(1));
        let answer = client.ask(GET).await;
        assert_eq!((answer.status(), answer.header("retry-after").as_deref()), (503, Some("2")));
        assert_eq!((seen.borrow().len(), denied(&near, "wait")), (3, 1));
        near.at_rest_without(client).await;
    });
}

#[test]
fn an_outage_has_no_more_retries_than_the_budget_and_they_come_back_with_successes() {
    run(async {
        let (app, seen) = answers(&[BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, OK]).await;
        let budget = "retry_budget = { reserve = 3, per_second = 0, share = '25%' }";
        let near = before(&[app], budget).await;
        let mut client = near.client().await;
        for _ in 0..6 {
            assert_eq!(client.ask(GET).await.text(), "busy", "the failure is given as it is");
        }
        assert_eq!((seen.borrow().len(), near.count("proxy_retries_total", &[])), (6 + 3, 3));
        assert_eq!((denied(&near, "budget"), near.count("proxy_retry_budget", &[])), (5, 0));
        for n in 1..=8 {
            assert_eq!(client.ask(GET).await.text(), "ok");
            assert_eq!(near.count("proxy_retry_budget", &[]), n / 4);
        }
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_request_that_an_outer_hop_repeats_is_not_repeated_here() {
    run(async {
        let (seen, near, mut client) = before_app(BUSY, "").await;
        client.ask("GET / HTTP/1.1\r\nhost: a\r\nx-retry-attempt: 2\r\n\r\n").await;
        assert_eq!((seen.requests(), denied(&near, "outer_hop")), (1, 1));
        assert_eq!(seen.last().header("x-retry-attempt").as_deref(), Some("2"), "the next hop must know too");
        client.ask("GET / HTTP/1.1\r\nhost: a\r\nx-retry-attempt: many\r\n\r\n").await;
        assert_eq!((seen.requests(), denied(&near, "outer_hop")), (4, 1), "nonsense is no mark");
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_wait_that_would_outlast_the_deadline_is_not_begun() {
    const LATER: &str =
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 5\r\n\r\nlater";
    run(async {
        let (seen, near, mut client) = before_app(LATER, "").await;
        let answer = client.ask("GET / HTTP/1.1\r\nhost: a\r\nx-request-timeout: 900ms\r\n\r\n").await;
        assert_eq!((answer.status(), answer.text()), (503, "later"));
        assert_eq!((seen.requests(), denied(&near, "wait")), (1, 1));
        let left = seen.last().header("x-request-timeout").unwrap();
        let left: u64 = left.strip_suffix("ms").unwrap().parse().unwrap();
        assert!(left <= 900, "{left}");
        let silent = app(|_, mut wire| async move { while wire.request().await.is_some() {} }).await;
        let near = before(&[silent], "").await;
        let answer =
            near.client().await.ask("GET / HTTP/1.1\r\nhost: a\r\nx-request-timeout: 50ms\r\n\r\n").await;
        assert_eq!(answer.status(), 504);
        assert_eq!(near.count("proxy_errors_total", &["\"deadline\""]), 1);
        near.at_rest().await;
    });
}

#[test]
fn a_trailers_only_status_of_a_call_is_retried_if_the_user_says_that_it_may_be() {
    run(async {
        for (more, status, calls) in [("retry.unsafe_methods = true", "0", 2), ("", "14", 1)] {
            let count = Rc::new(Cell::new(0));
            let counted = count.clone();
            let (app, _) = h2c::app(100, move |request, mut respond| {
                let count = counted.clone();
                async move {
                    let (body, _) = h2c::read(request.into_body()).await.unwrap();
                    assert_eq!(body, b"message");
                    count.set(count.get() + 1);
                    let status = if count.get() == 1 { "14" } else { "0" };
                    let head = Response::builder().header("grpc-status", status);
                    respond.send_response(head.body(()).unwrap(), true).unwrap();
                }
            })
            .await;
            let near = before(&[app], more).await;
            let client = h2c::connect(near.at).await;
            let answer = ask(&client, call("/a/B").body(()).unwrap(), "message", None).await.unwrap();
            assert_eq!((answer.header("grpc-status"), count.get()), (status, calls));
            near.at_rest_without(client).await;
        }
    });
}

#[test]
fn a_stream_is_never_held_back_to_look_at_its_trailers() {
    run(async {
        let seen = Rc::new(tokio::sync::Notify::new());
        let go = seen.clone();
        let (app, _) = h2c::app(100, move |_, mut respond| {
            let go = go.clone();
            async move {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                go.notified().await;
                let trailers = [("grpc-status".parse().unwrap(), "14".parse().unwrap())];
                send.send_trailers(trailers.into_iter().collect()).unwrap();
            }
        })
        .await;
        let near = before(&[app], "retry.unsafe_methods = true").await;
        let mut client = h2c::connect(near.at).await;
        let (response, _) = client.send_request(call("/a/B").body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        seen.notify_one();
        assert_eq!(h2c::answer(response).await.unwrap().trailers["grpc-status"], "14");
        assert_eq!(near.count("proxy_retries_total", &[]), 0);
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_call_whose_stream_was_refused_is_made_again_since_nobody_began_with_it() {
    run(async {
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        let (app, _) = h2c::app(100, move |request, mut respond| {
            let count = counted.clone();
            async move {
                let (body, _) = h2c::read(request.into_body()).await.unwrap();
                count.set(count.get() + 1);
                if count.get() == 1 {
                    return respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                send.send_data(Bytes::from(body), true).unwrap();
            }
        })
        .await;
        let near = before(&[app], "retry_budget = { share = '0%', per_second = 0, reserve = 1 }").await;
        let client = h2c::connect(near.at).await;
        let answer = ask(&client, call("/a/B").body(()).unwrap(), "message", None).await.unwrap();
        assert_eq!((&*answer.body, count.get()), (&b"message"[..], 2));
        assert_eq!(retries(&near, "refused-stream"), 1);
        assert_eq!(near.count("proxy_retry_budget", &[]), 1, "it cost nothing");
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_second_attempt_beside_a_silent_one_wins() {
    run(async {
        let silent = app(|_, mut wire| async move { while wire.request().await.is_some() {} }).await;
        let near = before(&[silent, answering(OK).await], "retry.hedge = '20ms'").await;
        let mut client = near.client().await;
        for _ in 0..20 {
            assert_eq!(client.ask(GET).await.text(), "ok");
        }
        let hedges = near.count("proxy_hedges_total", &[]);
        assert!(hedges > 0 && hedges < 20, "{hedges}: the silent one is picked less and less");
        assert_eq!(near.count("proxy_hedges_won_total", &[]), hedges);
        assert_eq!(near.count("proxy_retries_total", &[]), 0);
        near.at_rest_without(client).await;
    });
}
