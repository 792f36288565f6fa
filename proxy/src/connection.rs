//! What is known of a connection that was accepted, for all that is done with it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::error::Kind;
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
    /// Why the sidecar has cut it, once it has. All clones share it.
    pub cut: Rc<Cell<Option<Kind>>>,
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
        Connection { peer, original_dst, peer_identity: None, protocol, cut: Rc::default() }
    }
}

impl WireProtocol {
    /// That of a connection on which HTTP is spoken.
    pub fn http(is_http2: bool) -> Self {
        if is_http2 { WireProtocol::Http2 } else { WireProtocol::Http1 }
    }
}

/// How a request, or all that was said on a connection, ended, as far as is known.
#[derive(Debug, Default)]
pub struct Ending {
    noted: Option<Kind>,
    has_ended: bool,
    /// Why its connection was cut.
    cut: Option<Rc<Cell<Option<Kind>>>>,
}

impl Ending {
    /// Notes whose connection it is on.
    pub fn on(&mut self, connection: &Connection) {
        self.cut = Some(connection.cut.clone());
    }

    /// Notes why it failed. The first reason stays.
    pub fn failed(&mut self, kind: Kind) {
        self.noted.get_or_insert(kind);
    }

    /// Notes that it is over as it should be.
    pub fn ended(&mut self) {
        self.has_ended = true;
    }

    /// Why it has failed, if it has. Whatever was cut looks as if its client had gone, and so does
    /// what is dropped before its end. `is_over`: the sidecar ends, and that cuts what is left.
    pub fn reason(&self, is_over: bool) -> Option<Kind> {
        let cut = || self.cut.as_ref().and_then(|cut| cut.get());
        match self.noted {
            None if self.has_ended => None,
            None | Some(Kind::Client) if is_over => Some(Kind::Drain),
            None | Some(Kind::Client) => Some(cut().unwrap_or(Kind::Client)),
            noted => noted,
        }
    }
}
