//! The apps on the kernel's loopback, spoken to in plain bytes so that no client library hides
//! anything.

use proxy::world::{KernelNet, RngTree, SystemWall};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::http::behaviour::Behaviour;
use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Ports {
    app: SocketAddr,
    metrics: SocketAddr,
}

async fn start(kind: AppKind) -> Ports {
    let net = KernelNet::default();
    let world = World::new(net.clone(), SystemWall, RngTree::new(1));
    let listener = net.bind(LOOPBACK).await.unwrap();
    let metrics = net.bind(LOOPBACK).await.unwrap();
    let ports = Ports { app: listener.local_addr().unwrap(), metrics: metrics.local_addr().unwrap() };
    let spec = AppSpec { instance: "orders-1".into(), port: ports.app.port(), kind };
    net.spawn("app", async move {
        serve_on(world, spec, RegistryData::default(), listener, metrics).await.unwrap()
    });
    ports
}

async fn connect(to: SocketAddr) -> TcpStream {
    KernelNet::default().connect(to, None).await.unwrap()
}

/// Sends `request` and returns everything that comes until the server closes.
async fn talk(to: SocketAddr, request: &str) -> String {
    let mut io = connect(to).await;
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    answer
}

fn http() -> AppKind {
    let behaviour = Behaviour { work: Duration::from_millis(1), ..Behaviour::default() };
    AppKind::Http(HttpEcho { behaviour, size: 40_000, ..HttpEcho::default() })
}

#[tokio::test]
async fn the_echo_says_who_answered_and_returns_the_request_ids() {
    let talk = async {
        let ports = start(http()).await;
        let request = "POST /pay HTTP/1.1\r\nhost: orders\r\nx-request-id: r-1\r\nx-lab-request: web 7\r\n\
                       content-length: 5\r\nconnection: close\r\n\r\nhello";
        talk(ports.app, request).await
    };
    let answer = LocalSet::new().run_until(talk).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for line in
        ["x-served-by: orders-1", "x-request-id: r-1", "x-lab-request: web 7", "content-length: 40000"]
    {
        assert!(head.lines().any(|l| l == line), "no `{line}` in {head}");
    }
    assert!(!head.contains("date:"), "{head}");
    assert_eq!(body.len(), 40_000);
}

#[tokio::test]
async fn an_app_that_is_told_to_breaks_http_in_every_answer_and_counts_it() {
    let talk = async {
        let ports = start(http()).await;
        let close = "connection: close\r\n\r\n";
        talk(ports.metrics, &format!("GET /behave?malformed=1 HTTP/1.1\r\nhost: o\r\n{close}")).await;
        let mut answers = Vec::new();
        for _ in 0..40 {
            answers.push(talk(ports.app, &format!("GET / HTTP/1.1\r\nhost: o\r\n{close}")).await);
        }
        let health = talk(ports.app, &format!("GET /healthz HTTP/1.1\r\nhost: o\r\n{close}")).await;
        (answers, health, talk(ports.metrics, &format!("GET /metrics HTTP/1.1\r\nhost: o\r\n{close}")).await)
    };
    let (answers, health, metrics) = LocalSet::new().run_until(talk).await;
    let is_whole = |answer: &String| {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        head.starts_with("HTTP/1.1 200 OK\r\n")
            && body.len() == 40_000
            && head.lines().skip(1).all(|line| line.contains(": "))
            && head.matches("content-length: ").count() == 1
            && head.len() < 1000
    };
    assert!(!answers.iter().any(is_whole), "one of them is as it should be");
    assert!(
        answers.iter().any(String::is_empty) && answers.iter().any(|answer| answer.contains("101 Switching"))
    );
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "its health is another matter: {health}");
    assert!(metrics.contains("\napp_changed_requests_total 40\n"), "{metrics}");
}

#[tokio::test]
async fn a_connection_is_kept_alive_and_the_counters_tell_requests_from_connections() {
    let talk = async {
        let ports = start(http()).await;
        let two = "GET /status/503 HTTP/1.1\r\nhost: o\r\n\r\nGET / HTTP/1.1\r\nhost: o\r\nconnection: close\r\n\r\n";
        let answer = talk(ports.app, two).await;
        let held = connect(ports.app).await;
        // The answer to a request proves that the connection behind it was accepted, and accepts
        // keep their order.
        let close = "GET / HTTP/1.1\r\nhost: o\r\nconnection: close\r\n\r\n";
        talk(ports.app, close).await;
        let scrape =
            talk(ports.metrics, "GET /metrics HTTP/1.1\r\nhost: o\r\nconnection: close\r\n\r\n").await;
        drop(held);
        (answer, scrape)
    };
    let (answer, scrape) = LocalSet::new().run_until(talk).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1);
    let samples = crate::metrics::parse("orders-1/app", scrape.split_once("\r\n\r\n").unwrap().1);
    let value = |name: &str| samples.iter().find(|s| *s.name == *name).unwrap().value;
    assert_eq!(value("app_requests_total"), 3.0);
    assert_eq!(value("app_connections_total"), 3.0);
    assert!(value("app_connections_open") >= 1.0);
}

#[tokio::test]
async fn the_line_server_greets_first_and_answers_what_was_sent_before_a_half_close() {
    let talk = async {
        let ports = start(AppKind::Tcp(LineServer { greeting: "220 hello".into() })).await;
        let mut io = connect(ports.app).await;
        let mut greeting = [0; "220 hello orders-1\n".len()];
        io.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello orders-1\n");
        io.write_all(b"one\ntwo\nthree").await.unwrap();
        io.shutdown().await.unwrap();
        let mut rest = String::new();
        io.read_to_string(&mut rest).await.unwrap();
        let scrape =
            talk(ports.metrics, "GET /metrics HTTP/1.1\r\nhost: o\r\nconnection: close\r\n\r\n").await;
        (rest, scrape)
    };
    let (rest, scrape) = LocalSet::new().run_until(talk).await;
    assert_eq!(rest, "one\ntwo\nthree");
    assert!(scrape.contains("\napp_requests_total 2\n"), "{scrape}");
}

#[tokio::test]
async fn a_program_is_refused() {
    let net = KernelNet::default();
    let world = World::new(net, SystemWall, RngTree::new(1));
    let spec =
        AppSpec { instance: "x".into(), port: 0, kind: AppKind::Command(CommandApp(vec!["nginx".into()])) };
    let error = serve(world, spec, RegistryData::default()).await.unwrap_err();
    assert!(error.to_string().contains("nginx"), "{error}");
}

#[tokio::test]
async fn the_echo_closes_an_idle_connection_only_if_it_is_asked_to() {
    let talk = async {
        let close_idle = Duration::from_millis(5);
        let ports = start(AppKind::Http(HttpEcho { size: 3, close_idle, ..HttpEcho::default() })).await;
        // Without `connection: close`: that the reading ends at all is the app's doing.
        let answer = talk(ports.app, "GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        (
            answer,
            talk(ports.metrics, "GET /metrics HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await,
        )
    };
    let (answer, metrics) = LocalSet::new().run_until(talk).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n012"), "{answer}");
    assert!(metrics.contains("\napp_idle_closes_total 1\n"), "{metrics}");
}

const CLOSE: &str = "HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn the_echo_behaves_as_it_is_told_until_it_is_told_otherwise() {
    let talk = async {
        let ports = start(AppKind::Http(HttpEcho { size: 3, ..HttpEcho::default() })).await;
        let get = |to, path: &str| {
            let request = format!("GET {path} {CLOSE}");
            async move { talk(to, &request).await }
        };
        let status = |answer: String| answer.split(' ').nth(1).unwrap_or_default().to_owned();
        let told = status(get(ports.metrics, "/behave?fail=1&status=500").await);
        let failed = status(get(ports.app, "/").await);
        let healthy = status(get(ports.app, "/healthz").await);
        let refused = status(get(ports.metrics, "/behave?work=never").await);
        let still = status(get(ports.app, "/").await);
        status(get(ports.metrics, "/behave").await);
        let again = status(get(ports.app, "/").await);
        ([told, failed, healthy, refused, still, again], get(ports.metrics, "/metrics").await)
    };
    let (statuses, metrics) = LocalSet::new().run_until(talk).await;
    assert_eq!(statuses, ["200", "500", "200", "400", "500", "200"]);
    assert!(metrics.contains("\napp_changed_requests_total 2\n"), "{metrics}");
    assert!(metrics.contains("\napp_requests_total 3\n"), "nobody asked for health: {metrics}");
}

#[tokio::test]
async fn the_echo_says_that_it_is_ready_only_when_its_time_has_come() {
    let talk = async {
        let ready_after = Duration::from_secs(3600);
        let late = start(AppKind::Http(HttpEcho { ready_after, ..HttpEcho::default() })).await;
        let soon = start(AppKind::Http(HttpEcho::default())).await;
        let ask = format!("GET /ready {CLOSE}");
        (talk(late.app, &ask).await, talk(soon.app, &ask).await)
    };
    let (late, soon) = LocalSet::new().run_until(talk).await;
    assert!(late.starts_with("HTTP/1.1 503") && soon.starts_with("HTTP/1.1 200"), "{late} {soon}");
}

#[tokio::test]
async fn the_echo_answers_grpc_calls_refuses_streams_and_ends_connections_if_it_is_told_to() {
    use std::future::poll_fn;
    let talk = async {
        let ports = start(http()).await;
        let call = async |sender: &mut h2::client::SendRequest<bytes::Bytes>| {
            let request = ::http::Request::post("http://orders/lab.Echo/Call")
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            poll_fn(|cx| sender.poll_ready(cx)).await?;
            let (response, mut body) = sender.send_request(request, false)?;
            body.send_data(http::grpc::message(3), true)?;
            let mut body = response.await?.into_body();
            let mut length = 0;
            while let Some(data) = body.data().await {
                let read = data?.len();
                body.flow_control().release_capacity(read)?;
                length += read;
            }
            Ok::<_, h2::Error>((length, body.trailers().await?.unwrap()))
        };
        let connect = async || {
            let (sender, connection) = h2::client::handshake(connect(ports.app).await).await.unwrap();
            let (ended, end) = tokio::sync::oneshot::channel();
            KernelNet::default().spawn("client", async move { drop(ended.send(connection.await)) });
            (sender, end)
        };
        let behave = async |how: &str| {
            let request = format!("GET /behave?{how} HTTP/1.1\r\nhost: o\r\nconnection: close\r\n\r\n");
            talk(ports.metrics, &request).await;
        };
        let (mut sender, end) = connect().await;
        let (length, trailers) = call(&mut sender).await.unwrap();
        assert_eq!((length, trailers["grpc-status"].as_bytes()), (40_005, &b"0"[..]));
        behave("refuse_streams=1").await;
        let refused = call(&mut sender).await.unwrap_err();
        assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
        behave("reset_streams=1").await;
        let reset = call(&mut sender).await.unwrap_err();
        assert!(reset.is_remote() && reset.reason() != Some(h2::Reason::REFUSED_STREAM), "{reset}");
        assert!(reset.is_reset(), "{reset}");
        behave("goaway=1").await;
        assert!(call(&mut sender).await.is_ok(), "what was begun is finished");
        end.await.unwrap().expect("and nothing is wrong with the end");
    };
    LocalSet::new().run_until(talk).await;
}

#[tokio::test]
async fn the_echo_may_answer_a_call_before_its_end_and_allow_few_at_a_time() {
    let talk = async {
        let echo = HttpEcho { max_concurrent_streams: 7, ..HttpEcho::default() };
        let ports = start(AppKind::Http(echo)).await;
        let (mut sender, connection) = h2::client::handshake(connect(ports.app).await).await.unwrap();
        KernelNet::default().spawn("client", async move { drop(connection.await) });
        let mut begin = |method: &str| {
            let request = ::http::Request::post(format!("http://orders/lab.Echo/{method}"))
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            let (response, mut body) = sender.send_request(request, false).unwrap();
            body.send_data(http::grpc::message(3), false).unwrap();
            (response, body)
        };
        let status = async |response: h2::client::ResponseFuture| {
            let mut body = response.await.unwrap().into_body();
            assert!(body.data().await.unwrap().is_ok());
            assert!(body.data().await.is_none());
            body.trailers().await.unwrap().unwrap()["grpc-status"].clone()
        };
        let (response, _half_open) = begin("Early");
        assert_eq!(status(response).await, "0");
        let (response, mut body) = begin("Stream");
        let response = status(response);
        body.send_data(bytes::Bytes::new(), true).unwrap();
        assert_eq!(response.await, "0");
        assert_eq!(sender.current_max_send_streams(), 7);
    };
    LocalSet::new().run_until(talk).await;
}
