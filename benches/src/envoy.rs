//! Envoy in the sidecar's place: where its binary is, and a static bootstrap with the same features
//! as ours.
//!
//! The listeners are those of Istio's sidecar: one for all outbound connections and one for all
//! inbound ones, each with the `original_dst` filter, a filter chain for the app's port, and
//! connections to the app that come from 127.0.0.6. Like ours it detects nothing more than HTTP/1
//! against HTTP/2, gives a request an id, retries twice, ejects an endpoint after five failures and
//! pools connections; it writes no access log. Buffers are Envoy's defaults. Its own statistics are
//! on, as ours are.
//!
//! With mutual TLS both ends show certificates and compare the SPIFFE id of the other, as in Istio,
//! and speak inside what the client speaks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::place::{APP, Place, Side};

/// The binary: what `ENVOY` names, or what `ci/peers` installed below `root`.
pub fn find(root: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("ENVOY").map(PathBuf::from);
    named.or_else(|| Some(root.join("target/peers/envoy"))).and_then(|path| path.canonicalize().ok())
}

/// A bootstrap for `place`.
pub fn bootstrap(place: &Place<'_>) -> String {
    let (outbound, protocol) = (place.side == Side::Client, place.protocol);
    let (listen, port) = (place.port(), APP.port());
    let filter = if protocol.is_opaque() { TCP_FILTER } else { HTTP_FILTER };
    let retries = if outbound {
        "\n                  retry_policy: {retry_on: 'connect-failure,refused-stream,reset-before-request', num_retries: 2}"
    } else {
        ""
    };
    let filter = filter.replace("@RETRIES", retries);
    let cluster = if outbound { outbound_cluster(APP) } else { INBOUND_CLUSTER.to_owned() };
    let http = if protocol.is_opaque() { "" } else { HTTP_OPTIONS };
    let (mut accepts, mut connects) = (String::new(), String::new());
    if place.path.is_mtls() {
        match place.side {
            Side::Client => connects = format!("\n    transport_socket: {}", socket(place, "Upstream")),
            Side::App => accepts = format!("\n      transport_socket: {}", socket(place, "Downstream")),
        }
    }
    format!(
        "static_resources:
  listeners:
  - name: sidecar
    address: {{socket_address: {{address: 0.0.0.0, port_value: {listen}}}}}
    listener_filters:
    - name: envoy.filters.listener.original_dst
      typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}
    filter_chains:
    - filter_chain_match: {{destination_port: {port}}}{accepts}
      filters:
{filter}
  clusters:
{cluster}{connects}{http}
"
    )
}

/// Mutual TLS: `Upstream` to servers, `Downstream` from clients.
fn socket(place: &Place<'_>, which: &str) -> String {
    let own = place.certificates();
    let (own, expected) = (own.display(), place.expected());
    let asks = if which == "Downstream" { "require_client_certificate: true, " } else { "" };
    let alpn = match (place.protocol.is_opaque(), place.is_http2()) {
        (true, _) => "",
        (_, true) => "alpn_protocols: [h2], ",
        (_, false) => "alpn_protocols: [http/1.1], ",
    };
    format!(
        "{{name: envoy.transport_sockets.tls, typed_config: {{\
         '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{which}TlsContext, \
         {asks}common_tls_context: {{{alpn}\
         tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
         tls_certificates: [{{certificate_chain: {{filename: {own}/tls.crt}}, \
         private_key: {{filename: {own}/tls.key}}}}], \
         validation_context: {{trusted_ca: {{filename: {own}/ca.crt}}, match_typed_subject_alt_names: \
         [{{san_type: URI, matcher: {{exact: '{expected}'}}}}]}}}}}}}}"
    )
}

const TCP_FILTER: &str = "      - name: envoy.filters.network.tcp_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: app
          cluster: app";

const HTTP_FILTER: &str = "      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: app
          codec_type: AUTO
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: app
              domains: ['*']
              routes:
              - match: {prefix: /}
                route:
                  cluster: app
                  timeout: 0s@RETRIES";

fn outbound_cluster(app: SocketAddr) -> String {
    let (address, port) = (app.ip(), app.port());
    format!(
        "  - name: app
    type: STATIC
    lb_policy: LEAST_REQUEST
    connect_timeout: 1s
    outlier_detection: {{consecutive_5xx: 5}}
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}"
    )
}

const INBOUND_CLUSTER: &str = "  - name: app
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 1s
    upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}}";

const HTTP_OPTIONS: &str = "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        use_downstream_protocol_config: {http_protocol_options: {}, http2_protocol_options: {}}";
