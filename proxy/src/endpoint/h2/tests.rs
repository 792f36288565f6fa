use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use tokio::io::AsyncWriteExt;
use tokio::time::{advance, sleep};

use super::super::fake::{FakeNet, address, limits, metrics, run, target};
use super::*;
use crate::world::RngTree;

/// SETTINGS that allow two streams.
const TWO: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2];
/// SETTINGS that allow ten.
const TEN: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 10];
/// SETTINGS that allow one.
const ONE: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1];
const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
/// GOAWAY without an error, before the first stream.
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// A frame that no stream 0 may carry.
const NONSENSE: &[u8] = &[0, 0, 1, 0, 0, 0, 0, 0, 0, 7];
const TICK: Duration = Duration::from_millis(1);

fn streams(greeting: &'static [u8]) -> (FakeNet, Streams<FakeNet>) {
    let net = FakeNet { greeting, ..FakeNet::default() };
    (net.clone(), Streams::new(Connector::new(net, |_| None), RngTree::new(1).rng()))
}

async fn checkout(streams: &Streams<FakeNet>) -> Stream {
    streams.checkout(&target(), None, limits(), &metrics()).await.unwrap()
}

fn group(streams: &Streams<FakeNet>) -> Rc<Group> {
    streams.inner.groups.borrow()[&target()].clone()
}

fn is_called(called: std::pin::Pin<&mut impl Future>) -> bool {
    called.poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[tokio::test(start_paused = true)]
async fn only_a_connection_that_carries_something_and_was_silent_all_the_while_is_given_up_with_an_attempt() {
    run(async {
        let (_net, streams) = streams(TEN);
        let stream = checkout(&streams).await;
        let connection = stream.connection.clone();
        sleep(TICK * 10).await;
        let begun = Instant::now();
        sleep(TICK).await;
        for heard in [begun - TICK, begun, begun + TICK] {
            connection.expires.set(None);
            connection.heard.set(heard);
            streams.gave_up(&target(), begun);
            assert_eq!(connection.is_young(), heard >= begun);
        }
        drop(stream);
        connection.expires.set(None);
        connection.heard.set(begun - TICK);
        streams.gave_up(&target(), begun);
        assert!(connection.is_young(), "it carried nothing, so nobody asked it anything");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_doubt_retires_what_has_not_been_heard_since_and_dials_that_are_not_younger() {
    run(async {
        let (_net, streams) = streams(TEN);
        let stream = checkout(&streams).await;
        let (connection, group) = (stream.connection.clone(), group(&streams));
        sleep(TICK * 10).await;
        let mut stale_since = Instant::now();
        for heard in [stale_since - TICK, stale_since, stale_since + TICK] {
            stale_since += TICK / 10;
            let heard = heard + (stale_since - Instant::now());
            connection.expires.set(None);
            connection.heard.set(heard);
            group.hear(Some(stale_since));
            assert_eq!(connection.expires.get().is_none(), heard >= stale_since);
        }
        for (since, stays) in [(-1, false), (0, false), (1, true)] {
            stale_since += TICK;
            let since = if since < 0 { stale_since - TICK } else { stale_since + TICK * since as u32 };
            *group.dial.borrow_mut() = Some((since, watch::channel(DialOutcome::Pending).1));
            group.hear(Some(stale_since));
            assert_eq!(group.dial.borrow().is_some(), stays);
        }
        // The same doubt, heard again, is no news: a dial that began in the same instant goes on.
        *group.dial.borrow_mut() = Some((stale_since, watch::channel(DialOutcome::Pending).1));
        group.hear(Some(stale_since));
        assert!(group.dial.borrow().is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_age_carries_what_it_has_begun_and_is_over_when_that_has_ended() {
    run(async {
        let (_net, streams) = streams(TEN);
        let stream = checkout(&streams).await;
        let connection = stream.connection.clone();
        assert!(!stream.is_tunnel());
        connection.expires.set(Some(Instant::now() + TICK));
        assert!(connection.is_young());
        advance(TICK).await;
        assert!(!connection.is_young());
        connection.expires.set(None);
        connection.retire();
        assert!(!connection.is_young() && !connection.is_over());
        drop(stream);
        assert!(connection.is_over());
        connection.expires.set(None);
        assert!(!connection.is_over());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_connection_is_due_when_eight_in_ten_streams_are_taken_and_only_as_many_as_may() {
    run(async {
        for (allowed, in_use, nearly_full, room) in [
            (ONE, 0, false, true),
            (ONE, 1, true, false),
            (TEN, 1, false, true),
            (TEN, 7, false, true),
            (TEN, 8, true, true),
            (TEN, 10, true, false),
        ] {
            let (_net, streams) = streams(allowed);
            let stream = checkout(&streams).await;
            let (connection, group) = (stream.connection.clone(), group(&streams));
            connection.in_use.set(in_use);
            assert_eq!([connection.is_nearly_full(), group.is_nearly_full()], [nearly_full; 2]);
            assert_eq!([connection.has_room(), group.has_room()], [room; 2]);
            connection.in_use.set(1);
        }
        assert!(!Group::new(target()).has_room());

        let (_net, streams) = streams(TEN);
        let metrics = metrics();
        let _stream = streams.checkout(&target(), None, limits(), &metrics).await.unwrap();
        let group = group(&streams);
        let may_open = |connections, of_cluster| {
            let mut limits = PoolLimits { connections, ..limits() };
            limits.cluster.connections = of_cluster;
            group.may_open(limits, &metrics)
        };
        assert_eq!([may_open(1, 2), may_open(2, 1), may_open(2, 2)], [false, false, true]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_does_not_overtake_those_who_wait_for_a_stream() {
    run(async {
        let (_net, streams) = streams(TEN);
        let _stream = checkout(&streams).await;
        let group = group(&streams);
        let (at, metrics) = (target(), metrics());
        let turn = group.queue.join(address(), limits(), &metrics).unwrap();
        {
            let later = pin!(streams.checkout(&at, None, limits(), &metrics));
            assert!(!is_called(later));
        }
        drop(turn);
        let alone = pin!(streams.checkout(&at, None, limits(), &metrics));
        assert!(is_called(alone));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_dialled_and_finds_the_connection_over_does_not_dial_again() {
    run(async {
        let (net, streams) = streams(TEN);
        let limits = PoolLimits { max_age: Some(Duration::ZERO), ..limits() };
        let error = streams.checkout(&target(), None, limits, &metrics()).await.err().unwrap();
        assert_eq!(error.kind, Kind::Connect);
        assert_eq!(net.servers.borrow().len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_closes_what_has_idled_for_long_or_is_over_and_spares_the_rest() {
    run(async {
        let (_net, streams) = streams(TEN);
        let open = || streams.inner.groups.borrow().len();
        drop(checkout(&streams).await);
        advance(H2_IDLE - TICK).await;
        streams.sweep();
        assert_eq!(open(), 1);
        advance(TICK).await;
        streams.sweep();
        assert_eq!(open(), 0, "it had idled for long enough");

        let stream = checkout(&streams).await;
        advance(H2_IDLE * 2).await;
        stream.connection.retire();
        streams.sweep();
        assert_eq!(open(), 1, "it carries a stream");
        drop(stream);
        streams.sweep();
        assert_eq!(open(), 0, "it is over");

        let _stream = checkout(&streams).await;
        streams.forget(&target());
        assert_eq!(open(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_called_when_the_peer_is_seen_to_allow_more_streams_and_not_else() {
    run(async {
        let (net, streams) = streams(TWO);
        let limits = PoolLimits { connections: 1, ..limits() };
        let checkout = || async { streams.checkout(&target(), None, limits, &metrics()).await.unwrap() };
        let (first, second) = (checkout().await, checkout().await);
        let queue = group(&streams).queue.clone();
        let turn = queue.join(address(), limits, &metrics()).unwrap();
        let mut called = pin!(turn.called());
        let mut server = net.servers.borrow_mut().pop().unwrap();
        // The connection's task looks when there is a request.
        for (stream, frame, more) in [(first, PING, false), (second, TEN, true)] {
            server.write_all(frame).await.unwrap();
            sleep(TICK).await;
            net.spawn("request", async move {
                let _ = stream.send(request()).await;
            });
            sleep(TICK).await;
            assert_eq!(is_called(called.as_mut()), more);
        }
    })
    .await;
}

fn request() -> Request<RequestBody> {
    let request = Request::get("http://orders/").version(http::Version::HTTP_2);
    request.body(RequestBody::Empty).unwrap()
}

/// What becomes of a request to a server that says `frame` in reply, and of its connection.
async fn failed(frame: &'static [u8]) -> (Kind, bool) {
    let (net, streams) = streams(TEN);
    let stream = checkout(&streams).await;
    let connection = stream.connection.clone();
    let mut server = net.servers.borrow_mut().pop().unwrap();
    let sending = stream.send(request());
    let reply = async {
        sleep(TICK).await;
        server.write_all(frame).await.unwrap();
        sleep(TICK).await;
        server
    };
    let (sent, _server) = tokio::join!(sending, reply);
    (sent.err().unwrap().0.kind, connection.is_young())
}

#[tokio::test(start_paused = true)]
async fn a_request_after_the_last_that_goaway_names_counts_as_refused_and_nonsense_as_nonsense() {
    run(async {
        assert_eq!(failed(GOAWAY).await, (Kind::Refused, false));
        assert_eq!(failed(NONSENSE).await.0, Kind::Protocol);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_stream_inside_hyper_fails_with_the_connection_and_not_with_its_client() {
    run(async {
        let (net, streams) = streams(TEN);
        let (first, second) = (checkout(&streams).await, checkout(&streams).await);
        let mut server = net.servers.borrow_mut().pop().unwrap();
        server.write_all(ONE).await.unwrap();
        sleep(TICK).await;
        let end = async {
            sleep(TICK).await;
            drop(server);
        };
        let (first, second, ()) = tokio::join!(first.send(request()), second.send(request()), end);
        for sent in [first, second] {
            assert_eq!(sent.err().unwrap().0.kind, Kind::Terminated);
        }
    })
    .await;
}
