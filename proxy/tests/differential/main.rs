//! The strict reader together with hyper, against parsers that were written apart from both:
//! whatever the bytes are and however they are torn, both sides must see the same messages. And
//! HTTP/2 on its way to an app of HTTP/1, whose requests must be those that a second reading of the
//! frames finds.
//!
//! `DIFFERENTIAL_ROUNDS` says how many inputs are drawn; the default is for every day.

mod generate;
mod http2;
mod pieces;
mod reference;
mod request;
mod response;

use generate::Chance;

fn rounds() -> u64 {
    std::env::var("DIFFERENTIAL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3_000)
}

#[test]
fn two_readers_see_the_same_requests() {
    for seed in 0..rounds() {
        let bytes = generate::requests(&mut Chance::new(seed));
        request::check(&bytes);
    }
}

#[test]
fn two_readers_see_the_same_response() {
    for seed in 0..rounds() {
        let bytes = generate::response(&mut Chance::new(seed));
        response::check(&bytes);
    }
}

#[test]
fn an_app_of_http1_reads_the_requests_that_were_sent_in_http2_and_no_others() {
    for seed in 0..rounds() {
        http2::check(seed);
    }
}

/// What strangers' suites found, and its kind.
const EXAMPLES: &[&str] = &[
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\n",
    "GET /good HTTP/1.1\r\nHost: a\r\n\r\n\n",
    "GET /good HTTP/1.1\r\nHost: a\r\n\r\n\r\r",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0;a\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\na: b\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nG\x01",
    "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.1\nHost: a\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.2\r\n\r\nGET /c HTTP/1.1\r\n\r\n",
    "HEAD /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\nA b: c\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n\n\n\n",
    "GET /a HTTP/1.0\r\nHost: a\r\n\r\n\n\n\n",
    "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\n\n\n",
];

#[test]
fn a_refusal_changes_loses_and_completes_nothing_wherever_the_bytes_are_torn() {
    for example in EXAMPLES {
        for at in 0..example.len() {
            request::check_torn(example.as_bytes(), &[at]);
            for second in at..example.len() {
                request::check_torn(example.as_bytes(), &[at, second]);
            }
        }
    }
}

/// That the test above can fail.
#[test]
fn a_refusal_before_its_turn_is_noticed() {
    proxy::mutant::plant(Some(proxy::mutant::Mutant::RefusesBeforeItsTurn));
    let noticed = std::panic::catch_unwind(|| {
        for example in EXAMPLES {
            request::check_slow(example.as_bytes(), &[]);
        }
    });
    proxy::mutant::plant(None);
    assert!(noticed.is_err());
    for example in EXAMPLES {
        request::check_slow(example.as_bytes(), &[]);
    }
}
