//! nginx in the sidecar's place, with mutual TLS: where its binary is, and a configuration with
//! what ours does by default.
//!
//! Like HAProxy it is told where the app is. It keeps connections to the app and to the other
//! nginx, writes no log, and asks for and shows certificates. It compares no SPIFFE id: its module
//! knows names of hosts only. To servers it speaks HTTP/1 and gRPC; opaque bytes are carried by its
//! stream module.

use std::path::PathBuf;

use crate::options::Protocol;
use crate::place::{Place, Side};

/// The binary: what `NGINX` names, or Debian's.
pub fn find() -> Option<PathBuf> {
    let named = std::env::var_os("NGINX").map(PathBuf::from);
    named.or_else(|| Some("/usr/sbin/nginx".into())).and_then(|path| path.canonicalize().ok())
}

/// The configuration for `place`.
pub fn config(place: &Place<'_>) -> String {
    let (port, next) = (place.port(), place.next());
    let (own, written) = (place.certificates(), place.folder.join("written"));
    let (own, written) = (own.display(), written.display());
    let opaque = place.protocol.is_opaque();
    let from_client = match place.side {
        Side::Client => String::new(),
        Side::App => format!(
            "ssl_certificate {own}/tls.crt; ssl_certificate_key {own}/tls.key; ssl_protocols TLSv1.3;
             ssl_client_certificate {own}/ca.crt; ssl_verify_client on;"
        ),
    };
    let listen = match (place.side, place.is_http2()) {
        (Side::Client, true) => "http2",
        (Side::Client, false) => "",
        (Side::App, true) => "ssl http2",
        (Side::App, false) => "ssl",
    };
    let word = if place.protocol == Protocol::Grpc { "grpc" } else { "proxy" };
    let to_server = match place.side {
        Side::App => String::new(),
        Side::Client => format!(
            "{word}_ssl_certificate {own}/tls.crt; {word}_ssl_certificate_key {own}/tls.key;
             {word}_ssl_trusted_certificate {own}/ca.crt; {word}_ssl_protocols TLSv1.3;
             {word}_ssl_verify off; {word}_ssl_session_reuse on;"
        ),
    };
    let head = format!(
        "daemon off; master_process off; worker_processes 1; pid {written}/nginx.pid; error_log stderr warn;
         include /etc/nginx/modules-enabled/*.conf;
         events {{ worker_connections 4096; }}\n"
    );
    if opaque {
        let tls = if place.side == Side::Client { "proxy_ssl on;" } else { "" };
        return format!(
            "{head}stream {{ access_log off;
               server {{ listen {port} {listen} backlog=4096; {from_client}
                 proxy_pass {next}; {tls} {to_server} tcp_nodelay on; }} }}\n"
        );
    }
    let tls = if place.side == Side::Client { "s" } else { "" };
    let pass = match place.protocol {
        Protocol::Grpc => format!("grpc_pass grpc{tls}://app;"),
        _ => format!(
            "proxy_pass http{tls}://app; proxy_http_version 1.1; proxy_set_header Connection \"\";
             proxy_set_header x-request-id $request_id;"
        ),
    };
    format!(
        "{head}http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; tcp_nodelay on;
           client_body_temp_path {written}/body; proxy_temp_path {written}/proxy;
           fastcgi_temp_path {written}/fastcgi; uwsgi_temp_path {written}/uwsgi; scgi_temp_path {written}/scgi;
           upstream app {{ server {next}; keepalive 256; keepalive_requests 1000000000; }}
           server {{ listen {port} {listen} backlog=4096; {from_client}
             location / {{ {pass} {to_server} }} }} }}\n"
    )
}
