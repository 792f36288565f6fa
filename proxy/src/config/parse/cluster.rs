//! `[[cluster]]`: addresses, endpoints, server names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use serde_spanned::Spanned;

use super::{Check, General};
use crate::config::{Cluster, Endpoint, Protocol, defaults, model};

/// The virtual addresses and server names so far: where each stands, and the name of its cluster.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) addresses: BTreeMap<SocketAddr, (Range<usize>, String)>,
    pub(super) names: BTreeMap<String, (Range<usize>, String)>,
    /// Names of clusters that routes lead to.
    pub(super) led_to: BTreeSet<String>,
}

impl Check<'_> {
    pub(super) fn cluster(
        &mut self,
        given: &model::Cluster,
        general: &General<'_>,
        taken: &mut Taken,
    ) -> Cluster {
        let name = self.name("name", &given.name);
        let what = format!("cluster {name:?}");
        if given.addresses.is_empty() && given.sni.is_empty() && !taken.led_to.contains(&name) {
            self.diagnostics
                .add(format!("{what} has no address"), given.name.span(), "nothing can reach it")
                .help(r#"name the address that apps dial: addresses = ["10.96.0.10:80"]; or let a route lead here"#);
        }
        let addresses = self.addresses(&name, &given.addresses, taken);
        let serves_others = !given.route.is_empty() && !taken.led_to.contains(&name);
        self.origin(&what, given, serves_others);
        let listed = given.endpoints.as_ref().map_or(&[][..], |listed| listed.get_ref());
        let endpoints = self.endpoints(&what, listed, &addresses, taken);
        let discovery = given.discovery.as_ref().and_then(|discovery| self.discovery(discovery));
        let protocol = self.protocol(given.protocol.as_ref());
        let bridged = given.bridge.as_ref().filter(|bridge| *bridge.get_ref());
        if let (Some(bridge), Protocol::Tcp, Some(tcp)) = (bridged, protocol, &given.protocol) {
            self.diagnostics
                .add("only HTTP can be bridged", bridge.span(), "carries HTTP/1 over HTTP/2")
                .also(tcp.span(), "opaque bytes")
                .help("leave `bridge` out, or say protocol = \"http\"");
        }
        let balance = match &given.balance {
            Some(own) => self.balance(Some(own), Some(&general.balance)).into(),
            None => general.balance.clone(),
        };
        Cluster {
            balance,
            subset: self.subset(&given.subset, &endpoints),
            subsets: Vec::new(),
            sni: self.server_names(&name, &given.sni, taken),
            name,
            addresses,
            protocol,
            opaque_at: BTreeSet::new(),
            declared: given.protocol.is_some(),
            endpoints: endpoints.into(),
            discovery,
            bridge: given.bridge.as_ref().map(|bridge| *bridge.get_ref()),
            timeouts: self.request_timeouts(
                [&given.timeouts.request, &given.timeouts.per_try, &given.timeouts.response]
                    .map(Option::as_ref),
                general.timeouts,
            ),
            retry: self.retry(given.retry.as_ref(), Some(&general.retry)),
            retry_budget: self.retry_budget(given.retry_budget.as_ref(), Some(general.retry_budget)),
            outlier_detection: self
                .outlier_detection(given.outlier_detection.as_ref(), Some(general.outlier_detection)),
            health: given.health.as_ref().map(|health| self.health(health, given.name.span()).into()),
            limits: self.cluster_limits(&given.limits),
            adaptive: self.adaptive(given.adaptive_concurrency.as_ref()),
            // Read once all clusters are known.
            routes: Vec::new(),
            routes_only: serves_others
                && given.endpoints.as_ref().is_some_and(|listed| listed.get_ref().is_empty()),
        }
    }

    /// The virtual addresses of the cluster `name`, each of which belongs to one cluster.
    fn addresses(&mut self, name: &str, given: &[Spanned<String>], taken: &mut Taken) -> Vec<SocketAddr> {
        let what = format!("cluster {name:?}");
        let mut addresses = Vec::with_capacity(given.len());
        for text in given {
            let Some(address) = self.address(text) else { continue };
            match taken.addresses.get(&address) {
                Some((first, owner)) if owner == name && addresses.contains(&address) => {
                    self.diagnostics
                        .add(format!("{what} lists \"{address}\" twice"), text.span(), "again")
                        .also(first.clone(), "first")
                        .help("remove one of them");
                }
                Some((first, owner)) => {
                    self.diagnostics
                        .add(format!("\"{address}\" belongs to two clusters"), text.span(), format!("of {name:?}"))
                        .also(first.clone(), format!("of {owner:?}"))
                        .help("a virtual address leads to one cluster: give one of them another address or port");
                }
                None => {
                    taken.addresses.insert(address, (text.span(), name.to_owned()));
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// Endpoints are listed or learned, and there are some unless the cluster only routes.
    fn origin(&mut self, what: &str, given: &model::Cluster, serves_others: bool) {
        match (&given.endpoints, &given.discovery) {
            (Some(listed), Some(discovery)) => {
                self.diagnostics
                    .add(
                        format!("{what} has both `endpoints` and `discovery`"),
                        discovery.span(),
                        "they would be learned here",
                    )
                    .also(listed.span(), "and they are listed here")
                    .help("keep one of the two");
            }
            (Some(listed), None) if listed.get_ref().is_empty() && !serves_others => {
                self.diagnostics
                    .add(
                        format!("{what} has no endpoints"),
                        given.name.span(),
                        "every request to it would fail",
                    )
                    .help(r#"list where it really is: endpoints = ["10.0.0.11:8080"]"#);
            }
            (None, None) => {
                self.diagnostics
                    .add(format!("{what} has no endpoints"), given.name.span(), "nothing says where it is")
                    .help(
                        r#"list where it really is: endpoints = ["10.0.0.11:8080"], or say where that is learned: [cluster.discovery]"#,
                    );
            }
            _ => {}
        }
    }

    fn endpoints(
        &mut self,
        what: &str,
        given: &[Spanned<model::Endpoint>],
        addresses: &[SocketAddr],
        taken: &Taken,
    ) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(given.len());
        let mut spans = Vec::with_capacity(given.len());
        for entry in given {
            let (text, table) = match entry.get_ref() {
                model::Endpoint::Address(text) => (&Spanned::new(entry.span(), text.clone()), None),
                model::Endpoint::Table(table) => (&table.address, Some(&**table)),
            };
            let Some(address) = self.address(text) else { continue };
            let span = text.span();
            if addresses.contains(&address) {
                let virtual_one = taken.addresses[&address].0.clone();
                self.diagnostics
                    .add(
                        format!("{what} has its own virtual address as an endpoint"),
                        span,
                        "must be an instance of the service",
                    )
                    .also(virtual_one, "the virtual address")
                    .help("`addresses` is what apps dial, `endpoints` is where instances really listen");
            } else if let Some(first) = endpoints.iter().position(|other| other.address == address) {
                self.diagnostics
                    .add(format!("{what} lists the endpoint \"{address}\" twice"), span, "again")
                    .also(Range::clone(&spans[first]), "first")
                    .help("remove one of them: to give an endpoint a larger share, give it a `weight`");
            } else {
                let known = table.map(|table| self.endpoint(address, table));
                endpoints.push(known.unwrap_or_else(|| Endpoint::at(address)));
                spans.push(span);
            }
        }
        endpoints
    }

    pub(super) fn endpoint(&mut self, address: SocketAddr, entry: &model::EndpointTable) -> Endpoint {
        let zone = entry.zone.as_ref().map(|zone| self.name("zone", zone).into());
        let priority = entry.priority.as_ref().map_or(0, |priority| {
            self.ranged("priority", Some(priority), 0, 0..=u32::from(defaults::MAX_PRIORITY)) as u8
        });
        let weight = entry
            .weight
            .as_ref()
            .map_or(1, |weight| self.ranged("weight", Some(weight), 1, 1..=defaults::MAX_WEIGHT) as u32);
        let protocol = entry.protocol.as_ref().map(|protocol| self.protocol(Some(protocol)));
        let identity = entry.identity.as_ref().and_then(|identity| self.workload("identity", identity));
        Endpoint { address, zone, priority, weight, protocol, identity, labels: entry.labels.clone().into() }
    }

    fn server_names(&mut self, cluster: &str, given: &[Spanned<String>], taken: &mut Taken) -> Vec<String> {
        let mut names = Vec::with_capacity(given.len());
        for text in given {
            let pattern = text.get_ref().trim_end_matches('.').to_ascii_lowercase();
            if let Err((label, help)) = check_server_name(&pattern) {
                self.diagnostics
                    .add(format!("{:?} is not a server name", text.get_ref()), text.span(), label)
                    .help(help);
                continue;
            }
            if let Some((first, owner)) = taken.names.get(&pattern) {
                self.diagnostics
                    .add(
                        format!("the server name {pattern:?} leads to two places"),
                        text.span(),
                        format!("to {cluster:?}"),
                    )
                    .also(first.clone(), format!("to {owner:?}"))
                    .help("a server name leads to one cluster: keep one of the two");
                continue;
            }
            taken.names.insert(pattern.clone(), (text.span(), cluster.to_owned()));
            names.push(pattern);
        }
        names
    }

    pub(super) fn address(&mut self, text: &Spanned<String>) -> Option<SocketAddr> {
        self.address_at(text, 80)
    }

    /// An address, where such servers usually listen on `port`.
    pub(super) fn address_at(&mut self, text: &Spanned<String>, port: u16) -> Option<SocketAddr> {
        let words = text.get_ref().as_str();
        let (message, label, help) = match words.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => ("an address needs a port from 1 to 65535", "port 0", None),
            Ok(address) if address.ip().to_canonical().is_unspecified() => {
                let help = "it stands for every address of a machine; name the one to connect to";
                ("nobody can connect to the unspecified address", "not a destination", Some(help.to_owned()))
            }
            Ok(address) => return Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
            Err(_) => {
                let (label, help) = not_an_address(words, port);
                ("this is not an address and a port", label, Some(help))
            }
        };
        let note = self.diagnostics.add(message, text.span(), label);
        note.help(help.unwrap_or_else(|| format!("such as {:?}", words.replace(":0", &format!(":{port}")))));
        None
    }
}

/// Whether `pattern`, in lower case, can be a server name (RFC 6066 section 3) or a wildcard for
/// all below one: what is wrong, and what to write.
fn check_server_name(pattern: &str) -> Result<(), (&'static str, String)> {
    let name = pattern.strip_prefix("*.").unwrap_or(pattern);
    if name.is_empty() {
        return Err((
            "no name",
            r#"write a name such as "db.example", or "*.example" for every name below"#.into(),
        ));
    }
    if name.contains('*') {
        let help = r#"a wildcard stands alone before the first dot, as in "*.example""#;
        return Err(("a `*` in the wrong place", help.into()));
    }
    if name.contains(':') || name.parse::<IpAddr>().is_ok() {
        let help = "clients send no addresses and no ports there: list the address under `addresses`";
        return Err(("an address", help.into()));
    }
    if !crate::config::names::is_server_name(name.as_bytes()) {
        return Err(("not a host's name", "use letters, digits, hyphens and dots".into()));
    }
    Ok(())
}

/// What is wrong with `words` as an address and a port, and what to write.
fn not_an_address(words: &str, usual: u16) -> (&'static str, String) {
    if let Ok(ip) = words.parse::<IpAddr>() {
        let example = SocketAddr::new(ip, usual);
        return ("no port", format!(r#"add the port: "{example}""#));
    }
    if let Some((_, rest)) = words.split_once("://") {
        return (
            "a URL",
            format!("leave the scheme and the path away: {:?}", rest.split('/').next().unwrap_or(rest)),
        );
    }
    let Some((host, port)) = words.rsplit_once(':') else {
        return ("no port", r#"write an address and a port, such as "10.0.0.11:8080""#.into());
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bracketed.parse::<IpAddr>().is_ok() {
        return ("not a port", format!("{port:?} is not a port: ports go from 1 to 65535"));
    }
    if host.contains('/') {
        return ("a network", "name one address, not a network".into());
    }
    if !host.is_empty() && host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':') {
        return (
            "a name",
            format!("names are not resolved here: write the address that {host:?} stands for"),
        );
    }
    ("not an address", r#"write an address and a port, such as "10.0.0.11:8080" or "[fd00::11]:8080""#.into())
}
