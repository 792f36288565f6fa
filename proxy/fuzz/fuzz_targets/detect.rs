//! [`sniff`] on any bytes: it never panics, and once it has an answer more bytes do not change it.
//! So it makes no difference whether bytes arrive one at a time or all at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::detect::sniff;

fuzz_target!(|bytes: &[u8]| {
    let mut answer = None;
    for end in 0..=bytes.len().min(4096) {
        let now = sniff(&bytes[..end]);
        assert!(answer.is_none() || now == answer, "{answer:?} became {now:?} at {end}");
        answer = now;
    }
});
