use super::*;
use proptest::prelude::*;

/// Reads all of `bytes`, which may be several messages.
fn read(reader: &mut Reader, bytes: &[u8]) -> Result<(), Rejection> {
    let mut at = 0;
    while at < bytes.len() {
        let refused = |refused: Rejection| Rejection { good: at + refused.good, ..refused };
        at += reader.read(&bytes[at..]).map_err(refused)?;
    }
    Ok(())
}

/// What is wrong with `bytes` in pieces of `size`.
fn judge(bytes: &[u8], size: usize) -> Result<(), (Kind, &'static str)> {
    let mut reader = Reader::new(Http1::default());
    let judged = bytes.chunks(size).try_for_each(|piece| read(&mut reader, piece));
    judged.map_err(|refused| (refused.error.kind, refused.error.what))
}

/// The whole of `bytes` in pieces of `size`; whether all of it passed.
fn passes(bytes: &[u8], size: usize) -> bool {
    judge(bytes, size).is_ok()
}

const FINE: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  4 \r\n\r\n\n\n\n\nGET / HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=y\r\n\n\n\n\n\n\n\n\n\n\n\r\n0\r\na: b\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 1                        \r\n\r\n\n",
    "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n\n\n\n",
    "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\n\n\n",
];

const AMBIGUOUS: &[&str] = &[
    "GET / HTTP/1.1\nHost: a\r\n\r\n",
    "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n\n\n\n",
    "GET / HTTP/1.1\r\nUpgrade: \th2c                        \r\n\r\n\n\n\n",
    "connect / HTTP/1.1\r\nHost: a\r\n\r\n\n\n\n",
    "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 9999999999999999999999\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naa\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\na\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b\n\r\n",
];

#[test]
fn it_makes_no_difference_how_the_bytes_arrive() {
    for size in 1..40 {
        for bytes in FINE {
            assert!(passes(bytes.as_bytes(), size), "{size} {bytes:?}");
        }
        for bytes in AMBIGUOUS {
            assert!(!passes(bytes.as_bytes(), size), "{size} {bytes:?}");
        }
    }
}

#[test]
fn what_comes_before_an_offence_is_handed_over_wherever_the_bytes_are_torn() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let chunks = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello";
    for (whole, bad) in [
        (get, "\n"),
        (get, "\rX"),
        (get, "GET / HTTP/1.1\nHost: a\r\n\r\n"),
        (post, "\n"),
        (post, "GET /#a HTTP/1.1\r\n\r\n"),
        (post, "G\0"),
    ] {
        let bytes = [whole, bad].concat();
        for at in 0..bytes.len() {
            let mut reader = Reader::new(Http1::default());
            let (first, second) = bytes.as_bytes().split_at(at);
            match read(&mut reader, first) {
                Err(refused) => assert_eq!(refused.good, whole.len(), "{bytes:?} {at}"),
                // The first part of a head that is torn is with hyper, which never sees its end.
                Ok(()) => {
                    let refused = read(&mut reader, second).unwrap_err();
                    assert_eq!(at + refused.good, at.max(whole.len()), "{bytes:?} {at}");
                }
            }
        }
    }
    let bytes = [chunks, "X"].concat();
    for at in 0..bytes.len() {
        let mut reader = Reader::new(Http1::default());
        let (first, second) = bytes.as_bytes().split_at(at);
        read(&mut reader, first).unwrap();
        let refused = read(&mut reader, second).unwrap_err();
        let head = chunks.find("5\r\n").unwrap();
        assert_eq!(refused.error.in_body, at >= head, "{at}");
        assert_eq!(at + refused.good, if at >= head { chunks.len() } else { at }, "{at}");
    }
}

#[test]
fn a_head_is_as_large_as_it_may_be_and_no_larger() {
    let limits = Http1 { header_bytes: 60, headers: 2, ..Http1::default() };
    let head = |fields: &str, pad: usize| format!("GET /{} HTTP/1.1\r\n{fields}\r\n", "x".repeat(pad));
    for (bytes, expected) in [
        (head("a: b\r\nc: d\r\n", 0), None),
        (head("a: b\r\nc: d\r\ne: f\r\n", 0), Some(Kind::HeadersTooLarge)),
        (head("a: b\r\n", 60 - head("a: b\r\n", 0).len()), None),
        (head("a: b\r\n", 61 - head("a: b\r\n", 0).len()), Some(Kind::HeadersTooLarge)),
        ("\r\n".repeat(21) + &head("", 2), Some(Kind::HeadersTooLarge)),
    ] {
        for size in 1..bytes.len() {
            let mut reader = Reader::new(limits);
            let judged = bytes.as_bytes().chunks(size).try_for_each(|piece| read(&mut reader, piece));
            assert_eq!(judged.err().map(|refused| refused.error.kind), expected, "{bytes:?} {size}");
        }
        // What was counted for one does not count for the next.
        let mut reader = Reader::new(limits);
        let twice = bytes.repeat(2);
        assert_eq!(read(&mut reader, twice.as_bytes()).is_ok(), expected.is_none(), "{bytes:?}");
    }
}

#[test]
fn reading_stops_at_the_end_of_a_message_and_an_empty_line_is_none() {
    let first = "\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
    let second = "\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let tunnel = "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\nG";
    let bytes = [first, second, tunnel].concat();
    let (mut reader, mut at) = (Reader::new(Http1::default()), 0);
    for message in [first, second, tunnel] {
        assert_eq!(reader.read(&bytes.as_bytes()[at..]), Ok(message.len()));
        assert!(reader.is_between_requests());
        at += message.len();
    }
    assert_eq!(reader.read(b"\r\n"), Ok(2), "nothing that follows a tunnel is read");
    assert_eq!(Reader::new(Http1::default()).read(b"\r\n"), Ok(2));
}

#[test]
fn the_answer_to_what_is_no_request_has_a_body_whatever_was_asked_before() {
    let head = b"HEAD / HTTP/1.1\r\n\r\n";
    for (bytes, is_head) in [("\n", false), ("\rX", false), ("HEAD\n", false), ("HEAD / HTTP/1.1\n", true)] {
        let mut reader = Reader::new(Http1::default());
        assert_eq!(reader.read(head), Ok(head.len()));
        assert_eq!(reader.read(bytes.as_bytes()).unwrap_err().error.is_head, is_head, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_get_one_judgement(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), any::<u8>()], 0..64),
        size in 1..9_usize,
        fine in 0..FINE.len(),
    ) {
        let bytes = [FINE[fine].as_bytes(), &bytes].concat();
        prop_assert_eq!(judge(&bytes, size), judge(&bytes, bytes.len()));
    }
}
