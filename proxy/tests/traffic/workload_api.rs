//! Certificates from an agent of the SPIFFE Workload API: one that speaks gRPC by gRPC's own
//! library on a Unix socket, and agents that say what no agent should.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use proxy::config::{AgentSocket, Identity, IdentitySource};
use proxy::grpc::message::{framed, put_bytes};
use proxy::identity;
use proxy::telemetry::Metrics;
use proxy::tls::TlsStore;
use proxy::tls::pem::{self, PemFile};
use proxy::world::{KernelNet, RngTree, SystemWall, World};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::common::authority::{Authority, Issued, now};
use crate::common::*;
use crate::server::Server;

const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
const ORDERS: &str = "spiffe://mesh.test/ns/shop/sa/orders";
const HOUR: Duration = Duration::from_secs(3600);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// Debian's, which has the packages of ci/clients.
const PYTHON: &str = "/usr/bin/python3";
const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traffic/workload_api_agent.py");

/// A workload that asks an agent.
struct Asking {
    store: Arc<TlsStore>,
    metrics: Arc<Metrics>,
}

impl Asking {
    /// Starts to ask; `store` has what is in force before.
    fn start(socket: AgentSocket, store: Arc<TlsStore>) -> Self {
        let metrics = Arc::new(Metrics::default());
        let world = World::new(KernelNet::default(), SystemWall, RngTree::new(1));
        let source = IdentitySource::WorkloadApi(Some(socket));
        let own = Identity { id: WEB.parse().unwrap(), source };
        spawn(identity::run(world, own, store.clone(), metrics.clone()));
        Asking { store, metrics }
    }

    fn counted(&self, result: &str) -> u32 {
        let line = format!("proxy_certificates_total{{result=\"{result}\"}} ");
        let text = self.metrics.text();
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse().unwrap())
    }

    /// When the certificate in force ends.
    fn end(&self) -> Option<std::time::SystemTime> {
        self.store.current().map(|context| context.credentials.not_after)
    }
}

/// What a real agent has.
struct Agent {
    folder: TempDir,
    server: Option<Server>,
}

impl Agent {
    /// One that runs and knows nobody yet; `None` if its libraries are not here and nobody insists.
    fn start() -> Option<Self> {
        let libraries = Command::new(PYTHON).args(["-c", "import grpc, google.protobuf"]).output();
        if !libraries.is_ok_and(|output| output.status.success()) {
            let missing = "python3-grpcio or python3-protobuf is not installed (ci/clients)";
            assert!(std::env::var_os("LAB_REQUIRE_KERNEL").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        }
        let mut agent = Agent { folder: tempfile::tempdir().unwrap(), server: None };
        agent.knows(&[]);
        agent.run();
        Some(agent)
    }

    fn run(&mut self) {
        let folder = self.folder.path().to_str().unwrap();
        self.server = Server::start(PYTHON, "python3", &[AGENT, folder]);
    }

    fn socket(&self) -> AgentSocket {
        AgentSocket::Unix(self.folder.path().join("agent.sock"))
    }

    /// Gives it a certificate by a name of its own.
    fn has(&self, name: &str, id: &str, issued: &Issued, roots: &str) {
        let files = [("id", id), ("crt", &issued.certificate), ("key", &issued.key), ("roots", roots)];
        for (kind, text) in files {
            fs::write(self.folder.path().join(format!("{name}.{kind}")), text).unwrap();
        }
    }

    /// Tells it which certificates the workload has now.
    fn knows(&self, names: &[&str]) {
        let folder = self.folder.path();
        fs::write(folder.join("new"), names.join(" ")).unwrap();
        fs::rename(folder.join("new"), folder.join("state")).unwrap();
    }
}

#[test]
fn a_certificate_comes_from_the_agent_and_each_that_it_pushes_replaces_the_one_before() {
    run(async {
        let Some(mut agent) = Agent::start() else { return };
        let authority = Authority::new();
        let ends = [now() + HOUR, now() + 2 * HOUR, now() + 3 * HOUR];
        for (name, end) in ["first", "second", "third"].into_iter().zip(ends) {
            agent.has(name, WEB, &authority.issue(&[WEB], now() - HOUR, end), &authority.root);
        }
        agent.has("other", ORDERS, &authority.issue(&[ORDERS], now() - HOUR, now() + HOUR), &authority.root);
        let asking = Asking::start(agent.socket(), Arc::new(TlsStore::default()));
        let said = |words: &str| asking.store.unready().is_some_and(|why| why.contains(words));
        until("nobody knows the workload", || said("no identity for this workload: no identity issued"))
            .await;
        agent.knows(&["other", "first"]);
        until("it has a certificate", || asking.store.unready().is_none()).await;
        let begun = Instant::now();
        let lives_for = |hours: u32| {
            let left = asking.end().unwrap().duration_since(now()).unwrap();
            (hours - 1) * HOUR < left && left < hours * HOUR
        };
        assert!(lives_for(1));

        agent.knows(&["second", "other"]);
        until("the second is in force", || lives_for(2)).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "it was pushed");

        agent.server = None;
        let refused = asking.counted("refused");
        until("the end of the agent is told", || asking.counted("refused") > refused).await;
        assert_eq!(asking.store.unready(), None, "what it had stays");
        agent.run();
        let taken = asking.counted("taken");
        // It says the same again, which is nothing new.
        sleep(Duration::from_secs(3)).await;
        assert_eq!(asking.counted("taken"), taken);
        agent.knows(&["third"]);
        until("the third is in force", || lives_for(3)).await;

        // What it has handed out is good for a request between two sidecars.
        let seen = Seen::default();
        let app = seen.app(OK).await;
        let identity = |id| format!("service = 'a'\n[identity]\nid = '{id}'\nworkload_api = {{}}\n");
        let strict = format!("{}[tls]\nmode = 'strict'", identity(ORDERS));
        let far = inbound_of(Some(authority.store(ORDERS)), TestNet::to(&app.to_string()), &strict).await;
        let cluster = format!(
            "{}[[cluster]]\nname = 'orders'\naddresses = ['{SERVICE}']\n\
             endpoints = [{{ address = '{app}', identity = '{ORDERS}' }}]",
            identity(WEB)
        );
        let net = TestNet::to(SERVICE).redirect(app, far.at);
        let near = outbound_of(Some(asking.store.clone()), net, &cluster).await;
        assert_eq!(near.client().await.ask("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.text(), "ok");
        let told = seen.last().header("x-forwarded-client-cert").unwrap();
        assert!(told.ends_with(&format!("URI={WEB}")), "{told}");
    });
}

fn der(text: &str) -> Vec<u8> {
    let file = PemFile { path: Path::new("test.pem"), text };
    pem::certificates(&file).unwrap().into_iter().flat_map(|(_, der)| der.to_vec()).collect()
}

/// A response with one certificate.
fn response(id: &str, issued: &Issued, roots: &[u8]) -> Vec<u8> {
    let file = PemFile { path: Path::new("test.pem"), text: &issued.key };
    let (_, key) = pem::private_key(&file).unwrap();
    message(id, &der(&issued.certificate), key.secret_der(), roots)
}

fn message(id: &str, chain: &[u8], key: &[u8], roots: &[u8]) -> Vec<u8> {
    let (mut svid, mut response) = (Vec::new(), Vec::new());
    for (number, value) in [(1, id.as_bytes()), (2, chain), (3, key), (4, roots)] {
        put_bytes(&mut svid, number, value);
    }
    put_bytes(&mut response, 1, &svid);
    response
}

/// An agent that answers with this status, these bytes, and this end.
async fn agent(status: u16, body: Vec<u8>, end: &'static [(&'static str, &'static str)]) -> AgentSocket {
    let serve = move |_, mut respond: h2::server::SendResponse<Bytes>| {
        let body = Bytes::from(body.clone());
        async move {
            let head = Response::builder().status(status).header("content-type", "application/grpc");
            let Ok(mut send) = respond.send_response(head.body(()).unwrap(), false) else { return };
            let _ = send.send_data(body, false);
            let mut trailers = HeaderMap::new();
            for (name, value) in end {
                trailers.insert(*name, HeaderValue::from_static(value));
            }
            match end {
                // The stream stays open.
                [] => std::future::pending().await,
                _ => drop(send.send_trailers(trailers)),
            }
        }
    };
    AgentSocket::Tcp(h2c::app(10, serve).await.0)
}

/// What a workload says that asks this agent, without a certificate and with one; which stays in
/// force.
async fn refused(socket: AgentSocket) -> String {
    let authority = Authority::new();
    let store = authority.store(WEB);
    let before = store.current().unwrap();
    let kept = Asking::start(socket.clone(), store);
    until("it is refused", || kept.counted("refused") > 0).await;
    assert!(Arc::ptr_eq(&before, &kept.store.current().unwrap()), "what was in force stays");
    assert_eq!((kept.store.unready(), kept.counted("taken")), (None, 0));

    let without = Asking::start(socket, Arc::new(TlsStore::default()));
    until("it is refused", || without.counted("refused") > 0).await;
    assert!(without.store.current().is_none());
    without.store.unready().unwrap()
}

#[test]
fn certificates_that_are_of_no_use_are_told_and_change_nothing() {
    run(async {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let roots = der(&ours.root);
        let issue = |uri: &str| ours.issue(&[uri], now() - HOUR, now() + HOUR);
        let good = issue(WEB);
        let expired = ours.issue(&[WEB], now() - 2 * HOUR, now() - HOUR);
        let mixed = Issued { key: issue(WEB).key, certificate: good.certificate.clone() };
        let cut = &der(&good.certificate)[..100];
        let elsewhere = "spiffe://elsewhere.test/ns/shop/sa/web";
        let cases: [(&str, Vec<u8>); 13] = [
            ("not a message of the protocol", vec![0xff; 40]),
            ("a certificate's message is malformed", vec![0x0a, 2, 0xff, 0xff]),
            ("there is no certificate in it", vec![]),
            (
                "there is none of spiffe://mesh.test/ns/shop/sa/web in it, but of spiffe://elsewhere.test",
                response(elsewhere, &issue(elsewhere), &roots),
            ),
            (
                "the certificate is spiffe://elsewhere.test/ns/shop/sa/web's, and this workload is",
                response(WEB, &issue(elsewhere), &roots),
            ),
            ("does not accept the certificate: certificate expired", response(WEB, &expired, &roots)),
            (
                "does not accept the certificate: no root of the bundle has signed it",
                response(WEB, &good, &der(&theirs.root)),
            ),
            ("the bundle: there is no root certificate", response(WEB, &good, &[])),
            ("the bundle: certificate 1 cannot be read", response(WEB, &good, b"nonsense")),
            ("certificate 1 cannot be read", message(WEB, cut, &[], &roots)),
            ("there is no certificate", message(WEB, &[], &[], &roots)),
            ("the private key cannot be used", message(WEB, &der(&good.certificate), b"nonsense", &roots)),
            ("the private key is not the certificate's", response(WEB, &mixed, &roots)),
        ];
        for (words, message) in cases {
            let said = refused(agent(200, framed(&message).to_vec(), &[]).await).await;
            assert!(said.contains(words), "{said}\nand not\n{words}");
            assert!(said.contains("tcp://127.0.0.1:"), "{said}");
        }
    });
}

#[test]
fn an_agent_that_does_not_speak_the_protocol_is_told_and_changes_nothing() {
    run(async {
        let other = answering("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        let closing = app(|_, wire| async move { drop(wire) }).await;
        let missing = AgentSocket::Unix("/nonexistent/agent.sock".into());
        let long = [&[0, 1, 0, 0, 0][..], &[0; 100]].concat();
        let cases = [
            (missing, "unix:///nonexistent/agent.sock: cannot connect: No such file"),
            (AgentSocket::Tcp(nobody()), "cannot connect: Connection refused"),
            (AgentSocket::Tcp(closing), ""),
            (AgentSocket::Tcp(other), ""),
            (agent(404, vec![], &[]).await, "the agent answers with status 404"),
            (agent(200, vec![1, 0, 0, 0, 1, 0], &[]).await, "compressed"),
            (agent(200, long, &[]).await, "a message of 16777216 bytes is longer than 4194304"),
            (
                agent(200, vec![0, 0, 0, 0, 9, 1], &[("grpc-status", "0")]).await,
                "the agent has ended the stream",
            ),
            (agent(200, vec![], &[("a", "b")]).await, "the agent has ended the stream without a status"),
            (
                agent(200, vec![], &[("grpc-status", "14"), ("grpc-message", "going away")]).await,
                "the agent refuses (gRPC status 14): going away",
            ),
        ];
        for (socket, words) in cases {
            let said = refused(socket).await;
            assert!(said.contains(words), "{said}\nand not\n{words}");
        }
    });
}

#[test]
fn an_agent_that_says_nothing_is_given_up_after_a_while() {
    run(async {
        let silent = app(|_, mut wire| async move { drop(wire.rest().await) }).await;
        let asking = Asking::start(AgentSocket::Tcp(silent), Arc::new(TlsStore::default()));
        sleep(Duration::from_millis(300)).await;
        assert_eq!(asking.store.unready().as_deref(), Some("there is no certificate yet"));
        until("it is given up", || asking.counted("refused") > 0).await;
        let why = asking.store.unready().unwrap();
        assert!(why.ends_with("no answer within 5s"), "{why}");
    });
}
