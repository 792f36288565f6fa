//! What a peer does to a stream or a connection of HTTP/2 without answering: refusals, GOAWAY,
//! resets with their codes. Through two sidecars a client sees what it would see without them, or
//! its call succeeds where it may be made again.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use proxy::mutant::{self, Mutant};
use tokio::runtime::{Builder, LocalOptions};

use crate::common::frames::{self, END_STREAM, PING, RST_STREAM, answer, data, go_away, head, reset};
use crate::common::h2c::{self, ask, call, request};
use crate::common::{SERVICE, TestNet, cluster, inbound, outbound, pair, run, spawn, until};

const REFUSED_STREAM: u32 = 7;

/// Makes calls with a body, `at_once` at the same time; how many were answered.
async fn calls(client: &h2::client::SendRequest<Bytes>, rounds: usize, at_once: usize) -> usize {
    let done = Rc::new(Cell::new((0, 0)));
    for round in 1..=rounds {
        for _ in 0..at_once {
            let (client, done) = (client.clone(), done.clone());
            spawn(async move {
                let answered = ask(&client, call("/a/B").body(()).unwrap(), "message", None).await;
                let (ended, good) = done.get();
                done.set((ended + 1, good + usize::from(answered.is_ok_and(|a| a.head.status() == 200))));
            });
        }
        until("a round of calls has ended", || done.get().0 == round * at_once).await;
    }
    done.get().1
}

#[test]
fn a_call_that_the_app_refuses_unprocessed_is_made_again_by_the_apps_own_sidecar() {
    run(async {
        let (app, _) = frames::app(|turn| match turn.nth % 5 {
            0 => reset(turn.stream, REFUSED_STREAM),
            _ => answer(turn.stream),
        })
        .await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        assert_eq!(calls(&client, 100, 1).await, 100);
        assert_eq!(far.count("proxy_retries_total", &["refused-stream"]), 24);
        assert_eq!(near.count("proxy_retries_total", &[]), 0, "the caller's sidecar heard of none");
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn calls_that_a_goaway_leaves_out_are_made_again_on_another_connection() {
    run(async {
        for code in [0, 11] {
            // Of the calls on a connection only eight are looked at.
            let (app, seen) = frames::app(move |turn| match turn.of_connection {
                left_out @ 9.. => go_away(turn.stream - 2 * (left_out as u32 - 8), code),
                _ => answer(turn.stream),
            })
            .await;
            let (near, far) = pair(app).await;
            let client = h2c::connect(near.at).await;
            assert_eq!(calls(&client, 20, 5).await, 100, "GOAWAY({code})");
            assert!(seen.connections.get() > 9, "{}", seen.connections.get());
            near.at_rest_without(client).await;
            far.at_rest().await;
        }
    });
}

#[test]
fn a_client_whose_call_nobody_takes_is_told_so_that_it_may_make_it_again_itself() {
    run(async {
        let (app, seen) = frames::app(|turn| reset(turn.stream, REFUSED_STREAM)).await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let error = ask(&client, call("/a/B").body(()).unwrap(), "message", None).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
        // Three attempts of the caller's sidecar, and one more for each of the app's.
        assert_eq!(seen.count(RST_STREAM), 0);
        assert_eq!(near.count("proxy_retries_total", &["refused-stream"]), 2);
        assert_eq!(far.count("proxy_retries_total", &["refused-stream"]), 3);
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn what_one_replica_refuses_another_may_do() {
    run(async {
        let (full, _) = frames::app(|turn| reset(turn.stream, REFUSED_STREAM)).await;
        let (well, _) = frames::app(|turn| answer(turn.stream)).await;
        let full_far = inbound(TestNet::to(&full.to_string()), "service = 'orders'").await;
        let well_far = inbound(TestNet::to(&well.to_string()), "service = 'orders'").await;
        let net = TestNet::to(SERVICE).redirect(full, full_far.at).redirect(well, well_far.at);
        let near = outbound(net, &cluster("detect", &[full, well], "")).await;
        let client = h2c::connect(near.at).await;
        assert_eq!(calls(&client, 20, 1).await, 20);
        near.at_rest_without(client).await;
    });
}

#[test]
fn the_code_of_a_reset_arrives_as_it_was_sent_before_the_head_and_after_it() {
    run(async {
        // All of RFC 9113 section 7 but the refusal, and one that nobody knows.
        for code in (0..14).filter(|code| *code != REFUSED_STREAM).chain([0x1234]) {
            for cut in [vec![], head(1), [head(1), data(1, 0, b"half")].concat()] {
                let said = cut.clone();
                let (app, _) = frames::app(move |_| [&said[..], &reset(1, code)].concat()).await;
                let (near, far) = pair(app).await;
                let client = h2c::connect(near.at).await;
                let got = ask(&client, call("/a/B").body(()).unwrap(), "message", None).await;
                let error = got.expect_err("not the end of an answer");
                assert_eq!(error.reason().map(u32::from), Some(code), "after {} bytes", cut.len());
                near.at_rest_without(client).await;
                far.at_rest().await;
            }
        }
    });
}

#[test]
fn a_reset_after_the_end_of_an_answer_takes_nothing_away() {
    run(async {
        for code in [0, 8] {
            let (app, _) = frames::app(move |turn| {
                let parts = [data(turn.stream, 0, b"wh"), data(turn.stream, END_STREAM, b"ole")].concat();
                [head(turn.stream), parts, reset(turn.stream, code)].concat()
            })
            .await;
            let (near, far) = pair(app).await;
            let client = h2c::connect(near.at).await;
            let got = ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
            assert_eq!(got.body, b"whole", "{code}");
            near.at_rest_without(client).await;
            far.at_rest().await;
        }
    });
}

#[test]
fn an_upload_that_its_client_resets_does_not_end_for_the_app() {
    run(async {
        let (app, seen) = frames::app(|turn| answer(turn.stream)).await;
        let (near, far) = pair(app).await;
        for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
            seen.frames.borrow_mut().clear();
            let client = h2c::connect(near.at).await;
            let (response, mut send) =
                client.clone().send_request(call("/a/B").body(()).unwrap(), false).unwrap();
            send.send_data(Bytes::from_static(b"half"), false).unwrap();
            until("half of it is there", || seen.count(frames::DATA) == 1).await;
            send.send_reset(reason);
            until("the app hears of it", || seen.count(RST_STREAM) == 1).await;
            assert!(
                seen.frames.borrow().iter().all(|f| f.kind > 1 || f.flags & END_STREAM == 0),
                "{reason:?}"
            );
            drop((client, response, send));
            near.at_rest().await;
        }
        far.at_rest().await;
    });
}

#[test]
fn a_grpc_call_whose_connection_is_lost_half_way_ends_as_unavailable() {
    run(async {
        let (app, _) = frames::app(|turn| match turn.nth {
            1 => [head(turn.stream), data(turn.stream, 0, b"half")].concat(),
            _ => Vec::new(),
        })
        .await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let mut sender = client.clone();
        let (response, mut send) = sender.send_request(call("/a/B").body(()).unwrap(), false).unwrap();
        send.send_data(Bytes::from_static(b"message"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        // The next one lets the app close the connection.
        let (_lost, _send) = sender.send_request(call("/a/B").body(()).unwrap(), true).unwrap();
        let (body, trailers) = h2c::read(response.into_body()).await.unwrap();
        assert_eq!((&*body, &trailers["grpc-status"]), (&b"half"[..], &"14".parse().unwrap()));
        drop((client, sender, _lost, _send, send));
        near.at_rest().await;
        far.at_rest().await;
    });
}

/// Runs a test in which more time passes than any other may take.
fn run_for_long(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(test);
}

/// Lets time pass without waiting for it.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
    // Whatever is due now gets its turn, and what it says arrives.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[test]
fn a_silent_call_is_pinged_no_more_often_than_grpc_servers_allow() {
    run_for_long(async {
        let (app, seen) = frames::app(|turn| head(turn.stream)).await;
        let config = cluster("http", &[app], "timeouts = { stream_idle = '1h' }");
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let client = h2c::connect(near.at).await;
        let (response, _send) = client.clone().send_request(call("/a/B").body(()).unwrap(), true).unwrap();
        let _body = response.await.unwrap();
        pass(290).await;
        assert_eq!(seen.count(PING), 0);
        pass(20).await;
        until("a sign of life is asked for", || seen.count(PING) == 1).await;
    });
}

#[test]
fn the_local_app_is_not_pinged() {
    run_for_long(async {
        let (app, seen) = frames::app(|turn| head(turn.stream)).await;
        let config = "service = 'orders'\ntimeouts = { stream_idle = '1h' }";
        let far = inbound(TestNet::to(&app.to_string()), config).await;
        let client = h2c::connect(far.at).await;
        let (response, _send) = client.clone().send_request(call("/a/B").body(()).unwrap(), true).unwrap();
        let _body = response.await.unwrap();
        pass(310).await;
        pass(310).await;
        assert_eq!(seen.count(PING), 0);
    });
}

#[test]
fn mistakes_about_refusals_and_resets_would_be_seen() {
    run(async {
        mutant::plant(Some(Mutant::RepeatsNothingRefused));
        let (app, _) = frames::app(|turn| match turn.nth {
            1 => reset(turn.stream, REFUSED_STREAM),
            _ => answer(turn.stream),
        })
        .await;
        let (near, far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        calls(&client, 2, 1).await;
        assert_eq!(far.count("proxy_retries_total", &[]), 0);
        assert_eq!(near.count("proxy_retries_total", &["refused-stream"]), 1, "the caller's hears of it");

        mutant::plant(Some(Mutant::TakesAResetForAnEnd));
        let (app, _) = frames::app(|_| [head(1), data(1, 0, b"half"), reset(1, 0)].concat()).await;
        let (near, _far) = pair(app).await;
        let client = h2c::connect(near.at).await;
        let got = ask(&client, request("GET", "/").body(()).unwrap(), "", None).await;
        assert_eq!(got.unwrap().body, b"half", "half an answer passes for a whole one");
    });
}
