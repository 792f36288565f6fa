//! Parts of plans that tests write by hand.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lab::fault::{Action, Entry};
use lab::plan::{Protocol, Service};

/// A service of which only this is known.
pub fn service(
    name: &str,
    (vip4, vip6): (Ipv4Addr, Ipv6Addr),
    port: Option<u16>,
    instances: Vec<usize>,
) -> Service {
    Service {
        name: name.into(),
        vip4,
        vip6,
        port,
        protocol: Protocol::Tcp,
        bridge: false,
        registry: None,
        policy: toml::Table::new(),
        settings: toml::Table::new(),
        authorization: toml::Table::new(),
        identity: None,
        tls: None,
        limits: Default::default(),
        instances,
    }
}

/// A fault from the beginning to the end.
pub fn entry(name: &str, action: Action) -> Entry {
    Entry { name: name.into(), at: Duration::ZERO, until: None, repeat: None, action }
}
