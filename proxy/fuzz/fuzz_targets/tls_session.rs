//! [`Session`] against another one, with somebody between them who passes bytes on in pieces and
//! forges what the input says: nothing panics, whoever reads something reads what was written, and
//! what nobody forged arrives whole.
#![no_main]

use std::cell::{Cell, RefCell};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use proxy::tls::Session;
use rcgen::{CertificateParams, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, split};
use tokio::time::timeout;

/// What happens to one direction.
#[derive(Arbitrary, Debug)]
struct Direction {
    /// How many bytes are written in all, and in one piece.
    length: u16,
    written: u16,
    /// How many are read in one piece.
    read: u16,
    /// How many are passed on in one piece.
    passed: u8,
    forgeries: Vec<Forgery>,
}

/// What is done to the bytes behind the last forgery.
#[derive(Arbitrary, Debug)]
struct Forgery {
    after: u16,
    what: What,
}

#[derive(Arbitrary, Debug)]
enum What {
    Change(u8),
    Leave(u8),
    Insert(Vec<u8>),
    Repeat(u8),
    Cut,
}

static PARTIES: LazyLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["peer".to_owned()]).unwrap().self_signed(&key).unwrap();
    let chain = vec![certificate.der().clone()];
    let key = || PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls13 = [&rustls::version::TLS13];
    let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&tls13).unwrap();
    let mut client =
        client.with_root_certificates(roots.clone()).with_client_auth_cert(chain.clone(), key()).unwrap();
    client.resumption = rustls::client::Resumption::disabled();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().unwrap();
    let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&tls13).unwrap();
    let server = server.with_client_cert_verifier(verifier).with_single_cert(chain, key()).unwrap();
    (client.into(), server.into())
});

/// Passes bytes on and forges some; says so in `has_forged`.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: &Direction,
    has_forged: &Cell<bool>,
) {
    let mut forgeries = direction.forgeries.iter();
    let mut forgery = forgeries.next();
    let mut before = forgery.map_or(0, |forgery| usize::from(forgery.after));
    let mut piece = vec![0; usize::from(direction.passed) + 1];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        let mut piece = piece[..n].to_vec();
        let mut at = 0;
        while let Some(due) = forgery.filter(|_| at + before < piece.len()) {
            at += before;
            has_forged.set(true);
            match &due.what {
                What::Change(by) => {
                    piece[at] ^= by | 1;
                    at += 1;
                }
                What::Leave(count) => {
                    let end = piece.len().min(at + 1 + usize::from(*count));
                    piece.drain(at..end);
                }
                What::Insert(bytes) => {
                    piece.splice(at..at, bytes.iter().copied().chain([0]));
                    at += bytes.len() + 1;
                }
                What::Repeat(count) => {
                    let end = piece.len().min(at + 1 + usize::from(*count));
                    let again = piece[at..end].to_vec();
                    at = end + again.len();
                    piece.splice(end..end, again);
                }
                What::Cut => {
                    let _ = to.write_all(&piece[..at]).await;
                    let _ = to.shutdown().await;
                    return;
                }
            }
            forgery = forgeries.next();
            before = forgery.map_or(0, |forgery| usize::from(forgery.after));
        }
        before = before.saturating_sub(piece.len() - at);
        if to.write_all(&piece).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// What somebody has read.
#[derive(Default)]
struct Heard {
    bytes: RefCell<Vec<u8>>,
    /// That was all.
    ended: Cell<bool>,
}

/// Writes and reads what the two directions say.
async fn converse(
    session: std::io::Result<Session<impl AsyncRead + AsyncWrite + Unpin>>,
    out: &Direction,
    back: &Direction,
    heard: &Heard,
) {
    let Ok(session) = session else { return };
    let (mut reads, mut writes) = split(session);
    let write = async {
        for piece in bytes(out.length).chunks(usize::from(out.written) + 1) {
            writes.write_all(piece).await?;
        }
        writes.shutdown().await
    };
    let read = async {
        let mut piece = vec![0; usize::from(back.read) + 1];
        loop {
            match reads.read(&mut piece).await? {
                0 => return Ok(heard.ended.set(true)),
                n => heard.bytes.borrow_mut().extend_from_slice(&piece[..n]),
            }
        }
    };
    // Either error is the end of both.
    let _ = tokio::try_join!(write, read);
}

fn bytes(n: u16) -> Vec<u8> {
    (0..u32::from(n)).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
}

fuzz_target!(|directions: (Direction, Direction)| {
    let (up, down) = &directions;
    let (heard, answered, has_forged) = (Heard::default(), Heard::default(), Cell::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let (client, near) = duplex(1 << 10);
        let (far, server) = duplex(1 << 10);
        let client = async {
            let name = ServerName::try_from("peer").unwrap();
            converse(Session::connect(client, PARTIES.0.clone(), name).await, up, down, &answered).await;
        };
        let server = async {
            converse(Session::accept(server, PARTIES.1.clone()).await, down, up, &heard).await;
        };
        let (near_reads, near_writes) = split(near);
        let (far_reads, far_writes) = split(far);
        let up = pass(near_reads, far_writes, up, &has_forged);
        let down = pass(far_reads, near_writes, down, &has_forged);
        let all = async { tokio::join!(client, server, up, down) };
        // Of bytes that are missing nobody can know that they do not come.
        let is_stuck = timeout(Duration::from_secs(60), all).await.is_err();
        assert!(has_forged.get() || !is_stuck, "nobody waits for ever");
    });
    for (heard, direction) in [(heard, up), (answered, down)] {
        let (written, all) = (bytes(direction.length), heard.bytes.take());
        assert!(written.starts_with(&all), "what nobody wrote");
        assert!(!heard.ended.get() || written == all, "an end that nobody wrote");
        assert!(has_forged.get() || heard.ended.get(), "not all that was written");
    }
});
