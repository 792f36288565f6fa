//! The few messages of gRPC that the sidecar itself exchanges, by hand: what they have in common is
//! the frame around a message, and fields of protobuf. A code generator would bring more crates
//! than there are messages.

use bytes::{BufMut, Bytes, BytesMut};

/// Length of what stands before each message: whether it is compressed (1), and its length (4).
pub const FRAME: usize = 5;

/// A message behind its frame, not compressed.
pub fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(FRAME + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// A field that is text or another message, for a message that is written.
pub fn put_bytes(into: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_varint(into, number << 3 | 2);
    put_varint(into, value.len() as u64);
    into.extend_from_slice(value);
}

/// How long the message behind a frame is.
///
/// # Errors
/// If it is compressed, which nobody has asked for, or longer than `most`.
pub fn length(frame: [u8; FRAME], most: usize) -> Result<usize, String> {
    let [compressed, length @ ..] = frame;
    let length = u32::from_be_bytes(length) as usize;
    match compressed {
        0 if length <= most => Ok(length),
        0 => Err(format!("a message of {length} bytes is longer than {most}")),
        _ => Err("the message is compressed, which nobody has asked for".into()),
    }
}

/// A value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, a truth value or an item of an enumeration.
    Number(u64),
    /// Text, bytes or another message.
    Bytes(&'a [u8]),
    /// Four or eight bytes, which no message here has.
    Fixed,
}

/// The fields of a message, each with its number; `None` in the place of what is malformed, and
/// nothing after it. Those that a reader does not know are for it to skip, as protobuf asks.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let mut left = rest.take().filter(|left| !left.is_empty())?;
        let field = field(&mut left);
        rest = field.is_some().then_some(left);
        Some(field)
    })
}

fn field<'a>(from: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(from)?;
    let value = match key & 7 {
        0 => Value::Number(varint(from)?),
        1 => bytes(from, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = usize::try_from(varint(from)?).ok()?;
            Value::Bytes(bytes(from, length)?)
        }
        5 => bytes(from, 4).map(|_| Value::Fixed)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

fn bytes<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (value, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(value)
}

fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
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
    fn a_field_is_what_protoc_would_write() {
        for (length, begin) in [(2, &[0x0a, 2][..]), (200, &[0x0a, 0xc8, 0x01]), (300, &[0x0a, 0xac, 0x02])] {
            let mut message = Vec::new();
            put_bytes(&mut message, 1, &vec![b'x'; length]);
            assert!(message.starts_with(begin) && message.len() == begin.len() + length);
        }
        assert_eq!(framed(b"ab")[..], [0, 0, 0, 0, 2, b'a', b'b']);
    }

    #[test]
    fn a_frame_is_read_up_to_a_length() {
        assert_eq!(length([0, 0, 0, 1, 0], 256), Ok(256));
        assert!(length([0, 0, 0, 1, 1], 256).unwrap_err().contains("257 bytes"));
        assert!(length([1, 0, 0, 0, 0], 256).unwrap_err().contains("compressed"));
    }

    #[test]
    fn nothing_follows_what_is_malformed() {
        let seen: Vec<_> = fields(&[8, 5, 0x12, 9, 1, 8, 1]).collect();
        assert_eq!(seen, [Some((1, Value::Number(5))), None]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec((1..9000_u64, any::<Vec<u8>>()), 0..6)) {
            let mut message = Vec::new();
            for (number, value) in &values {
                put_bytes(&mut message, *number, value);
            }
            let read: Vec<_> = fields(&message).map(|field| field.unwrap()).collect();
            let written: Vec<_> = values.iter().map(|(n, value)| (*n, Value::Bytes(value))).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
