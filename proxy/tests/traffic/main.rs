//! What passes through whole sidecars, over loopback and without root. One binary, because each one
//! that runs the data plane compiles all of it.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the unit tests use the rest")]
#[path = "../../src/authz/fake.rs"]
mod issuer;
// Of the other tests, which the proxy cannot depend on because they depend on it.
#[path = "../../../tests/src/server.rs"]
mod server;
#[path = "../../../tests/tests/ends/mod.rs"]
mod table;

mod access_log;
mod audit;
mod authorization;
mod ca;
mod data_plane;
mod discovery;
mod ends;
mod envoy;
mod failures;
mod framing;
mod header_limits;
mod health;
mod http2;
mod http2_connections;
mod identity;
mod informational;
mod limits;
mod malformed;
mod opaque;
mod outlier_detection;
mod pool;
mod program;
mod protocols;
mod resets;
mod retries;
mod routes;
mod streams;
mod timeouts;
mod tls;
mod tls_clients;
mod trust;
mod tunnels;
mod workload_api;
