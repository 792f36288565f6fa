//! Clients that are no sidecars at a port under mutual TLS: OpenSSL's and Python's, with and
//! without a certificate; and a server that is none. They behave as docs/sidecar.md says.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::authority::{Authority, now};
use crate::common::*;
use crate::server::{Server, free};

const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
const ORDERS: &str = "spiffe://mesh.test/ns/shop/sa/orders";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
const REQUEST: &str = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
const STRICT: &str = "service = 'orders'\n[identity]\nid = 'spiffe://mesh.test/ns/shop/sa/orders'\nfiles = '/none'\n\
                      [tls]\nmode = 'strict'";
const HOUR: Duration = Duration::from_secs(3600);

/// What a client in Python does: its arguments are the port, the protocol ("" for none), and its
/// certificate and key, if it has them.
const PYTHON: &str = "
import socket, ssl, sys
port, alpn, own = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.load_verify_locations('root.pem')
if own: context.load_cert_chain(*own)
if alpn: context.set_alpn_protocols([alpn])
try:
    with context.wrap_socket(socket.create_connection(('127.0.0.1', port), timeout=10)) as tls:
        tls.sendall(sys.stdin.buffer.read())
        print(tls.version(), tls.selected_alpn_protocol())
        while data := tls.recv(4096):
            sys.stdout.write(data.decode())
except OSError as error:
    print('refused:', error)
";

/// A folder with the root, a certificate of `WEB`, and one of a stranger's authority.
fn folder(authority: &Authority) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("root.pem", &authority.root);
    for (name, authority) in [("web", authority), ("stranger", &Authority::new())] {
        let issued = authority.issue(&[WEB], now() - HOUR, now() + HOUR);
        write(&format!("{name}.crt"), &issued.certificate);
        write(&format!("{name}.key"), &issued.key);
    }
    folder
}

/// Runs a program that sends a request, and gives what it prints and complains about.
async fn ask(mut program: Command, folder: &Path) -> String {
    program.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = program.spawn().expect("ci/clients installs it");
        // One that was refused does not read it.
        let _ = child.stdin.take().unwrap().write_all(REQUEST.as_bytes());
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn openssl(to: SocketAddr, alpn: &str, own: Option<&str>) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &to.to_string(), "-CAfile", "root.pem", "-verify_return_error"]);
    openssl.args(["-ign_eof", "-quiet"]);
    if !alpn.is_empty() {
        openssl.args(["-alpn", alpn]);
    }
    if let Some(own) = own {
        openssl.args(["-cert", &format!("{own}.crt"), "-key", &format!("{own}.key")]);
    }
    openssl
}

fn python(to: SocketAddr, alpn: &str, own: Option<&str>) -> Command {
    let mut python = Command::new("python3");
    python.args(["-c", PYTHON, &to.port().to_string(), alpn]);
    python.args(own.iter().flat_map(|own| [format!("{own}.crt"), format!("{own}.key")]));
    python
}

#[test]
fn a_client_with_a_certificate_of_the_mesh_gets_in_and_nobody_else() {
    for client in [openssl, python] {
        run(async {
            let authority = Authority::new();
            let folder = folder(&authority);
            let seen = Seen::default();
            let app = seen.app(OK).await;
            let side = inbound_of(Some(authority.store(ORDERS)), TestNet::to(&app.to_string()), STRICT).await;
            let ask = async |alpn, own| ask(client(side.at, alpn, own), folder.path()).await;

            let answer = ask("sidelab-http/1.1", Some("web")).await;
            assert!(answer.contains("200 OK") && answer.contains("ok"), "{answer}");
            let told = seen.last().header("x-forwarded-client-cert").unwrap();
            assert!(told.ends_with(&format!("URI={WEB}")), "{told}");

            let refused = async |own| ask("sidelab-http/1.1", own).await.to_lowercase().replace('_', " ");
            let anonymous = refused(None).await;
            assert!(anonymous.contains("certificate required"), "{anonymous}");
            let stranger = refused(Some("stranger")).await;
            assert!(stranger.contains("alert certificate unknown"), "{stranger}");
            // Without the mesh's protocol it is the app's own TLS, which a strict port does not
            // take.
            let outside = ask("", Some("web")).await;
            assert!(!outside.contains("200 OK"), "{outside}");
            assert_eq!(seen.requests(), 1);
            let refused = side.count("proxy_connections_refused_total", &["not_secured"]);
            assert_eq!(refused, 3);
        });
    }
}

#[test]
fn a_server_that_speaks_no_http2_needs_a_cluster_without_a_bridge() {
    run(async {
        let authority = Authority::new();
        let folder = folder(&authority);
        let own = authority.issue(&[ORDERS], now() - HOUR, now() + HOUR);
        fs::write(folder.path().join("orders.pem"), own.certificate + &own.key).unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (at, orders, root) = (free(), file("orders.pem"), file("root.pem"));
        let port = at.port().to_string();
        let args = ["s_server", "-www", "-quiet", "-accept", &port, "-cert", &orders, "-CAfile", &root];
        let args = [&args[..], &["-Verify", "1", "-alpn", "sidelab-http/1.1"]].concat();
        let _server = Server::start("openssl", "openssl-s_server", &args).unwrap();
        until("it listens", || std::net::TcpStream::connect(at).is_ok()).await;
        let ask = async |more: &str| {
            let config = format!(
                "service = 'web'\n[identity]\nid = '{WEB}'\nfiles = '/none'\n[[cluster]]\nname = 'orders'\n\
                 addresses = ['{SERVICE}']\nprotocol = 'http'\n{more}\n\
                 endpoints = [{{ address = '{at}', identity = '{ORDERS}' }}]"
            );
            let near = outbound_of(Some(authority.store(WEB)), TestNet::to(SERVICE), &config).await;
            near.client().await.ask(REQUEST).await
        };
        let refused = ask("").await;
        let why = refused.header("proxy-status").unwrap();
        assert!(
            why.contains("does not agree to speak sidelab-h2") && why.contains("`bridge = false`"),
            "{why}"
        );
        assert_eq!(ask("bridge = false").await.status(), 200);
    });
}

#[test]
fn what_is_wrong_with_a_server_is_said_in_plain_words() {
    run(async {
        let authority = Authority::new();
        let folder = folder(&authority);
        let file = |name: &str| folder.path().join(name).display().to_string();
        let ask = async |at: SocketAddr| {
            let config = format!(
                "service = 'web'\n[identity]\nid = '{WEB}'\nfiles = '/none'\n[[cluster]]\nname = 'orders'\n\
                 addresses = ['{SERVICE}']\nprotocol = 'http'\n\
                 endpoints = [{{ address = '{at}', identity = '{ORDERS}' }}]"
            );
            let near = outbound_of(Some(authority.store(WEB)), TestNet::to(SERVICE), &config).await;
            near.client().await.ask(REQUEST).await.header("proxy-status").unwrap().to_owned()
        };

        let at = app(|_, mut wire| async move {
            wire.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
            wire.rest().await;
        })
        .await;
        let why = ask(at).await;
        assert!(why.contains("what came is no TLS"), "{why}");

        let (at, cert, key) = (free(), file("web.crt"), file("web.key"));
        let port = at.port().to_string();
        let args = ["s_server", "-www", "-quiet", "-accept", &port, "-cert", &cert, "-key", &key, "-tls1_2"];
        let _server = Server::start("openssl", "openssl-s_server", &args).unwrap();
        until("it listens", || std::net::TcpStream::connect(at).is_ok()).await;
        let why = ask(at).await;
        assert!(why.contains("the other end does not speak TLS 1.3"), "{why}");
    });
}
