//! `[cluster.discovery]`, `[register]`, and files of endpoints.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use serde_spanned::Spanned;

use super::{Check, ConfigErrors, Diagnostics, shape};
use crate::config::model::{self, EndpointsFile};
use crate::config::{Discovery, Dns, DnsQuery, Endpoint, Etcd, Register, Source, defaults, names, units};

/// The endpoints that the text of a `discovery.file` names. `path_name` is what errors call it.
///
/// # Errors
/// Every mistake in the text.
pub fn parse_endpoints(path_name: &str, text: &str) -> Result<Vec<Endpoint>, ConfigErrors> {
    let mut diagnostics = Diagnostics::new(path_name, text);
    let file: Option<EndpointsFile> = shape::read(text, &mut diagnostics);
    let mut check = Check { diagnostics: &mut diagnostics };
    let mut endpoints = Vec::new();
    let mut places: BTreeMap<SocketAddr, Range<usize>> = BTreeMap::new();
    for table in file.iter().flat_map(|file| &file.endpoint) {
        let table = table.get_ref();
        let Some(address) = check.address(&table.address) else { continue };
        if let Some(first) = places.insert(address, table.address.span()) {
            check
                .diagnostics
                .add(format!("the endpoint \"{address}\" stands here twice"), table.address.span(), "again")
                .also(first, "first")
                .help("remove one of them: to give an endpoint a larger share, give it a `weight`");
        }
        endpoints.push(check.endpoint(address, table));
    }
    diagnostics.finish(endpoints)
}

impl Check<'_> {
    pub(super) fn discovery(&mut self, given: &Spanned<model::Discovery>) -> Option<Discovery> {
        let span = given.span();
        let given = given.get_ref();
        let sources = [
            ("file", given.file.as_ref().map(Spanned::span)),
            ("etcd", given.etcd.as_ref().map(Spanned::span)),
            ("dns", given.dns.as_ref().map(Spanned::span)),
        ];
        let mut named = sources.into_iter().filter_map(|(key, span)| Some((key, span?)));
        let Some((first, first_span)) = named.next() else {
            self.diagnostics
                .add("this discovery has no source", span, "nothing to learn endpoints from")
                .help("give it a `file`, an `etcd` or a `dns`");
            return None;
        };
        if let Some((second, second_span)) = named.next() {
            self.diagnostics
                .add(format!("`{first}` and `{second}` are two sources"), second_span, "the second")
                .also(first_span, "the first")
                .help("a cluster learns its endpoints from one source: keep one of the two");
            return None;
        }
        let source = match (&given.file, &given.etcd, &given.dns) {
            (Some(file), ..) if file.get_ref().is_empty() => {
                self.diagnostics
                    .add("`file` is empty", file.span(), "a path is needed")
                    .help(r#"such as file = "/etc/sidelab/orders.toml""#);
                None
            }
            (Some(file), ..) => Some(Source::File(file.get_ref().into())),
            (None, Some(etcd), _) => self.etcd(etcd.get_ref()).map(Source::Etcd),
            (None, None, Some(dns)) => self.dns(dns).map(Source::Dns),
            (None, None, None) => None,
        };
        let empty_grace =
            self.duration("empty_grace", given.empty_grace.as_ref(), defaults::EMPTY_GRACE).value;
        let stale_after =
            self.duration("stale_after", given.stale_after.as_ref(), defaults::STALE_AFTER).value;
        let stale_after = Some(stale_after).filter(|time| !time.is_zero());
        Some(Discovery { source: source?, empty_grace, stale_after })
    }

    fn dns(&mut self, given: &Spanned<model::Dns>) -> Option<Dns> {
        let (span, given) = (given.span(), given.get_ref());
        let wanted = match (&given.name, &given.srv, &given.port) {
            (Some(name), None, Some(port)) => {
                if *port.get_ref() == 0 {
                    self.diagnostics
                        .add("`port` is 0", port.span(), "nobody listens there")
                        .help("write the port that the endpoints listen on");
                }
                self.domain(name).map(|name| DnsQuery::Host { name, port: *port.get_ref() })
            }
            (None, Some(srv), None) => self.domain(srv).map(DnsQuery::Service),
            (Some(name), None, None) => {
                self.diagnostics
                    .add("this name has no `port`", name.span(), "addresses only")
                    .help("add `port`, or ask for a service by `srv`, whose records have ports");
                None
            }
            (Some(_), Some(srv), _) => {
                self.diagnostics
                    .add("`name` and `srv` are two questions", srv.span(), "the second")
                    .help("a cluster learns its endpoints from one of them: keep one of the two");
                None
            }
            (None, Some(_), Some(port)) => {
                self.diagnostics
                    .add("`port` stands beside `srv`", port.span(), "one port too many")
                    .help("the records of a service say what their ports are: remove it");
                None
            }
            (None, None, _) => {
                self.diagnostics
                    .add("this `dns` asks for nothing", span, "which name?")
                    .help(r#"such as { name = "orders.example", port = 8080 } or { srv = "_http._tcp.orders.example" }"#);
                None
            }
        };
        let servers = given.servers.iter().filter_map(|server| self.name_server(server)).collect();
        let (least, most) = defaults::DNS_TTL;
        let min_ttl = self.duration("min_ttl", given.min_ttl.as_ref(), least);
        let max_ttl = self.duration("max_ttl", given.max_ttl.as_ref(), most.max(min_ttl.value));
        if max_ttl.value < min_ttl.value
            && let Some(span) = max_ttl.span
        {
            self.diagnostics
                .add("`max_ttl` is shorter than `min_ttl`", span, "the longest is the shorter one")
                .help(format!("it is at least {}", units::show(min_ttl.value)));
            return None;
        }
        if min_ttl.value.is_zero()
            && let Some(span) = min_ttl.span
        {
            self.diagnostics
                .add("`min_ttl` is 0", span, "asked without end")
                .help("a name with a time to live of 0 would be asked again at once, for ever: write \"100ms\" or more");
            return None;
        }
        Some(Dns { wanted: wanted?, servers, min_ttl: min_ttl.value, max_ttl: max_ttl.value })
    }

    fn domain(&mut self, given: &Spanned<String>) -> Option<String> {
        match names::absolute(given.get_ref()) {
            Ok(_) => Some(given.get_ref().clone()),
            Err(_) => {
                self.diagnostics
                    .add("this is not a name", given.span(), "a part of it is empty, too long or odd")
                    .help("names are absolute: letters, digits, `-` and `_`, with dots between, such as orders.example");
                None
            }
        }
    }

    fn name_server(&mut self, given: &Spanned<String>) -> Option<SocketAddr> {
        let words = given.get_ref();
        let address = words.parse().ok();
        let address =
            address.or_else(|| Some(SocketAddr::new(words.parse::<IpAddr>().ok()?, defaults::DNS_PORT)));
        if address.is_none() {
            self.diagnostics
                .add("this is not the address of a name server", given.span(), "not an address")
                .help(r#"write it like "10.0.0.53", or "10.0.0.53:5353" for another port than 53"#);
        }
        address
    }

    fn etcd(&mut self, given: &model::Etcd) -> Option<Etcd> {
        let prefix = given.prefix.get_ref();
        if !prefix.ends_with('/') {
            self.diagnostics
                .add("`prefix` does not end with a slash", given.prefix.span(), "where does the name end?")
                .help(format!(
                    "write \"{prefix}/\": without the slash, keys of \"{prefix}2\" would count too"
                ));
        }
        if given.endpoints.is_empty() {
            self.diagnostics
                .add("etcd has no servers", given.prefix.span(), "stored where?")
                .help(r#"list them: endpoints = ["http://10.0.0.5:2379"]"#);
        }
        let mut servers = Vec::with_capacity(given.endpoints.len());
        for text in &given.endpoints {
            let words = text.get_ref().as_str();
            if words.starts_with("https://") {
                self.diagnostics
                    .add("etcd is not spoken to over TLS", text.span(), "TLS")
                    .help("give the address of a plain listener of etcd's, such as one on loopback");
                continue;
            }
            let bare = words.strip_prefix("http://").unwrap_or(words).trim_end_matches('/');
            // So that the words pointed at are those of the file.
            match bare.parse::<SocketAddr>() {
                Ok(_) => servers.extend(self.address(&Spanned::new(text.span(), bare.to_owned()))),
                Err(_) => {
                    self.diagnostics
                        .add("this is not an address of etcd", text.span(), "not an address and a port")
                        .help(r#"write it like "http://10.0.0.5:2379"; names are not resolved here"#);
                }
            }
        }
        (!servers.is_empty()).then(|| Etcd { servers, prefix: prefix.clone() })
    }

    pub(super) fn register(&mut self, given: &model::Register) -> Option<Register> {
        let etcd = self.etcd(given.etcd.get_ref());
        let ttl = self.duration("ttl", given.ttl.as_ref(), defaults::REGISTER_TTL);
        if let Some(span) = ttl.span.filter(|_| ttl.value < defaults::REGISTER_TTL_LEAST) {
            let least = units::show(defaults::REGISTER_TTL_LEAST);
            self.diagnostics
                .add("`ttl` is too short", span, "lost at the first hiccup")
                .help(format!("it is at least {least}, as etcd's leases are; the default is 15s"));
        }
        let table = model::EndpointTable {
            address: given.address.clone(),
            zone: given.zone.clone(),
            priority: given.priority.clone(),
            weight: given.weight.clone(),
            protocol: given.protocol.clone(),
            identity: given.identity.clone(),
            labels: given.labels.clone(),
        };
        let address = self.address(&given.address)?;
        let endpoint = Arc::new(self.endpoint(address, &table));
        Some(Register { etcd: etcd?, ttl: ttl.value, endpoint })
    }
}
