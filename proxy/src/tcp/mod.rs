//! Opaque bytes, both ways.
//!
//! [`carry`] is what both sides do with an opaque connection, inside the kernel where it can;
//! [`both_ways`] carries between any two streams by copying. Both keep half-close, and cut what has
//! been forgotten.
//!
//! Where zero-copy cannot apply, plainly: a stream whose TLS ends here (the bytes must be
//! deciphered in this process), HTTP (they must be read), and every network that is not the
//! kernel's.

mod carry;
mod copy;
mod splice;

pub use carry::{FreshConnection, Guard, carry};
pub use copy::{BytesCopied, CopyError, CopyTimeouts, both_ways};
