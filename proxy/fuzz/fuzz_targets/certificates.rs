//! Certificates of strangers, in files, in handshakes and from an agent: nothing panics, a mistake
//! is pointed at within its file, and whatever is done to a good certificate or a good message of
//! an agent, only what the root has signed is believed. The first byte says what the rest is: a
//! file of PEM, a chain in DER, changes of a good certificate, a message of an agent, or changes of
//! a good one.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use proxy::ca::issue::{self, Leaf};
use proxy::grpc::message::put_bytes;
use proxy::identity::{SpiffeId, workload_api};
use proxy::tls::pem::{self, PemFile};
use proxy::tls::trust::{PeerSide, TrustBundle, unix_time};
use proxy::world::{RngTree, Wall, World, crypto};
use rustls_pki_types::CertificateDer;

const HOUR: Duration = Duration::from_secs(3600);

/// A clock that stands still.
struct Still;

impl Wall for Still {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }
}

/// A workload with a certificate, and who has signed it.
struct Good {
    id: SpiffeId,
    roots: String,
    root: Vec<u8>,
    certificate: Vec<u8>,
    message: Vec<u8>,
    world: World<()>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let id: SpiffeId = "spiffe://td/ns/shop/sa/web".parse().expect("an id");
    let now = Still.now();
    let (authority, key) = (crypto::system_key().expect("a key"), crypto::system_key().expect("a key"));
    let root = issue::root("td", &authority, now, 100 * HOUR).expect("a root");
    let leaf = Leaf { id: &id, serial: &[1], now, lifetime: HOUR };
    let own = issue::own(&root, &key, &leaf).expect("a certificate");
    let roots = root.certificate;
    let (certificate, root) = (der(&own), der(&roots));
    let (mut svid, mut message) = (Vec::new(), Vec::new());
    let key = key.serialize_der();
    for (number, value) in [(1, id.as_str().as_bytes()), (2, &certificate), (3, &key), (4, &root)] {
        put_bytes(&mut svid, number, value);
    }
    put_bytes(&mut message, 1, &svid);
    let world = World::new((), Still, RngTree::new(1));
    assert!(workload_api::credentials(&message, &id, &world).is_ok());
    Good { id, roots, root, certificate, message, world }
});

fn der(text: &str) -> Vec<u8> {
    let file = PemFile { path: Path::new("a.pem"), text };
    pem::certificates(&file).expect("PEM").remove(0).1.to_vec()
}

/// Bytes with changes: where (2), and to what (1).
fn changed(good: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % bytes.len();
        bytes[at] = change[2];
    }
    bytes
}

fn verify(chain: &[CertificateDer<'_>]) -> bool {
    let good = &*GOOD;
    let algorithms = good.world.crypto.signature_verification_algorithms;
    let file = PemFile { path: Path::new("a.pem"), text: &good.roots };
    let trust = TrustBundle::of_pem(&file, None, algorithms).expect("a bundle");
    let Some((own, others)) = chain.split_first() else { return false };
    let now = unix_time(Still.now());
    let sides = [PeerSide::Client, PeerSide::Server];
    let believed = sides.map(|side| trust.verify(own, others, side, "td", now));
    for id in believed.iter().flatten() {
        assert_eq!(*id, good.id);
    }
    believed.iter().any(Result::is_ok)
}

/// What is believed of an agent.
fn ask(message: &[u8]) {
    let good = &*GOOD;
    if let Ok(credentials) = workload_api::credentials(message, &good.id, &good.world) {
        assert_eq!(credentials.id, good.id);
        assert!(credentials.is_trusted(Still.now()));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 5 {
        0 => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let file = PemFile { path: Path::new("a.pem"), text };
            let lines = text.lines().count().max(1);
            let algorithms = GOOD.world.crypto.signature_verification_algorithms;
            let wrong = [
                pem::certificates(&file).err(),
                pem::revocation_lists(&file).err(),
                pem::private_key(&file).err(),
                TrustBundle::of_pem(&file, None, algorithms).err(),
            ];
            for error in wrong.into_iter().flatten() {
                assert!((1..=lines).contains(&error.line), "{error}");
            }
        }
        1 => {
            let (own, other) = bytes.split_at(bytes.len() / 2);
            verify(&[
                CertificateDer::from(own),
                CertificateDer::from(other),
                CertificateDer::from(&GOOD.root[..]),
            ]);
            verify(&[CertificateDer::from(bytes)]);
        }
        2 => {
            let certificate = changed(&GOOD.certificate, bytes);
            let is_good = certificate == GOOD.certificate;
            assert_eq!(verify(&[CertificateDer::from(certificate)]), is_good);
        }
        3 => ask(bytes),
        _ => ask(&changed(&GOOD.message, bytes)),
    }
});
