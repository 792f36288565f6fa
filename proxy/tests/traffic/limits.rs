//! What a sidecar does when it carries as much as it may: it says no at once, and what it carries
//! is not harmed.

use std::net::IpAddr;

use crate::common::h2c::{self, ask, call, request};
use crate::common::{SERVICE, TestNet, Wire, answering, app, cluster, inbound, outbound, run, until};
use proxy::world::{KernelNet, Net};
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn requests_past_the_limit_get_503_and_a_place_is_free_once_a_response_has_been_read() {
    run(async {
        let half = app(|_, mut wire| async move {
            while wire.request().await.is_some() {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await;
                wire.request().await;
            }
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[half], "limits.requests = 1")).await;
        let mut first = near.client().await;
        first.send(GET).await;
        assert_eq!(first.head().await.unwrap().status(), 200);
        let mut second = near.client().await;
        let refused = second.ask(GET).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.header("proxy-status").unwrap().contains("UO "), "{refused:?}");
        assert_eq!(near.count("proxy_errors_total", &["\"overload\""]), 1);
        drop(first);
        until("its place is free", || near.count("proxy_load_requests", &[]) == 0).await;
        second.send(GET).await;
        assert_eq!(second.head().await.unwrap().status(), 200);
        drop(second);
        near.at_rest().await;
    });
}

#[test]
fn a_grpc_client_past_the_limit_is_told_that_the_service_is_unavailable() {
    run(async {
        let (app, _) = h2c::echo(10).await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "limits.requests = 1")).await;
        let client = h2c::connect(near.at).await;
        let (_response, _send) =
            client.clone().send_request(call("/shop.Orders/Chat").body(()).unwrap(), false).unwrap();
        until("it is on its way", || near.count("proxy_load_requests", &[]) == 1).await;
        let refused = ask(&client, call("/shop.Orders/Get").body(()).unwrap(), "x", None).await.unwrap();
        assert_eq!((refused.head.status().as_u16(), refused.header("grpc-status")), (200, "14"));
    });
}

#[test]
fn connections_past_the_limit_are_closed_at_once() {
    run(async {
        let app = answering(OK).await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "limits.connections = 1")).await;
        let mut first = near.client().await;
        assert_eq!(first.ask(GET).await.text(), "ok");
        near.client().await.closed().await;
        assert_eq!(near.count("proxy_connections_refused_total", &["\"overload\""]), 1);
        assert_eq!(first.ask(GET).await.text(), "ok");
        drop(first);
        until("there is room", || near.count("proxy_load_connections", &[]) == 0).await;
        assert_eq!(near.client().await.ask(GET).await.text(), "ok");
    });
}

#[test]
fn a_request_that_an_overloaded_sidecar_refuses_goes_to_another_endpoint() {
    run(async {
        let stuck = app(|_, mut wire| async move {
            wire.request().await;
            wire.closed().await;
        })
        .await;
        let full = inbound(TestNet::to(&stuck.to_string()), "service = 'orders'\nlimits.requests = 1").await;
        let mut occupies = full.client().await;
        occupies.send(GET).await;
        until("it is full", || full.count("proxy_load_requests", &[]) == 1).await;
        let spare = answering(OK).await;
        let net = TestNet::to(SERVICE).redirect(stuck, full.at);
        let near = outbound(net, &cluster("http", &[stuck, spare], "")).await;
        let mut client = near.client().await;
        for _ in 0..10 {
            assert_eq!(client.ask(GET).await.text(), "ok");
        }
        assert!(near.count("proxy_errors_total", &["\"overload\""]) > 0);
    });
}

#[test]
fn while_memory_is_short_nothing_is_taken_on() {
    run(async {
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[answering(OK).await], "")).await;
        let mut client = near.client().await;
        assert_eq!(client.ask(GET).await.text(), "ok");
        near.table.load().load.set_out_of_memory(true);
        assert_eq!(client.ask(GET).await.status(), 503, "a connection that is open hears why");
        near.client().await.closed().await;
        assert_eq!(near.count("proxy_load_shedding", &[]), 1);
        near.table.load().load.set_out_of_memory(false);
        assert_eq!(client.ask(GET).await.text(), "ok");
    });
}

/// A client that is not the one of whom the others are.
const GREEDY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

#[test]
fn a_client_of_half_dead_streams_does_not_take_the_app_away_from_another_client() {
    run(async {
        // Who posts waits for ever, as in a request whose body never comes.
        let http1 = app(|_, mut wire| async move {
            while let Some(head) = wire.head().await {
                if head.head.starts_with("POST") {
                    wire.rest().await;
                    return;
                }
                wire.send(OK).await;
            }
        })
        .await;
        let (http2, _) = h2c::app(1000, |request, mut respond| async move {
            if request.method() == "POST" {
                std::future::pending::<()>().await;
            }
            let _ = respond.send_response(http::Response::new(()), true);
        })
        .await;
        for (app, is_http2, limits) in [
            (http1, false, "limits = { requests = 100, endpoint_connections = 1000 }"),
            (http1, false, "limits = { requests = 1000, endpoint_connections = 40 }"),
            (http2, true, "limits = { requests = 100 }"),
        ] {
            let config = format!("service = 'orders'\n{limits}");
            let far = inbound(TestNet::to(&app.to_string()), &config).await;
            let net = TestNet::to(SERVICE).redirect(app, far.at);
            let more = "retry.attempts = 0\nlimits.requests = 5000";
            let near = outbound(net, &cluster("http", &[app], more)).await;
            let (mut connections, mut streams) = (Vec::new(), Vec::new());
            for _ in 0..10 {
                let client = h2c::connect_from(far.at, Some(GREEDY)).await;
                for _ in 0..20 {
                    let mut post = request("POST", "/");
                    if !is_http2 {
                        post = post.header("sidelab-orig-proto", "HTTP/1.1");
                    }
                    streams.push(client.clone().send_request(post.body(()).unwrap(), false).unwrap());
                }
                connections.push(client);
            }
            until("they are there", || far.count("proxy_requests_total", &[]) == 200).await;
            for n in 0..20 {
                let status = if is_http2 {
                    let client = h2c::connect(near.at).await;
                    let answer = ask(&client, request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
                    answer.head.status().as_u16()
                } else {
                    near.client().await.get("/").await.status()
                };
                assert_eq!(status, 200, "request {n} of the other client, {limits}");
            }
            assert_eq!(near.count("proxy_ejections_total", &[]), 0);
            drop((streams, connections));
            until("all its places are free again", || far.count("proxy_load_requests", &[]) == 0).await;
        }
    });
}

#[test]
fn a_client_of_many_connections_leaves_some_to_another_client() {
    run(async {
        let app = answering(OK).await;
        let far = inbound(TestNet::to(&app.to_string()), "service = 'orders'\nlimits.connections = 8").await;
        let mut greedy = Vec::new();
        for _ in 0..12 {
            let io = KernelNet::default().connect(far.at, Some(GREEDY)).await.unwrap();
            let mut wire = Wire::new(io);
            // Those that are too many are closed.
            if wire.io.write_all(GET.as_bytes()).await.is_ok() && wire.head().await.is_some() {
                greedy.push(wire);
            }
        }
        assert_eq!(greedy.len(), 6);
        let [mut one, mut two] = [far.client().await, far.client().await];
        assert_eq!((one.get("/").await.status(), two.get("/").await.status()), (200, 200));
        drop(greedy);
        until("its places are free", || far.count("proxy_connections_open", &[]) == 2).await;
    });
}
