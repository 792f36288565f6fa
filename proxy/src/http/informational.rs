//! Interim responses (1xx) from the next hop: `Expect: 100-continue` from end to end (RFC 9110
//! section 10.1.1), and the rest.
//!
//! hyper's server says `100 Continue` when the body of a request is first asked for, and its client
//! does not wait for one. So the body of such a request is [withheld](withhold) until the next hop
//! has said 100; asking for it then says 100 to the client. A final answer that comes first passes,
//! the body is never asked for, and both connections end. A next hop that says nothing for
//! [`EXPECT_TIMEOUT`] gets the body anyway, as the section asks of a client.
//!
//! 103 Early Hints and other 1xx answers are passed on by [`super::interim`], if both the client
//! and the next hop speak HTTP/1.1. A 100 that nobody asked for is dropped, as section 15.2.1
//! allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::EXPECT;
use http::{HeaderMap, Request, StatusCode};
use tokio::time::sleep;

use super::RequestBody;
use super::interim::InterimSender;
use crate::config::defaults::EXPECT_TIMEOUT;

/// In the extensions of a response: the request's body was not read, so nothing can follow it on
/// the connection.
#[derive(Debug, Clone, Copy)]
pub struct BodyUnread;

/// Whether the client waits for `100 Continue`. The same test as hyper's server makes.
pub fn is_expected(headers: &HeaderMap) -> bool {
    headers
        .get_all(EXPECT)
        .iter()
        .next_back()
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Keeps the body of a request back until the next hop wants it, which [`listen`] hears.
pub fn withhold(request: &mut Request<RequestBody>) {
    // hyper asks for `Sync`; the callback runs while the connection is polled, and the body is
    // polled right after it.
    request.body_mut().withhold(Arc::new(AtomicBool::new(false)), sleep(EXPECT_TIMEOUT));
}

/// Listens to what an HTTP/1 endpoint says before it answers a request that is about to be sent;
/// `client` hears of it.
pub fn listen(request: &mut Request<RequestBody>, client: Option<&InterimSender>) {
    let (wanted, client) = (request.body().wanted(), client.cloned());
    if wanted.is_none() && client.is_none() {
        return;
    }
    hyper::ext::on_informational(request, move |response| match (response.status(), &wanted, &client) {
        (StatusCode::CONTINUE, Some(wanted), _) => wanted.store(true, Ordering::Relaxed),
        (StatusCode::CONTINUE, None, _) => {}
        (status, _, Some(client)) => client.say(status, response.headers()),
        (_, _, None) => {}
    });
}
