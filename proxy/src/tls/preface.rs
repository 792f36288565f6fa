//! What one sidecar says to another before the bytes of an opaque connection: a small typed
//! preface.
//!
//! ```text
//! version (1) | length of the fields (1) | field: type (1) | length (1) | value ...
//! ```
//!
//! A field of a type that is not known is passed over, so that a newer sidecar can say more.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The one version there is.
const VERSION: u8 = 1;
/// Where the app wanted to go: the address (4 or 16 bytes), then the port (2).
const DESTINATION: u8 = 1;

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Preface {
    /// The address that the calling app has dialled, before it was translated to an endpoint.
    pub destination: Option<SocketAddr>,
}

/// Why bytes are no preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// A version that this sidecar does not know.
    #[error("version {0} of the preface is not known")]
    Version(u8),
    /// A field is cut short, or has a length that it cannot have.
    #[error("a field of the preface is malformed")]
    Field,
}

impl Preface {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(20);
        if let Some(to) = self.destination {
            let port = to.port().to_be_bytes();
            match to.ip() {
                IpAddr::V4(ip) => fields.extend([&[DESTINATION, 6], &ip.octets()[..], &port].concat()),
                IpAddr::V6(ip) => fields.extend([&[DESTINATION, 18], &ip.octets()[..], &port].concat()),
            }
        }
        let mut bytes = vec![VERSION, fields.len() as u8];
        bytes.append(&mut fields);
        bytes
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// If one is malformed.
    pub fn decode(mut fields: &[u8]) -> Result<Self, PrefaceError> {
        let mut preface = Preface::default();
        while let [kind, length, rest @ ..] = fields {
            let (value, rest) = rest.split_at_checked((*length).into()).ok_or(PrefaceError::Field)?;
            if *kind == DESTINATION {
                preface.destination = Some(address(value).ok_or(PrefaceError::Field)?);
            }
            fields = rest;
        }
        if fields.is_empty() { Ok(preface) } else { Err(PrefaceError::Field) }
    }

    /// Reads a preface from a stream, and nothing behind it.
    ///
    /// # Errors
    /// If reading fails, or what is read is none.
    pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut head = [0; 2];
        io.read_exact(&mut head).await?;
        let [version, length] = head;
        if version != VERSION {
            return Err(malformed(PrefaceError::Version(version)));
        }
        let mut fields = vec![0; length.into()];
        io.read_exact(&mut fields).await?;
        Preface::decode(&fields).map_err(malformed)
    }
}

fn address(value: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = value.split_last_chunk::<2>()?;
    let ip: IpAddr = match ip.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_behind_it(v6: bool, ip: u128, port: u16, behind: Vec<u8>) {
            let ip: IpAddr = if v6 { Ipv6Addr::from(ip).into() } else { Ipv4Addr::from(ip as u32).into() };
            let preface = Preface { destination: Some(SocketAddr::new(ip, port)) };
            let bytes = [preface.encode(), behind.clone()].concat();
            let mut left = &bytes[..];
            let read = futures(Preface::read(&mut left));
            prop_assert_eq!(read.unwrap(), preface);
            prop_assert_eq!(left, &behind[..]);
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            let _ = Preface::decode(&bytes);
        }
    }

    fn futures<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn an_unknown_field_is_passed_over_and_a_broken_one_is_not() {
        assert_eq!(Preface::decode(&[9, 1, 7]), Ok(Preface::default()));
        assert_eq!(Preface::decode(&[9, 2, 7]), Err(PrefaceError::Field));
        assert_eq!(Preface::decode(&[9]), Err(PrefaceError::Field));
        assert_eq!(Preface::decode(&[1, 3, 1, 2, 3]), Err(PrefaceError::Field));
    }
}
