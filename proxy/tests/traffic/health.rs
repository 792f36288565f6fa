//! Active checks of endpoints, probes of the local app, and limits of a cluster, over loopback.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{
    SERVICE, Seen, Side, TestNet, answering, app, cluster, h2c, inbound, nobody, outbound, run, spawn, until,
};
use http::{HeaderMap, HeaderValue, Response};
use proxy::balance::Table;
use proxy::connect::Connector;
use proxy::endpoint::Health;
use proxy::health;
use proxy::health::app::{AppHealth, ProbeKind};
use proxy::telemetry::Metrics;
use proxy::world::{KernelNet, RngTree};
use tokio::sync::watch;
use tokio::time::Instant;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const SICK: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// As often as a test can bear.
const OFTEN: &str = "interval = '20ms'\nedge_interval = '10ms'\nno_traffic_interval = '20ms'\n";

/// An app that gives the answer that is in the cell, and remembers the path that it was asked for.
async fn changing(answer: Rc<Cell<&'static str>>, path: Rc<Cell<String>>) -> SocketAddr {
    app(move |_, mut wire| {
        let (answer, path) = (answer.clone(), path.clone());
        async move {
            while let Some(request) = wire.request().await {
                path.set(request.head.lines().next().unwrap_or_default().to_owned());
                wire.send(answer.get()).await;
            }
        }
    })
    .await
}

/// A gRPC server whose health is in the cell: a `ServingStatus`.
async fn grpc_health(status: Rc<Cell<u8>>) -> SocketAddr {
    grpc_answers(move || vec![0, 0, 0, 0, 2, 8, status.get()]).await
}

/// A gRPC server that answers checks with these messages.
async fn grpc_answers(message: impl Fn() -> Vec<u8> + Clone + 'static) -> SocketAddr {
    let (at, _) = h2c::app(100, move |request, mut respond| {
        let message = message();
        async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let (asked, _) = h2c::read(request.into_body()).await.unwrap();
            assert_eq!(asked, b"\0\0\0\0\x06\x0a\x04shop");
            let head = Response::builder().header("content-type", "application/grpc");
            let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
            body.send_data(message.into(), false).unwrap();
            let trailers =
                HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
            body.send_trailers(trailers).unwrap();
        }
    })
    .await;
    at
}

/// Starts the checks of a side, as the control thread does.
fn checking(side: &Side) {
    spawn(health::active::run(
        Connector::new(KernelNet::default(), |_| None),
        RngTree::new(5),
        side.table.clone(),
    ));
}

fn healths(side: &Side) -> Vec<Health> {
    side.table.load().clusters[0].endpoints.iter().map(|endpoint| endpoint.health()).collect()
}

#[test]
fn an_endpoint_whose_check_fails_gets_nothing_until_it_passes_again() {
    run(async {
        let (answer, path) = (Rc::new(Cell::new(OK)), Rc::new(Cell::new(String::new())));
        let seen = Seen::default();
        let (changing, good) = (changing(answer.clone(), path.clone()).await, seen.app(OK).await);
        let config =
            cluster("http", &[changing, good], "") + "[cluster.health]\nhttp = '/healthz?full'\n" + OFTEN;
        let near = outbound(TestNet::to(SERVICE), &config).await;
        checking(&near);
        until("both are healthy", || healths(&near) == [Health::Healthy; 2]).await;
        assert_eq!(path.take(), "GET /healthz?full HTTP/1.1");
        answer.set(SICK);
        until("one is not", || healths(&near) == [Health::Unhealthy, Health::Healthy]).await;
        answer.set(OK);
        until("it is again", || healths(&near) == [Health::Healthy; 2]).await;
        answer.set(SICK);
        until("and not again", || healths(&near) == [Health::Unhealthy, Health::Healthy]).await;
        let mut client = near.client().await;
        for _ in 0..50 {
            assert_eq!(client.ask(GET).await.text(), "ok");
        }
        assert_eq!(near.count("proxy_errors_total", &[]), 0);
        assert!(near.count("proxy_health_checks_total", &["result=\"fail\""]) >= 3);
    });
}

#[test]
fn a_passing_check_ends_an_ejection_but_not_one_for_the_success_rate() {
    run(async {
        for (outlier_detection, ends) in [
            ("outlier_detection = { consecutive_failures = 2, base = '60s', success_rate = '0%' }", true),
            ("outlier_detection = { consecutive_failures = 0, base = '60s', min_requests = 2 }", false),
        ] {
            // It fails what is asked of it and passes its check.
            let sick = app(|_, mut wire| async move {
                while let Some(request) = wire.request().await {
                    wire.send(if request.head.contains("/healthz") { OK } else { SICK }).await;
                }
            })
            .await;
            let config =
                cluster("http", &[sick], outlier_detection) + "[cluster.health]\nhttp = '/healthz'\n" + OFTEN;
            let near = outbound(TestNet::to(SERVICE), &config).await;
            let mut client = near.client().await;
            for _ in 0..2 {
                assert_eq!(client.ask(GET).await.status(), 503);
            }
            let is_ejected = || near.table.load().clusters[0].endpoints[0].is_ejected();
            assert!(is_ejected(), "{outlier_detection}");
            checking(&near);
            let passed = || near.count("proxy_health_checks_total", &["result=\"pass\""]);
            until("it has been checked", || passed() > 2).await;
            assert_eq!(is_ejected(), !ends, "{outlier_detection}");
        }
    });
}

#[test]
fn health_is_asked_over_grpc_and_tcp_as_well() {
    run(async {
        let status = Rc::new(Cell::new(1));
        let at = grpc_health(status.clone()).await;
        let config = cluster("http", &[at], "") + "[cluster.health]\ngrpc = 'shop'\n" + OFTEN;
        let near = outbound(TestNet::to(SERVICE), &config).await;
        checking(&near);
        until("it serves", || healths(&near) == [Health::Healthy]).await;
        status.set(2);
        until("it says that it does not", || healths(&near) == [Health::Unhealthy]).await;

        let config =
            cluster("tcp", &[answering(OK).await, nobody()], "") + "[cluster.health]\ntcp = true\n" + OFTEN;
        let near = outbound(TestNet::to(SERVICE), &config).await;
        checking(&near);
        until("one listens", || healths(&near) == [Health::Healthy, Health::Unhealthy]).await;
    });
}

#[test]
fn an_answer_that_is_longer_than_any_of_the_health_protocol_is_none_whatever_it_says() {
    run(async {
        for (padding, health) in [(1, Health::Healthy), (2, Health::Healthy), (10, Health::Unhealthy)] {
            // SERVING, and so many times a hundred bytes of a field that nobody knows.
            let field = [&[0x12, 100][..], &[0; 100]].concat();
            let message = [&[8, 1][..], &field.repeat(padding)].concat();
            let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
            let at = grpc_answers(move || framed.clone()).await;
            let config = cluster("http", &[at], "") + "[cluster.health]\ngrpc = 'shop'\n" + OFTEN;
            let near = outbound(TestNet::to(SERVICE), &config).await;
            checking(&near);
            until("it was checked", || healths(&near)[0] != Health::Unknown).await;
            assert_eq!(healths(&near), [health], "{padding}");
        }
    });
}

#[test]
fn a_reload_keeps_what_is_known_and_one_without_checks_forgets_it() {
    run(async {
        let endpoints = [answering(OK).await, nobody()];
        let plain = cluster("http", &endpoints, "");
        let config = plain.clone() + "[cluster.health]\nhttp = '/'\n" + OFTEN;
        let near = outbound(TestNet::to(SERVICE), &config).await;
        checking(&near);
        let known = [Health::Healthy, Health::Unhealthy];
        until("both are known", || healths(&near) == known).await;
        let apply = |text: &str| {
            let snapshot = Arc::new(proxy::config::parse("sidecar.toml", text).unwrap());
            let table = Table::new(snapshot, Some(&near.table.load()), &near.metrics, Instant::now());
            near.table.store(Arc::new(table));
        };
        apply(&(config.clone() + "timeout = '500ms'\n"));
        assert_eq!(healths(&near), known);
        apply(&plain);
        until("nothing is known", || healths(&near) == [Health::Unknown; 2]).await;
        apply(&config);
        until("both are known again", || healths(&near) == known).await;
    });
}

#[test]
fn an_endpoint_that_leaves_and_comes_back_is_checked_soon_however_long_its_predecessor_waits() {
    run(async {
        let with = |endpoints: &[SocketAddr]| {
            let slow = "[cluster.health]\ntcp = true\ninterval = '1h'\nedge_interval = '1h'\nno_traffic_interval = '1h'\n";
            cluster("http", endpoints, "") + slow
        };
        let endpoints = [answering(OK).await, nobody()];
        let near = outbound(TestNet::to(SERVICE), &with(&endpoints)).await;
        checking(&near);
        let known = [Health::Healthy, Health::Unhealthy];
        until("both are known", || healths(&near) == known).await;
        for endpoints in [&endpoints[..1], &endpoints[..]] {
            let snapshot = Arc::new(proxy::config::parse("sidecar.toml", &with(endpoints)).unwrap());
            let table = Table::new(snapshot, Some(&near.table.load()), &near.metrics, Instant::now());
            near.table.store(Arc::new(table));
        }
        assert_eq!(healths(&near), [Health::Healthy, Health::Unknown]);
        until("both are known again", || healths(&near) == known).await;
    });
}

#[test]
fn the_app_is_ready_once_it_has_started_and_says_so_and_not_while_it_does_not() {
    run(async {
        let (answer, path) = (Rc::new(Cell::new(SICK)), Rc::new(Cell::new(String::new())));
        let at = changing(answer.clone(), path.clone()).await;
        let often = format!("address = '{at}'\nperiod = '10ms'\n");
        let text = format!(
            "service = 'web'\n[app.startup]\nhttp = '/start'\n{often}[app.readiness]\nhttp = '/ready'\n{often}\
             [app.liveness]\nhttp = '/live'\nfailure_threshold = 2\n{often}"
        );
        let snapshot = proxy::config::parse("sidecar.toml", &text).unwrap();
        let (tell, health) = watch::channel(AppHealth::beginning(&snapshot.app));
        let table = Table::new(Arc::new(snapshot), None, &Metrics::default(), Instant::now());
        let table = Arc::new(arc_swap::ArcSwap::from_pointee(table));
        spawn(
            async move { health::app::run(Connector::new(KernelNet::default(), |_| None), table, &tell).await },
        );
        let passes = |which| health.borrow().get(which).unwrap().passes;
        let says = |which, why: &str| &*health.borrow().get(which).unwrap().why == why;
        until("it was asked", || says(ProbeKind::Startup, "status 503")).await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let asked = path.take();
            assert!(asked.is_empty() || asked.contains("/start"), "the others wait for it: {asked}");
        }
        assert!(!health.borrow().is_ready() && passes(ProbeKind::Liveness));
        answer.set(OK);
        until("it is ready", || health.borrow().is_ready()).await;
        answer.set(SICK);
        until("it is not ready", || !health.borrow().is_ready()).await;
        until("it is not alive", || !passes(ProbeKind::Liveness)).await;
        assert!(passes(ProbeKind::Startup), "it has started for good");
        answer.set(OK);
        until("it is ready again", || health.borrow().is_ready() && passes(ProbeKind::Liveness)).await;
    });
}

/// An app that holds every request until the cell says so.
async fn holding(release: watch::Receiver<bool>) -> SocketAddr {
    app(move |_, mut wire| {
        let mut release = release.clone();
        async move {
            while wire.request().await.is_some() {
                let _ = release.wait_for(|go| *go).await;
                wire.send(OK).await;
            }
        }
    })
    .await
}

#[test]
fn a_cluster_takes_as_many_requests_as_its_limit_and_says_which_limit_it_was() {
    run(async {
        let (go, release) = watch::channel(false);
        let config = cluster("http", &[holding(release).await], "") + "limits = { requests = 2 }\n";
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let mut held = [near.client().await, near.client().await];
        for client in &mut held {
            client.send(GET).await;
        }
        let in_flight = || near.table.load().clusters[0].concurrency.in_flight();
        until("two are under way", || in_flight() == 2).await;
        let refused = near.client().await.ask(GET).await;
        assert_eq!(refused.status(), 503);
        let why = refused.header("proxy-status").unwrap();
        assert!(why.contains("UO") && why.contains("limits.requests is reached"), "{why}");
        assert_eq!(near.count("proxy_limited_total", &["reason=\"requests\""]), 1);
        assert_eq!(near.count("proxy_ejections_total", &[]), 0, "that is not the endpoint's fault");
        go.send_replace(true);
        for client in &mut held {
            assert_eq!(client.response(false).await.text(), "ok");
        }
        drop(held);
        near.at_rest().await;
        assert_eq!(in_flight(), 0);
    });
}

#[test]
fn a_cluster_opens_as_many_connections_as_its_limit_and_one_to_each_endpoint_nevertheless() {
    run(async {
        let (go, release) = watch::channel(false);
        let endpoints = [holding(release.clone()).await, holding(release).await];
        let config =
            cluster("http", &endpoints, "retry = { attempts = 0 }") + "limits = { connections = 1 }\n";
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let mut held = Vec::new();
        for n in 1..=2 {
            let mut client = near.client().await;
            client.send(GET).await;
            held.push(client);
            until("it is under way", || near.count("proxy_connects_total", &[]) == n).await;
        }
        let refused = near.client().await.ask(GET).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.header("proxy-status").unwrap().contains("limits.connections"));
        assert_eq!(near.count("proxy_limited_total", &["reason=\"connections\""]), 1);
        go.send_replace(true);
        for client in &mut held {
            assert_eq!(client.response(false).await.text(), "ok");
        }
    });
}

#[test]
fn an_app_that_is_full_by_its_latency_refuses_at_once_and_the_caller_goes_elsewhere() {
    run(async {
        let (go, release) = watch::channel(false);
        let slow = holding(release).await;
        let port = slow.port();
        let config = format!(
            "service = 'orders'\n[[inbound]]\nport = {port}\nprotocol = 'http'\n\
             adaptive_concurrency = {{ initial = 2, min = 2, max = 4 }}\n"
        );
        let far = inbound(TestNet::to(&slow.to_string()), &config).await;
        let mut held = [far.client().await, far.client().await];
        for client in &mut held {
            client.send(GET).await;
        }
        until("two are under way", || far.table.load().app[&port].in_flight() == 2).await;
        let refused = far.client().await.ask(GET).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.header("proxy-status").unwrap().contains("UO"));
        assert_eq!(far.count("proxy_limited_total", &["reason=\"concurrency\""]), 1);
        let net = TestNet::to(SERVICE).redirect(slow, far.at);
        let near = outbound(net, &cluster("http", &[slow, answering(OK).await], "")).await;
        let mut client = near.client().await;
        for _ in 0..10 {
            assert_eq!(client.ask(GET).await.text(), "ok");
        }
        go.send_replace(true);
        for client in &mut held {
            assert_eq!(client.response(false).await.text(), "ok");
        }
    });
}

#[test]
fn a_cluster_without_room_for_a_retry_passes_the_failure_on() {
    run(async {
        let endpoints = [nobody(), nobody()];
        let config = cluster("http", &endpoints, "") + "limits = { retries = 0 }\n";
        let near = outbound(TestNet::to(SERVICE), &config).await;
        assert_eq!(near.client().await.ask(GET).await.status(), 502);
        assert_eq!(near.count("proxy_limited_total", &["reason=\"retries\""]), 1);
        assert_eq!((near.count("proxy_retries_total", &[]), near.count("proxy_errors_total", &[])), (0, 1));
    });
}
