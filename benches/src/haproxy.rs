//! HAProxy in the sidecar's place: where its binary is, and a configuration with what ours does by
//! default.
//!
//! It cannot follow the original destination of a redirected connection without a frontend for
//! each, so it is told where the app is, which spares it one system call for each connection. It
//! reuses connections to the app (`http-reuse always`), retries twice, keeps statistics, writes no
//! log, and splices bulk TCP (`option splice-auto`). Memory is not measured: it asks for twice as
//! many descriptors as connections before it starts.
//!
//! With mutual TLS it speaks to the other HAProxy what the client speaks to it, shows and asks for
//! certificates. It compares no SPIFFE id: it knows names of hosts only.

use std::path::PathBuf;

use crate::place::{Place, Side};

/// The binary: what `HAPROXY` names, or Debian's.
pub fn find() -> Option<PathBuf> {
    let named = std::env::var_os("HAPROXY").map(PathBuf::from);
    named.or_else(|| Some("/usr/sbin/haproxy".into())).and_then(|path| path.canonicalize().ok())
}

/// The configuration for `place`.
pub fn config(place: &Place<'_>) -> String {
    let (port, to) = (place.port(), place.next());
    let mode = if place.protocol.is_opaque() { "tcp" } else { "http" };
    let options = match mode {
        "tcp" => "option splice-auto",
        _ => {
            "option http-keep-alive\n  http-reuse always\n  unique-id-format %[uuid]\n  unique-id-header x-request-id"
        }
    };
    let (spoken, alpn) = if place.is_http2() { (" proto h2", " alpn h2") } else { ("", "") };
    let own = place.certificates();
    let own = own.display();
    let tls = format!(
        "ssl crt {own}/both.pem ca-file {own}/ca.crt verify required{}",
        if place.protocol.is_opaque() { "" } else { alpn }
    );
    let (bind, server) = match (place.path.is_mtls(), place.side) {
        (false, _) => (String::new(), String::new()),
        (true, Side::Client) => (String::new(), format!(" {tls}")),
        (true, Side::App) => (format!(" {tls}"), String::new()),
    };
    format!(
        "global
  nbthread 1
  maxconn 1000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode {mode}
  {options}
  retries 2
  timeout connect 1s
  timeout client 1h
  timeout server 1h
frontend sidecar
  bind :{port} backlog 4096{bind}
  default_backend app
backend app
  server app {to}{spoken}{server}
"
    )
}
