//! Where a connection goes: what the kernel world does by addresses, iptables rules and DNAT, as
//! one pure function.
//!
//! The order of the cases is the order of the rules in `proxy::capture::rules`. What it leaves out:
//! anything that the rules let pass untouched behaves as without rules, so there is no case for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy::capture::rules::INBOUND_SOURCE_V6;

use crate::plan::{HEALTH_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, Plan, SidecarKind};

/// Which process of an instance asks; interception depends on it as it does on uids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The app.
    App,
    /// The sidecar, which interception exempts.
    Sidecar,
    /// A load generator, treated like an app.
    Load,
    /// The lab itself inside the instance (readiness, metrics); it only dials loopback.
    Tool,
}

/// Where a connection leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// Position of the instance where it ends.
    pub host: usize,
    /// The address there, after every redirect.
    pub dst: SocketAddr,
    /// The caller's address.
    pub src: IpAddr,
    /// What the caller dialled, if interception changed it.
    pub orig: Option<SocketAddr>,
}

struct Instance {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    intercepted: bool,
}

struct Vip {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    port: u16,
    instances: Vec<usize>,
}

/// Every address of the plan.
pub(super) struct Map {
    instances: Vec<Instance>,
    vips: Vec<Vip>,
    dnat: bool,
}

impl Map {
    pub fn new(plan: &Plan) -> Self {
        let instance =
            |i: &crate::plan::Instance| Instance { v4: i.v4, v6: i.v6, intercepted: i.sidecar.is_some() };
        let vip = |s: &crate::plan::Service| {
            Some(Vip { v4: s.vip4, v6: s.vip6, port: s.port?, instances: s.instances.clone() })
        };
        Map {
            instances: plan.instances.iter().map(instance).collect(),
            vips: plan.services.iter().filter_map(vip).collect(),
            dnat: plan.sidecar == SidecarKind::None,
        }
    }

    /// The address of instance `host` in the family of `like`.
    pub fn address(&self, host: usize, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.instances[host].v4.into(),
            IpAddr::V6(_) => self.instances[host].v6.into(),
        }
    }

    /// Whether a socket of instance `host` may have this address.
    pub fn owns(&self, host: usize, ip: IpAddr) -> bool {
        let source = IpAddr::from(INBOUND_SOURCE_V6);
        ip.is_unspecified() || ip.is_loopback() || ip == source || ip == self.address(host, ip)
    }

    /// Where a connection of process `who` on `host` to `to` leads. `from` is the source address
    /// asked for; `pick` chooses one of n for DNAT.
    ///
    /// # Errors
    /// What the kernel says: the source address is not the instance's, or nothing routes to the
    /// destination.
    pub fn route(
        &self,
        host: usize,
        who: Who,
        to: SocketAddr,
        from: Option<IpAddr>,
        pick: impl FnOnce(usize) -> usize,
    ) -> io::Result<Route> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let from = from.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_unspecified());
        if from.is_some_and(|ip| !self.owns(host, ip) || ip.is_ipv4() != to.is_ipv4()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        if to.ip().is_loopback() {
            return Ok(Route { host, dst: to, src: from.unwrap_or(to.ip()), orig: None });
        }

        let me = &self.instances[host];
        let src = from.unwrap_or(self.address(host, to.ip()));
        if me.intercepted && matches!(who, Who::App | Who::Load) {
            // REDIRECT in the OUTPUT chain sends the packet to loopback and leaves its source
            // alone.
            let loopback: IpAddr =
                if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            return Ok(Route { host, dst: SocketAddr::new(loopback, OUTBOUND_PORT), src, orig: Some(to) });
        }
        if to.ip() == self.address(host, to.ip()) {
            // The sidecar's way to its own app is marked by its source address; without the mark, a
            // sidecar that dials its own instance (the balancer picked it) goes through its own
            // inbound side.
            let inner = from.is_some_and(|ip| ip.is_loopback() || ip == IpAddr::from(INBOUND_SOURCE_V6));
            if me.intercepted && who == Who::Sidecar && !inner {
                let dst = SocketAddr::new(to.ip(), INBOUND_PORT);
                return Ok(Route { host, dst, src, orig: Some(to) });
            }
            return Ok(Route { host, dst: to, src, orig: None });
        }

        let dst = if self.dnat { self.dnat(to, pick) } else { to };
        let found = self.instances.iter().position(|i| dst.ip() == i.v4 || dst.ip() == i.v6);
        let Some(there) = found else {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        };
        let through = self.instances[there].intercepted
            && there != host
            && ![METRICS_PORT, HEALTH_PORT].contains(&dst.port());
        if through {
            let entry = SocketAddr::new(dst.ip(), INBOUND_PORT);
            return Ok(Route { host: there, dst: entry, src, orig: Some(dst) });
        }
        Ok(Route { host: there, dst, src, orig: None })
    }

    fn dnat(&self, to: SocketAddr, pick: impl FnOnce(usize) -> usize) -> SocketAddr {
        let vip = self.vips.iter().find(|v| (to.ip() == v.v4 || to.ip() == v.v6) && to.port() == v.port);
        match vip {
            Some(vip) if !vip.instances.is_empty() => {
                let chosen = vip.instances[pick(vip.instances.len())];
                SocketAddr::new(self.address(chosen, to.ip()), to.port())
            }
            _ => to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(intercepted: bool) -> Map {
        let instance = |n: u8| Instance {
            v4: Ipv4Addr::new(10, 77, 0, n),
            v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()),
            intercepted,
        };
        let vip = Vip {
            v4: Ipv4Addr::new(10, 78, 0, 1),
            v6: Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1),
            port: 80,
            instances: vec![1, 2],
        };
        Map { instances: vec![instance(1), instance(2), instance(3)], vips: vec![vip], dnat: !intercepted }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn apps_and_load_are_redirected_to_their_sidecar_except_on_loopback() {
        let map = map(true);
        for who in [Who::App, Who::Load] {
            let route = map.route(0, who, at("10.78.0.1:80"), None, |_| 0).expect("routed");
            let want = Route {
                host: 0,
                dst: at("127.0.0.1:15001"),
                src: ip("10.77.0.1"),
                orig: Some(at("10.78.0.1:80")),
            };
            assert_eq!(route, want);
            let route = map.route(0, who, at("[fd01::1]:80"), None, |_| 0).expect("routed");
            assert_eq!((route.dst, route.src), (at("[::1]:15001"), ip("fd00::1")));
            let route = map.route(0, who, at("127.0.0.1:9100"), None, |_| 0).expect("routed");
            assert_eq!((route.dst, route.orig), (at("127.0.0.1:9100"), None));
        }
    }

    #[test]
    fn a_sidecar_reaches_its_app_only_with_the_loopback_source() {
        let map = map(true);
        let own = at("10.77.0.1:8080");
        let route = map.route(0, Who::Sidecar, own, Some(ip("127.0.0.6")), |_| 0).expect("routed");
        assert_eq!(route, Route { host: 0, dst: own, src: ip("127.0.0.6"), orig: None });
        let route = map.route(0, Who::Sidecar, own, None, |_| 0).expect("routed");
        assert_eq!((route.dst, route.orig), (at("10.77.0.1:15006"), Some(own)));
    }

    #[test]
    fn traffic_from_outside_enters_by_the_inbound_port_except_health_and_metrics() {
        let map = map(true);
        let route = map.route(0, Who::Sidecar, at("10.77.0.2:8080"), None, |_| 0).expect("routed");
        let entry = Route {
            host: 1,
            dst: at("10.77.0.2:15006"),
            src: ip("10.77.0.1"),
            orig: Some(at("10.77.0.2:8080")),
        };
        assert_eq!(route, entry);
        for port in [15020, 15021] {
            let to = SocketAddr::new(ip("10.77.0.2"), port);
            let route = map.route(0, Who::Sidecar, to, None, |_| 0).expect("routed");
            assert_eq!((route.dst, route.orig), (to, None));
        }
    }

    #[test]
    fn without_sidecars_a_virtual_address_becomes_the_instance_that_was_picked() {
        let map = map(false);
        let route = map.route(0, Who::App, at("10.78.0.1:80"), None, |n| n - 1).expect("routed");
        assert_eq!(route, Route { host: 2, dst: at("10.77.0.3:80"), src: ip("10.77.0.1"), orig: None });
        let other = map.route(0, Who::App, at("10.78.0.1:81"), None, |_| 0);
        assert_eq!(other.expect_err("no such port").kind(), io::ErrorKind::NetworkUnreachable);
    }

    #[test]
    fn addresses_that_nobody_has_are_refused_as_the_kernel_does() {
        let map = map(true);
        let route = map.route(0, Who::Sidecar, at("10.78.0.1:80"), None, |_| 0);
        assert_eq!(route.expect_err("no route").kind(), io::ErrorKind::NetworkUnreachable);
        let route = map.route(0, Who::App, at("10.77.0.2:80"), Some(ip("10.77.0.2")), |_| 0);
        assert_eq!(route.expect_err("not ours").kind(), io::ErrorKind::AddrNotAvailable);
    }
}
