//! The certificate authority and its clients, over loopback.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use proxy::ca::authority::{self, Authority, AuthorityError, Proof, Settings};
use proxy::ca::roots::Lifetimes;
use proxy::ca::token::{AuthorityToken, Bearer};
use proxy::ca::wire::{Bundle, IssuedCertificate, Revocation};
use proxy::ca::{self, IssuedRecord};
use proxy::config::defaults::{CA_ANSWER, CA_CERTIFICATES};
use proxy::config::{CaClient, Identity, IdentitySource};
use proxy::http::fetch::fetch;
use proxy::identity::{self, SpiffeId};
use proxy::telemetry::Metrics;
use proxy::tls::{self, Alpn, Shown, TlsContext, TlsStore, Validity};
use proxy::world::{Disk, KernelDisk, KernelNet, Listener, Net, RngTree, SystemWall, Wall, World, seconds};
use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{advance, sleep};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer};

use crate::common::authority::now;
use crate::common::*;

const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
const ORDERS: &str = "spiffe://mesh.test/ns/shop/sa/orders";
const HOUR: Duration = Duration::from_secs(3600);
/// Certificates that a workload may have.
const MOST: usize = 50;
/// A certificate whose life a test can wait for.
const SHORT: Duration = Duration::from_secs(2);

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn settings(workload: Duration) -> Settings {
    let lifetimes = Lifetimes { workload, root: 1000 * HOUR };
    Settings { trust_domain: "mesh.test".into(), lifetimes, per_workload: MOST }
}

fn world(disk: impl Disk) -> World<KernelNet> {
    World::new(KernelNet::default(), SystemWall, RngTree::new(1)).with_disk(disk)
}

/// What WEB proves itself with to the authority of `world`.
async fn proof_of_web(world: &World<KernelNet>) -> Proof {
    Proof::Token(authority::token(world, Bearer::Workload(id(WEB)), HOUR).await.unwrap())
}

/// An authority that runs, and the files that its workloads are given.
struct Ca {
    folder: TempDir,
    address: SocketAddr,
    world: World<KernelNet>,
    running: oneshot::Sender<()>,
}

impl Ca {
    async fn start(lifetime: Duration) -> Ca {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        Ca::start_on(tempfile::tempdir().unwrap(), any, lifetime).await
    }

    async fn start_on(folder: TempDir, address: SocketAddr, lifetime: Duration) -> Ca {
        let world = world(KernelDisk::open(folder.path().join("state")).unwrap());
        let authority = Authority::open(&world, settings(lifetime)).await.unwrap();
        fs::write(folder.path().join("roots.pem"), authority.bundle().await.roots).unwrap();
        let listener = world.net.bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (running, stopped) = oneshot::channel();
        let serving = ca::serve::run(world.net.clone(), listener, authority);
        spawn(async {
            tokio::select! {
                () = serving => {}
                _ = stopped => {}
            }
        });
        Ca { folder, address, world, running }
    }

    /// Kills it, and says what it takes to start it again.
    fn kill(self) -> (TempDir, SocketAddr) {
        drop(self.running);
        (self.folder, self.address)
    }

    async fn token(&self, bearer: Bearer) -> String {
        authority::token(&self.world, bearer, HOUR).await.unwrap()
    }

    fn client(&self, name: &str) -> CaClient {
        client(self.address, self.folder.path(), name)
    }

    /// A workload that keeps its certificate up to date.
    async fn workload(&self, name: &str) -> Workload {
        let token = self.token(Bearer::Workload(id(name))).await;
        let ca = self.client(name);
        fs::write(&ca.token, token + "\n").unwrap();
        Workload::start(name, ca)
    }

    /// The answer to a request with this token, if any.
    async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(path).header("host", "ca");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let (trust, expected) = authority::known_by(&self.world).await.unwrap();
        let io = self.world.net.connect(self.address, None).await.unwrap();
        let whom = (self.address, &expected);
        let io = tls::connect_to_authority(&self.world, io, whom, Arc::new(trust), None).await.unwrap();
        let answer = fetch(io, request, CA_ANSWER).await.unwrap();
        (answer.status(), String::from_utf8(answer.into_body().into()).unwrap())
    }

    async fn operate(&self, path: &str, body: &str) -> String {
        let token = self.token(Bearer::Operator).await;
        let (status, text) = self.ask("POST", path, Some(&token), body).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        text
    }
}

fn client(address: SocketAddr, folder: &Path, name: &str) -> CaClient {
    let token: PathBuf = folder.join(name.replace('/', "_"));
    let refresh = Duration::from_millis(100);
    CaClient { addresses: vec![address], roots: folder.join("roots.pem"), token, refresh }
}

/// A workload.
struct Workload {
    store: Arc<TlsStore>,
    metrics: Arc<Metrics>,
    ca: CaClient,
}

impl Workload {
    fn start(name: &str, ca: CaClient) -> Workload {
        let (store, metrics) = (Arc::new(TlsStore::default()), Arc::new(Metrics::default()));
        let own = Identity { id: id(name), source: IdentitySource::Ca(ca.clone()) };
        let world = World::new(KernelNet::default(), SystemWall, RngTree::new(1));
        spawn(identity::run(world, own, store.clone(), metrics.clone()));
        Workload { store, metrics, ca }
    }

    async fn ready(self) -> Self {
        until("it has a certificate", || self.store.unready().is_none()).await;
        self
    }

    /// Waits until it says that, of why it is not ready.
    async fn says(&self, words: &str) {
        let mut said = None;
        let begun = tokio::time::Instant::now();
        while !said.as_ref().is_some_and(|said: &String| said.contains(words)) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{words}: {said:?}");
            sleep(Duration::from_millis(1)).await;
            said = self.store.unready();
        }
    }

    fn current(&self) -> Arc<TlsContext> {
        self.store.current().unwrap()
    }

    /// When its certificate ends.
    fn end(&self) -> std::time::SystemTime {
        self.current().credentials.not_after
    }
}

/// A connection from one workload to another: what the server proved, and the client.
async fn meet(client: &Workload, server: &Workload, expected: &str) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(1 << 14);
    let expected = id(expected);
    let address = ([127, 0, 0, 1], 1).into();
    let calling = async {
        let mut io = tls::connect(&client.store, near, address, &expected, Alpn::Opaque).await?;
        // Over TLS 1.3 the client hears of a refusal when it reads.
        io.read_u8().await
    };
    let answering = async {
        let (mut io, ..) = tls::accept(&server.store, proxy::detect::Prefixed::unread(far)).await?;
        io.write_u8(1).await
    };
    let (called, answered) = tokio::join!(calling, answering);
    answered.map_err(|error| error.to_string())?;
    called.map(|_| ()).map_err(|error| error.to_string())
}

fn csr(name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
    params.serialize_request(&key).unwrap().pem().unwrap()
}

/// The body of a request for a certificate.
fn asks_for(name: &str) -> String {
    serde_json::json!({ "csr": csr(name) }).to_string()
}

#[test]
fn a_workload_gets_a_certificate_for_its_token_and_from_then_on_for_its_certificate() {
    run(async {
        let ca = Ca::start(SHORT).await;
        let web = ca.workload(WEB).await.ready().await;
        fs::remove_file(&web.ca.token).unwrap();
        let (first, mut last) = (web.end(), web.current());
        let mut seen = 1;
        until("it has renewed it three times", || {
            assert_eq!(web.store.unready(), None, "it never is without one");
            let now = web.current();
            if now.credentials.not_after > last.credentials.not_after {
                (seen, last) = (seen + 1, now);
            }
            seen == 4
        })
        .await;
        assert!(web.end() > first);
        assert!(!web.metrics.text().contains("proxy_certificates_total{result=\"refused\"}"));
    });
}

#[test]
fn who_proves_nothing_or_another_name_gets_nothing() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let web = ca.token(Bearer::Workload(id(WEB))).await;
        let operator = ca.token(Bearer::Operator).await;
        let foreign = AuthorityToken::new(Bearer::Workload(id(WEB)), None, now(), HOUR).sign(b"another key");
        let own = asks_for(WEB);
        let certificates = "/v1/certificates";
        let long = "x".repeat(1 << 17);
        for (method, path, token, body, status, words) in [
            ("POST", certificates, None, &*own, 401, "there is neither a certificate nor a token"),
            ("POST", certificates, Some(&*foreign), &own, 401, "is not one of this authority's"),
            ("POST", certificates, Some("a.b"), &own, 401, "is not one of this authority's"),
            ("POST", certificates, Some(""), &own, 401, "there is neither a certificate nor a token"),
            ("POST", certificates, Some(&operator), &own, 403, "an operator's token"),
            ("POST", certificates, Some(&web), &asks_for(ORDERS), 403, "asks"),
            ("POST", certificates, Some(&web), "{\"csr\": \"nonsense\"}", 400, "not a signed request"),
            ("POST", certificates, Some(&web), "nonsense", 400, "line 1"),
            (
                "POST",
                certificates,
                Some(&web),
                "\"a secret\"",
                400,
                "makes no sense at line 1 column 10: invalid type: string\"",
            ),
            ("POST", certificates, Some(&web), &long, 413, "larger than 65536 bytes"),
            ("DELETE", certificates, Some(&web), "", 405, "not how"),
            ("POST", "/v1/roots", Some(&web), "", 403, "is no operator"),
            ("POST", "/v1/roots", None, "", 401, "neither"),
            ("POST", "/v1/revocations", Some(&web), "{}", 403, "is no operator"),
            ("POST", "/v1/revocations", Some(&operator), "{}", 400, "say whose"),
            ("POST", "/v1/revocations", Some(&operator), "{\"serial\": \"x7\"}", 400, "no serial number"),
            ("GET", certificates, Some(&web), "", 403, "is no operator"),
            ("GET", "/v1/elsewhere", None, "", 404, "no such page"),
            ("GET", "/ready", None, "", 200, "true"),
            ("HEAD", "/ready", None, "", 200, ""),
            ("GET", "/v1/bundle", None, "", 200, "BEGIN CERTIFICATE"),
            ("POST", certificates, Some(&web), &own, 200, "BEGIN CERTIFICATE"),
        ] {
            let (was, text) = ca.ask(method, path, token, body).await;
            assert_eq!(was.as_u16(), status, "{method} {path}: {text}");
            assert!(text.contains(words), "{method} {path}: {text}");
        }
        let own = SpiffeId::of_authority("mesh.test");
        for who in [
            own,
            id("spiffe://mesh.test/sidelab/else"),
            id("spiffe://mesh.test"),
            id("spiffe://other.test/ns/shop/sa/web"),
        ] {
            let error = authority::token(&ca.world, Bearer::Workload(who), HOUR).await.unwrap_err();
            assert!(matches!(error, AuthorityError::Forbidden(_)), "{error}");
        }
    });
}

#[test]
fn an_authority_that_is_away_costs_nothing_until_the_certificate_ends_and_is_found_again() {
    run(async {
        let ca = Ca::start(SHORT).await;
        let web = ca.workload(WEB).await.ready().await;
        let (folder, address) = ca.kill();
        let refused = || web.metrics.text().contains("proxy_certificates_total{result=\"refused\"}");
        until("it could not renew", refused).await;
        assert_eq!(web.store.unready(), None, "the old one is in force");
        until("the certificate has ended", || web.store.unready().is_some()).await;
        assert!(now() >= web.end());
        let why = web.store.unready().unwrap();
        assert!(why.starts_with("the certificate has expired: "), "{why}");
        let _again = Ca::start_on(folder, address, SHORT).await;
        until("it has one again", || web.store.unready().is_none()).await;
    });
}

#[test]
fn a_root_follows_another_while_workloads_trust_each_other_all_the_time() {
    run(async {
        let ca = Ca::start(SHORT).await;
        let (web, orders) = (ca.workload(WEB).await.ready().await, ca.workload(ORDERS).await.ready().await);
        let roots = async || ca.ask("GET", "/v1/bundle", None, "").await.1;
        let count = |bundle: &str| bundle.matches("BEGIN CERTIFICATE").count();
        let first = roots().await;
        let announced = ca.operate("/v1/roots", "").await;
        assert_eq!(count(&announced), 2);
        let token = ca.token(Bearer::Operator).await;
        let (status, text) = ca.ask("POST", "/v1/roots", Some(&token), "").await;
        assert_eq!(status, StatusCode::CONFLICT, "{text}");
        let mut met = 0;
        loop {
            meet(&web, &orders, ORDERS).await.unwrap();
            meet(&orders, &web, WEB).await.unwrap();
            met += 1;
            let now = roots().await;
            if count(&now) == 1 {
                assert_ne!(now, first, "the old one is gone");
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert!(met > 50, "{met}");
        meet(&web, &orders, ORDERS).await.unwrap();
    });
}

#[test]
fn a_revoked_workload_is_believed_by_nobody_and_gets_no_new_certificate() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let (web, orders) = (ca.workload(WEB).await.ready().await, ca.workload(ORDERS).await.ready().await);
        meet(&web, &orders, ORDERS).await.unwrap();
        let stolen = Workload {
            store: Arc::new(TlsStore::default()),
            metrics: web.metrics.clone(),
            ca: web.ca.clone(),
        };
        stolen.store.replace(web.current());
        let answer = ca.operate("/v1/revocations", &format!("{{\"id\":\"{WEB}\"}}")).await;
        assert_eq!(answer.trim(), "{\"revoked\":1}");
        let before = orders.current();
        until("orders has heard of it", || !Arc::ptr_eq(&before, &orders.current())).await;
        let refused = meet(&stolen, &orders, ORDERS).await.unwrap_err();
        assert!(refused.contains("it was revoked"), "{refused}");
        web.says("were revoked").await;
        let token = ca.token(Bearer::Workload(id(WEB))).await;
        fs::write(&web.ca.token, token).unwrap();
        until("an operator has let it in again", || web.store.unready().is_none()).await;
        meet(&web, &orders, ORDERS).await.unwrap();
    });
}

/// A connection on which the head of a request for a certificate was sent, and half of its body;
/// and the other half.
async fn half_asked(
    ca: &Ca,
    expected: &SpiffeId,
    own: Option<&tls::Credentials>,
    token: Option<&str>,
) -> (impl AsyncRead + AsyncWrite + Unpin, String) {
    let (trust, _) = authority::known_by(&ca.world).await.unwrap();
    let io = ca.world.net.connect(ca.address, None).await.unwrap();
    let whom = (ca.address, expected);
    let mut io = tls::connect_to_authority(&ca.world, io, whom, Arc::new(trust), own).await.unwrap();
    let body = asks_for(WEB);
    let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    let length = body.len();
    let head =
        format!("POST /v1/certificates HTTP/1.1\r\nhost: ca\r\n{token}content-length: {length}\r\n\r\n");
    let (half, rest) = body.split_at(length / 2);
    io.write_all((head + half).as_bytes()).await.unwrap();
    io.flush().await.unwrap();
    (io, rest.to_owned())
}

#[test]
fn a_request_that_a_revocation_overtakes_gets_no_certificate() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let web = ca.workload(WEB).await.ready().await;
        let (token, own) = (ca.token(Bearer::Workload(id(WEB))).await, web.current());
        let expected = SpiffeId::of_authority("mesh.test");
        let by_token = half_asked(&ca, &expected, None, Some(&token)).await;
        let by_certificate = half_asked(&ca, &expected, Some(&own.credentials), None).await;
        // Both heads are read and believed.
        sleep(Duration::from_millis(100)).await;
        ca.operate("/v1/revocations", &format!("{{\"id\":\"{WEB}\"}}")).await;
        for (mut io, rest) in [by_token, by_certificate] {
            io.write_all(rest.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            io.read_exact(&mut answer).await.unwrap();
            assert_eq!(std::str::from_utf8(&answer), Ok("HTTP/1.1 401"));
        }
    });
}

#[test]
fn what_is_issued_while_a_revocation_is_under_way_is_in_its_list_or_is_not_issued() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let world = world(KernelDisk::open(folder.path()).unwrap());
        let authority = &Authority::open(&world, settings(HOUR)).await.unwrap();
        let (csr, proof) = (&csr(WEB), &proof_of_web(&world).await);
        let all = Revocation { id: Some(id(WEB)), serial: None };
        let asking = async {
            let mut given = 0;
            while authority.issue(proof, csr).await.is_ok() {
                given += 1;
            }
            given
        };
        let revoking = async {
            sleep(Duration::from_millis(20)).await;
            authority.revoke(&all).await.unwrap()
        };
        let (a, b, c, revoked) = tokio::join!(
            asking,
            async { authority.issue(proof, csr).await.is_ok() },
            async {
                sleep(Duration::from_millis(20)).await;
                authority.issue(proof, csr).await.is_ok()
            },
            revoking
        );
        assert_eq!(a + usize::from(b) + usize::from(c), revoked);
        assert!(authority.issued("").await.is_empty());
    });
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let token = ca.token(Bearer::Workload(id(WEB))).await;
        let (expected, begun) = (SpiffeId::of_authority("mesh.test"), tokio::time::Instant::now());
        let (mut io, _) = half_asked(&ca, &expected, None, Some(&token)).await;
        let mut answer = String::new();
        // It says that it closes, and closes.
        let _ = io.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("the body did not come within 5 s"), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_workload_has_so_many_certificates_and_no_more_until_they_end_or_are_revoked() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let web = ca.token(Bearer::Workload(id(WEB))).await;
        for _ in 0..MOST {
            assert_eq!(
                ca.ask("POST", "/v1/certificates", Some(&web), &asks_for(WEB)).await.0,
                StatusCode::OK
            );
        }
        let (status, why) = ca.ask("POST", "/v1/certificates", Some(&web), &asks_for(WEB)).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{why}");
        assert!(why.contains("has 50 certificates that are valid, and may have no more"), "{why}");
        let orders = ca.token(Bearer::Workload(id(ORDERS))).await;
        let (status, why) = ca.ask("POST", "/v1/certificates", Some(&orders), &asks_for(ORDERS)).await;
        assert_eq!(status, StatusCode::OK, "others are not concerned: {why}");
        let answer = ca.operate("/v1/revocations", &format!("{{\"id\":\"{WEB}\"}}")).await;
        assert_eq!(answer.trim(), format!("{{\"revoked\":{MOST}}}"));
        let web = ca.token(Bearer::Workload(id(WEB))).await;
        let (status, why) = ca.ask("POST", "/v1/certificates", Some(&web), &asks_for(WEB)).await;
        assert_eq!(status, StatusCode::OK, "what was revoked does not count: {why}");
    });
}

/// A clock that somebody sets: seconds after the system's.
#[derive(Clone, Default)]
struct SetForward(Arc<AtomicU64>);

impl Wall for SetForward {
    fn now(&self) -> SystemTime {
        SystemWall.now() + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// An authority with a clock that is set, what WEB asks it with, and its folder. Time passes when a
/// test says so.
async fn with_clock() -> (Authority, World<KernelNet>, SetForward, TempDir) {
    let (folder, clock) = (tempfile::tempdir().unwrap(), SetForward::default());
    let world = World::new(KernelNet::default(), clock.clone(), RngTree::new(1));
    let world = world.with_disk(KernelDisk::open(folder.path()).unwrap());
    let authority = Authority::open(&world, settings(SHORT)).await.unwrap();
    (authority, world, clock, folder)
}

fn is_listed(bundle: &Bundle) -> bool {
    bundle.revoked.contains("X509 CRL")
}

#[tokio::test(start_paused = true)]
async fn what_was_revoked_is_in_the_list_until_it_has_ended_by_every_clock() {
    let (authority, world, clock, _folder) = with_clock().await;
    authority.issue(&proof_of_web(&world).await, &csr(WEB)).await.unwrap();
    authority.revoke(&Revocation { id: Some(id(WEB)), serial: None }).await.unwrap();
    let mut passed = 0;
    for (later, is_in_list) in [(0, true), (SHORT.as_secs() + 50, true), (SHORT.as_secs() + 62, false)] {
        advance(Duration::from_secs(later - passed)).await;
        passed = later;
        clock.0.store(later, Ordering::Relaxed);
        authority.tend().await.unwrap();
        assert_eq!(is_listed(&authority.bundle().await), is_in_list, "some clocks are behind");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_for_a_while_makes_an_authority_forget_nothing() {
    let (authority, world, clock, _folder) = with_clock().await;
    let all = Revocation { id: Some(id(WEB)), serial: None };
    authority.issue(&proof_of_web(&world).await, &csr(WEB)).await.unwrap();
    assert_eq!(authority.revoke(&all).await.unwrap(), 1);
    authority.issue(&proof_of_web(&world).await, &csr(WEB)).await.unwrap();
    // Of a process that has run for a while, and of one that starts with the wrong clock.
    for starts in [false, true] {
        advance(2 * SHORT).await;
        clock.0.store(86_400, Ordering::Relaxed);
        let started = Authority::open(&world, settings(SHORT)).await.unwrap();
        let authority = if starts { &started } else { &authority };
        authority.tend().await.unwrap();
        authority.revoke(&all).await.unwrap();
        clock.0.store(0, Ordering::Relaxed);
        authority.tend().await.unwrap();
        let bundle = authority.bundle().await;
        assert!(is_listed(&bundle), "starts: {starts}");
        let (_, pem) = parse_x509_pem(bundle.revoked.as_bytes()).unwrap();
        let (_, list) = CertificateRevocationList::from_der(&pem.contents).unwrap();
        assert_eq!(list.iter_revoked_certificates().count(), 2, "starts: {starts}");
    }
}

/// A clock that stands still at a time, milliseconds of Unix time.
struct Standing(Arc<AtomicU64>);

impl Wall for Standing {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// What an authority would be shown of a certificate that it has just issued.
async fn shown(authority: &Authority, issued: &IssuedCertificate) -> Proof {
    let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let of = |time: ASN1Time| SystemTime::from(time.to_datetime());
    let validity = certificate.validity();
    let validity = Validity { not_before: of(validity.not_before), not_after: of(validity.not_after) };
    let serial = certificate.raw_serial().to_vec();
    let version = authority.bundle().await.version;
    Proof::Certificate { shown: Shown { id: id(WEB), validity, serial }, version }
}

#[test]
fn a_certificate_is_renewed_if_it_was_issued_after_the_last_revocation_whatever_the_clock_says() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let at = Arc::new(AtomicU64::new(0));
        let world = World::new(KernelNet::default(), Standing(at.clone()), RngTree::new(1));
        let world = world.with_disk(KernelDisk::open(folder.path()).unwrap());
        let second = 1_800_000_000_000;
        at.store(second, Ordering::Relaxed);
        let authority = Authority::open(&world, settings(HOUR)).await.unwrap();
        let (csr, all) = (&csr(WEB), Revocation { id: Some(id(WEB)), serial: None });
        // When it is issued, revoked and issued again: in the same millisecond, in the same second,
        // over the end of one, and with a clock that is set back meanwhile.
        for [before, revoked, after] in [[0, 0, 0], [0, 1, 2], [999, 1000, 1000], [1500, 999, 0]] {
            let set = |ms: u64| at.store(second + ms, Ordering::Relaxed);
            set(before);
            let old_token = proof_of_web(&world).await;
            let old = authority.issue(&old_token, csr).await.unwrap();
            set(revoked);
            authority.revoke(&all).await.unwrap();
            set(after);
            let new_token = proof_of_web(&world).await;
            let new = authority.issue(&new_token, csr).await.unwrap();
            let new = shown(&authority, &new).await;
            authority.issue(&new, csr).await.unwrap();
            for old in [old_token, shown(&authority, &old).await] {
                let error = authority.issue(&old, csr).await.map(drop).unwrap_err();
                assert!(error.to_string().contains("were revoked"), "{error}");
            }
        }
    });
}

/// As many as there may be: every workload must be able to read them, and the operator too.
#[test]
fn the_largest_answer_of_an_authority_is_read_by_its_clients() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let (folder, address) = ca.kill();
        let (state, ends) = (folder.path().join("state"), seconds(now() + HOUR));
        let record =
            |n: usize| format!("\n{{\"serial\":\"{n:040x}\",\"id\":\"{ORDERS}\",\"expires\":{ends}}}");
        let log: String = (1 << 20..(1 << 20) + CA_CERTIFICATES).map(record).collect();
        fs::write(state.join("issued.log"), log).unwrap();
        let ca = Ca::start_on(folder, address, HOUR).await;
        let token = ca.token(Bearer::Operator).await;
        let (mut all, mut after) = (0, String::new());
        loop {
            let page = ca.ask("GET", &format!("/v1/certificates?after={after}"), Some(&token), "").await.1;
            let page: Vec<IssuedRecord> = serde_json::from_str(&page).unwrap();
            let Some(last) = page.last() else { break };
            (all, after) = (all + page.len(), last.serial.clone());
        }
        assert_eq!(all, CA_CERTIFICATES);
        let web = ca.token(Bearer::Workload(id(WEB))).await;
        let (status, why) = ca.ask("POST", "/v1/certificates", Some(&web), &asks_for(WEB)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{why}");
        assert!(why.contains("not now: 100000 certificates are valid"), "{why}");
        let answer = ca.operate("/v1/revocations", &format!("{{\"id\":\"{ORDERS}\"}}")).await;
        assert_eq!(answer.trim(), format!("{{\"revoked\":{CA_CERTIFICATES}}}"));
        ca.operate("/v1/roots", "").await;
        let (status, bundle) = ca.ask("GET", "/v1/bundle", None, "").await;
        assert_eq!(status, StatusCode::OK);
        // Of three roots, as there are when one has just followed another.
        assert!(bundle.len() / 2 * 3 < CA_ANSWER, "{}", bundle.len());
        let (status, why) = ca.ask("POST", "/v1/revocations", Some(&token), "{\"serial\":\"7f\"}").await;
        assert_eq!(status, StatusCode::CONFLICT, "{why}");
    });
}

#[test]
fn a_workload_that_hears_nothing_of_revocations_says_so_and_stays_ready() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let web = ca.workload(WEB).await.ready().await;
        assert!(!web.metrics.is_trust_stale());
        let (folder, address) = ca.kill();
        until("it says that revocations may be old", || web.metrics.is_trust_stale()).await;
        assert!(web.metrics.text().contains("proxy_trust_bundle_stale 1"));
        assert_eq!(web.store.unready(), None);
        let _again = Ca::start_on(folder, address, HOUR).await;
        until("it has heard of them again", || !web.metrics.is_trust_stale()).await;
    });
}

#[test]
fn a_token_file_without_one_token_is_named() {
    run(async {
        let ca = Ca::start(HOUR).await;
        for (text, words) in [
            ("", "is empty"),
            ("\n", "is empty"),
            ("one\ntwo\n", "has more than one word: write one token into it"),
            ("t\u{f6}ken", "has something else than a token"),
        ] {
            let client = ca.client(WEB);
            fs::write(&client.token, text).unwrap();
            let words = format!("no bootstrap token: {} {words}", client.token.display());
            Workload::start(WEB, client).says(&words).await;
        }
    });
}

#[test]
fn a_bundle_that_is_known_is_not_sent_again() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let (trust, expected) = authority::known_by(&ca.world).await.unwrap();
        let trust = Arc::new(trust);
        let ask = async |method: &str, known: String| {
            let request = Request::builder().method(method).uri("/v1/bundle").header("host", "ca");
            let request = request.header("if-none-match", known).body(Full::new(Bytes::new())).unwrap();
            let io = ca.world.net.connect(ca.address, None).await.unwrap();
            let whom = (ca.address, &expected);
            let io = tls::connect_to_authority(&ca.world, io, whom, trust.clone(), None).await.unwrap();
            fetch(io, request, CA_ANSWER).await.unwrap()
        };
        let tag = ask("HEAD", "\"0\"".into()).await.headers()["etag"].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"0\", {tag}"), "*".into()] {
            assert_eq!(ask("GET", known).await.status(), StatusCode::NOT_MODIFIED);
        }
        assert_eq!(ask("GET", "\"0\"".into()).await.status(), StatusCode::OK);
        let refused = ask("PUT", tag).await;
        assert_eq!(
            (refused.status(), &refused.headers()["allow"]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD".parse().unwrap())
        );
    });
}

#[test]
fn an_authority_that_is_killed_at_any_moment_loses_nothing_that_it_has_given_out() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let open = async || {
            let world = world(KernelDisk::open(folder.path()).unwrap());
            Authority::open(&world, settings(HOUR)).await
        };
        let csr = &csr(WEB);
        let (mut given, mut roots) = (0, None);
        for _ in 0..3 {
            let authority = open().await.unwrap();
            let bundle = authority.bundle().await;
            assert_eq!(*roots.get_or_insert(bundle.roots.clone()), bundle.roots);
            assert_eq!(authority.issued("").await.len(), given);
            let proof = proof_of_web(&world(KernelDisk::open(folder.path()).unwrap())).await;
            authority.issue(&proof, csr).await.unwrap();
            authority.issue(&proof, csr).await.unwrap();
            given += 2;
            drop(authority);
            // The next record was being written, and so was the next state.
            let log = folder.path().join("issued.log");
            let half = fs::read(&log).unwrap();
            fs::write(&log, [&half[..], b"\n{\"serial\":\"41"].concat()).unwrap();
            fs::write(folder.path().join("state.json.new"), "{\"trust_dom").unwrap();
        }
        let stops = async |file: &str, text: &str, words: &str| {
            let path = folder.path().join(file);
            let before = fs::read(&path).unwrap();
            fs::write(&path, text).unwrap();
            let error = open().await.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "it is not overwritten");
            fs::write(&path, before).unwrap();
        };
        stops("state.json", "{\n\"trust_domain\": nonsense", "state.json:2: ").await;
        let good = fs::read_to_string(folder.path().join("state.json")).unwrap();
        let at = good.find("BEGIN CERTIFICATE").unwrap() + 300;
        let letter = if &good[at..=at] == "A" { "B" } else { "A" };
        let damaged = [&good[..at], letter, &good[at + 1..]].concat();
        let line = good[..at].matches('\n').count() + 1;
        stops("state.json", &damaged, &format!("state.json:{line}: a root is damaged: ")).await;
        let log = fs::read_to_string(folder.path().join("issued.log")).unwrap();
        let damaged = log.replacen("\"expires\"", "\"eXpires\"", 1);
        stops("issued.log", &damaged, "issued.log:2: missing field `expires`").await;
        let state = folder.path().join("state.json");
        let kept = fs::read(&state).unwrap();
        fs::remove_file(&state).unwrap();
        let error = open().await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("state.json is missing beside issued.log"), "{error}");
        fs::write(&state, kept).unwrap();
        let other = Settings { trust_domain: "other.test".into(), ..settings(HOUR) };
        open().await.unwrap();
        let world = world(KernelDisk::open(folder.path()).unwrap());
        let error = Authority::open(&world, other).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("that of the trust domain mesh.test"), "{error}");
    });
}

/// A disk that is full at times.
#[derive(Clone)]
struct FullDisk {
    inner: KernelDisk,
    full: Arc<std::sync::atomic::AtomicBool>,
}

impl FullDisk {
    fn set(&self, full: bool) {
        self.full.store(full, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Disk for FullDisk {
    fn list(&self) -> proxy::world::disk::Done<Vec<String>> {
        self.inner.list()
    }

    fn read(&self, file: &str) -> proxy::world::disk::Done<Vec<u8>> {
        self.inner.read(file)
    }

    fn append(&self, file: &str, mut bytes: Vec<u8>) -> proxy::world::disk::Done<()> {
        if !self.full.load(std::sync::atomic::Ordering::SeqCst) {
            return self.inner.append(file, bytes);
        }
        bytes.truncate(bytes.len() / 2);
        let part = self.inner.append(file, bytes);
        Box::pin(async {
            part.await?;
            Err(std::io::ErrorKind::StorageFull.into())
        })
    }

    fn sync(&self, file: &str) -> proxy::world::disk::Done<()> {
        self.inner.sync(file)
    }

    fn rename(&self, from: &str, to: &str) -> proxy::world::disk::Done<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, file: &str) -> proxy::world::disk::Done<()> {
        self.inner.remove(file)
    }
}

#[test]
fn nothing_is_given_out_that_the_disk_has_not_taken() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let inner = KernelDisk::open(folder.path()).unwrap();
        let disk = FullDisk { inner, full: Arc::default() };
        let world = world(disk.clone());
        let authority = Authority::open(&world, settings(HOUR)).await.unwrap();
        let (csr, proof) = (&csr(WEB), proof_of_web(&world).await);
        authority.issue(&proof, csr).await.unwrap();
        let before = authority.bundle().await;
        disk.set(true);
        for _ in 0..3 {
            let error = authority.issue(&proof, csr).await.unwrap_err();
            assert!(matches!(error, AuthorityError::Unavailable(_)), "{error}");
        }
        let all = Revocation { id: Some(id(WEB)), serial: None };
        assert!(authority.revoke(&all).await.is_err());
        assert!(authority.announce().await.is_err());
        assert_eq!(authority.bundle().await, before, "what could not be kept has not happened");
        disk.set(false);
        authority.issue(&proof, csr).await.unwrap();
        drop(authority);
        let again = Authority::open(&world, settings(HOUR)).await.unwrap();
        assert_eq!(again.issued("").await.len(), 2);
        assert_eq!(again.revoke(&all).await.unwrap(), 2);
        assert_eq!(again.bundle().await.version, before.version + 1);
    });
}

/// Somebody with the authority's certificate who answers this.
async fn pretends(ca: &Ca, answer: &'static str) -> SocketAddr {
    let listener = ca.world.net.bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Authority::open(&ca.world, settings(HOUR)).await.unwrap();
    let mut listener = listener;
    spawn(async move {
        let (context, _) = authority.server().await.unwrap();
        while let Ok((io, _)) = listener.accept().await {
            let Ok((mut io, _)) = tls::accept_anybody(&context, io).await else { continue };
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(answer.as_bytes()).await;
            let _ = io.shutdown().await;
        }
    });
    address
}

#[test]
fn an_authority_that_answers_nonsense_is_not_believed_and_its_words_are_told() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let other = Ca::start(HOUR).await;
        for (answer, words) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "makes no sense: expected value at line 1"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "missing field `certificate`"),
            ("HTTP/1.1 500 X\r\ncontent-length: 5\r\n\r\nhello", "refuses (500): it does not say why"),
            ("nonsense\r\n\r\n", "invalid HTTP version parsed"),
            ("", "connection closed"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 72\r\n\r\n{\"certificate\":\"\",\"bundle\":{\"version\":1,\"roots\":\"nothing\",\"revoked\":\"\"}}",
                "there is no root certificate",
            ),
        ] {
            fs::write(ca.client(WEB).token, ca.token(Bearer::Workload(id(WEB))).await).unwrap();
            let mut fooled = ca.client(WEB);
            fooled.addresses = vec![pretends(&ca, answer).await];
            let web = Workload::start(WEB, fooled);
            web.says(words).await;
        }
        // It is another one than that whose roots are known.
        let mut lost = ca.client(WEB);
        lost.addresses = vec![other.address];
        let web = Workload::start(WEB, lost);
        let words = "it leads to no root of the bundle";
        web.says(words).await;
    });
}

#[test]
fn clients_that_prove_nothing_do_not_keep_the_others_out() {
    run(async {
        let ca = Ca::start(HOUR).await;
        let web = ca.workload(WEB).await.ready().await;
        let (trust, expected) = authority::known_by(&ca.world).await.unwrap();
        let trust = Arc::new(trust);
        let mut held = Vec::new();
        for _ in 0..300 {
            let io = ca.world.net.connect(ca.address, None).await.unwrap();
            let whom = (ca.address, &expected);
            held.push(tls::connect_to_authority(&ca.world, io, whom, trust.clone(), None).await.unwrap());
        }
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(ca.world.net.connect(ca.address, None).await.unwrap());
        }
        let answer = ca.operate("/v1/revocations", &format!("{{\"id\":\"{ORDERS}\"}}")).await;
        assert_eq!(answer.trim(), "{\"revoked\":0}");
        assert_eq!(web.store.unready(), None);
        drop((held, silent));
    });
}

#[test]
fn a_root_that_was_made_for_shorter_lives_signs_nothing_that_outlives_it() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let world = world(KernelDisk::open(folder.path()).unwrap());
        let short = Lifetimes { workload: Duration::from_secs(1), root: Duration::from_secs(5) };
        let short = Settings { lifetimes: short, ..settings(HOUR) };
        drop(Authority::open(&world, short.clone()).await.unwrap());
        let longer = Authority::open(&world, settings(24 * HOUR)).await.unwrap();
        assert_eq!(longer.bundle().await.roots.matches("BEGIN").count(), 2, "the next is announced at once");
        let (csr, proof) = (&csr(WEB), proof_of_web(&world).await);
        longer.issue(&proof, csr).await.unwrap();
        let issued = longer.issued("").await.remove(0);
        let end = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(issued.expires);
        assert!(end <= now() + Duration::from_secs(5), "not longer than its root");
        longer.ready().await.unwrap();
        sleep(Duration::from_secs(6)).await;
        longer.issue(&proof, csr).await.unwrap();
        let ends = longer.issued("").await.iter().map(|record| record.expires).max().unwrap();
        let end = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        assert!(end > now() + 23 * HOUR, "the next one signs, since the first has ended");
        assert_eq!(longer.bundle().await.roots.matches("BEGIN").count(), 1);
        drop(longer);
        // Back to short ones: its roots still live as long as certificates of before need them.
        let shorter = Authority::open(&world, short).await.unwrap();
        shorter.announce().await.unwrap();
        for _ in 0..3 {
            shorter.tend().await.unwrap();
        }
        assert_eq!(shorter.bundle().await.roots.matches("BEGIN").count(), 2);
    });
}
