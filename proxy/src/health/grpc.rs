//! The two messages of the gRPC health protocol (`grpc.health.v1`, gRPC's `health-checking.md`), by
//! hand: each has one field, which does not justify a code generator.
//!
//! `HealthCheckRequest { string service = 1; }`, `HealthCheckResponse { ServingStatus status = 1;
//! }`, each behind the five bytes of a gRPC message: not compressed, and its length.

use bytes::Bytes;

use crate::grpc::message::{FRAME, Value, fields, framed, length, put_bytes};

/// The method.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";

/// No answer of a well-behaved server is longer.
pub(super) const MAX_ANSWER: usize = 1024;

/// The request for a service.
pub(super) fn request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        put_bytes(&mut message, 1, service.as_bytes());
    }
    framed(&message)
}

/// What the response says.
///
/// # Errors
/// Why it does not pass.
pub(super) fn answer(framed: &[u8]) -> Result<(), String> {
    let malformed = || "the answer is not one of the health protocol".to_owned();
    let (frame, message) = framed.split_first_chunk::<FRAME>().ok_or_else(malformed)?;
    if length(*frame, MAX_ANSWER) != Ok(message.len()) {
        return Err(malformed());
    }
    match status(message).ok_or_else(malformed)? {
        1 => Ok(()),
        2 => Err("NOT_SERVING".to_owned()),
        3 => Err("SERVICE_UNKNOWN".to_owned()),
        _ => Err("UNKNOWN".to_owned()),
    }
}

/// The value of field 1, 0 if it is not there.
fn status(message: &[u8]) -> Option<u64> {
    fields(message).try_fold(0, |status, field| match field? {
        (1, Value::Number(status)) => Some(status),
        _ => Some(status),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_what_protoc_would_write() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
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
