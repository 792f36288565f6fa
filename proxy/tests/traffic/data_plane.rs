//! HTTP through the data plane, end to end over real sockets: client -> outbound -> (inbound ->)
//! app.

use std::cell::Cell;
use std::rc::Rc;

use crate::common::{
    SERVICE, Seen, Side, TestNet, Wire, answering, app, cluster, outbound, pair, run, until,
};
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn one(app: std::net::SocketAddr) -> Side {
    outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await
}

#[test]
fn both_connections_are_kept_alive_and_used_again() {
    run(async {
        let seen = Seen::default();
        let (near, far) = pair(seen.app(OK).await).await;
        for _ in 0..3 {
            let mut client = near.client().await;
            for _ in 0..3 {
                assert_eq!(client.get("/").await.text(), "ok");
            }
        }
        assert_eq!(seen.connections(), 1);
        assert_eq!(near.count("proxy_connects_total", &[]), 1);
        assert_eq!(far.count("proxy_connections_total", &[]), 1);
        assert_eq!(near.count("proxy_requests_total", &[]), 9);
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn bodies_of_known_and_of_unknown_length_pass_both_ways() {
    run(async {
        let app = app(|_, mut wire| async move {
            while let Some(request) = wire.request().await {
                let (half, rest) = request.body.split_at(request.body.len() / 2);
                if request.header("content-length").is_some() {
                    wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.body.len()))
                        .await;
                    wire.io.write_all(&request.body).await.unwrap();
                } else {
                    wire.send(&format!(
                        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
                        half.len()
                    ))
                    .await;
                    wire.io.write_all(half).await.unwrap();
                    wire.send(&format!("\r\n{:x}\r\n", rest.len())).await;
                    wire.io.write_all(rest).await.unwrap();
                    wire.send("\r\n0\r\n\r\n").await;
                }
            }
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        let body: Vec<u8> = (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for method in ["POST", "GET", "PUT"] {
            for size in [2, 100_000, 4_000_000] {
                client
                    .send(&format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n"))
                    .await;
                client.io.write_all(&body[..size]).await.unwrap();
                let response = client.response(false).await;
                assert_eq!(response.header("content-length"), Some(size.to_string()));
                assert!(response.body == body[..size], "{method} {size}");

                client
                    .send(&format!("{method} / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"))
                    .await;
                client.send(&format!("{size:x}\r\n")).await;
                client.io.write_all(&body[..size]).await.unwrap();
                client.send("\r\n0\r\n\r\n").await;
                let response = client.response(false).await;
                assert_eq!(response.header("content-length"), None);
                assert!(response.body == body[..size], "{method} {size} chunked");
            }
        }
        assert_eq!(near.count("proxy_connects_total", &[]), 1);
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn trailers_pass_both_ways_if_they_are_announced() {
    run(async {
        let seen = Seen::default();
        let app = seen
            .app(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
            )
            .await;
        let (near, _far) = pair(app).await;
        let mut client = near.client().await;
        let response = client
            .ask(
                "POST / HTTP/1.1\r\nhost: a\r\nte: trailers, deflate\r\ntransfer-encoding: chunked\r\ntrailer: x-check\r\n\r\n\
                 2\r\nhi\r\n0\r\nx-check: 9\r\n\r\n",
            )
            .await;
        assert_eq!((response.text(), &*response.trailers), ("ok", "x-sum: 7\n"));
        assert_eq!((seen.last().text(), &*seen.last().trailers), ("hi", "x-check: 9\n"));
        assert_eq!(seen.last().header("te").as_deref(), Some("trailers"));
        let plain = client.get("/").await;
        assert_eq!(plain.trailers, "", "a client that did not ask for trailers gets none");
        assert_eq!(seen.last().header("te"), None);
    });
}

#[test]
fn responses_without_a_body_leave_the_connection_usable() {
    run(async {
        for (request, answer, length) in [
            ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", Some("1000")),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
            ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 1000\r\n\r\n", Some("1000")),
            ("POST", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some("0")),
        ] {
            let (near, far) = pair(answering(answer).await).await;
            let mut client = near.client().await;
            for _ in 0..3 {
                let response = client
                    .ask(&format!("{request} / HTTP/1.1\r\nhost: a\r\nif-none-match: \"a\"\r\n\r\n"))
                    .await;
                assert_eq!(response.header("content-length").as_deref(), length, "{answer}");
                assert_eq!(response.header("transfer-encoding"), None);
            }
            assert_eq!(near.count("proxy_connects_total", &[]), 1, "{answer}");
            assert_eq!(far.count("proxy_connects_total", &[]), 1, "{answer}");
            near.at_rest_without(client).await;
            far.at_rest().await;
        }
    });
}

#[test]
fn an_upload_goes_on_after_an_early_response_and_the_connections_are_used_again() {
    run(async {
        let uploads = Rc::new(Cell::new(0));
        let done = uploads.clone();
        let app = app(move |_, mut wire| {
            let done = done.clone();
            async move {
                while let Some(head) = wire.head().await {
                    wire.send(OK).await;
                    wire.body(head, false).await;
                    done.set(done.get() + 1);
                }
            }
        })
        .await;
        let (near, far) = pair(app).await;
        let mut client = near.client().await;
        for n in 1..=2 {
            client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\n").await;
            client.io.write_all(&vec![b'x'; 1_000_000]).await.unwrap();
            assert_eq!(client.response(false).await.text(), "ok");
            client.io.write_all(&vec![b'x'; 2_000_000]).await.unwrap();
            until("the whole upload is at the app", || uploads.get() == n).await;
        }
        assert_eq!(client.get("/").await.text(), "ok");
        assert_eq!((near.count("proxy_connects_total", &[]), far.count("proxy_connects_total", &[])), (1, 1));
        near.at_rest_without(client).await;
        far.at_rest().await;
    });
}

#[test]
fn an_upload_goes_on_while_the_client_does_not_read_the_response_yet() {
    run(async {
        const SIZE: usize = 24_000_000;
        let app = app(|_, mut wire| async move {
            let head = wire.head().await.unwrap();
            wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await;
            // Answers and reads at the same time; neither waits for the other.
            let Wire { io, .. } = wire;
            let (read, mut write) = io.into_split();
            let _ = head;
            crate::common::spawn(async move {
                write.write_all(&vec![b'y'; SIZE]).await.unwrap();
                std::future::pending::<()>().await;
            });
            let mut read = read;
            tokio::io::copy(&mut read, &mut tokio::io::sink()).await.unwrap();
        })
        .await;
        let near = one(app).await;
        let mut client = near.client().await;
        client.send(&format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n")).await;
        client.io.write_all(&vec![b'x'; SIZE]).await.unwrap();
        assert_eq!(client.response(false).await.body.len(), SIZE);
    });
}

#[test]
fn a_refusal_that_comes_before_the_end_of_the_upload_reaches_the_client() {
    run(async {
        let app = app(|_, mut wire| async move {
            wire.head().await.unwrap();
            wire.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await;
            // As careful servers do: say that no more comes, and read on so that the answer is not
            // reset away.
            wire.io.shutdown().await.unwrap();
            wire.rest().await;
        })
        .await;
        let (near, far) = pair(app).await;
        for _ in 0..20 {
            let mut client = near.client().await;
            client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n").await;
            let _ = client.io.write_all(&vec![b'x'; 500_000]).await;
            let response = client.response(false).await;
            assert_eq!((response.status(), response.text()), (413, "big"));
        }
        near.at_rest().await;
        far.at_rest().await;
    });
}

#[test]
fn a_client_that_goes_away_cancels_the_work_at_the_app() {
    run(async {
        // Before the response, within it, and within it while the upload goes on.
        for (begun, upload) in [(false, 0), (true, 0), (true, 9_000_000)] {
            let cancelled = Rc::new(Cell::new(0));
            let seen = cancelled.clone();
            let app = app(move |_, mut wire| {
                let seen = seen.clone();
                async move {
                    wire.head().await.unwrap();
                    if begun {
                        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ").await;
                    }
                    wire.rest().await;
                    seen.set(seen.get() + 1);
                }
            })
            .await;
            let (near, far) = pair(app).await;
            let mut client = near.client().await;
            client.send(&format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {upload}\r\n\r\n")).await;
            if begun {
                client.head().await.unwrap();
                client.io.write_all(&vec![b'x'; upload / 2]).await.unwrap();
            } else {
                until("the request is under way", || far.count("proxy_connects_total", &[]) == 1).await;
            }
            drop(client);
            until("the app sees that nobody waits", || cancelled.get() == 1).await;
            near.at_rest().await;
            far.at_rest().await;
        }
    });
}
