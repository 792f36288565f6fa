//! HAProxy in the sidecar's place: where its binary is, and a configuration with what ours does by
//! default.
//!
//! It cannot follow the original destination of a redirected connection without a frontend for
//! each, so it is told where the app is, which spares it one system call for each connection. It
//! reuses connections to the app (`http-reuse always`), retries twice, keeps statistics, writes no
//! log, and splices bulk TCP (`option splice-auto`). Memory is not measured: it asks for twice as
//! many descriptors as connections before it starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::options::Protocol;

/// The binary: what `HAPROXY` names, or Debian's.
pub fn find() -> Option<PathBuf> {
    let named = std::env::var_os("HAPROXY").map(PathBuf::from);
    named.or_else(|| Some("/usr/sbin/haproxy".into())).and_then(|path| path.canonicalize().ok())
}

/// A configuration that listens on `port` and carries everything `to` one server.
pub fn config(port: u16, to: SocketAddr, protocol: Protocol) -> String {
    let mode = if protocol.is_opaque() { "tcp" } else { "http" };
    let options = match mode {
        "tcp" => "option splice-auto",
        _ => {
            "option http-keep-alive\n  http-reuse always\n  unique-id-format %[uuid]\n  unique-id-header x-request-id"
        }
    };
    let spoken = match protocol {
        Protocol::Http2 | Protocol::Grpc => " proto h2",
        _ => "",
    };
    format!(
        "global
  nbthread 1
  maxconn 1000
defaults
  mode {mode}
  {options}
  retries 2
  timeout connect 1s
  timeout client 1h
  timeout server 1h
frontend sidecar
  bind :{port} backlog 4096
  default_backend app
backend app
  server app {to}{spoken}
"
    )
}
