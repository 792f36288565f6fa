//! `x-forwarded-client-cert`: tells the app who its caller is, in Envoy's format.
//!
//! The app must be able to believe the header, and so must policies and external authorizers. One
//! that came with the request is removed before anybody looks at it.

use std::fmt::Write;

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderValue};

use crate::http::bridge;
use crate::http::headers::{self, X_FORWARDED_CLIENT_CERT};
use crate::tls::{Peer, TlsStore};

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
            let hash = HEXLOWER.encode(&peer.fingerprint);
            let _ = write!(text, "Hash={hash};URI={}", peer.identity);
            HeaderValue::from_str(&text).expect("a SPIFFE id has no character that a header may not have")
        }))
    }

    /// Removes what the client may not say itself: who it is, and unless it has proved that, what
    /// its request was before it crossed a bridge.
    pub(super) fn remove_forged(&self, headers: &mut HeaderMap) {
        headers::remove_spellings(headers, &X_FORWARDED_CLIENT_CERT);
        if self.0.is_none() {
            bridge::take_marker(headers);
        }
    }

    /// Says it to the app.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(value) = &self.0 {
            headers.insert(X_FORWARDED_CLIENT_CERT, value.clone());
        }
    }
}
