//! What routes do to requests, over loopback: who gets them, what they ask for there, what the
//! client hears.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::common::h2c::{self, ask, call};
use crate::common::{SERVICE, Seen, Side, TestNet, answering, app, nobody, outbound, run, until};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const OLD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-app: 1\r\n\r\nold";
const NEW: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-app: 1\r\n\r\nnew";
const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nbad";

/// A cluster behind [`SERVICE`] with `routes`, and another one, `next`, that only routes lead to.
fn two(orders: SocketAddr, next: SocketAddr, routes: &str) -> String {
    format!(
        "service = 'web'\ninstance = 'web-1'\n\
         [[cluster]]\nname = 'orders'\naddresses = ['{SERVICE}']\nprotocol = 'http'\nendpoints = ['{orders}']\n\
         {routes}\n\
         [[cluster]]\nname = 'next'\nprotocol = 'http'\nendpoints = ['{next}']\n"
    )
}

async fn sidecar(orders: SocketAddr, next: SocketAddr, routes: &str) -> Side {
    outbound(TestNet::to(SERVICE), &two(orders, next, routes)).await
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: orders:80\r\n{headers}\r\n")
}

fn post(body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nhost: orders:80\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn the_first_route_that_matches_decides_and_what_none_matches_stays() {
    run(async {
        let routes = r#"
            [[cluster.route]]
            name = "writes"
            match = { prefix = "/new", methods = ["POST"] }
            [[cluster.route]]
            name = "new"
            match = { prefix = "/new" }
            to = [{ cluster = "next" }]
            [[cluster.route]]
            name = "testers"
            match = { headers = { x-tester = { regex = "yes|1" } }, authorities = ["orders"] }
            to = [{ cluster = "next" }]
        "#;
        let near = sidecar(answering(OLD).await, answering(NEW).await, routes).await;
        let mut client = near.client().await;
        for (request, expected) in [
            (get("/", ""), "old"),
            (get("/new", ""), "new"),
            (get("/new/x?y", ""), "new"),
            (get("/news", ""), "old"),
            (get("/", "x-tester: 1\r\n"), "new"),
            (get("/", "x-tester: 11\r\n"), "old"),
            (
                get("/new", "").replace("GET", "POST").replace("\r\n\r\n", "\r\ncontent-length: 0\r\n\r\n"),
                "old",
            ),
        ] {
            assert_eq!(client.ask(&request).await.text(), expected, "{request}");
        }
        for (route, expected) in [("writes", 1), ("new", 2), ("testers", 1)] {
            let labels = [r#"cluster="orders""#, &format!("route=\"{route}\"")];
            assert_eq!(near.count("proxy_route_requests_total", &labels), expected, "{route}");
        }
        assert_eq!(near.count("proxy_requests_total", &["next"]), 3, "each cluster counts what it gets");
        near.at_rest_without(client).await;
    });
}

#[test]
fn weights_share_requests_and_a_weight_of_0_gets_none() {
    run(async {
        let routes = |old: u32, new: u32| {
            format!(
                "[[cluster.route]]\nto = [{{ weight = {old} }}, {{ cluster = 'next', weight = {new} }}]\n"
            )
        };
        let (orders, next) = (answering(OLD).await, answering(NEW).await);
        for (old, new, range) in [(95, 5, 1..25), (1, 1, 70..130), (0, 1, 200..201)] {
            let near = sidecar(orders, next, &routes(old, new)).await;
            let mut client = near.client().await;
            for _ in 0..200 {
                client.ask(&get("/", "")).await;
            }
            let count = near.count("proxy_requests_total", &["next"]);
            assert!(range.contains(&count), "{old}:{new} gave {count}");
            near.at_rest_without(client).await;
        }
    });
}

#[test]
fn a_rewritten_request_asks_for_the_new_path_and_host_over_both_versions() {
    run(async {
        let seen = Seen::default();
        let orders = nobody();
        let routes = r#"
            [[cluster.route]]
            match = { prefix = "/api/v1" }
            to = [{ cluster = "next" }]
            rewrite = { prefix = "/", authority = "next.example:81" }
            request_headers = { set = { x-route = "v1" }, add = { x-tag = "b" }, remove = ["x-secret"] }
            response_headers = { set = { x-served-by = "v1" }, remove = ["x-app"] }
        "#;
        let near = sidecar(orders, seen.app(OK).await, routes).await;
        let mut client = near.client().await;
        let headers = "x-route: 0\r\nx-tag: a\r\nx-secret: 1\r\n";
        let answer = client.ask(&get("/api/v1/items?id=/api/v1", headers)).await;
        assert_eq!((answer.status(), answer.header("x-served-by")), (200, Some("v1".into())));
        let request = seen.last();
        assert!(request.head.starts_with("GET /items?id=/api/v1 HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("host").unwrap(), "next.example:81");
        assert_eq!(request.header("x-route").unwrap(), "v1");
        assert!(request.head.contains("x-tag: a\r\nx-tag: b\r\n"), "{}", request.head);
        assert_eq!(request.header("x-secret"), None);
        near.at_rest_without(client).await;

        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let noted = seen.clone();
        let (next, _) = h2c::app(10, move |request, mut respond| {
            let uri = request.uri().to_string();
            noted.borrow_mut().push(uri);
            async move {
                let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                send.send_data("ok".into(), true).unwrap();
            }
        })
        .await;
        let routes = "[[cluster.route]]\nto = [{ cluster = 'next' }]\nrewrite = { path = '/all', authority = 'next' }\n";
        let near = sidecar(orders, next, routes).await;
        let client = h2c::connect(near.at).await;
        let answer = ask(&client, h2c::request("GET", "/x?q").body(()).unwrap(), "", None).await.unwrap();
        assert_eq!(answer.body, b"ok");
        assert_eq!(*seen.borrow(), ["http://next/all?q"]);
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_route_may_answer_or_send_the_client_elsewhere_without_asking_anybody() {
    run(async {
        let routes = r#"
            [[cluster.route]]
            match = { path = "/old" }
            redirect = { scheme = "https", path = "/new", status = 308 }
            [[cluster.route]]
            match = { prefix = "/closed" }
            respond = { status = 403, body = "not here" }
            response_headers = { set = { x-why = "closed" } }
            [[cluster.route]]
            match = { path = "/never" }
            to = [{ cluster = "next" }]
        "#;
        let near = sidecar(nobody(), nobody(), routes).await;
        let mut client = near.client().await;
        let answer = client.ask(&get("/old?a=b", "")).await;
        assert_eq!(
            (answer.status(), answer.header("location").unwrap()),
            (308, "https://orders/new?a=b".into())
        );
        let answer = client.ask(&get("/closed/x", "")).await;
        assert_eq!((answer.status(), answer.text()), (403, "not here"));
        assert_eq!(answer.header("x-why").unwrap(), "closed");
        assert_eq!(
            answer.header("proxy-status").unwrap(),
            "sidelab-web-1; error=proxy_internal_response; details=\"DR\""
        );
        assert_eq!(client.ask(&post("hi").replace("/p", "/closed")).await.status(), 403);
        assert_eq!(near.count("proxy_upstream_connections_open", &[]), 0);
        assert_eq!(near.count("proxy_responses_total", &["orders", "4xx"]), 2);
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_grpc_client_hears_of_answers_and_faults_as_statuses() {
    run(async {
        let routes = r#"
            [[cluster.route]]
            match = { prefix = "/shop.Admin" }
            respond = { status = 403, body = "admins only" }
            [[cluster.route]]
            match = { path = "/shop.Cart/Add" }
            fault = { abort = 503 }
            to = [{ cluster = "next" }]
        "#;
        let near = sidecar(nobody(), nobody(), routes).await;
        let client = h2c::connect(near.at).await;
        for (path, status) in [("/shop.Admin/Close", "7"), ("/shop.Cart/Add", "14")] {
            let answer = ask(&client, call(path).body(()).unwrap(), "hi", None).await.unwrap();
            assert_eq!(
                (answer.head.status().as_u16(), answer.header("grpc-status")),
                (200, status),
                "{path}"
            );
        }
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_cluster_that_only_routes_answers_404_to_what_no_route_matches() {
    run(async {
        let next = answering(NEW).await;
        let config = format!(
            "service = 'web'\n[[cluster]]\nname = 'front'\naddresses = ['{SERVICE}']\nprotocol = 'http'\nendpoints = []\n\
             [[cluster.route]]\nmatch = {{ path = '/a' }}\nto = [{{ cluster = 'next' }}]\n\
             [[cluster]]\nname = 'next'\nendpoints = ['{next}']\n"
        );
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let mut client = near.client().await;
        assert_eq!(client.ask(&get("/a", "")).await.text(), "new");
        let lost = client.ask(&get("/b", "")).await;
        assert_eq!(lost.status(), 404);
        assert!(lost.header("proxy-status").unwrap().contains("error=destination_not_found"));
        assert_eq!(near.count("proxy_errors_total", &["front", "no_route"]), 1);
        near.at_rest_without(client).await;
    });
}

#[test]
fn faults_strike_before_any_endpoint_and_within_the_time_of_the_request() {
    run(async {
        let seen = Seen::default();
        let routes = r#"
            [[cluster.route]]
            name = "abort"
            match = { path = "/abort" }
            fault = { abort = 418, delay = "10ms" }
            [[cluster.route]]
            name = "late"
            match = { path = "/late" }
            fault = { delay = "10s" }
            timeouts = { request = "20ms" }
            [[cluster.route]]
            name = "delay"
            match = { path = "/delay" }
            fault = { delay = "5ms", abort = 500, abort_share = "0%" }
            [[cluster.route]]
            match = { path = "/next" }
            to = [{ cluster = "next" }]
        "#;
        let near = sidecar(seen.app(OK).await, nobody(), routes).await;
        let mut client = near.client().await;
        let answer = client.ask(&get("/abort", "")).await;
        assert_eq!(answer.status(), 418);
        assert!(answer.header("proxy-status").unwrap().contains("details=\"FI\""));
        assert_eq!(client.ask(&get("/late", "")).await.status(), 504);
        assert_eq!(seen.requests(), 0);
        assert_eq!(client.ask(&get("/delay", "")).await.text(), "ok");
        for (route, result, expected) in [
            ("abort", "abort", 1),
            ("abort", "delay", 1),
            ("late", "delay", 1),
            ("delay", "delay", 1),
            ("delay", "abort", 0),
        ] {
            let labels = [&*format!("route=\"{route}\""), &*format!("result=\"{result}\"")];
            assert_eq!(near.count("proxy_route_faults_total", &labels), expected, "{route} {result}");
        }
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_route_has_limits_and_retries_of_its_own() {
    run(async {
        let silent = app(|_, mut wire| async move { while wire.request().await.is_some() {} }).await;
        let routes = r#"
            retry.attempts = 2
            [[cluster.route]]
            match = { path = "/quick" }
            timeouts = { request = "20ms" }
            [[cluster.route]]
            match = { path = "/once" }
            to = [{ cluster = "next" }]
            retry = { attempts = 0 }
        "#;
        let near = sidecar(silent, nobody(), routes).await;
        let mut client = near.client().await;
        assert_eq!(client.ask(&get("/quick", "")).await.status(), 504);
        assert_eq!(client.ask(&get("/once", "")).await.status(), 502);
        assert_eq!(near.count("proxy_retries_total", &["next"]), 0);
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_mirrored_request_is_copied_with_its_body_and_its_answer_is_not_read_by_anybody() {
    run(async {
        let (orders, next) = (Seen::default(), Seen::default());
        let near = sidecar(
            orders.app(OLD).await,
            next.app(BAD).await,
            "[[cluster.route]]\nname = 'all'\nmirror = { cluster = 'next' }\n",
        )
        .await;
        let mut client = near.client().await;
        assert_eq!(client.ask(&post("hello")).await.text(), "old");
        until("the copy arrived", || next.requests() == 1).await;
        let copy = next.last();
        assert!(copy.head.starts_with("POST /p HTTP/1.1\r\n"), "{}", copy.head);
        assert_eq!(copy.header("host").unwrap(), "orders-shadow:80");
        assert_eq!((copy.text(), orders.last().text()), ("hello", "hello"));
        assert_eq!(copy.header("x-request-id"), orders.last().header("x-request-id"));
        assert_eq!(client.ask(&get("/g", "")).await.text(), "old");
        let chunked = "POST /c HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(client.ask(chunked).await.text(), "old");
        until("the copies arrived", || next.requests() == 3).await;
        assert_eq!(next.last().text(), "abc");
        until("their answers were read", || near.count("proxy_route_mirrors_total", &["answered"]) == 3)
            .await;
        assert_eq!((orders.requests(), near.count("proxy_retries_total", &["next"])), (3, 0));
        assert_eq!(next.connections(), 1, "its connection is used again");
        near.at_rest_without(client).await;
    });
}

#[test]
fn a_copy_speaks_what_the_cluster_that_gets_it_speaks() {
    run(async {
        let routes = "[[cluster.route]]\nmirror = { cluster = 'next' }\n";
        let orders = answering(OLD).await;
        let (http2, copies) = (h2c::echo(100).await.0, Rc::new(RefCell::new(Vec::new())));
        let seen = copies.clone();
        let (next, _) = h2c::app(100, move |request, mut respond| {
            let marker = request.headers().get("sidelab-orig-proto").cloned();
            seen.borrow_mut().push(marker.map(|value| value.to_str().unwrap().to_owned()));
            async move { drop(respond.send_response(http::Response::new(()), true)) }
        })
        .await;
        // One that was HTTP/1 crosses a bridge as HTTP/2, and says so; one that was HTTP/2 stays
        // what it is.
        let near = outbound(TestNet::to(SERVICE), &(two(orders, next, routes) + "bridge = true\n")).await;
        let mut client = near.client().await;
        assert_eq!(client.ask(&get("/", "")).await.text(), "old");
        until("the copy arrived", || copies.borrow().len() == 1).await;
        assert_eq!(copies.take(), [Some("HTTP/1.1".to_owned())]);
        near.at_rest_without(client).await;
        let near = sidecar(http2, next, routes).await;
        let client = h2c::connect(near.at).await;
        ask(&client, h2c::request("GET", "/").body(()).unwrap(), "", None).await.unwrap();
        until("the copy arrived", || copies.borrow().len() == 1).await;
        assert_eq!(copies.take(), [None]);
        drop(client);
        until("its answer was read", || near.count("proxy_route_mirrors_total", &["answered"]) == 1).await;
        near.at_rest().await;
    });
}

#[test]
fn a_copy_that_cannot_be_made_or_sent_does_not_touch_the_original() {
    run(async {
        let orders = Seen::default();
        let silent = app(|_, mut wire| async move { while wire.request().await.is_some() {} }).await;
        let routes = "[[cluster.route]]\nmirror = { cluster = 'next' }\n";
        let at = orders.app(OLD).await;
        let near = sidecar(at, silent, routes).await;
        let mut client = near.client().await;
        // More than a copy may have, and then more copies than may be under way.
        assert_eq!(client.ask(&post(&"x".repeat(70_000))).await.text(), "old");
        assert_eq!(near.count("proxy_route_mirrors_total", &["too_long"]), 1);
        for _ in 0..140 {
            assert_eq!(client.ask(&get("/", "")).await.text(), "old");
        }
        assert_eq!(near.count("proxy_route_mirrors_total", &["too_many"]), 140 - 128);
        drop(client);

        let near = sidecar(at, nobody(), routes).await;
        let mut client = near.client().await;
        assert_eq!(client.ask(&get("/", "")).await.text(), "old");
        until("the copy failed", || near.count("proxy_route_mirrors_total", &["failed"]) == 1).await;
        // The body never ends, so there is nothing to copy.
        let mut hasty = near.client().await;
        hasty.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhi").await;
        until("it began", || near.count("proxy_requests_total", &["\"orders\""]) == 2).await;
        drop(hasty);
        until("the copy was given up", || near.count("proxy_route_mirrors_total", &["incomplete"]) == 1)
            .await;
        near.at_rest_without(client).await;
    });
}
