//! `Expect: 100-continue` from end to end (RFC 9110 section 10.1.1), and what becomes of other 1xx answers.
//!
//! hyper's server says `100 Continue` when the body of a request is first asked for, and its client does not wait for
//! one. So the body of such a request is [withheld](withhold) until the next hop has said 100; asking for it then says
//! 100 to the client. A final answer that comes first passes, the body is never asked for, and both connections end. A
//! next hop that says nothing for [`EXPECT_TIMEOUT`] gets the body anyway, as the section asks of a client.
//!
//! What it leaves out: 103 Early Hints and other 1xx answers are dropped, because hyper's server can send one response
//! and nothing before it. RFC 9110 section 15.2 wants a proxy to forward them; it also lets every client ignore them, so
//! none can depend on it. Clients of HTTP/1.0 never get a 1xx.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::EXPECT;
use http::{HeaderMap, Request, StatusCode};
use tokio::time::sleep;

use super::RequestBody;
use crate::config::defaults::EXPECT_TIMEOUT;

/// In the extensions of a response: the request's body was not read, so nothing can follow it on the connection.
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

/// Keeps the body of a request back until the next hop wants it.
pub fn withhold(request: &mut Request<RequestBody>) {
    // hyper asks for `Sync`; the callback runs while the connection is polled, and the body is polled right after it.
    let wanted = Arc::new(AtomicBool::new(false));
    if request.body_mut().withhold(wanted.clone(), sleep(EXPECT_TIMEOUT)) {
        hyper::ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                wanted.store(true, Ordering::Relaxed);
            }
        });
    }
}
