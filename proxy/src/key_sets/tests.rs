use std::cell::Cell;
use std::fs;

use super::*;
use crate::authz::fake::{Signer, jwks};
use crate::config::parse;
use crate::world::fake::{FakeNet, run as run_test};
use crate::world::{RngTree, SystemWall};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

fn table(jwks: &str) -> (Arc<ArcSwap<Table>>, Arc<Metrics>) {
    let text = format!("service = 'web'\n[[jwt]]\nname = 'idp'\nissuer = 'i'\njwks = {{ {jwks} }}");
    let snapshot = Arc::new(parse("sidecar.toml", &text).unwrap());
    let metrics = Arc::new(Metrics::default());
    let table = Table::new(snapshot, None, &metrics, Instant::now());
    (Arc::new(ArcSwap::from_pointee(table)), metrics)
}

fn keys(table: &ArcSwap<Table>) -> Arc<IssuerKeys> {
    table.load().authorization.issuers.iter().next().unwrap().keys.clone()
}

/// Answers one request.
async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin, status: u16, body: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(io.read_buf(&mut head).await.unwrap() > 0);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /keys?v=1 HTTP/1.1\r\nhost: 10.0.0.1:8080\r\n"), "{head}");
    let length = body.len();
    let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
    io.write_all(text.as_bytes()).await.unwrap();
}

const URL: &str = "url = 'http://10.0.0.1:8080/keys?v=1', stale_after = '1h'";

#[tokio::test(start_paused = true)]
async fn a_key_set_is_fetched_again_and_again_and_survives_a_server_that_fails() {
    let (net, begun) = (FakeNet::default(), Instant::now());
    let (table, metrics) = table(URL);
    let keys = keys(&table);
    let running = run(World::new(net.clone(), SystemWall, RngTree::new(1)), table, metrics.clone());
    let fetches = Cell::new(0);
    let story = async {
        let next = async || {
            let io = net.accept().await;
            fetches.set(fetches.get() + 1);
            io
        };
        assert!(keys.set().is_none());
        answer(next().await, 200, &jwks(&[Signer::A])).await;
        let second = next().await;
        assert_eq!(keys.set().unwrap().len(), 1);
        assert!((540..=600).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        answer(second, 200, &jwks(&[Signer::A, Signer::B])).await;
        let useless = jwks(&[Signer::Ed]).replace("yZnM", "");
        for (status, body) in [
            (500, String::new()),
            (200, "{\"keys\":[]}".into()),
            (200, useless),
            (200, "x".repeat(JWKS_BYTES + 1)),
        ] {
            answer(next().await, status, &body).await;
            tokio::task::yield_now().await;
            assert_eq!(keys.set().unwrap().len(), 2, "what was in force stays");
        }
        // From here on it closes each connection.
        while keys.set().is_some() {
            tokio::select! {
                io = next() => drop(io),
                () = sleep(Duration::from_secs(10)) => {}
            }
        }
        assert!((4100..=4300).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        assert!(keys.in_trouble().unwrap().contains("too old"), "{:?}", keys.in_trouble());
        answer(next().await, 200, &jwks(&[Signer::B])).await;
        while keys.set().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(keys.in_trouble(), None);
        assert!(fetches.get() < 120, "{}", fetches.get());
    };
    run_test(async {
        tokio::select! {
            () = running => unreachable!("it runs for ever"),
            () = story => {}
        }
    })
    .await;
    let text = metrics.text();
    assert!(text.contains("proxy_jwks_keys{provider=\"idp\"} 1\n"), "{text}");
    assert!(text.contains("proxy_jwks_fetches_total{provider=\"idp\",result=\"rejected\"} 2\n"), "{text}");
}

#[tokio::test]
async fn a_file_is_followed_and_a_wrong_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let (table, metrics) = table(&format!("file = '{}'", path.display()));
    let keys = keys(&table);
    let running = run(World::new(FakeNet::default(), SystemWall, RngTree::new(1)), table, metrics);
    let until = async |holds: &dyn Fn() -> bool| {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let story = async {
        until(&|| keys.in_trouble().is_some_and(|why| why.contains("No such file"))).await;
        fs::write(&path, jwks(&[Signer::A])).unwrap();
        until(&|| keys.set().is_some_and(|set| set.len() == 1)).await;
        assert_eq!(keys.in_trouble(), None);
        fs::write(&path, "{\n  \"keys\": 7\n}").unwrap();
        until(&|| keys.in_trouble().is_some_and(|why| why.contains("keys.json") && why.contains("line 2")))
            .await;
        assert_eq!(keys.set().unwrap().len(), 1);
        fs::write(&path, jwks(&[Signer::A, Signer::Rsa])).unwrap();
        until(&|| keys.set().is_some_and(|set| set.len() == 2)).await;
    };
    run_test(async {
        tokio::select! {
            () = running => unreachable!("it runs for ever"),
            done = timeout(Duration::from_secs(30), story) => done.expect("every change is noticed"),
        }
    })
    .await;
}

/// A root, as PEM, and a server that it has certified for these names and addresses.
fn certified(names: &[&str]) -> (String, TlsAcceptor) {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let text = root.self_signed(&root_key).unwrap().pem();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(crate::world::crypto::system())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (text, TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_tls_has_to_prove_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roots.pem");
    let (net, file) = (FakeNet::default(), path.display());
    let (table, metrics) = table(&format!("url = 'https://10.0.0.1:8080/keys?v=1', roots = '{file}'"));
    let keys = keys(&table);
    let running = run(World::new(net.clone(), SystemWall, RngTree::new(1)), table, metrics);
    let (root, good) = certified(&["10.0.0.1"]);
    let (_, stranger) = certified(&["10.0.0.1"]);
    let story = async {
        let trouble = async |server: &TlsAcceptor, why: &str| {
            let io = net.accept().await;
            // It may be given up before a byte was sent.
            let _ = server.accept(io).await;
            sleep(Duration::from_millis(1)).await;
            let told = keys.in_trouble().unwrap();
            assert!(told.contains(why), "{told}, not {why}");
            assert!(keys.set().is_none());
        };
        trouble(&good, "roots.pem").await;
        fs::write(&path, "nothing").unwrap();
        trouble(&good, "no root in it").await;
        fs::write(&path, &root).unwrap();
        trouble(&stranger, "it is not signed by the key that it says").await;
        let (other, somebody_else) = certified(&["10.0.0.2"]);
        fs::write(&path, format!("{root}{other}")).unwrap();
        trouble(&somebody_else, "not valid for").await;
        let io = good.accept(net.accept().await).await.unwrap();
        answer(io, 200, &jwks(&[Signer::A])).await;
        while keys.set().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(keys.in_trouble(), None);
    };
    run_test(async {
        tokio::select! {
            () = running => unreachable!("it runs for ever"),
            () = story => {}
        }
    })
    .await;
}
