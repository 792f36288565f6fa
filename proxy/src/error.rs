//! Why the sidecar could not carry a request, in one table: kind, HTTP status, RFC 9209 error type,
//! log flag, gRPC status, and whether the request may have reached the app.
//!
//! A sidecar tells its peer and the client what went wrong in the standard way, a `Proxy-Status`
//! header (RFC 9209): `Proxy-Status: sidelab-orders-1; error=connection_refused;
//! next-hop="10.0.0.2:8080"; details="..."`. The calling side reads it back to learn why, and tries
//! another endpoint if the request allows it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use h2::Reason;
use http::StatusCode;

use crate::grpc::{self, Code};

/// Boxed error of a body or a connection.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One row of the table.
struct Row {
    label: &'static str,
    words: &'static str,
    status: StatusCode,
    /// RFC 9209 section 2.3.
    rfc9209: &'static str,
    /// Envoy's response flag, because operators know them.
    flag: &'static str,
    /// What a gRPC client gets.
    grpc: Code,
    /// Whether the app may have seen (a part of) the request.
    may_have_arrived: bool,
}

/// Makes the kinds out of the table.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $label:literal, $words:literal, $status:ident, $rfc9209:literal,
       $flag:literal, $grpc:ident, $may_have_arrived:literal;)*) => {
        /// What went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind, for metrics.
            pub const ALL: [Kind; ROWS.len()] = [$(Kind::$kind),*];
        }

        /// In the order of [`Kind`].
        const ROWS: &[Row] = &[$(Row {
            label: $label,
            words: $words,
            status: StatusCode::$status,
            rfc9209: $rfc9209,
            flag: $flag,
            grpc: Code::$grpc,
            may_have_arrived: $may_have_arrived,
        }),*];
    };
}

// Kind: label in metrics, words, HTTP status, RFC 9209 error type, Envoy's response flag, gRPC
// status, whether the app may have seen (a part of) the request.
kinds! {
    /// The cluster has no endpoint at all.
    NoEndpoint: "no_endpoint", "the cluster has no endpoint",
        SERVICE_UNAVAILABLE, "destination_unavailable", "UH", Unavailable, false;
    /// An endpoint refused the connection or could not be reached.
    Connect: "connect", "cannot connect",
        BAD_GATEWAY, "connection_refused", "UF", Unavailable, false;
    /// An endpoint did not answer the connection attempt in time.
    ConnectTimeout: "connect_timeout", "connection attempt timed out",
        GATEWAY_TIMEOUT, "connection_timeout", "UF", Unavailable, false;
    /// The endpoint could not prove that it is the workload that is expected there, or refused this
    /// one. Nothing was sent.
    Handshake: "handshake", "no connection under TLS",
        SERVICE_UNAVAILABLE, "tls_certificate_error", "UF", Unavailable, false;
    /// The client speaks plaintext where the mesh's TLS is asked for, or its handshake failed.
    NotSecured: "not_secured", "the client does not prove who it is",
        FORBIDDEN, "http_request_denied", "UAEX", PermissionDenied, false;
    /// This sidecar has no file descriptors, ports or memory left for a connection. Says nothing
    /// about the endpoint.
    NoSocket: "no_socket", "this sidecar can open no connection",
        SERVICE_UNAVAILABLE, "proxy_internal_error", "UO", Unavailable, false;
    /// The endpoint refused to begin with the request on a connection that it shares with others:
    /// nothing was processed.
    Refused: "refused", "the endpoint takes no further request on this connection",
        SERVICE_UNAVAILABLE, "connection_limit_reached", "UR", Unavailable, false;
    /// The endpoint closed or reset the connection before its response head was complete.
    Terminated: "terminated", "connection closed before the response",
        BAD_GATEWAY, "connection_terminated", "UC", Unavailable, true;
    /// One attempt was not answered in its time.
    TryTimeout: "try_timeout", "the attempt was not answered in time",
        GATEWAY_TIMEOUT, "http_response_timeout", "UT", DeadlineExceeded, true;
    /// The response did not begin in time after the request had been sent.
    ResponseTimeout: "response_timeout", "the response did not begin in time",
        GATEWAY_TIMEOUT, "http_response_timeout", "UT", DeadlineExceeded, true;
    /// The whole request took too long.
    RequestTimeout: "request_timeout", "the request took too long",
        GATEWAY_TIMEOUT, "http_response_timeout", "UT", DeadlineExceeded, true;
    /// Nothing moved in either direction of a request or an opaque connection for too long.
    Idle: "idle", "nothing moved for too long",
        GATEWAY_TIMEOUT, "connection_read_timeout", "SI", DeadlineExceeded, true;
    /// The caller's deadline (`grpc-timeout`) passed.
    Deadline: "deadline", "the caller's deadline passed",
        GATEWAY_TIMEOUT, "http_response_timeout", "DT", DeadlineExceeded, true;
    /// The endpoint's response is not HTTP.
    Protocol: "protocol", "the response is not valid HTTP",
        BAD_GATEWAY, "http_protocol_error", "UPE", Internal, true;
    /// The response broke off after its head.
    Incomplete: "incomplete", "the response broke off",
        BAD_GATEWAY, "http_response_incomplete", "UC", Unavailable, true;
    /// As many requests are at the endpoint, and wait for it, as may.
    PoolFull: "pool_full", "the endpoint has as many requests as it may",
        SERVICE_UNAVAILABLE, "connection_limit_reached", "UO", Unavailable, false;
    /// No connection and no stream to the endpoint became free in time.
    PoolTimeout: "pool_timeout", "no connection or stream to the endpoint was free in time",
        SERVICE_UNAVAILABLE, "connection_limit_reached", "UO", Unavailable, false;
    /// The cluster has as many requests in flight as it may.
    ClusterFull: "cluster_full", "the cluster has as many requests as it may",
        SERVICE_UNAVAILABLE, "connection_limit_reached", "UO", Unavailable, false;
    /// The sidecar carries as much as it can: a limit on connections, requests or memory was
    /// reached.
    Overload: "overload", "the sidecar carries as much as it can",
        SERVICE_UNAVAILABLE, "connection_limit_reached", "UO", Unavailable, false;
    /// The request needs something that this sidecar does not carry.
    Unsupported: "unsupported", "this sidecar does not carry",
        NOT_IMPLEMENTED, "http_request_denied", "DPE", Unimplemented, false;
    /// The client's request is malformed, or two readers could read it in two ways.
    Malformed: "malformed", "the request is malformed",
        BAD_REQUEST, "http_request_error", "DPE", Internal, false;
    /// The head of the client's request is larger than it may be.
    HeadersTooLarge: "headers_too_large", "the head of the request is too large",
        REQUEST_HEADER_FIELDS_TOO_LARGE, "http_request_error", "DPE", ResourceExhausted, false;
    /// The client went away, or its request body broke off.
    Client: "client", "the client went away",
        BAD_REQUEST, "http_request_error", "DC", Cancelled, true;
    /// Nothing passed through a tunnel for too long.
    TunnelIdle: "tunnel_idle", "nothing passed through the tunnel for too long",
        GATEWAY_TIMEOUT, "connection_timeout", "SI", DeadlineExceeded, true;
    /// The connection would come back to this sidecar for ever.
    Loop: "loop", "the connection would come back to this sidecar",
        LOOP_DETECTED, "proxy_loop_detected", "LR", Internal, false;
    /// The connection was not redirected here, so nobody knows where it should go.
    NotIntercepted: "not_intercepted", "the connection was not redirected here by interception rules",
        NOT_FOUND, "destination_not_found", "NR", Unimplemented, false;
    /// One side of a TCP connection had closed, and the other was silent for too long.
    HalfClosed: "half_closed", "the connection was half closed and silent for too long",
        GATEWAY_TIMEOUT, "connection_read_timeout", "SI", DeadlineExceeded, true;
    /// No cluster has the address, and passing through is switched off; or a cluster only has
    /// routes, and none matches.
    NoRoute: "no_route", "no cluster or route is for this",
        NOT_FOUND, "destination_not_found", "NR", Unimplemented, false;
    /// The sidecar was told to end, and what was left when the drain's time was over was cut.
    Drain: "drain", "the sidecar has ended",
        SERVICE_UNAVAILABLE, "connection_terminated", "LR", Unavailable, true;
    /// A policy does not let it pass. Which one is the operator's business and not the caller's.
    Denied: "denied", "RBAC: access denied",
        FORBIDDEN, "http_request_denied", "UAEX", PermissionDenied, false;
    /// The request shows a token that is not believed.
    Token: "token", "the token is not valid",
        UNAUTHORIZED, "http_request_denied", "UAEX", Unauthenticated, false;
    /// The external authorizer gave no answer that could be used.
    Authorizer: "authorizer", "the external authorizer gave no answer",
        FORBIDDEN, "http_request_denied", "UAEX", PermissionDenied, false;
}

impl Kind {
    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The status that the client gets.
    pub fn status(self) -> StatusCode {
        self.row().status
    }

    /// What went wrong, in words.
    pub fn words(self) -> &'static str {
        self.row().words
    }

    /// The `error` parameter of `Proxy-Status`.
    pub fn rfc9209(self) -> &'static str {
        self.row().rfc9209
    }

    /// Envoy's response flag.
    pub fn flag(self) -> &'static str {
        self.row().flag
    }

    /// What a gRPC client gets.
    pub fn grpc(self) -> Code {
        self.row().grpc
    }

    /// Whether the app may have seen (a part of) the request, so that only an idempotent one may be
    /// tried again.
    pub fn may_have_arrived(self) -> bool {
        self.row().may_have_arrived
    }

    /// Of an attempt to connect that failed: whether it was the endpoint, or want of something on
    /// this side.
    pub fn of_connect(error: &io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<HandshakeError>()) {
            return Kind::Handshake;
        }
        use libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
        match error.raw_os_error() {
            Some(EADDRNOTAVAIL | EMFILE | ENFILE | ENOBUFS | ENOMEM) => Kind::NoSocket,
            _ => Kind::Connect,
        }
    }

    /// Label in metrics.
    pub fn label(self) -> &'static str {
        self.row().label
    }
}

/// Why a handshake of TLS failed, as the error inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HandshakeError(pub String);

impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// A request or connection that could not be carried: what, to whom, and why.
#[derive(Debug)]
pub struct Error {
    /// What went wrong.
    pub kind: Kind,
    /// The endpoint, if one was chosen.
    pub endpoint: Option<SocketAddr>,
    /// Whether the connection had carried a request before: its close may just have crossed with
    /// ours.
    pub reused: bool,
    /// The code with which the endpoint has reset the stream of HTTP/2, if it has.
    pub reset: Option<Reason>,
    /// The cause underneath, if there is one.
    pub cause: Option<BoxError>,
}

impl Error {
    /// An error of this kind, without an endpoint.
    pub fn new(kind: Kind) -> Self {
        Error { kind, endpoint: None, reused: false, reset: None, cause: None }
    }

    /// An error at an endpoint.
    pub fn at(kind: Kind, endpoint: SocketAddr, cause: impl Into<BoxError>) -> Self {
        Error { endpoint: Some(endpoint), cause: Some(cause.into()), ..Error::new(kind) }
    }

    /// An error of a connection that had carried a request before.
    pub fn reused(mut self, reused: bool) -> Self {
        self.reused = reused;
        self
    }

    /// What a client of HTTP/2 gets in place of an answer: the reset that it would have got from
    /// the endpoint. So it hears what became of its request in the words that it knows, and if
    /// nobody has begun with it, may make it again itself (RFC 9113 section 8.7, gRPC's transparent
    /// retries), as another sidecar may that carries it.
    pub fn as_reset(&self) -> Option<Reason> {
        match self.kind {
            Kind::Refused => Some(Reason::REFUSED_STREAM),
            Kind::Terminated => self.reset,
            _ => None,
        }
    }

    /// What a gRPC client gets.
    pub fn grpc(&self) -> Code {
        self.reset.map_or_else(|| self.kind.grpc(), grpc::code_of_reset)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.row().words)?;
        if let Some(endpoint) = self.endpoint {
            write!(f, " at {endpoint}")?;
        }
        if self.reused {
            f.write_str(" (reused connection)")?;
        }
        let mut cause = self.cause.as_ref().map(|c| &**c as &(dyn std::error::Error + 'static));
        let mut colon = if self.kind == Kind::Unsupported { "" } else { ":" };
        while let Some(e) = cause {
            write!(f, "{colon} {e}")?;
            colon = ":";
            cause = e.source();
        }
        Ok(())
    }
}

/// The words of the causes stand in its own.
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| &**cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_why() {
        let cause = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::at(Kind::Connect, "10.0.0.1:80".parse().unwrap(), cause);
        assert_eq!(error.to_string(), "cannot connect at 10.0.0.1:80: connection refused");
    }

    #[test]
    fn a_sidecar_out_of_files_is_not_an_endpoint_that_is_down() {
        for (number, expected) in [
            (libc::EMFILE, Kind::NoSocket),
            (libc::EADDRNOTAVAIL, Kind::NoSocket),
            (libc::ECONNREFUSED, Kind::Connect),
        ] {
            assert_eq!(Kind::of_connect(&io::Error::from_raw_os_error(number)), expected, "{number}");
        }
    }

    #[test]
    fn a_connection_that_never_opened_carried_nothing() {
        for kind in [Kind::NoEndpoint, Kind::Connect, Kind::ConnectTimeout, Kind::NoSocket] {
            assert!(!kind.may_have_arrived());
        }
        for kind in [Kind::Terminated, Kind::Protocol] {
            assert!(kind.may_have_arrived());
        }
    }
}
