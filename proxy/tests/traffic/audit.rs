//! The audit log of a whole sidecar.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::authority::Authority;
use crate::common::h2c;
use crate::common::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
const POLICY: &str = "
[[authorization.policy]]
name = 'readers'
rule = [{ to = [{ methods = ['GET'] }] }]
";

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
