//! The access log of a whole sidecar: a line for whatever it carries, and what the line says.

use std::net::SocketAddr;
use std::path::Path;

use http::{HeaderMap, Response};
use serde_json::{Value, json};

use crate::common::h2c::{self, ask, call};
use crate::common::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-served-by: a\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// The configuration of a log in `folder`.
fn log(folder: &Path, more: &str) -> String {
    format!("access_log.path = '{}/access.log'\n{more}\n", folder.display())
}

fn text(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("access.log")).unwrap_or_default()
}

/// Waits for so many lines of JSON, without what differs from run to run.
async fn lines(folder: &Path, count: usize) -> Vec<Value> {
    until("the lines are there", || text(folder).lines().count() >= count).await;
    let plain = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        assert!(fields.remove("time").unwrap().as_str().unwrap().ends_with('Z'));
        let duration = fields.remove("duration_us").unwrap().as_u64().unwrap();
        let phases = ["before_us", "retries_us", "upstream_us", "body_us"];
        let phases: Vec<_> = phases.iter().filter_map(|phase| fields.remove(*phase)?.as_u64()).collect();
        // Each is cut to whole microseconds.
        let sum: u64 = phases.iter().sum();
        assert!(phases.is_empty() || duration - 4 <= sum && sum <= duration, "{phases:?} of {duration}");
        fields.remove("source");
        line
    };
    let all: Vec<_> = text(folder).lines().map(plain).collect();
    assert_eq!(all.len(), count);
    all
}

/// The outbound side before an app, with a log.
async fn before(folder: &Path, endpoints: &[SocketAddr], more: &str) -> Side {
    outbound(TestNet::to(SERVICE), &cluster("http", endpoints, &log(folder, more))).await
}

#[test]
fn a_request_has_a_line_that_says_where_it_went_and_what_came_of_it() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let near = before(folder.path(), &[app], "").await;
        let mut client = near.client().await;
        let request = "POST /buy?card=4111 HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\nuser-agent: curl/8\r\n\
                       x-request-id: 7\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\nhello";
        assert_eq!(client.ask(request).await.text(), "ok");
        assert_eq!(
            lines(folder.path(), 1).await[0],
            json!({
                "event": "request", "direction": "outbound", "destination": SERVICE, "protocol": "HTTP/1.1",
                "method": "POST", "host": "orders", "path": "/buy", "user_agent": "curl/8", "request_id": "7",
                "trace_id": "0af7651916cd43dd8448eb211c80319c", "cluster": "orders",
                "endpoint": app.to_string(), "attempts": 1, "status": 200, "bytes_in": 5, "bytes_out": 2,
            })
        );
        until("it is counted", || near.count("proxy_access_log_lines_total", &[]) == 1).await;
    });
}

#[test]
fn a_retried_request_has_one_line_with_all_attempts_and_the_last_endpoint() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = app(|nth, mut wire| async move {
            while wire.request().await.is_some() {
                wire.send(if nth == 0 {
                    "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                } else {
                    OK
                })
                .await;
            }
        })
        .await;
        let near = before(folder.path(), &[app], "retry.attempts = 1\n").await;
        assert_eq!(near.client().await.get("/").await.status(), 200);
        let line = &lines(folder.path(), 1).await[0];
        assert_eq!((&line["attempts"], &line["status"]), (&json!(2), &json!(200)));
        assert_eq!(line.get("reason"), None);
    });
}

#[test]
fn what_fails_has_its_reason_in_words_and_as_envoys_flag() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let near = before(folder.path(), &[nobody()], "retry.attempts = 0\n").await;
        let status = near.client().await.get("/").await.status();
        let smuggled =
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(near.client().await.ask(smuggled).await.status(), 400);
        let lines = lines(folder.path(), 2).await;
        assert_eq!(lines[0]["status"], status);
        assert_eq!((&lines[0]["reason"], &lines[0]["flags"]), (&json!("connect"), &json!("UF")));
        assert!(lines[0]["bytes_out"].as_u64().unwrap() > 0, "the sidecar's own words");
        assert_eq!((&lines[1]["reason"], &lines[1]["flags"]), (&json!("malformed"), &json!("DPE")));
    });
}

#[test]
fn a_client_that_goes_away_is_told_from_an_app_that_breaks_off() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = app(|_, mut wire| async move {
            let request = wire.request().await.unwrap();
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal").await;
            if request.head.contains("/stay") {
                wire.closed().await;
            }
        })
        .await;
        let near = before(folder.path(), &[app], "retry.attempts = 0\n").await;
        let mut client = near.client().await;
        client.send("GET /break HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.rest().await;
        let mut client = near.client().await;
        client.send("GET /stay HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!((head.status(), client.bytes(3).await), (200, b"hal".to_vec()));
        drop(client);
        let lines = lines(folder.path(), 2).await;
        let told =
            |line: &Value| ["path", "reason", "flags"].map(|field| line[field].as_str().unwrap().to_owned());
        assert_eq!(told(&lines[0]), ["/break", "incomplete", "UC"]);
        assert_eq!(told(&lines[1]), ["/stay", "client", "DC"]);
        assert_eq!((&lines[1]["status"], &lines[1]["bytes_out"]), (&json!(200), &json!(3)));
    });
}

#[test]
fn a_call_has_the_status_that_its_trailers_tell() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (app, _) = h2c::app(100, |_, mut respond| async move {
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut send = respond.send_response(head, false).unwrap();
            let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())]);
            send.send_trailers(status).unwrap();
        })
        .await;
        let near = before(folder.path(), &[app], "").await;
        let client = h2c::connect(near.at).await;
        ask(&client, call("/lab.Echo/Call").body(()).unwrap(), "hello", None).await.unwrap();
        let line = &lines(folder.path(), 1).await[0];
        assert_eq!((&line["protocol"], &line["grpc_status"]), (&json!("HTTP/2"), &json!(5)));
        assert_eq!(line["bytes_in"], 5);
    });
}

#[test]
fn an_opaque_connection_has_a_line_at_its_end() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let server = app(|_, mut wire| async move {
            assert_eq!(wire.bytes(5).await, b"hello");
            wire.send("hi").await;
            wire.closed().await;
        })
        .await;
        let config = cluster("tcp", &[server], &log(folder.path(), ""));
        let near = outbound(TestNet::to(SERVICE), &config).await;
        let mut client = near.client().await;
        client.send("hello").await;
        assert_eq!(client.bytes(2).await, b"hi");
        assert_eq!(text(folder.path()), "", "it is not over");
        drop(client);
        let line = &lines(folder.path(), 1).await[0];
        assert_eq!((&line["event"], &line["cluster"]), (&json!("connection"), &json!("orders")));
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(5), &json!(2)));
    });
}

#[test]
fn a_connection_that_cannot_be_passed_through_has_a_line_too() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("service = 'web'\n{}", log(folder.path(), ""));
        let near = outbound(TestNet::to(&nobody().to_string()), &config).await;
        let mut client = near.client().await;
        client.send("\0hello").await;
        client.closed().await;
        let line = &lines(folder.path(), 1).await[0];
        assert_eq!((&line["reason"], &line["flags"]), (&json!("connect"), &json!("UF")));
    });
}

#[test]
fn the_way_in_has_lines_too() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let config = format!("service = 'orders'\ninstance = 'orders-1'\n{}", log(folder.path(), ""));
        let side = inbound(TestNet::to(&app.to_string()), &config).await;
        assert_eq!(side.client().await.get("/stock").await.text(), "ok");
        let line = &lines(folder.path(), 1).await[0];
        assert_eq!((&line["direction"], &line["endpoint"]), (&json!("inbound"), &json!(app.to_string())));
    });
}

#[test]
fn only_what_is_asked_for_has_a_line() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = app(|nth, mut wire| async move {
            while wire.request().await.is_some() {
                wire.send(if nth == 0 { OK } else { BUSY }).await;
            }
        })
        .await;
        let near = before(folder.path(), &[app], "access_log.errors = true\nretry.attempts = 0\n").await;
        let (mut first, mut second) = (near.client().await, near.client().await);
        assert_eq!(first.get("/well").await.status(), 200);
        (near.clear)();
        assert_eq!(second.get("/busy").await.status(), 503);
        assert_eq!(lines(folder.path(), 1).await[0]["path"], "/busy");
    });
}

#[test]
fn a_text_of_envoys_is_written_as_envoy_would() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let format = "access_log.format = '%REQ(:METHOD)% %REQ(X-ORIGINAL?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
                      %REQ(USER-AGENT):4% %RESP(X-SERVED-BY)% %REQ(X-NONE)% %UPSTREAM_CLUSTER% 100%%'\n";
        let near = before(folder.path(), &[app], format).await;
        let request = "GET /a?b=c HTTP/1.1\r\nhost: orders\r\nuser-agent: curl/8\r\n\r\n";
        near.client().await.ask(request).await;
        until("the line is there", || text(folder.path()).ends_with('\n')).await;
        assert_eq!(text(folder.path()), "GET /a?b=c HTTP/1.1 200 - curl a - orders 100%\n");
    });
}

#[test]
fn no_client_says_what_stands_behind_its_own_words() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let format = "access_log.format = '\"%REQ(USER-AGENT)%\" \"%REQ(X-SHORT):3%\" %RESPONSE_CODE%'\n";
        let near = before(folder.path(), &[app], format).await;
        let request = "GET / HTTP/1.1\r\nhost: orders\r\nuser-agent: a\" 503\\\t\u{85}\u{9b}\u{2028}\u{e9}\r\nx-short: \"\"\"\"\r\n\r\n";
        assert_eq!(near.client().await.ask(request).await.status(), 200);
        until("the line is there", || text(folder.path()).ends_with('\n')).await;
        let agent = r"a\x22 503\x5C\x09\xC2\x85\xC2\x9B\xE2\x80\xA8\xC3\xA9";
        assert_eq!(text(folder.path()), format!("\"{agent}\" \"{}\" 200\n", r"\x22\x22\x22"));
    });
}

#[test]
fn a_full_disk_loses_lines_that_are_counted_and_no_request() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join("access.log")).unwrap();
        let app = Seen::default().app(OK).await;
        let near = before(folder.path(), &[app], "").await;
        let mut client = near.client().await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.status(), 200);
        }
        let lost = || near.count("proxy_access_log_lines_lost_total", &[]);
        until("they are counted", || lost() == 3).await;
        assert!(near.count("proxy_access_log_write_failures_total", &[]) >= 1);
    });
}

#[test]
fn a_file_that_is_renamed_gives_way_to_a_new_one() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let app = Seen::default().app(OK).await;
        let near = before(folder.path(), &[app], "").await;
        let mut client = near.client().await;
        client.get("/first").await;
        lines(folder.path(), 1).await;
        std::fs::rename(folder.path().join("access.log"), folder.path().join("access.log.1")).unwrap();
        client.get("/second").await;
        assert_eq!(lines(folder.path(), 1).await[0]["path"], "/second");
    });
}
