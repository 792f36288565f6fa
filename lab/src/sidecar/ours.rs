//! The configuration of the `proxy` crate for one instance.
//!
//! Every sidecar knows every service that can be called, itself included, and one worker serves it: a lab has many
//! sidecars on few cores, and in the simulator a sidecar is one thread anyway. What it leaves out takes the proxy's
//! defaults, so that a scenario measures what a user would get; a protocol that is to be detected is left out too, because
//! the sidecar has its own idea of some ports that nobody declared. Endpoints are IPv4 only; callers may dial either family.

use std::net::SocketAddr;

use serde::Serialize;

use crate::plan::{Plan, Protocol};

/// The keys that the lab sets, in the order of the file. `proxy::config::model` says what they mean.
#[derive(Serialize)]
struct File<'a> {
    service: &'a str,
    instance: &'a str,
    workers: usize,
    seed: u64,
    timeouts: Timeouts,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cluster: Vec<Cluster<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inbound: Vec<Inbound>,
}

#[derive(Serialize)]
struct Timeouts {
    drain_min: &'static str,
}

#[derive(Serialize)]
struct Cluster<'a> {
    name: &'a str,
    addresses: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "is_detected")]
    protocol: Protocol,
    endpoints: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bridge: bool,
}

#[derive(Serialize)]
struct Inbound {
    port: u16,
    #[serde(skip_serializing_if = "is_detected")]
    protocol: Protocol,
}

fn is_detected(protocol: &Protocol) -> bool {
    *protocol == Protocol::Detect
}

/// The text of the configuration file of the sidecar of `plan.instances[instance]`.
pub fn config(plan: &Plan, instance: usize, seed: u64) -> String {
    let this = &plan.instances[instance];
    let service = &plan.services[this.service];
    let callable = plan.services.iter().filter_map(|s| s.port.map(|port| (s, port)));
    let file = File {
        service: &service.name,
        instance: &this.name,
        workers: 1,
        // TOML's integers are signed.
        seed: seed >> 1,
        // Nobody here looks at readiness to choose an endpoint, so there is nobody to wait for.
        timeouts: Timeouts { drain_min: "0s" },
        cluster: callable
            .map(|(service, port)| Cluster {
                name: &service.name,
                addresses: vec![(service.vip4, port).into(), (service.vip6, port).into()],
                protocol: service.protocol,
                endpoints: service.instances.iter().map(|i| (plan.instances[*i].v4, port).into()).collect(),
                bridge: service.bridge,
            })
            .collect(),
        inbound: service.port.map(|port| Inbound { port, protocol: service.protocol }).into_iter().collect(),
    };
    toml::to_string_pretty(&file).expect("names, numbers and addresses are all TOML")
}
