//! What the network itself knows of the connections between instances: who opened them, with which
//! byte they began, and when each end was let go. Whoever judges a run asks here what really went
//! over the wire, and not the sidecars what they think.

use super::route::Who;

/// A connection between two instances, from its handshake on.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// The instance that opened it.
    pub from: usize,
    /// By which kind of process.
    pub who: Who,
    /// The instance that accepted it.
    pub to: usize,
    /// The port that was dialled, before any redirection.
    pub port: u16,
    /// When, virtual microseconds.
    pub opened: u64,
    /// The first byte that the opener wrote.
    pub first: Option<u8>,
    /// When the opener's and when the acceptor's end was let go; `None`: not before the run ended.
    pub closed: [Option<u64>; 2],
}

impl Crossing {
    /// Whether what the opener wrote begins as TLS does: with a record of a handshake.
    pub fn is_tls(&self) -> bool {
        const HANDSHAKE: u8 = 22;
        self.first.is_none_or(|first| first == HANDSHAKE)
    }
}
