//! What a policy sees of a connection and of a request.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::HeaderMap;

use super::token::Token;
use crate::config::Attribute;
use crate::connection::Connection;
use crate::spiffe_id::SpiffeId;

/// What is known of a caller and of what it asks for.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'f> {
    /// Where the connection comes from.
    pub source: IpAddr,
    /// What it is for.
    pub destination: SocketAddr,
    /// Who its certificate says it is.
    pub identity: Option<&'f SpiffeId>,
    /// The request; `None` for a connection as a whole.
    pub request: Option<RequestFacts<'f>>,
}

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'f> {
    /// Where it comes from, as trusted proxies say.
    pub remote: IpAddr,
    /// Its host in lower case, with the port if it has one.
    pub host: &'f str,
    /// Its method.
    pub method: &'f str,
    /// Its normalised path.
    pub path: &'f str,
    /// Its headers.
    pub headers: &'f HeaderMap,
    /// Its token, which was verified.
    pub token: Option<&'f Token>,
}

impl<'f> Facts<'f> {
    /// Those of a connection alone.
    pub fn of(connection: &'f Connection) -> Self {
        let dst = connection.original_dst;
        Facts {
            source: connection.peer.ip().to_canonical(),
            destination: SocketAddr::new(dst.ip().to_canonical(), dst.port()),
            identity: connection.peer_identity.as_ref(),
            request: None,
        }
    }

    /// Whether `fits` says yes to one of the values of an attribute that is a text.
    pub(super) fn any_text(&self, attribute: &Attribute, mut fits: impl FnMut(&[u8]) -> bool) -> bool {
        let mut one = |text: Option<&str>| text.is_some_and(|text| fits(text.as_bytes()));
        match attribute {
            Attribute::Principal => return one(self.identity.map(SpiffeId::principal)),
            Attribute::Namespace => return one(self.identity.and_then(SpiffeId::namespace)),
            _ => {}
        }
        let Some(request) = &self.request else { return false };
        match attribute {
            Attribute::Host => one(Some(request.host)),
            Attribute::Method => one(Some(request.method)),
            Attribute::Path => one(Some(request.path)),
            Attribute::Header(name) => {
                request.headers.get_all(name).iter().any(|value| fits(value.as_bytes()))
            }
            _ => {
                let Some(token) = request.token else { return false };
                match attribute {
                    Attribute::RequestPrincipal => one(token.principal.as_deref()),
                    Attribute::Presenter => one(token.presenter()),
                    Attribute::Audience => token.audiences().any(|audience| fits(audience.as_bytes())),
                    Attribute::Claim(keys) => token.claim_texts(keys, &mut |text| fits(text.as_bytes())),
                    _ => false,
                }
            }
        }
    }

    /// The value of an attribute that is an address.
    pub(super) fn address(&self, attribute: &Attribute) -> Option<IpAddr> {
        match attribute {
            Attribute::SourceIp => Some(self.source),
            Attribute::DestinationIp => Some(self.destination.ip()),
            // Of a connection that is not HTTP nobody else can say anything.
            Attribute::RemoteIp => Some(self.request.map_or(self.source, |request| request.remote)),
            _ => None,
        }
    }
}

/// The address that a request comes from: that of the connection, or the one that the first of
/// `hops` trusted proxies has written into `x-forwarded-for`.
pub fn remote_address(source: IpAddr, headers: &HeaderMap, hops: usize) -> IpAddr {
    if hops == 0 {
        return source;
    }
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let mut addresses = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.rsplit(','));
    let address = addresses.nth(hops - 1).and_then(written_address);
    // Fewer than were promised: nobody knows who wrote the rest.
    address.map_or(source, |address| address.to_canonical())
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn written_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    alone.or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_proxies_have_written_counts() {
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        let headers = |lines: &[&str]| {
            let lines = lines.iter().map(|line| ("x-forwarded-for".parse().unwrap(), line.parse().unwrap()));
            lines.collect::<HeaderMap>()
        };
        for (lines, hops, expected) in [
            (&["1.1.1.1, 2.2.2.2"][..], 0, "10.0.0.1"),
            (&["1.1.1.1, 2.2.2.2"], 1, "2.2.2.2"),
            (&["1.1.1.1, 2.2.2.2"], 2, "1.1.1.1"),
            (&["1.1.1.1", "2.2.2.2 "], 2, "1.1.1.1"),
            (&["1.1.1.1"], 2, "10.0.0.1"),
            (&["forged"], 1, "10.0.0.1"),
            (&[], 1, "10.0.0.1"),
            (&["::ffff:9.9.9.9"], 1, "9.9.9.9"),
            (&["1.2.3.4:99"], 1, "1.2.3.4"),
            (&["[2001:db8::1]"], 1, "2001:db8::1"),
            (&["1.1.1.1, [2001:db8::1]:443"], 1, "2001:db8::1"),
            (&["[1.2.3.4]"], 1, "10.0.0.1"),
            (&["1.2.3.4:"], 1, "10.0.0.1"),
        ] {
            let found = remote_address(source, &headers(lines), hops);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{lines:?} {hops}");
        }
    }
}
