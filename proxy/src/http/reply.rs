//! Answers that the sidecar gives itself, and how the other sidecar reads them.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use super::closing::ClientEnd;
use super::resets::Reset;
use crate::connection::WireProtocol;
use crate::error::{Error, Kind};
use crate::grpc;

/// RFC 9209.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What every sidecar's name in `Proxy-Status` begins with.
const NAME: &str = "sidelab-";

/// The answer to a request that could not be carried: the status of the error's kind, a
/// `Proxy-Status` header and one line of text. A gRPC client gets them as a gRPC status, since it
/// knows no other errors. Where the endpoint has reset the stream, a client of HTTP/2 gets the same
/// reset in place of all that.
pub fn failure(error: &Error, instance: &str, is_grpc: bool) -> Response<Bytes> {
    let text = match error.kind {
        // What the authorizer said, or did not, is nobody else's business.
        Kind::Authorizer => Error::new(error.kind).to_string(),
        _ => error.to_string(),
    };
    let mut status = format!("{NAME}{instance}; error={}", error.kind.rfc9209());
    if let Some(endpoint) = error.endpoint {
        status += &format!("; next-hop=\"{endpoint}\"");
    }
    status += &format!("; details=\"{} {}\"", error.kind.flag(), printable(&text));
    let mut response = if is_grpc {
        grpc::response(error.grpc(), &text)
    } else {
        let mut response = Response::new(Bytes::from(format!("{text}\n")));
        *response.status_mut() = error.kind.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    let headers = response.headers_mut();
    if matches!(error.kind, Kind::Malformed | Kind::HeadersTooLarge | Kind::Unsupported) {
        // Where the request ends is the sender's guess or ours; the next one may not depend on it.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if error.kind == Kind::Token {
        // RFC 6750 section 3.
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Ok(value) = HeaderValue::from_str(&status) {
        headers.insert(PROXY_STATUS, value);
    }
    if let Some(reason) = error.as_reset() {
        response.extensions_mut().insert(Reset(reason));
    }
    response
}

/// Whether the client gets this answer, which is the sidecar's own since the request failed: in its
/// place one of HTTP/2 may get a reset, or have reset the stream itself, and a client that has
/// reset its connection gets nothing.
pub fn is_heard<B>(
    response: &Response<B>,
    why: Kind,
    protocol: WireProtocol,
    client: Option<&ClientEnd>,
) -> bool {
    match protocol {
        WireProtocol::Http2 => why != Kind::Client && response.extensions().get::<Reset>().is_none(),
        WireProtocol::Http1 | WireProtocol::Opaque => !client.is_some_and(ClientEnd::is_gone),
    }
}

/// The answer to a request that a route lets fail. A gRPC client gets it as a gRPC status.
pub fn on_purpose(status: StatusCode, instance: &str, is_grpc: bool) -> Response<Bytes> {
    const WHY: &str = "a fault that was injected on purpose";
    let mut response = match is_grpc {
        true => grpc::response(grpc::code_of(status), WHY),
        false => {
            let mut response = Response::new(Bytes::from(format!("{WHY}\n")));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
    };
    made_here(&mut response, instance, "FI");
    response
}

/// Says of an answer that the sidecar made it itself, and did not ask anybody. `flag` is Envoy's.
pub fn made_here<B>(response: &mut Response<B>, instance: &str, flag: &str) {
    let status = format!("{NAME}{instance}; error=proxy_internal_response; details=\"{flag}\"");
    if let Ok(value) = HeaderValue::try_from(status) {
        response.headers_mut().insert(PROXY_STATUS, value);
    }
}

/// An `sf-string` of RFC 9651 holds printable ASCII without quotes and backslashes (which would
/// need escapes).
fn printable(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') && c != '"' && c != '\\' { c } else { '?' }).collect()
}

/// If the peer's sidecar made this response because the request cannot have reached the app, says
/// why.
pub fn not_delivered(headers: &HeaderMap) -> Option<Kind> {
    let status = headers.get(PROXY_STATUS)?.to_str().ok()?;
    let rest = status.strip_prefix(NAME)?;
    let error = rest.split("; ").find_map(|p| p.strip_prefix("error="))?;
    [Kind::Connect, Kind::ConnectTimeout, Kind::NoSocket, Kind::NoEndpoint, Kind::Overload]
        .into_iter()
        .find(|kind| kind.rfc9209() == error)
}

/// If the peer's sidecar made this response because the app closed the connection without
/// answering.
pub fn terminated(headers: &HeaderMap) -> bool {
    headers
        .get(PROXY_STATUS)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|s| s.starts_with(NAME) && s.contains("; error=connection_terminated"))
}

/// Removes a `Proxy-Status` that an app made to look like a sidecar's.
pub fn remove_forged(headers: &mut HeaderMap) {
    if headers.get(PROXY_STATUS).is_some_and(|v| v.as_bytes().starts_with(NAME.as_bytes())) {
        headers.remove(PROXY_STATUS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_recognised_by_the_other_side_and_a_termination_is_not() {
        let at = "10.0.0.2:8080".parse().unwrap();
        let refused = failure(&Error::at(Kind::Connect, at, "connection \"refused\""), "orders-1", false);
        assert_eq!(refused.status(), 502);
        assert_eq!(not_delivered(refused.headers()), Some(Kind::Connect));
        assert_eq!(
            refused.headers()[PROXY_STATUS],
            "sidelab-orders-1; error=connection_refused; next-hop=\"10.0.0.2:8080\"; \
             details=\"UF cannot connect at 10.0.0.2:8080: connection ?refused?\""
        );
        let cut = failure(&Error::new(Kind::Terminated), "orders-1", false);
        assert_eq!(not_delivered(cut.headers()), None);
        assert!(terminated(cut.headers()) && !terminated(refused.headers()));
    }

    #[test]
    fn a_grpc_client_gets_a_grpc_status_and_the_other_side_still_recognises_it() {
        let at = "10.0.0.2:8080".parse().unwrap();
        let refused = failure(&Error::at(Kind::Connect, at, "100% refused"), "orders-1", true);
        assert_eq!(refused.status(), 200);
        assert_eq!(refused.headers()["grpc-status"], "14");
        assert_eq!(refused.headers()["grpc-message"], "cannot connect at 10.0.0.2:8080: 100%25 refused");
        assert_eq!(not_delivered(refused.headers()), Some(Kind::Connect));
        assert!(refused.body().is_empty());
    }

    #[test]
    fn an_app_cannot_speak_in_a_sidecars_name() {
        let mut headers = failure(&Error::new(Kind::Connect), "orders-1", false).headers().clone();
        remove_forged(&mut headers);
        assert_eq!(not_delivered(&headers), None);
    }
}
