//! What is known of a connection that was accepted, for all that is done with it.

use std::net::SocketAddr;

use crate::spiffe_id::SpiffeId;

/// A connection of a client. It is made once, as soon as it is known what the client speaks, and
/// every step of a request or of an opaque connection gets this one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The client.
    pub peer: SocketAddr,
    /// Where the client wanted to go, before it was redirected to the sidecar.
    pub original_dst: SocketAddr,
    /// Who the client has proved to be, by its certificate; `None` if it has proved nothing.
    pub peer_identity: Option<SpiffeId>,
    /// What it speaks.
    pub protocol: WireProtocol,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireProtocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Bytes that the sidecar does not look into.
    Opaque,
}

impl Connection {
    /// One whose client has proved nothing.
    pub fn unauthenticated(peer: SocketAddr, original_dst: SocketAddr, protocol: WireProtocol) -> Self {
        Connection { peer, original_dst, peer_identity: None, protocol }
    }
}

impl WireProtocol {
    /// That of a connection on which HTTP is spoken.
    pub fn http(is_http2: bool) -> Self {
        if is_http2 { WireProtocol::Http2 } else { WireProtocol::Http1 }
    }
}
