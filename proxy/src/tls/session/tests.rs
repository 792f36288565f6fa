//! Against the streams of another library, over pipes of any width.

use std::io::Write as _;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::*;

/// How both sides prove who they are: with one certificate.
struct Parties {
    client: Arc<ClientConfig>,
    /// It shows no certificate.
    stranger: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Parties {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["peer".to_owned()]).unwrap().self_signed(&key).unwrap();
        let chain = vec![certificate.der().clone()];
        let key = || PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let roots = Arc::new(roots);
        let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls13 = [&rustls::version::TLS13];
        let client = || {
            let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&tls13);
            client.unwrap().with_root_certificates(roots.clone())
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
        let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&tls13).unwrap();
        let server = server.with_client_cert_verifier(verifier.unwrap());
        let mut server = server.with_single_cert(chain.clone(), key()).unwrap();
        // A client whose handshake is over does not read a ticket before it reads anything else.
        server.send_tls13_tickets = 0;
        Parties {
            client: client().with_client_auth_cert(chain.clone(), key()).unwrap().into(),
            stranger: client().with_no_client_auth().into(),
            server: server.into(),
        }
    }

    /// A session of ours as the client or the server, and its peer, over a pipe of some width.
    async fn meet(&self, is_client: bool, width: usize) -> (Session<DuplexStream>, TlsStream<DuplexStream>) {
        let (near, far) = duplex(width);
        let name = || ServerName::try_from("peer").unwrap();
        if is_client {
            let peer = TlsAcceptor::from(self.server.clone());
            let met = tokio::join!(Session::connect(near, self.client.clone(), name()), peer.accept(far));
            (met.0.unwrap(), met.1.unwrap().into())
        } else {
            let peer = TlsConnector::from(self.client.clone());
            let met = tokio::join!(Session::accept(near, self.server.clone()), peer.connect(name(), far));
            (met.0.unwrap(), met.1.unwrap().into())
        }
    }
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let limit = std::time::Duration::from_secs(60);
    runtime.unwrap().block_on(async { tokio::time::timeout(limit, test).await.expect("it ends") })
}

/// Of which no two places look alike.
fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
}

/// Writes `all` in pieces of the given lengths, two slices at a time, and then says that this was
/// all.
async fn write(io: &mut (impl AsyncWrite + Unpin), all: &[u8], pieces: &[usize]) {
    let mut left = all;
    for piece in pieces.iter().cycle() {
        if left.is_empty() {
            break;
        }
        let (now, _) = left.split_at(left.len().min(*piece));
        let (first, second) = now.split_at(now.len() / 3);
        let slices = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(second)];
        let written = poll_fn(|cx| Pin::new(&mut *io).poll_write_vectored(cx, &slices)).await.unwrap();
        assert!((1..=now.len()).contains(&written));
        left = &left[written..];
    }
    io.shutdown().await.unwrap();
}

async fn read(io: &mut (impl AsyncRead + Unpin), pieces: &[usize]) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in pieces.iter().cycle() {
        let mut piece = vec![0; *piece];
        match io.read(&mut piece).await.unwrap() {
            0 => break,
            n => all.extend_from_slice(&piece[..n]),
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_that_is_written_arrives_in_both_directions_at_once_whatever_the_pieces(
        is_client: bool,
        width in prop_oneof![1_usize..40, 1_usize..70_000],
        lengths in (0_usize..200_000, 0_usize..200_000),
        pieces in prop::collection::vec(prop_oneof![1_usize..20, 1_usize..100_000], 1..5),
    ) {
        let lengths = if width < 100 { (lengths.0 / 50, lengths.1 / 50) } else { lengths };
        run(async {
            let (near, far) = Parties::new().meet(is_client, width).await;
            let (out, back) = (bytes(lengths.0), bytes(lengths.1));
            let (mut near_reads, mut near_writes) = tokio::io::split(near);
            let (mut far_reads, mut far_writes) = tokio::io::split(far);
            let (heard, answered, (), ()) = tokio::join!(
                read(&mut far_reads, &[70_000]),
                read(&mut near_reads, &pieces),
                write(&mut near_writes, &out, &pieces),
                write(&mut far_writes, &back, &[20_000]),
            );
            assert!(heard == out && answered == back);
        });
    }
}

/// Sends a word each way.
async fn exchange(near: &mut Session<DuplexStream>, far: &mut TlsStream<DuplexStream>) {
    let mut heard = [0; 4];
    far.write_all(b"ping").await.unwrap();
    far.flush().await.unwrap();
    near.read_exact(&mut heard).await.unwrap();
    near.write_all(&heard).await.unwrap();
    near.flush().await.unwrap();
    far.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
}

/// Waits for more, which does not come.
async fn wait(near: &mut Session<DuplexStream>) {
    let waiting = tokio::time::timeout(std::time::Duration::from_secs(1), near.read_u8());
    assert!(waiting.await.is_err(), "nothing comes");
}

#[test]
fn a_session_that_waits_has_no_buffers() {
    run(async {
        for is_client in [true, false] {
            let (mut near, mut far) = Parties::new().meet(is_client, 70_000).await;
            for _ in 0..3 {
                exchange(&mut near, &mut far).await;
                wait(&mut near).await;
                let buffers = [&near.incoming, &near.outgoing].map(|held| held.buffer.capacity());
                assert_eq!((buffers, near.plaintext.capacity()), ([0; 2], 0));
            }
        }
    });
}

#[test]
fn a_session_that_waits_for_the_rest_of_a_record_holds_what_has_come_of_it() {
    run(async {
        let (mut near, far) = Parties::new().meet(true, 70_000).await;
        let (mut io, mut far) = match far {
            TlsStream::Client(far) => panic!("not asked for: {far:?}"),
            TlsStream::Server(far) => far.into_inner(),
        };
        far.writer().write_all(&bytes(FRAGMENT)).unwrap();
        let mut sealed = Vec::new();
        far.write_tls(&mut sealed).unwrap();
        let (half, rest) = sealed.split_at(sealed.len() / 2);
        io.write_all(half).await.unwrap();
        let mut room = vec![0; SHARED];
        let waiting = tokio::time::timeout(std::time::Duration::from_secs(1), near.read(&mut room));
        assert!(waiting.await.is_err(), "half a record is nothing");
        assert_eq!(near.incoming.buffer.capacity(), half.len());
        io.write_all(rest).await.unwrap();
        assert_eq!(near.read(&mut room).await.unwrap(), FRAGMENT);
        wait(&mut near).await;
        assert_eq!(near.incoming.buffer.capacity(), 0);
    });
}

#[test]
fn a_reader_of_bulk_gets_four_records_at_once() {
    run(async {
        let (mut near, mut far) = Parties::new().meet(true, 1 << 20).await;
        let sent = bytes(RECORDS * FRAGMENT);
        far.write_all(&sent).await.unwrap();
        far.flush().await.unwrap();
        let mut room = vec![0; sent.len()];
        assert_eq!(near.read(&mut room).await.unwrap(), sent.len());
        assert_eq!(room, sent);
    });
}

#[test]
fn either_side_changes_its_keys_when_it_likes() {
    run(async {
        for is_client in [true, false] {
            let (mut near, mut far) = Parties::new().meet(is_client, 70_000).await;
            for _ in 0..3 {
                exchange(&mut near, &mut far).await;
                match &mut far {
                    TlsStream::Client(far) => far.get_mut().1.refresh_traffic_keys().unwrap(),
                    TlsStream::Server(far) => far.get_mut().1.refresh_traffic_keys().unwrap(),
                }
                exchange(&mut near, &mut far).await;
                wait(&mut near).await;
            }
        }
    });
}

#[test]
fn the_end_of_a_direction_is_not_that_of_the_other_and_differs_from_a_cut() {
    run(async {
        let (mut near, mut far) = Parties::new().meet(true, 70_000).await;
        far.shutdown().await.unwrap();
        assert_eq!(near.read(&mut [0; 9]).await.unwrap(), 0);
        near.write_all(b"still").await.unwrap();
        near.shutdown().await.unwrap();
        assert_eq!(near.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut heard = String::new();
        far.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "still");

        let (mut near, far) = Parties::new().meet(true, 70_000).await;
        drop(far);
        assert_eq!(near.read(&mut [0; 9]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_record_that_nobody_encrypted_ends_it_and_the_peer_is_told() {
    run(async {
        let (mut near, mut far) = Parties::new().meet(false, 70_000).await;
        exchange(&mut near, &mut far).await;
        let forged = [&[23, 3, 3, 0, 32][..], &[7; 32]].concat();
        let TlsStream::Client(far) = &mut far else { unreachable!() };
        far.get_mut().0.write_all(&forged).await.unwrap();
        for _ in 0..2 {
            let error = near.read(&mut [0; 9]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(near.write(b"x").await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let told = far.read(&mut [0; 9]).await.unwrap_err();
        assert!(told.to_string().contains("BadRecordMac"), "{told}");
    });
}

#[test]
fn a_server_does_not_take_a_client_in_that_has_proved_nothing() {
    run(async {
        let (parties, (near, far)) = (Parties::new(), duplex(70_000));
        let stranger = TlsConnector::from(parties.stranger.clone());
        let stranger = async {
            let mut stranger = stranger.connect(ServerName::try_from("peer").unwrap(), far).await?;
            stranger.write_all(b"hello").await?;
            stranger.read_u8().await
        };
        let (server, stranger) = tokio::join!(Session::accept(near, parties.server.clone()), stranger);
        assert!(server.unwrap_err().to_string().contains("peer sent no certificates"));
        let told = stranger.unwrap_err().to_string();
        assert!(told.contains("CertificateRequired"), "{told}");
    });
}

#[test]
fn a_handshake_that_breaks_off_is_an_error() {
    run(async {
        let (near, far) = duplex(70_000);
        drop(far);
        let error = Session::accept(near, Parties::new().server).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    });
}
