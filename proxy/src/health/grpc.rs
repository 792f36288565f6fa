//! The two messages of the gRPC health protocol (`grpc.health.v1`, gRPC's `health-checking.md`), by
//! hand: each has one field, which does not justify a code generator.
//!
//! `HealthCheckRequest { string service = 1; }`, `HealthCheckResponse { ServingStatus status = 1;
//! }`, each behind the five bytes of a gRPC message: not compressed, and its length.

use bytes::{BufMut, Bytes, BytesMut};

/// The method.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";

/// No answer of a well-behaved server is longer.
pub(super) const MAX_ANSWER: usize = 1024;

/// The request for a service.
pub(super) fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, length-delimited.
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

/// What the response says.
///
/// # Errors
/// Why it does not pass.
pub(super) fn answer(framed: &[u8]) -> Result<(), String> {
    let malformed = || "the answer is not one of the health protocol".to_owned();
    let [compressed, a, b, c, d, message @ ..] = framed else { return Err(malformed()) };
    if *compressed != 0 || u32::from_be_bytes([*a, *b, *c, *d]) as usize != message.len() {
        return Err(malformed());
    }
    match status(message).ok_or_else(malformed)? {
        1 => Ok(()),
        2 => Err("NOT_SERVING".to_owned()),
        3 => Err("SERVICE_UNKNOWN".to_owned()),
        _ => Err("UNKNOWN".to_owned()),
    }
}

/// The value of field 1, 0 if it is not there; other fields are skipped, as protobuf asks of every
/// reader.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(into: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_what_protoc_would_write() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(request(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn only_serving_passes() {
        for (framed, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Ok(())),
            (&[0, 0, 0, 0, 2, 8, 2], Err("NOT_SERVING")),
            (&[0, 0, 0, 0, 2, 8, 3], Err("SERVICE_UNKNOWN")),
            (&[0, 0, 0, 0, 0], Err("UNKNOWN")),
            // 129, in two bytes.
            (&[0, 0, 0, 0, 3, 8, 0x81, 1], Err("UNKNOWN")),
            // Field 2, of every type that has not been deprecated.
            (&[0, 0, 0, 0, 4, 0x10, 3, 8, 1], Ok(())),
            (&[0, 0, 0, 0, 11, 0x11, 2, 2, 2, 2, 2, 2, 2, 2, 8, 1], Ok(())),
            (&[0, 0, 0, 0, 7, 0x12, 3, 1, 2, 3, 8, 1], Ok(())),
            (&[0, 0, 0, 0, 7, 0x15, 2, 2, 2, 2, 8, 1], Ok(())),
            (&[1, 0, 0, 0, 2, 8, 1], Err("the answer is not one of the health protocol")),
            (&[0, 0, 0, 0, 3, 8, 1], Err("the answer is not one of the health protocol")),
            (&[0, 0, 0], Err("the answer is not one of the health protocol")),
        ] {
            assert_eq!(answer(framed), expected.map_err(str::to_owned), "{framed:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = answer(&bytes);
            let mut framed = vec![0, 0, 0, 0, bytes.len() as u8];
            framed.extend(&bytes);
            let _ = answer(&framed);
        }
    }
}
