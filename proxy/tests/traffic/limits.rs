//! What a sidecar does when it carries as much as it may: it says no at once, and what it carries is not harmed.

use crate::common::h2c::{self, ask, call};
use crate::common::{SERVICE, TestNet, answering, app, cluster, inbound, outbound, run, until};

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
