//! The whole of [`detect`] on a stream that brings the bytes in pieces: nothing is lost, doubled or
//! put in another order, and the answer does not depend on the pieces. The first byte says how
//! large they are.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proxy::detect::{Detection, detect};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

fuzz_target!(|input: &[u8]| {
    let Some((pieces, bytes)) = input.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let run = |size: usize| {
        runtime.block_on(async {
            let (mut client, server) = duplex(size);
            let send = async {
                client.write_all(bytes).await.unwrap();
                drop(client);
            };
            let look = async {
                let mut found = detect(server, Duration::from_secs(1)).await.unwrap();
                let mut all = Vec::new();
                found.client.read_to_end(&mut all).await.unwrap();
                (found.outcome, found.hello, all)
            };
            let ((), (outcome, hello, all)) = tokio::join!(send, look);
            assert!(all == bytes, "{} bytes became {}", bytes.len(), all.len());
            assert_eq!(outcome == Detection::Closed, bytes.is_empty());
            (outcome, hello)
        })
    };
    assert_eq!(run(usize::from(*pieces) + 1), run(1 << 16));
});
