//! The audit log of a whole sidecar.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::common::authority::Authority;
use crate::common::h2c;
use crate::common::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal";
const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
const POLICY: &str = "
[[authorization.policy]]
name = 'readers'
rule = [{ to = [{ methods = ['GET'] }] }]
";

const CLOSED: &str = "[[authorization.policy]]\nname = 'closed'\naction = 'deny'\nrule = [{}]";

/// A configuration whose audit log is in `directory`.
fn config(directory: &Path, more: &str) -> String {
    let directory = directory.display();
    format!(
        "service = 'orders'\ninstance = 'orders-1'\n{more}\n[audit]\ndirectory = '{directory}'\nwhen_full = 'block'"
    )
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// Waits for so many lines, without what differs from run to run.
async fn lines(directory: &Path, count: usize) -> Vec<Value> {
    let read = || read(&directory.join("audit.log"));
    until("the lines are there", || read().lines().count() >= count).await;
    let plain = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        assert_eq!(
            fields.remove("time").unwrap().as_str().unwrap().len(),
            "2026-11-29T12:57:04.622456Z".len()
        );
        assert!(fields.remove("duration_us").unwrap().as_u64().unwrap() < 20_000_000);
        fields.remove("source");
        line
    };
    let all: Vec<_> = read().lines().map(plain).collect();
    assert_eq!(all.len(), count);
    all
}

#[test]
fn every_request_has_a_line_that_says_who_asked_what_and_what_came_of_it() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let side = inbound(TestNet::to(&app.to_string()), &config(folder.path(), POLICY)).await;
        let mut client = side.client().await;
        let secret = "GET /stock?token=secret HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer secret\r\n\
                      x-request-id: 7\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
        assert_eq!(client.ask(secret).await.text(), "ok");
        let denied = "POST /stock HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(client.ask(denied).await.status(), 403);
        let destination = app.to_string();
        let lines = lines(folder.path(), 2).await;
        assert_eq!(
            lines[0],
            json!({
                "event": "request", "destination": destination, "method": "GET", "host": "orders",
                "path": "/stock", "request_id": "7", "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "decision": "allow", "policy": "readers", "rule": 1, "status": 200, "bytes_out": 2,
            })
        );
        assert_eq!(
            lines[1],
            json!({
                "event": "request", "destination": destination, "method": "POST", "host": "orders",
                "path": "/stock", "decision": "deny", "status": 403, "reason": "denied",
            })
        );
        let text = std::fs::read_to_string(folder.path().join("audit.log")).unwrap();
        assert!(!text.contains("secret"), "{text}");
    });
}

#[test]
fn a_line_says_what_does_not_count_and_forgets_what_is_too_long() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let policies = "[[inbound]]\nport = PORT\nprotocol = 'http'\n[[authorization.policy]]\nname = 'closed'\naction = 'deny'\ndry_run = true\nrule = [{}]\n\
                        [[authorization.policy]]\nname = 'watched'\naction = 'audit'\nrule = [{}]\n";
        let policies = policies.replace("PORT", &app.port().to_string());
        let side = inbound(TestNet::to(&app.to_string()), &config(folder.path(), &policies)).await;
        let mut client = side.client().await;
        let path = format!("/{}", "a".repeat(2000));
        assert_eq!(client.get(&path).await.status(), 200);
        let line = &lines(folder.path(), 1).await[0];
        assert_eq!(
            ["decision", "dry_run", "dry_run_policy", "audit_policy"]
                .map(|field| line[field].as_str().unwrap()),
            ["allow", "deny", "closed", "watched"]
        );
        assert_eq!(line["path"], format!("{}...", &path[..1024]));
    });
}

#[test]
fn a_request_that_could_be_two_has_a_line_although_nobody_reads_it() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let side = inbound(TestNet::to(&app.to_string()), &config(folder.path(), "")).await;
        let mut client = side.client().await;
        let smuggled =
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(client.ask(smuggled).await.status(), 400);
        let line = &lines(folder.path(), 1).await[0];
        assert_eq!((&line["event"], &line["decision"]), (&json!("request"), &json!("deny")));
        assert_eq!((&line["reason"], &line["status"]), (&json!("malformed"), &json!(400)));
    });
}

#[test]
fn what_is_malformed_is_refused_before_policies_and_no_log_has_user_information() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let access = folder.path().join("access.log");
        let more = format!(
            "{POLICY}[[inbound]]\nport = {}\nprotocol = 'http'\n[access_log]\npath = '{}'",
            app.port(),
            access.display()
        );
        let side = inbound(TestNet::to(&app.to_string()), &config(folder.path(), &more)).await;
        for request in [
            "GET / HTTP/1.1\r\nhost: orders\r\nhost: other\r\n\r\n",
            "GET http://user:s3cr3t@orders/ HTTP/1.1\r\nhost: orders\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: user:s3cr3t@orders\r\n\r\n",
            "GET /\" HTTP/1.1\r\nhost: orders\r\n\r\n",
            "GET / HTTP/1.1 x\r\nhost: orders\r\n\r\n",
        ] {
            assert_eq!(side.client().await.ask(request).await.status(), 400, "{request}");
        }
        let request = http::Request::get("http://user:s3cr3t@orders/").body(()).unwrap();
        let answer = h2c::ask(&h2c::connect(side.at).await, request, "", None).await.unwrap();
        assert_eq!(answer.head.status(), 400);
        let lines = lines(folder.path(), 6).await;
        for (line, host) in lines.iter().zip(["orders", "orders", "orders", "orders", "", "orders"]) {
            let said = ["decision", "policy", "status", "reason"].map(|field| &line[field]);
            assert_eq!(said, [&json!("deny"), &Value::Null, &json!(400), &json!("malformed")], "{line}");
            assert_eq!(line["host"].as_str().unwrap_or_default(), host);
        }
        until("the access log is there", || read(&access).lines().count() == 6).await;
        for text in [read(&access), read(&folder.path().join("audit.log"))] {
            assert!(text.contains("orders") && !text.contains("s3cr3t"), "{text}");
        }
    });
}

#[test]
fn a_connect_that_its_port_does_not_take_has_a_line_and_reaches_nobody() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let side = inbound(TestNet::to(&app.to_string()), &config(folder.path(), "")).await;
        let mut client = side.client().await;
        client
            .send("CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await;
        assert_eq!(client.response(false).await.status(), 501);
        client.closed().await;
        let line = &lines(folder.path(), 1).await[0];
        let said = ["method", "host", "decision", "status", "reason"].map(|field| &line[field]);
        let expected = [json!("CONNECT"), json!("db:5432"), json!("deny"), json!(501), json!("unsupported")];
        assert_eq!(said, expected.each_ref(), "{line}");
        assert_eq!(seen.requests(), 0);
    });
}

#[test]
fn what_is_idle_keeps_nobody_waiting() {
    run(async {
        for when_full in ["block", "drop"] {
            let folder = tempfile::tempdir().unwrap();
            let app = app(|_, mut client| async move {
                match client.head().await {
                    Some(request) if request.head.contains("/chat") => {
                        client.send(SWITCHING).await;
                        client.closed().await;
                    }
                    _ => client.send(OK).await,
                }
            })
            .await;
            let text = config(folder.path(), "").replace("'block'", &format!("'{when_full}'\nqueue = 2"));
            let side = inbound(TestNet::to(&app.to_string()), &text).await;
            let mut idle = Vec::new();
            for _ in 0..4 {
                let mut client = side.client().await;
                client.send(UPGRADE).await;
                assert_eq!(client.head().await.unwrap().status(), 101);
                idle.push(client);
            }
            assert_eq!(side.client().await.get("/stock").await.status(), 200);
            assert_eq!(lines(folder.path(), 1).await[0]["path"], "/stock");
        }
    });
}

#[test]
fn a_tunnel_has_a_line_with_what_it_carried() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let access = folder.path().join("access.log");
        let app = app(|_, mut client| async move {
            client.head().await.unwrap();
            client.send(&format!("{SWITCHING}first")).await;
            assert_eq!(client.bytes(4).await, b"ping");
            client.closed().await;
        })
        .await;
        let more = format!("[access_log]\npath = '{}'", access.display());
        let side = inbound(TestNet::to(&app.to_string()), &config(folder.path(), &more)).await;
        let mut client = side.client().await;
        client.send(UPGRADE).await;
        assert_eq!(client.head().await.unwrap().status(), 101);
        assert_eq!(client.bytes(5).await, b"first");
        client.send("ping").await;
        drop(client);
        let audited = lines(folder.path(), 1).await.remove(0);
        until("the access log is there", || read(&access).lines().count() == 1).await;
        let accessed: Value = serde_json::from_str(&read(&access)).unwrap();
        for line in [audited, accessed] {
            let said = ["status", "bytes_in", "bytes_out"].map(|field| line[field].as_u64());
            assert_eq!(said, [Some(101), Some(4), Some(5)], "{line}");
        }
    });
}

#[test]
fn connections_that_are_not_http_and_those_that_prove_nothing_have_lines_too() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = app(|_, mut client| async move { client.closed().await }).await;
        let tcp = format!("[[inbound]]\nport = {}\nprotocol = 'tcp'", app.port());
        let side = inbound(TestNet::to(&app.to_string()), &config(folder.path(), &tcp)).await;
        let mut client = side.client().await;
        client.send("hello").await;
        drop(client);
        let line = lines(folder.path(), 1).await.remove(0);
        assert_eq!((&line["event"], &line["decision"]), (&json!("connection"), &json!("allow")));
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(5), &json!(0)));
    });
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let strict = "[identity]\nid = 'spiffe://mesh.test/ns/shop/sa/orders'\nfiles = '/none'\n[tls]\nmode = 'strict'";
        let store = Authority::new().store("spiffe://mesh.test/ns/shop/sa/orders");
        let side =
            inbound_of(Some(store), TestNet::to(&app.to_string()), &config(folder.path(), strict)).await;
        let mut client = side.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        let line = lines(folder.path(), 1).await.remove(0);
        assert_eq!((&line["event"], &line["decision"]), (&json!("handshake"), &json!("deny")));
        assert_eq!(line["reason"], "not_secured");
        assert!(line["detail"].as_str().unwrap().contains("nothing but the mesh's TLS"), "{line}");
    });
}

/// The inbound side before an app, with both logs in `folder`.
async fn logged(folder: &Path, app: SocketAddr, more: &str) -> Side {
    let access = format!("{more}\n[access_log]\npath = '{}'", folder.join("access.log").display());
    inbound(TestNet::to(&app.to_string()), &config(folder, &access)).await
}

/// Waits for so many lines in both logs, in the order of their paths; of each these fields.
async fn both<const N: usize>(folder: &Path, count: usize, fields: [&str; N]) -> Vec<[Value; N]> {
    let mut found = Vec::new();
    for log in ["audit.log", "access.log"] {
        let read = || read(&folder.join(log));
        until(&format!("{log} is there"), || read().lines().count() >= count).await;
        let mut lines: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count, "{lines:?}");
        lines.sort_by_key(|line| line["path"].to_string());
        found.push(lines.iter().map(|line| fields.map(|field| line[field].clone())).collect::<Vec<_>>());
    }
    assert_eq!(found[0], found[1], "the audit log and the access log");
    found.remove(0)
}

/// An app that never ends an answer, nor a tunnel to `/chat`; one to `/chat/reset` it resets when
/// it hears something.
async fn endless_app() -> SocketAddr {
    app(|_, mut wire| async move {
        let Some(request) = wire.head().await else { return };
        let is_tunnel = request.head.contains("/chat");
        wire.send(if is_tunnel { SWITCHING } else { HALF }).await;
        if request.head.contains("/reset") {
            wire.bytes(4).await;
            return wire.reset();
        }
        wire.rest().await;
    })
    .await
}

#[test]
fn whatever_fails_has_its_reason_in_both_logs() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let side = logged(folder.path(), endless_app().await, "timeouts.request = '300ms'").await;
        let begin = async |request: &str, status: u16| {
            let mut client = side.client().await;
            client.send(request).await;
            assert_eq!(client.head().await.unwrap().status(), status);
            client
        };
        let _late = begin("GET /late HTTP/1.1\r\nhost: a\r\n\r\n", 200).await;
        begin("GET /left HTTP/1.1\r\nhost: a\r\n\r\n", 200).await.reset();
        begin(&UPGRADE.replace("/chat", "/chat/left"), 101).await.reset();
        let mut client = begin(&UPGRADE.replace("/chat", "/chat/reset"), 101).await;
        client.send("ping").await;
        client.closed().await;
        assert_eq!(
            both(folder.path(), 4, ["path", "status", "reason"]).await,
            [
                [json!("/chat/left"), json!(101), json!("client")],
                [json!("/chat/reset"), json!(101), json!("incomplete")],
                [json!("/late"), json!(200), json!("request_timeout")],
                [json!("/left"), json!(200), json!("client")],
            ]
        );
    });
}

#[test]
fn what_new_policies_cut_says_so() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let side = logged(folder.path(), endless_app().await, "").await;
        let mut client = side.client().await;
        client.send("GET /half HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.head().await.unwrap().status(), 200);
        side.reload(&config(folder.path(), CLOSED));
        let line = both(folder.path(), 1, ["status", "reason"]).await.remove(0);
        assert_eq!(line, [json!(200), json!("denied")]);
    });
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let arrived = Rc::new(Notify::new());
        let told = arrived.clone();
        let (app, _) = h2c::app(100, move |_, respond| {
            told.notify_one();
            async move {
                sleep(Duration::from_secs(60)).await;
                drop(respond);
            }
        })
        .await;
        let side = logged(folder.path(), app, "").await;
        let client = h2c::connect(side.at).await;
        let asked = h2c::ask(&client, h2c::request("GET", "/hang").body(()).unwrap(), "", None);
        let closing = async {
            arrived.notified().await;
            side.reload(&config(folder.path(), CLOSED));
        };
        let (answer, ()) = tokio::join!(asked, closing);
        assert!(answer.is_err());
        let line = both(folder.path(), 1, ["status", "reason"]).await.remove(0);
        assert_eq!(line, [Value::Null, json!("denied")]);
    });
}

#[test]
fn a_tunnel_of_a_stream_that_new_policies_cut_says_so() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (app, _) = h2c::app(100, |request, mut respond| async move {
            let _send = respond.send_response(http::Response::new(()), false).unwrap();
            let _ = h2c::read(request.into_body()).await;
        })
        .await;
        let tunnels = format!("[[inbound]]\nport = {}\nconnect = true", app.port());
        let side = logged(folder.path(), app, &tunnels).await;
        let client = h2c::connect(side.at).await;
        let connect = http::Request::builder().method("CONNECT").uri("db:5432").body(()).unwrap();
        let (response, _send) = client.clone().send_request(connect, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        until("it is open", || side.count("proxy_tunnels_open", &[]) == 1).await;
        side.reload(&config(folder.path(), CLOSED));
        let line = both(folder.path(), 1, ["method", "status", "reason"]).await.remove(0);
        assert_eq!(line, [json!("CONNECT"), json!(200), json!("denied")]);
    });
}

#[test]
fn what_an_authorizer_denies_has_its_reason_and_who_leaves_before_was_not_allowed() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let arrived = Rc::new(Notify::new());
        let told = arrived.clone();
        let authorizer = app(move |_, mut wire| {
            let told = told.clone();
            async move {
                while let Some(question) = wire.head().await {
                    if question.head.contains("/denied") {
                        wire.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
                    }
                    told.notify_one();
                }
            }
        })
        .await;
        let policy = format!(
            "[[authorization.provider]]\nname = 'opa'\naddress = '{authorizer}'\ntimeout = '10s'\n\
             [[authorization.policy]]\nname = 'asked'\naction = 'custom'\nprovider = 'opa'\nrule = [{{}}]"
        );
        let app = Seen::default().app(OK).await;
        let policy = format!("[[inbound]]\nport = {}\nprotocol = 'http'\n{policy}", app.port());
        let side = logged(folder.path(), app, &policy).await;
        assert_eq!(side.client().await.get("/1/denied").await.status(), 403);
        arrived.notified().await;
        let mut client = side.client().await;
        client.send("GET /2/left HTTP/1.1\r\nhost: a\r\n\r\n").await;
        arrived.notified().await;
        client.reset();
        let lines = both(folder.path(), 2, ["path", "status", "reason"]).await;
        assert_eq!(lines[0], [json!("/1/denied"), json!(403), json!("denied")]);
        assert_eq!(lines[1], [json!("/2/left"), Value::Null, json!("client")]);
        assert!(!read(&folder.path().join("audit.log")).contains("allow"), "nothing has reached the app");
    });
}

#[test]
fn a_reset_of_an_opaque_connection_is_put_down_to_who_has_sent_it() {
    run(async {
        for (who, reason) in [("client", "client"), ("app", "terminated")] {
            let folder = tempfile::tempdir().unwrap();
            let app = app(move |_, mut wire| async move {
                assert_eq!(wire.bytes(5).await, b"hello");
                wire.send("hi").await;
                if who == "app" {
                    return wire.reset();
                }
                wire.closed().await;
            })
            .await;
            let tcp = format!("[[inbound]]\nport = {}\nprotocol = 'tcp'", app.port());
            let side = logged(folder.path(), app, &tcp).await;
            let mut client = side.client().await;
            client.send("hello").await;
            if who == "client" {
                assert_eq!(client.bytes(2).await, b"hi");
                client.reset();
            }
            let lines = both(folder.path(), 1, ["event", "reason"]).await;
            assert_eq!(lines[0], [json!("connection"), json!(reason)]);
        }
    });
}

#[test]
fn a_handshake_began_when_its_connection_did() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let strict = "[identity]\nid = 'spiffe://mesh.test/ns/shop/sa/orders'\nfiles = '/none'\n\
                      [tls]\nmode = 'strict'\nhandshake = '300ms'";
        let store = Authority::new().store("spiffe://mesh.test/ns/shop/sa/orders");
        let side =
            inbound_of(Some(store), TestNet::to(&app.to_string()), &config(folder.path(), strict)).await;
        let begun = time::OffsetDateTime::now_utc();
        let _client = side.client().await;
        until("there is a line", || read(&folder.path().join("audit.log")).lines().count() == 1).await;
        let line: Value = serde_json::from_str(&read(&folder.path().join("audit.log"))).unwrap();
        assert!(line["duration_us"].as_u64().unwrap() >= 300_000, "{line}");
        let format = &time::format_description::well_known::Rfc3339;
        let time = time::OffsetDateTime::parse(line["time"].as_str().unwrap(), format).unwrap();
        assert!(time - begun < Duration::from_millis(200), "{line}");
    });
}

#[test]
fn both_logs_have_the_id_that_the_app_gets() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let seen = Seen::default();
        let side = logged(folder.path(), seen.app(OK).await, "").await;
        for (n, more) in
            ["", "x-request-id: 7\r\nconnection: x-request-id\r\n", "x-request-id: caf\u{e9}\r\n"]
                .into_iter()
                .enumerate()
        {
            let request = format!("GET /{n} HTTP/1.1\r\nhost: a\r\n{more}\r\n");
            assert_eq!(side.client().await.ask(&request).await.status(), 200);
            let line = both(folder.path(), n + 1, ["request_id"]).await.remove(n);
            assert_eq!(line[0].as_str(), seen.last().header("x-request-id").as_deref());
        }
    });
}

#[test]
fn nobody_gets_an_answer_who_has_gone() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = app(|_, mut wire| async move {
            wire.head().await;
            wire.rest().await;
        })
        .await;
        let side = logged(folder.path(), app, "").await;
        for (n, path) in (1..).zip(["/1/reset", "/2/fin"]) {
            let mut client = side.client().await;
            client.send(&format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhal")).await;
            let asked = || side.count("proxy_upstream_connections_open", &[]) == 1;
            until("it is at the app", asked).await;
            sleep(Duration::from_millis(50)).await;
            if path == "/1/reset" {
                client.reset();
            } else {
                client.io.shutdown().await.unwrap();
                assert!(client.rest().await.starts_with(b"HTTP/1.1 400 "));
            }
            both(folder.path(), n, ["event"]).await;
        }
        let lines = both(folder.path(), 2, ["path", "reason", "status"]).await;
        assert_eq!(lines[0], [json!("/1/reset"), json!("client"), Value::Null]);
        assert_eq!(lines[1], [json!("/2/fin"), json!("client"), json!(400)]);
        assert!(read(&folder.path().join("access.log")).contains("\"bytes_out\":0,"));
    });
}

#[test]
fn a_reset_stream_has_no_status() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (app, _) = h2c::app(100, |request, mut respond| async move {
            if request.uri().path().contains("/refused") {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            sleep(Duration::from_secs(10)).await;
        })
        .await;
        let side = logged(folder.path(), app, "").await;
        let client = h2c::connect(side.at).await;
        for request in [h2c::request("GET", "/1/refused"), h2c::call("/2/refused")] {
            assert!(h2c::ask(&client, request.body(()).unwrap(), "", None).await.is_err());
        }
        let upload = h2c::request("POST", "/3/upload").body(()).unwrap();
        let (answer, mut send) = client.clone().ready().await.unwrap().send_request(upload, false).unwrap();
        until("it is at the app", || side.count("proxy_requests_total", &[]) == 3).await;
        sleep(Duration::from_millis(50)).await;
        send.send_reset(h2::Reason::CANCEL);
        drop(answer);
        let lines = both(folder.path(), 3, ["path", "reason", "status"]).await;
        for (line, (path, reason)) in
            lines.iter().zip([("/1/refused", "refused"), ("/2/refused", "refused"), ("/3/upload", "client")])
        {
            assert_eq!(*line, [json!(path), json!(reason), Value::Null]);
        }
        for line in read(&folder.path().join("access.log")).lines() {
            assert!(line.contains("\"bytes_out\":0,"), "{line}");
        }
    });
}
