//! [`Preface`] on any bytes behind a handshake, in pieces: nothing panics, what is read is what the
//! bytes say wherever they are cut, nothing behind it is taken, and what is understood is written as
//! it was read. The first byte says how large the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::tls::Preface;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

fuzz_target!(|input: &[u8]| {
    let Some((pieces, bytes)) = input.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let run = |size: usize| {
        runtime.block_on(async {
            let (mut client, mut server) = duplex(size);
            let send = async {
                // Whoever refuses it hangs up.
                let _ = client.write_all(bytes).await;
                drop(client);
            };
            let read = async {
                let preface = Preface::read(&mut server).await;
                let mut behind = Vec::new();
                if preface.is_ok() {
                    server.read_to_end(&mut behind).await.unwrap();
                }
                drop(server);
                (preface.map_err(|error| error.to_string()), behind)
            };
            tokio::join!(send, read).1
        })
    };
    let (preface, behind) = run(usize::from(*pieces) + 1);
    assert_eq!((&preface, &behind), (&run(1 << 16).0, &run(1 << 16).1));
    if let Ok(preface) = preface {
        assert!(bytes.ends_with(&behind));
        let fields = &bytes[2..bytes.len() - behind.len()];
        assert_eq!(fields.len(), usize::from(bytes[1]));
        assert_eq!(Preface::decode(fields), Ok(preface));
        assert_eq!(Preface::decode(&preface.encode()[2..]), Ok(preface));
    }
});
