//! What stands under an endpoint's key in a registry: a JSON object that people can read and other
//! tools can write.
//!
//! ```json
//! {"address":"10.0.0.11:8080","zone":"a","priority":0,"weight":1,"protocol":"http","labels":{"version":"2"}}
//! ```
//!
//! Only `address` is needed. Keys that are not known are passed over, so that a newer sidecar may
//! say more.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::{Endpoint, Protocol, defaults};
use crate::spiffe_id::SpiffeId;

#[derive(Serialize, Deserialize)]
struct Document {
    address: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default)]
    priority: u8,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<SpiffeId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

fn one() -> u32 {
    1
}

/// The document of an endpoint.
pub fn write(endpoint: &Endpoint) -> String {
    let protocol = endpoint.protocol.and_then(|protocol| match protocol {
        Protocol::Http => Some("http".to_owned()),
        Protocol::Tcp => Some("tcp".to_owned()),
        Protocol::Detect => None,
    });
    let document = Document {
        address: endpoint.address,
        zone: endpoint.zone.as_deref().map(str::to_owned),
        priority: endpoint.priority,
        weight: endpoint.weight,
        protocol,
        identity: endpoint.identity.clone(),
        labels: BTreeMap::clone(&endpoint.labels),
    };
    serde_json::to_string(&document).expect("text and numbers are all JSON")
}

/// The endpoint of a document.
///
/// # Errors
/// What is wrong with it.
pub fn read(text: &[u8]) -> Result<Endpoint, String> {
    let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let address = SocketAddr::new(document.address.ip().to_canonical(), document.address.port());
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(format!("nobody can connect to {address}"));
    }
    if document.priority > defaults::MAX_PRIORITY {
        return Err(format!("the priority goes from 0 to {}", defaults::MAX_PRIORITY));
    }
    if !(1..=defaults::MAX_WEIGHT).contains(&document.weight) {
        return Err(format!("the weight goes from 1 to {}", defaults::MAX_WEIGHT));
    }
    let protocol = match document.protocol.as_deref() {
        None => None,
        Some("http") => Some(Protocol::Http),
        Some("tcp") => Some(Protocol::Tcp),
        // A newer protocol: callers find out for themselves.
        Some(_) => None,
    };
    Ok(Endpoint {
        address,
        zone: document.zone.map(Into::into),
        priority: document.priority,
        weight: document.weight,
        protocol,
        identity: document.identity,
        labels: document.labels.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_as_the_same_endpoint() {
        let plain = Endpoint::at("10.0.0.11:8080".parse().unwrap());
        assert_eq!(write(&plain), r#"{"address":"10.0.0.11:8080","priority":0,"weight":1}"#);
        let full = Endpoint {
            zone: Some("a".into()),
            priority: 1,
            weight: 3,
            protocol: Some(Protocol::Http),
            identity: "spiffe://mesh/orders".parse().ok(),
            labels: BTreeMap::from([("version".to_owned(), "2".to_owned())]).into(),
            ..Endpoint::at("[fd00::11]:8080".parse().unwrap())
        };
        for endpoint in [plain, full] {
            assert_eq!(read(write(&endpoint).as_bytes()), Ok(endpoint));
        }
    }

    #[test]
    fn a_document_needs_an_address_that_can_be_connected_to_and_figures_in_range() {
        let minimal = read(br#"{"address":"[::ffff:10.0.0.1]:80","protocol":"quic","colour":"blue"}"#);
        assert_eq!(minimal, Ok(Endpoint::at("10.0.0.1:80".parse().unwrap())));
        let largest = read(br#"{"address":"10.0.0.1:80","priority":127,"weight":1000}"#).unwrap();
        assert_eq!((largest.priority, largest.weight), (127, 1000));
        for (text, why) in [
            ("", "EOF"),
            ("{}", "missing field `address`"),
            (r#"{"address":"orders:80"}"#, "invalid socket address"),
            (r#"{"address":"10.0.0.1:0"}"#, "nobody can connect to 10.0.0.1:0"),
            (r#"{"address":"0.0.0.0:80"}"#, "nobody can connect to 0.0.0.0:80"),
            (r#"{"address":"10.0.0.1:80","weight":0}"#, "the weight goes from 1 to 1000"),
            (r#"{"address":"10.0.0.1:80","weight":1001}"#, "the weight goes from 1 to 1000"),
            (r#"{"address":"10.0.0.1:80","priority":128}"#, "the priority goes from 0 to 127"),
            (r#"{"address":"10.0.0.1:80","priority":-1}"#, "invalid value"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
