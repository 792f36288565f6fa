//! [`client_hello`] on any bytes: it never panics, more bytes change nothing but "incomplete", what
//! is complete is bounded, and a name is one that may be logged and compared.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::config::names::is_server_name;
use proxy::detect::tls::{Hello, READ_LIMIT, client_hello};

fuzz_target!(|bytes: &[u8]| {
    let whole = client_hello(bytes);
    // Every prefix of what is short, and of what is long the ends of the first parts.
    let step = 1 + bytes.len() / 512;
    let mut answer = Hello::Incomplete;
    for end in (0..bytes.len()).step_by(step) {
        let now = client_hello(&bytes[..end]);
        assert!(answer == Hello::Incomplete || now == answer, "{answer:?} became {now:?} at {end}");
        answer = now;
    }
    assert!(answer == Hello::Incomplete || answer == whole);
    match whole {
        Hello::Incomplete => assert!(bytes.len() < READ_LIMIT),
        Hello::Unreadable => {}
        Hello::Complete(hello) => {
            let name = hello.server_name.unwrap_or("none".into());
            assert!(is_server_name(name.as_bytes()) && name == name.to_ascii_lowercase());
        }
    }
});
