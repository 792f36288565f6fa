//! Requests as the sidecar's server hands them to the side that carries them, against
//! [`reference::requests`].

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use proxy::drain;
use proxy::error::{Error, Kind};
use proxy::http::closing::ClientEnd;
use proxy::http::{reply, serve, strict};
use tokio::time::{sleep, timeout};

use super::pieces::{Pieces, cuts};
use super::reference::{self, Asked, Body, End};

/// Longer than any body is waited for.
const SILENCE: Duration = Duration::from_secs(10);

/// Checks the bytes after the first, which says how they are torn.
pub fn check(input: &[u8]) {
    let Some((seed, bytes)) = input.split_first() else { return };
    check_torn(bytes, &[]);
    check_torn(bytes, &cuts(*seed, bytes.len()));
}

/// Checks `bytes` cut at `cuts`.
pub fn check_torn(bytes: &[u8], cuts: &[usize]) {
    judge(bytes, cuts, Duration::ZERO);
}

/// The same with answers that take their time.
#[allow(dead_code, reason = "the fuzz target has no use for it")]
pub fn check_slow(bytes: &[u8], cuts: &[usize]) {
    judge(bytes, cuts, Duration::from_secs(1));
}

fn judge(bytes: &[u8], cuts: &[usize], delay: Duration) {
    let (seen, written) = run(bytes, cuts, delay);
    let (asked, end) = reference::requests(bytes);
    let written = String::from_utf8_lossy(&written).into_owned();
    let what = || {
        let text = String::from_utf8_lossy(bytes);
        format!("{text:?}\ncut at {cuts:?}\nseen {seen:?}\nasked {asked:?} {end:?}\ngot {written:?}")
    };
    let whole = |asked: &&Asked| matches!(asked.body, Body::Whole(_));
    let tunnel = usize::from(end == End::Tunnel);
    // What a tunnel carries is nobody's request.
    let expected: Vec<_> = asked[..asked.len() - tunnel].iter().filter(whole).collect();
    let got: Vec<_> = seen.iter().filter(whole).collect();
    assert!(got.len() <= expected.len() + tunnel && got.starts_with(&expected), "{}", what());
    let count = |status: &str| {
        written.matches(&format!("HTTP/1.1 {status} ")).count()
            + written.matches(&format!("HTTP/1.0 {status} ")).count()
    };
    assert!((expected.len()..=expected.len() + tunnel).contains(&count("200")), "{}", what());
    let refused = count("400") + count("431");
    let signed = written.matches("\r\nproxy-status: sidelab-").count();
    // What the side itself says to CONNECT is not judged here.
    assert!(refused + count("504") == signed || end == End::Tunnel, "a refusal without a name: {}", what());
    match (end, asked.last().map(|asked| &asked.body)) {
        (End::Refused(status), _) => {
            assert_eq!((refused, count(&status.to_string())), (1, 1), "{}", what());
            let last = written.rfind(&format!(" {status} ")).unwrap_or_default();
            assert!(written[last..].contains("\r\nconnection: close\r\n"), "{}", what());
        }
        (End::Short, Some(Body::Broken)) => assert_eq!(refused, 1, "{}", what()),
        (End::Between | End::Closed, _) => assert_eq!(refused, 0, "{}", what()),
        (End::Short | End::Tunnel, _) => assert!(refused <= 1, "{}", what()),
    }
}

/// What the side saw, and what the client got.
fn run(bytes: &[u8], cuts: &[usize], delay: Duration) -> (Vec<Asked>, Vec<u8>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (io, written) = Pieces::of_a_client(bytes, cuts);
    let refuse = |error: &Error| reply::failure(error, "test", false);
    let handle = |request: Request<Incoming>, _| answer(request, seen.clone(), delay);
    let (_signal, watch) = drain::channel();
    let _ = runtime.block_on(serve::http1(
        io,
        &serve::Settings::default(),
        watch,
        ClientEnd::default(),
        refuse,
        handle,
    ));
    let written = written.lock().unwrap().clone();
    (seen.take(), written)
}

async fn answer(
    request: Request<Incoming>,
    seen: Rc<RefCell<Vec<Asked>>>,
    delay: Duration,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let target = parts.uri.to_string();
    let (body, mut response) = match timeout(SILENCE, body.collect()).await {
        Ok(Ok(body)) => (Body::Whole(body.to_bytes().to_vec()), Response::new(Bytes::from_static(b"ok"))),
        Ok(Err(error)) => {
            let kind = strict::broke_off(&error);
            (
                Body::Broken,
                reply::failure(&Error { cause: Some(error.into()), ..Error::new(kind) }, "test", false),
            )
        }
        Err(_) => (Body::Short, reply::failure(&Error::new(Kind::Idle), "test", false)),
    };
    seen.borrow_mut().push(Asked { method: parts.method.to_string(), target, body });
    let mut upgrades = parts.headers.get_all(UPGRADE).iter();
    let others =
        parts.headers.get("transfer-encoding").is_some_and(|coding| coding.as_bytes().contains(&b','));
    if parts.method == Method::CONNECT || others || upgrades.any(|value| !strict::is_offer(value.as_bytes()))
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        if parts.method == Method::CONNECT {
            // No tunnel: nothing follows here.
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
        }
    }
    if !delay.is_zero() {
        sleep(delay).await;
    }
    response.map(Full::new)
}
