//! `x-forwarded-client-cert`: tells the app who its caller is, in Envoy's format.
//!
//! The app must be able to believe the header, so one that came with the request is always removed.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::tls::{Peer, TlsStore};

/// The header.
const NAME: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What the certificate of a client proves.
pub(super) struct ClientCert(Option<HeaderValue>);

impl ClientCert {
    /// That of a `peer`, who proved to be one to this workload; `None` if nobody did.
    pub(super) fn of(peer: Option<&Peer>, own: &TlsStore) -> Self {
        ClientCert(peer.map(|peer| {
            let mut text = String::new();
            if let Some(context) = own.current() {
                let _ = write!(text, "By={};", context.credentials.id);
            }
            text.push_str("Hash=");
            for byte in peer.fingerprint {
                let _ = write!(text, "{byte:02x}");
            }
            let _ = write!(text, ";URI={}", peer.identity);
            HeaderValue::from_str(&text).expect("a SPIFFE id has no character that a header may not have")
        }))
    }

    /// Whether the client has proved who it is.
    pub(super) fn is_proved(&self) -> bool {
        self.0.is_some()
    }

    /// Says it to the app.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        match &self.0 {
            Some(value) => headers.insert(NAME, value.clone()),
            None => headers.remove(NAME),
        };
    }
}
