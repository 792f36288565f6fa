//! A response as the pool takes it, against httparse and [`reference::body`].

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proxy::http::forward;

use super::pieces::{Pieces, cuts};
use super::reference::{self, Body, Framing};

/// What a client can be given. A body that is not whole is [`Body::Short`], whatever is wrong with
/// it: readers differ in when they find out, but whatever breaks a body off, its client gets what
/// came before and an end that says that something is missing.
#[derive(Debug, PartialEq, Eq)]
enum Given {
    /// A refusal, which stands for any answer that cannot be passed on.
    Nothing,
    Answer {
        status: u16,
        body: Body,
    },
    /// It has no body, but something follows: hyper refuses it if it has seen that in time.
    Followed {
        status: u16,
    },
}

/// Checks the bytes after the first, which says how they are torn and what was asked.
pub fn check(input: &[u8]) {
    let Some((seed, bytes)) = input.split_first() else { return };
    let is_head = seed & 0x10 != 0;
    let expected = reference(bytes, is_head);
    for cuts in [Vec::new(), cuts(*seed, bytes.len())] {
        let got = run(bytes, &cuts, is_head);
        let text = String::from_utf8_lossy(bytes);
        if let Given::Followed { status: expected } = expected {
            let fine = got == Given::Nothing
                || matches!(&got, Given::Answer { status, body: Body::Whole(body) } if *status == expected && body.is_empty());
            assert!(fine, "{got:?}: {text:?} cut at {cuts:?}, to a HEAD: {is_head}");
            continue;
        }
        if let Given::Answer { status, body: Body::Untrailed(body) } = &expected {
            // A reader may take a bare LF for the end of a line (RFC 9112 section 2.2), and hyper
            // does so here and there.
            let whole = Given::Answer { status: *status, body: Body::Whole(body.clone()) };
            let short = Given::Answer { status: *status, body: Body::Short };
            assert!(got == whole || got == short, "{got:?}: {text:?} cut at {cuts:?}");
            continue;
        }
        assert_eq!(got, expected, "{text:?} cut at {cuts:?}, to a HEAD: {is_head}");
    }
}

fn reference(mut bytes: &[u8], is_head: bool) -> Given {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(len)) = response.parse(bytes) else { return Given::Nothing };
        bytes = &bytes[len..];
        let (status, is_10) = (response.code.expect("it is complete"), response.version == Some(0));
        match status {
            // Not asked for; and no status at all.
            0..100 | 101 | 1000.. => return Given::Nothing,
            102..200 | 100 => continue,
            _ => {}
        }
        let values = |name: &str| -> Vec<&[u8]> {
            let of_name = response.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
            of_name.map(|h| h.value.trim_ascii()).collect()
        };
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        let framing = match (&lengths[..], &codings[..]) {
            ([], []) => Framing::Rest,
            ([length], []) => match std::str::from_utf8(length).ok().map(str::parse::<u64>) {
                Some(Ok(length_)) if length.iter().all(u8::is_ascii_digit) && length_ < u64::MAX - 2 => {
                    Framing::Length(length_)
                }
                _ => return Given::Nothing,
            },
            ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && !is_10 => Framing::ChunkedByAServer,
            _ => return Given::Nothing,
        };
        let body = match status {
            _ if !bytes.is_empty() && (is_head || matches!(status, 204 | 304)) => {
                return Given::Followed { status };
            }
            204 if !matches!(framing, Framing::Rest | Framing::Length(0)) => return Given::Nothing,
            _ if is_head => Body::Whole(Vec::new()),
            204 | 304 => Body::Whole(Vec::new()),
            _ => match reference::body(framing, bytes).0 {
                Body::Broken => Body::Short,
                body => body,
            },
        };
        return Given::Answer { status, body };
    }
}

fn run(bytes: &[u8], cuts: &[usize], is_head: bool) -> Given {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (io, _) = Pieces::of_a_server(bytes, cuts);
    runtime.block_on(async {
        let (mut send, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let method = if is_head { Method::HEAD } else { Method::GET };
        let request = Request::builder().method(method).uri("/").header("host", "a");
        let exchange = async {
            let response = match send.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await {
                Ok(response) => response,
                Err(_) => return Given::Nothing,
            };
            if forward::check(&response, false).is_err() {
                return Given::Nothing;
            }
            let status = response.status().as_u16();
            let body = match response.into_body().collect().await {
                Ok(body) => Body::Whole(body.to_bytes().to_vec()),
                Err(_) => Body::Short,
            };
            Given::Answer { status, body }
        };
        tokio::join!(exchange, connection).0
    })
}
