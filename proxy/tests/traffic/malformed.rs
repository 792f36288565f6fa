//! Malformed and ambiguous HTTP/1: what a client gets (a refusal, and the connection closed) and
//! what the app gets (nothing). And the other way: what an app says that could be read in two ways,
//! and what the client gets (502).
//!
//! What is tolerated although it is not quite right stands in a table of its own, each row with the
//! reason.

use std::time::Duration;

use crate::common::{SERVICE, Seen, Side, TestNet, Wire, app, cluster, nobody, outbound, pair, run};
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// How long a connection may stay open that should be closed; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A name, and the bytes of a request that is refused with the status.
type Row = (&'static str, u16, Vec<u8>);

type Add<'a> = &'a mut dyn FnMut(&'static str, u16, &[u8]);

fn table() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut add: Add<'_> = &mut |name, status, bytes| rows.push((name, status, bytes.to_vec()));
    lengths(&mut add);
    chunks(&mut add);
    fields(&mut add);
    targets(&mut add);
    limits(&mut add);
    rows
}

/// Where a message ends.
fn lengths(add: &mut Add<'_>) {
    for (name, fields) in [
        ("a length, then a coding", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
        ("a coding, then a length", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
        ("a length of 0 and a coding", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
        ("a coding and a broken length", "Transfer-Encoding: chunked\r\nContent-Length: x"),
        ("two lengths that differ", "Content-Length: 5\r\nContent-Length: 6"),
        ("two lengths that agree", "Content-Length: 5\r\nContent-Length: 5"),
        ("two lengths far apart", "Content-Length: 5\r\nX: y\r\ncontent-length: 0"),
        ("a list of lengths that differ", "Content-Length: 5, 6"),
        ("a list of lengths that agree", "Content-Length: 5, 5"),
        ("a length with a plus", "Content-Length: +5"),
        ("a length with a minus", "Content-Length: -5"),
        ("a length in hexadecimal", "Content-Length: 0x5"),
        ("a length with letters", "Content-Length: 5a"),
        ("a length with a blank inside", "Content-Length: 1 5"),
        ("a length with a fraction", "Content-Length: 5.0"),
        ("an empty length", "Content-Length:"),
        ("a quoted length", "Content-Length: \"5\""),
        ("a length past 64 bits", "Content-Length: 18446744073709551616"),
        ("a length past any", "Content-Length: 99999999999999999999999999999999"),
        ("a length with a vertical tab", "Content-Length: \x0b5"),
        ("an unknown coding", "Transfer-Encoding: xchunked"),
        ("identity", "Transfer-Encoding: identity"),
        ("chunked is not last", "Transfer-Encoding: chunked, identity"),
        ("chunked is not last, in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("an empty coding", "Transfer-Encoding:"),
        ("a quoted coding", "Transfer-Encoding: \"chunked\""),
        ("a coding with a vertical tab", "Transfer-Encoding: \x0bchunked"),
        ("a coding with a parameter", "Transfer-Encoding: chunked;q=1"),
    ] {
        add(
            name,
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n").as_bytes(),
        );
    }
    add(
        "chunked in HTTP/1.0",
        400,
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    add(
        "a coding that nobody undoes",
        501,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    );
    add(
        "a coding after an empty member",
        501,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
    );
}

/// Chunks.
fn chunks(add: &mut Add<'_>) {
    for (name, body) in [
        ("an empty chunk size", "\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with a plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with a minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size that is no number", "five\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size of 17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size past 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with a blank before", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size that ends in LF", "5\nhello\r\n0\r\n\r\n"),
        ("a chunk size that ends in CR", "5\rhello\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "4\r\nhello\r\n0\r\n\r\n"),
        ("a chunk shorter than its size", "6\r\nhello\r\n0\r\n\r\n"),
        ("a chunk that ends in LF", "5\r\nhello\n0\r\n\r\n"),
        ("a chunk without an end", "5\r\nhello0\r\n\r\n"),
        ("a chunk extension with LF", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("a chunk extension with NUL", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("a trailer that ends in LF", "5\r\nhello\r\n0\r\nx: y\n\r\n"),
        ("an end that is LF", "5\r\nhello\r\n0\r\n\n"),
    ] {
        add(
            name,
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}").as_bytes(),
        );
    }
}

/// Header fields.
fn fields(add: &mut Add<'_>) {
    for (name, field) in [
        ("obs-fold", "X: a\r\n b"),
        ("obs-fold with a tab", "X: a\r\n\tb"),
        ("obs-fold of the first field", " X: a"),
        ("obs-fold that hides a length", "X: a\r\n Content-Length: 5"),
        ("a blank before the colon", "X : a"),
        ("a blank before the colon of a length", "Content-Length : 5"),
        ("a blank before the colon of a coding", "Transfer-Encoding : chunked"),
        ("a tab before the colon", "X\t: a"),
        ("an empty name", ": a"),
        ("no colon", "X"),
        ("a bare LF", "X: a\nY: b"),
        ("a bare CR in a value", "X: a\rY: b"),
        ("a bare CR in a name", "X\rY: b"),
        ("a CR before CRLF", "X: a\r"),
        ("NUL in a value", "X: a\0b"),
        ("NUL in a name", "X\0Y: b"),
        ("BEL in a value", "X: a\x07b"),
        ("ESC in a value", "X: \x1b[2J"),
        ("DEL in a value", "X: a\x7fb"),
        ("a blank in a name", "X Y: b"),
        ("a parenthesis in a name", "X(Y): b"),
        ("a slash in a name", "X/Y: b"),
        ("a quote in a name", "\"X\": b"),
        ("a letter outside ASCII in a name", "X\u{e9}: b"),
        ("a form feed in a name", "X\x0c: b"),
        ("a second Host", "Host: b"),
        ("a second Host that agrees", "Host: a"),
    ] {
        add(name, 400, format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n").as_bytes());
    }
}

/// Host and target.
fn targets(add: &mut Add<'_>) {
    add("no Host", 400, b"GET / HTTP/1.1\r\n\r\n");
    add("an absolute target, but no Host", 400, b"GET http://a/ HTTP/1.1\r\n\r\n");
    for (name, host) in [
        ("a Host with a path", "a/b"),
        ("a Host with a blank", "a b"),
        ("a Host that is a list", "a, b"),
        ("a Host with a user", "u@a"),
        ("a Host with a scheme", "http://a"),
        ("a Host with a query", "a?b"),
        ("a Host with a port that is none", "a:b:c"),
        ("a Host with letters for a port", "a:x"),
        ("a Host with a port below zero", "a:-1"),
        ("a Host with a port past any", "a:99999"),
        ("a Host that is a list without blanks", "a,b"),
        ("a Host with a user and a password", "u:p@a"),
        ("a Host that is percent-encoded", "a%41"),
        ("a Host that is no IPv6 address", "[a]"),
        ("a Host that is IPv6 without brackets", "::1"),
    ] {
        add(name, 400, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    }
    for (name, line) in [
        ("no version", "GET /"),
        ("HTTP/1.2", "GET / HTTP/1.2"),
        ("HTTP/2.0", "GET / HTTP/2.0"),
        ("HTTP/9.9", "GET / HTTP/9.9"),
        ("HTTP/0.9", "GET / HTTP/0.9"),
        ("a version in lower case", "GET / http/1.1"),
        ("a version with a blank inside", "GET / HTTP /1.1"),
        ("a version of three digits", "GET / HTTP/1.10"),
        ("a version without a minor", "GET / HTTP/1"),
        ("another protocol", "GET / ICY/1.1"),
        ("two blanks before the target", "GET  / HTTP/1.1"),
        ("two blanks before the version", "GET /  HTTP/1.1"),
        ("a blank after the version", "GET / HTTP/1.1 "),
        ("a tab after the method", "GET\t/ HTTP/1.1"),
        ("a tab before the version", "GET /\tHTTP/1.1"),
        ("a blank before the method", " GET / HTTP/1.1"),
        ("a blank in the target", "GET /a b HTTP/1.1"),
        ("an empty target", "GET  HTTP/1.1"),
        ("no method", "/ HTTP/1.1"),
        ("a method with a colon", "G:T / HTTP/1.1"),
        ("a bare host as the target of GET", "GET a:80 HTTP/1.1"),
        ("a word as the target of GET", "GET index.html HTTP/1.1"),
        ("an asterisk as the target of GET", "GET * HTTP/1.1"),
        ("a fragment", "GET /a#b HTTP/1.1"),
        ("a scheme that is none of ours", "GET ftp://a/ HTTP/1.1"),
        ("NUL in the target", "GET /a\0b HTTP/1.1"),
        ("BEL in the target", "GET /a\x07b HTTP/1.1"),
        ("DEL in the target", "GET /a\x7fb HTTP/1.1"),
        ("a bare CR in the target", "GET /a\rb HTTP/1.1"),
        ("a bare LF in the target", "GET /a\nX: b HTTP/1.1"),
        ("a host with LF in an absolute target", "GET http://a\nX:b/ HTTP/1.1"),
        ("CONNECT to a path", "CONNECT / HTTP/1.1"),
        ("CONNECT without a port", "CONNECT a HTTP/1.1"),
        ("CONNECT with a user", "CONNECT u@a:80 HTTP/1.1"),
        ("CONNECT with a port past any", "CONNECT a:99999 HTTP/1.1"),
        ("a user in an absolute target", "GET http://u@a/ HTTP/1.1"),
        ("letters for a port in an absolute target", "GET http://a:x/ HTTP/1.1"),
        ("a list in an absolute target", "GET http://a,b/ HTTP/1.1"),
    ] {
        add(name, 400, format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
    }
    add("CONNECT with a body", 400, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhello");
    add("a request line that ends in LF", 400, b"GET / HTTP/1.1\nHost: a\r\n\r\n");
    add("an empty line that is LF", 400, b"GET / HTTP/1.1\r\nHost: a\r\n\n");
    add("LF before the request", 400, b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    add("binary", 400, b"\x80\x01\x02\r\n\r\n");
}

/// Limits (RFC 6585 section 5, RFC 9110 section 15.5.15).
fn limits(add: &mut Add<'_>) {
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    add("too many headers", 431, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes());
    add(
        "a head too large",
        431,
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000)).as_bytes(),
    );
    add(
        "a target too long for any head",
        431,
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000)).as_bytes(),
    );
}

/// What the client gets for `bytes`, to the end of the connection.
async fn refusal(side: &Side, pieces: &[&[u8]]) -> String {
    let mut client = side.client().await;
    for piece in pieces {
        // The sidecar may have closed already.
        if client.io.write_all(piece).await.is_err() {
            break;
        }
        // The sidecar, which runs on this thread, reads it.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    match tokio::time::timeout(PATIENCE, client.rest()).await {
        Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
        Err(_) => "it waits for more".into(),
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}

#[test]
fn what_is_malformed_or_ambiguous_is_refused_and_nothing_reaches_the_app() {
    run(async {
        let rows = table();
        assert!(rows.len() >= 60);
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(OK).await], "")).await;
        let mut wrong = Vec::new();
        for (name, expected, bytes) in &rows {
            let answer = refusal(&near, &[bytes]).await;
            let closes = answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n");
            let one = answer.matches("HTTP/1.").count() == 1;
            let says_who = answer.contains("\r\nproxy-status: sidelab-web-1; error=");
            if status(&answer) != *expected || !closes || !one || !says_who {
                wrong.push(format!("{name}: {answer:?}"));
            }
            if seen.connections() > 0 {
                wrong.push(format!("{name}: reached the app: {:?}", seen.last()));
                break;
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        near.at_rest().await;
    });
}

#[test]
fn it_makes_no_difference_where_a_malformed_request_is_torn() {
    run(async {
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(OK).await], "")).await;
        for (name, expected, bytes) in table().iter().filter(|row| row.2.len() < 1000) {
            for at in [bytes.len() / 2, bytes.len() - 3] {
                let answer = refusal(&near, &[&bytes[..at], &bytes[at..]]).await;
                assert_eq!(status(&answer), *expected, "{name} torn at {at}: {answer:?}");
                // A head that was fine may have gone ahead, but no whole request.
                assert_eq!(seen.requests(), 0, "{name} torn at {at}");
            }
        }
        near.at_rest().await;
    });
}

#[test]
fn a_request_that_follows_a_refused_one_never_reaches_the_app() {
    run(async {
        let seen = Seen::default();
        let (near, far) = pair(seen.app(OK).await).await;
        for (name, _, bytes) in table().iter().filter(|row| row.2.starts_with(b"POST / HTTP/1.1")) {
            let smuggled = [&bytes[..], b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let answer = refusal(&near, &[&smuggled]).await;
            assert!(matches!(status(&answer), 400 | 501), "{name}: {answer:?}");
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{name}: {answer:?}");
            assert_eq!(seen.requests(), 0, "{name}: {:?}", seen.last());
        }
        drop(near);
        far.at_rest().await;
    });
}

#[test]
fn a_request_before_a_refused_one_is_answered_first() {
    run(async {
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(OK).await], "")).await;
        let bytes =
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\n\nGET / HTTP/1.1\nHost: a\r\n\r\n";
        let answer = refusal(&near, &[bytes]).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("HTTP/1.1 400"), "{answer:?}");
        assert_eq!((seen.requests(), seen.last().text()), (1, "\n\n"));
        assert_eq!(near.count("proxy_connections_refused_total", &["malformed"]), 1);
        near.at_rest().await;
    });
}

#[test]
fn what_is_refused_behind_a_request_is_refused_as_if_it_came_first() {
    run(async {
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(OK).await], "")).await;
        let lines = "\r\n".repeat(40_000);
        for (name, before, bytes, expected) in [
            ("no method behind HEAD", "HEAD", "\x01bad\r\n\r\n", 400),
            ("an empty line cut short behind HEAD", "HEAD", "\rX", 400),
            ("more empty lines than a head is long", "GET", &*lines, 431),
        ] {
            let good = format!("{before} / HTTP/1.1\r\nHost: a\r\n\r\n");
            let answers = refusal(&near, &[&[good.as_bytes(), bytes.as_bytes()].concat()]).await;
            let last = &answers[answers.rfind("HTTP/1.1 ").expect("an answer")..];
            let (head, body) = last.split_once("\r\n\r\n").expect("a head");
            assert_eq!(status(last), expected, "{name}: {answers:?}");
            assert!(head.contains("\r\nproxy-status: sidelab-web-1; error="), "{name}: {answers:?}");
            assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{name}: {answers:?}");
            assert!(!body.is_empty(), "{name}: {answers:?}");
        }
        assert_eq!(seen.requests(), 3);
        near.at_rest().await;
    });
}

#[test]
fn a_refusal_neither_changes_nor_loses_nor_completes_what_came_before_it() {
    run(async {
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let seen = Seen::default();
        let (near, far) = pair(seen.app(OK).await).await;
        // What comes, in pieces; what the app gets whole; and the statuses that the client gets.
        for (pieces, whole, statuses) in [
            (
                &["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", "hi\n"][..],
                Some("hi"),
                &[200, 400][..],
            ),
            (
                &["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "hello\n"],
                Some("hello"),
                &[200, 400],
            ),
            (&["GET /good HTTP/1.1\r\nHost: a\r\n\r\n\n"], Some(""), &[200, 400]),
            (&["GET /good HTTP/1.1\r\nHost: a\r\n\r\nGET / HT", "TP/1.1\n"], Some(""), &[200, 400]),
            (&[chunked, "5\r\n", "helloX"], None, &[400]),
            (&[chunked, "5\r\nhello\r\n0;a", "\n\r\n"], None, &[400]),
            (&[chunked, "5\r\nhello\r\n0\r\na: b", "\n\r\n"], None, &[400]),
            (&[chunked, "5\r\nhello\r\n0\r\n\r\n", "\0"], Some("hello"), &[200, 400]),
        ] {
            let before = seen.requests();
            let pieces: Vec<_> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            let answer = refusal(&near, &pieces).await;
            let got: Vec<u16> =
                answer.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].parse().unwrap()).collect();
            assert_eq!(got, statuses, "{answer:?}");
            assert!(answer.contains("\r\nproxy-status: sidelab-"), "{answer:?}");
            assert_eq!(seen.requests() - before, usize::from(whole.is_some()), "{answer:?}");
            if let Some(body) = whole {
                assert_eq!(seen.last().text(), body);
            }
        }
        near.at_rest().await;
        drop(far);
    });
}

#[test]
fn an_answer_to_a_client_that_goes_on_sending_is_not_lost_to_a_reset() {
    run(async {
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[nobody()], "")).await;
        for request in ["GET / HTTP/1.1\n", "POST / HTTP/1.1\r\nHost: u@a\r\nContent-Length: 9999999\r\n\r\n"]
        {
            let mut client = near.client().await;
            client.send(request).await;
            for _ in 0..20 {
                // Each of them would be answered by a reset if nobody read it.
                if client.io.write_all(&[b'x'; 10_000]).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let answer = String::from_utf8(client.rest().await).unwrap();
            assert_eq!(status(&answer), 400, "{request:?}: {answer:?}");
        }
        near.at_rest().await;
    });
}

#[test]
fn what_is_tolerated_reaches_the_app_in_one_clear_form() {
    run(async {
        let seen = Seen::default();
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[seen.app(OK).await], "")).await;
        for (reason, bytes, line, body) in [
            (
                "RFC 9112 section 2.2: a server should ignore an empty line before the request line",
                "\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /a HTTP/1.1",
                "",
            ),
            (
                "RFC 9112 section 5.1: blanks around a value are not part of it",
                "POST /b HTTP/1.1\r\nHost:\ta \r\nContent-Length: \t 2 \r\n\r\nhi",
                "POST /b HTTP/1.1",
                "hi",
            ),
            (
                "RFC 9112 section 7.1.1: an extension that is not understood is ignored",
                "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ChunkeD\r\n\r\n2;a=\"b\" ;c\r\nhi\r\n0\r\n\r\n",
                "POST /c HTTP/1.1",
                "hi",
            ),
            (
                "RFC 9110 section 9.3.1: a body of a GET has no meaning, but it has a length",
                "GET /d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
                "GET /d HTTP/1.1",
                "hi",
            ),
            (
                "RFC 9110 section 7.2: a target without a host has an empty Host",
                "GET /e HTTP/1.1\r\nHost:\r\n\r\n",
                "GET /e HTTP/1.1",
                "",
            ),
            (
                "RFC 9110 section 9.1: any token may be a method",
                "get /f HTTP/1.1\r\nHost: a\r\n\r\n",
                "get /f HTTP/1.1",
                "",
            ),
            (
                "RFC 9112 section 3.2.4: OPTIONS * asks about the server",
                "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
                "OPTIONS * HTTP/1.1",
                "",
            ),
        ] {
            let answer = near.client().await.ask(bytes).await;
            assert_eq!((answer.status(), answer.text()), (200, "ok"), "{reason}");
            assert_eq!(seen.last().head.lines().next(), Some(line), "{reason}");
            assert_eq!(seen.last().text(), body, "{reason}");
        }
        near.at_rest().await;
    });
}

#[test]
fn a_trailer_cannot_set_what_only_a_header_may() {
    run(async {
        let seen = Seen::default();
        let (near, _far) = pair(seen.app(OK).await).await;
        let mut client = near.client().await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\
                       Trailer: x-sum, content-length, host, transfer-encoding\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\
                       content-length: 9\r\nhost: evil\r\ntransfer-encoding: identity\r\n\r\n";
        assert_eq!(client.ask(request).await.text(), "ok");
        assert_eq!((seen.last().text(), seen.last().trailers.as_str()), ("hi", "x-sum: 1\n"));
    });
}

#[test]
fn an_answer_that_could_be_read_in_two_ways_is_not_passed_on() {
    run(async {
        for (name, answer) in [
            (
                "both",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
            ("differing lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
            ("equal lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"),
            ("a list of lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok"),
            ("a length with a sign", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
            ("a length past 64 bits", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nok"),
            ("an unknown coding", "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nok"),
            ("chunked is not last", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\nok"),
            (
                "chunked twice",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
            (
                "chunked in HTTP/1.0",
                "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
            ("obs-fold", "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok"),
            ("a blank before the colon", "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok"),
            ("a bare CR", "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 2\r\n\r\nok"),
            ("NUL", "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok"),
            ("another version", "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            ("no status", "HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\nok"),
            ("a length of a 204", "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n"),
            ("chunks of a 204", "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n"),
        ] {
            let seen = Seen::default();
            let config = cluster("http", &[seen.app(answer).await], "retry.attempts = 0");
            let near = outbound(TestNet::to(SERVICE), &config).await;
            let mut client = near.client().await;
            for n in 1..3 {
                let got = client.get("/").await;
                assert_eq!(got.status(), 502, "{name}: {got:?}");
                assert_eq!(seen.connections(), n, "{name}: the connection is not used again");
            }
            near.at_rest_without(client).await;
        }
    });
}

#[test]
fn what_follows_an_answer_unasked_is_not_taken_for_the_next_answer() {
    run(async {
        let twice =
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
        let app = app(move |_, mut wire: Wire| async move {
            while wire.request().await.is_some() {
                wire.send(twice).await;
            }
        })
        .await;
        let near = outbound(TestNet::to(SERVICE), &cluster("http", &[app], "")).await;
        let mut client = near.client().await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.text(), "ok");
        }
        near.at_rest_without(client).await;
    });
}
