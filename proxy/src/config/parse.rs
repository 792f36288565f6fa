//! The second step of reading a configuration: what its values mean, and whether they contradict each other.
//!
//! Takes the [`File`] that `shape` has read and fills in every default. A value with a mistake is noted and replaced by
//! a stand-in so that the rest can be checked too; the stand-in never leaves this module, since a file with a mistake
//! gives no [`Snapshot`]. Addresses are compared in their canonical form: `[::ffff:10.0.0.1]:80` is `10.0.0.1:80`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use serde_spanned::Spanned;

use super::diagnose::{ConfigErrors, Mistakes, did_you_mean, one_of};
use super::model::{self, File};
use super::{
    Breaker, Cluster, Forwarded, Http1, Limits, Listen, Protocol, RequestTimeouts, Retry, Snapshot, Timeouts,
    TryTimeouts, defaults, shape, units,
};

/// The configuration that `text` describes, complete and checked. `path_name` is what errors call it.
///
/// # Errors
/// Every mistake in the text: all of its shape (keys, types), or if there is none, all of its meaning.
pub fn parse(path_name: &str, text: &str) -> Result<Snapshot, ConfigErrors> {
    let mut mistakes = Mistakes::new(path_name, text);
    let snapshot = shape::read(text, &mut mistakes).map(|file| Check { mistakes: &mut mistakes }.file(&file));
    // Without a snapshot there is a mistake, so this unwraps only what was there all along.
    mistakes.finish(snapshot).map(|snapshot| snapshot.expect("a file without mistakes gives a snapshot"))
}

struct Check<'a> {
    mistakes: &'a mut Mistakes,
}

/// The virtual addresses and server names so far: where each stands, and the name of its cluster.
#[derive(Default)]
struct Taken {
    addresses: BTreeMap<SocketAddr, (Range<usize>, String)>,
    names: BTreeMap<String, (Range<usize>, String)>,
}

/// A value of a breaker, where it was given if it was.
struct Given<T> {
    value: T,
    span: Option<Range<usize>>,
}

impl Check<'_> {
    fn file(mut self, file: &File) -> Snapshot {
        let service = self.name("service", &file.service);
        let instance =
            file.instance.as_ref().map_or_else(|| service.clone(), |name| self.name("instance", name));
        if let Some(workers) = file.workers.as_ref().filter(|workers| *workers.get_ref() == 0) {
            self.mistakes
                .add("without a worker nothing is forwarded", workers.span(), "must be at least 1")
                .help("leave `workers` out to have one for each CPU that the process may use");
        }
        let listen = self.listen(&file.listen);
        let timeouts = self.timeouts(&file.timeouts);
        let given = &file.timeouts;
        let requests = self.request_timeouts(
            [given.request.as_ref(), given.per_try.as_ref(), given.response.as_ref()],
            RequestTimeouts::default(),
        );
        let limits = self.limits(&file.limits);
        let (bytes, bytes_range) = (file.limits.header_bytes.as_ref(), defaults::HEADER_BYTES_RANGE);
        let (lines, lines_range) = (file.limits.headers.as_ref(), defaults::HEADERS_RANGE);
        let http1 = Http1 {
            header_bytes: self.ranged("header_bytes", bytes, defaults::HEADER_BYTES, bytes_range),
            headers: self.ranged("headers", lines, defaults::HEADERS, lines_range),
            preserve_header_case: file.preserve_header_case.unwrap_or(false),
        };
        let forwarded = self.forwarded(file.forwarded.as_ref());
        let retry = retry(file.retry.as_ref(), Retry { attempts: defaults::RETRIES });
        let breaker = self.breaker(file.breaker.as_ref(), None);

        let mut names = BTreeMap::new();
        let opaque_ports: BTreeSet<u16> = match &file.opaque_ports {
            Some(ports) => ports.iter().map(|port| self.port("opaque_ports", port)).collect(),
            None => defaults::OPAQUE_PORTS.into(),
        };
        let mut taken = Taken::default();
        let mut clusters = Vec::with_capacity(file.cluster.len());
        for cluster in &file.cluster {
            let mut checked =
                self.cluster(cluster, (file.breaker.as_ref(), breaker), retry, requests, &mut taken);
            if cluster.protocol.is_none() {
                checked.opaque_at = opaque_at(&checked, &opaque_ports);
            }
            if let Some(first) = names.insert(checked.name.clone(), cluster.name.span()) {
                self.mistakes
                    .add(
                        format!("two clusters are called {:?}", checked.name),
                        cluster.name.span(),
                        "the second",
                    )
                    .also(first, "the first")
                    .help(
                        "metrics and logs tell clusters apart by name: rename one, or merge their endpoints",
                    );
            }
            clusters.push(Arc::new(checked));
        }
        let inbound = self.inbound(&file.inbound, &listen, &opaque_ports);
        Snapshot {
            service,
            instance,
            workers: file.workers.as_ref().map(|workers| *workers.get_ref()),
            seed: file.seed,
            listen,
            mark: file.mark,
            passthrough: file.passthrough.unwrap_or(true),
            http1,
            forwarded,
            opaque_ports,
            timeouts,
            limits,
            clusters,
            inbound,
        }
    }

    fn name(&mut self, key: &str, value: &Spanned<String>) -> String {
        let name = value.get_ref();
        if name.is_empty() {
            self.mistakes
                .add(format!("`{key}` is empty"), value.span(), "a name is needed")
                .help("metrics and logs are told apart by it");
        } else if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            self.mistakes
                .add(format!("`{key}` has a space in it"), value.span(), "not a name")
                .help(format!("write {:?}", name.split_whitespace().collect::<Vec<_>>().join("-")));
        }
        name.clone()
    }

    fn listen(&mut self, given: &model::Listen) -> Listen {
        let ports = [
            ("outbound", &given.outbound, defaults::OUTBOUND_PORT),
            ("inbound", &given.inbound, defaults::INBOUND_PORT),
            ("admin", &given.admin, defaults::ADMIN_PORT),
            ("metrics", &given.metrics, defaults::METRICS_PORT),
            ("health", &given.health, defaults::HEALTH_PORT),
        ];
        let in_force = ports.map(|(name, given, default)| match given {
            Some(port) => self.port(name, port),
            None => default,
        });
        for (later, &(name, given, _)) in ports.iter().enumerate() {
            for (earlier, &(other_name, other, _)) in ports[..later].iter().enumerate() {
                let port = in_force[later];
                if port != in_force[earlier] || port == 0 {
                    continue;
                }
                let message = format!("`{other_name}` and `{name}` both listen on port {port}");
                let help = "give one of them another port";
                match (given, other) {
                    (Some(here), Some(there)) => {
                        self.mistakes
                            .add(message, here.span(), format!("`{name}`"))
                            .also(there.span(), format!("`{other_name}`"))
                            .help(help);
                    }
                    (Some(here), None) | (None, Some(here)) => {
                        let silent = if given.is_none() { name } else { other_name };
                        self.mistakes
                            .add(message, here.span(), format!("the default of `{silent}`"))
                            .help(help);
                    }
                    (None, None) => {}
                }
            }
        }
        let [outbound, inbound, admin, metrics, health] = in_force;
        Listen { outbound, inbound, admin, metrics, health }
    }

    fn port(&mut self, key: &str, port: &Spanned<u16>) -> u16 {
        if *port.get_ref() == 0 {
            self.mistakes.add(format!("`{key}` cannot be port 0"), port.span(), "not a port").help(
                "ports go from 1 to 65535; others have to know this one, so it cannot be left to the system",
            );
        }
        *port.get_ref()
    }

    fn timeouts(&mut self, given: &model::Timeouts) -> Timeouts {
        let timeouts = Timeouts {
            connect: self.duration("connect", given.connect.as_ref(), defaults::CONNECT_TIMEOUT).value,
            detect: self.duration("detect", given.detect.as_ref(), defaults::DETECT_TIMEOUT).value,
            pool_idle: self.duration("pool_idle", given.pool_idle.as_ref(), defaults::POOL_IDLE).value,
            drain_min: self.duration("drain_min", given.drain_min.as_ref(), defaults::DRAIN_MIN).value,
            tunnel_idle: self
                .duration("tunnel_idle", given.tunnel_idle.as_ref(), defaults::TUNNEL_IDLE)
                .value,
            half_close: self
                .duration("half_close", given.half_close.as_ref(), defaults::HALF_CLOSE_TIMEOUT)
                .value,
            tcp_idle: self.duration("tcp_idle", given.tcp_idle.as_ref(), defaults::TCP_IDLE_TIMEOUT).value,
            drain: self.duration("drain", given.drain.as_ref(), defaults::DRAIN_TIMEOUT).value,
            pool_age: self.limit("pool_age", given.pool_age.as_ref(), Some(defaults::POOL_AGE)),
            stream_idle: self.limit("stream_idle", given.stream_idle.as_ref(), Some(defaults::STREAM_IDLE)),
        };
        if let Some(connect) = given.connect.as_ref().filter(|_| timeouts.connect.is_zero()) {
            self.mistakes
                .add("no connection opens in no time", connect.span(), "must be longer than 0")
                .help(format!("the default is {:?}", units::show(defaults::CONNECT_TIMEOUT)));
        }
        if let Some(detect) = given.detect.as_ref().filter(|_| timeouts.detect.is_zero()) {
            self.mistakes
                .add("no protocol shows itself in no time", detect.span(), "must be longer than 0")
                .help(r#"to look at nothing, set `protocol = "tcp"` on the cluster or the inbound port"#);
        }
        if let Some(idle) = given.tunnel_idle.as_ref().filter(|_| timeouts.tunnel_idle.is_zero()) {
            self.mistakes
                .add("no tunnel is never silent", idle.span(), "must be longer than 0")
                .help(format!("the default is {:?}", units::show(defaults::TUNNEL_IDLE)));
        }
        for (given, value, default) in [
            (&given.half_close, timeouts.half_close, defaults::HALF_CLOSE_TIMEOUT),
            (&given.tcp_idle, timeouts.tcp_idle, defaults::TCP_IDLE_TIMEOUT),
        ] {
            if let Some(given) = given.as_ref().filter(|_| value.is_zero()) {
                self.mistakes
                    .add(
                        "a connection that may never be silent carries nothing",
                        given.span(),
                        "must be longer than 0",
                    )
                    .help(format!("the default is {:?}", units::show(default)));
            }
        }
        timeouts
    }

    fn limits(&mut self, given: &model::Limits) -> Limits {
        let mut count = |key: &str, given: &Option<Spanned<usize>>, default| {
            let Some(count) = given else { return default };
            if *count.get_ref() == 0 {
                self.mistakes
                    .add(format!("`{key}` of 0 would refuse everything"), count.span(), "must be at least 1")
                    .help("to take a sidecar out of service, stop it: it drains");
            }
            *count.get_ref()
        };
        let connections = count("connections", &given.connections, defaults::MAX_CONNECTIONS);
        let requests = count("requests", &given.requests, defaults::MAX_REQUESTS);
        let endpoint_connections =
            count("endpoint_connections", &given.endpoint_connections, defaults::POOL_CONNECTIONS);
        let pending = given.pending.as_ref().map_or(defaults::POOL_PENDING, |pending| *pending.get_ref());
        let memory = given.memory.as_ref().and_then(|text| {
            units::bytes(text.get_ref())
                .map_err(|hint| {
                    self.mistakes
                        .add("`memory` is not a size", text.span(), "not a size with a unit")
                        .help(hint);
                })
                .ok()
        });
        Limits { connections, requests, endpoint_connections, pending, memory }
    }

    /// A limit that zero switches off.
    fn limit(
        &mut self,
        key: &str,
        given: Option<&Spanned<String>>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        let limit = self.duration(key, given, default.unwrap_or_default()).value;
        (!limit.is_zero()).then_some(limit)
    }

    fn request_timeouts(
        &mut self,
        [request, per_try, response]: [Option<&Spanned<String>>; 3],
        general: RequestTimeouts,
    ) -> RequestTimeouts {
        let timeouts = RequestTimeouts {
            request: self.limit("request", request, general.request),
            tries: TryTimeouts {
                per_try: self.limit("per_try", per_try, general.tries.per_try),
                response: self.limit("response", response, general.tries.response),
            },
        };
        if let (Some(whole), Some(part), Some(span)) =
            (timeouts.request, timeouts.tries.per_try, per_try.or(request).map(Spanned::span))
            && part >= whole
        {
            let (whole, part) = (units::show(whole), units::show(part));
            self.mistakes
                .add(
                    "a try may take as long as the whole request",
                    span,
                    format!("`per_try` is {part}, `request` is {whole}"),
                )
                .help("make `per_try` shorter, so that there is time for another try, or leave it out");
        }
        timeouts
    }

    fn ranged(
        &mut self,
        key: &str,
        given: Option<&Spanned<u32>>,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> usize {
        let value = given.map_or(default, |given| *given.get_ref());
        if let Some(given) = given.filter(|_| !range.contains(&value)) {
            self.mistakes
                .add(format!("`{key}` is out of range"), given.span(), "out of range")
                .help(format!("it goes from {} to {}; the default is {default}", range.start(), range.end()));
        }
        value as usize
    }

    fn forwarded(&mut self, given: Option<&Spanned<String>>) -> Forwarded {
        const KNOWN: [&str; 3] = ["append", "replace", "off"];
        let Some(text) = given else { return Forwarded::default() };
        match text.get_ref().as_str() {
            "append" => Forwarded::Append,
            "replace" => Forwarded::Replace,
            "off" => Forwarded::Off,
            other => {
                let help = did_you_mean(other, KNOWN).map_or_else(
                    || format!("it is {}", one_of(&KNOWN, '"')),
                    |meant| format!("did you mean {meant:?}?"),
                );
                self.mistakes
                    .add(format!("`forwarded` cannot be {other:?}"), text.span(), "not one of its values")
                    .help(help);
                Forwarded::default()
            }
        }
    }

    fn duration(&mut self, key: &str, given: Option<&Spanned<String>>, default: Duration) -> Given<Duration> {
        let Some(text) = given else { return Given { value: default, span: None } };
        let value = units::duration(text.get_ref()).unwrap_or_else(|hint| {
            self.mistakes
                .add(format!("`{key}` is not a length of time"), text.span(), "not a time with a unit")
                .help(hint);
            default
        });
        Given { value, span: Some(text.span()) }
    }

    /// The breaker of `given`, and where that is silent, of `general`. A contradiction inside `general` is its own
    /// mistake, and is not told once more for each cluster.
    fn breaker(
        &mut self,
        given: Option<&model::Breaker>,
        general: Option<(Option<&model::Breaker>, Breaker)>,
    ) -> Breaker {
        let (general_file, general) = general.unwrap_or((
            None,
            Breaker {
                consecutive_failures: defaults::CONSECUTIVE_FAILURES,
                base: defaults::EJECTION_BASE,
                max: defaults::EJECTION_MAX,
                cap: defaults::EJECTION_CAP,
            },
        ));
        let Some(given) = given else { return general };
        let span_of = |value: Option<&Option<Spanned<String>>>| value?.as_ref().map(Spanned::span);
        let mut base = self.duration("base", given.base.as_ref(), general.base);
        let mut max = self.duration("max", given.max.as_ref(), general.max);
        if base.value > max.value && (base.span.is_some() || max.span.is_some()) {
            base.span = base.span.or_else(|| span_of(general_file.map(|file| &file.base)));
            max.span = max.span.or_else(|| span_of(general_file.map(|file| &file.max)));
            let message = "the first ejection is longer than the longest";
            let (shown_base, shown_max) = (units::show(base.value), units::show(max.value));
            let note = match (base.span, max.span) {
                (Some(base), Some(max)) => {
                    self.mistakes.add(message, base, "`base`, the first").also(max, "`max`, the longest")
                }
                (Some(base), None) => {
                    self.mistakes.add(message, base, format!("`max`, the longest, is {shown_max} by default"))
                }
                (None, max) => {
                    let label = format!("`base`, the first, is {shown_base} by default");
                    self.mistakes.add(message, max.unwrap_or(0..0), label)
                }
            };
            note.help(format!("set `max` to {shown_base} or more, or `base` to {shown_max} or less"));
        }
        let cap = given.cap.as_ref().map_or(general.cap, |text| {
            units::percent(text.get_ref()).unwrap_or_else(|hint| {
                self.mistakes
                    .add("`cap` is not a share of the endpoints", text.span(), "out of range")
                    .help(hint);
                general.cap
            })
        });
        let failures = given.consecutive_failures.as_ref().map(|failures| *failures.get_ref());
        Breaker {
            consecutive_failures: failures.unwrap_or(general.consecutive_failures),
            base: base.value,
            max: max.value,
            cap,
        }
    }

    fn cluster(
        &mut self,
        given: &model::Cluster,
        general_breaker: (Option<&model::Breaker>, Breaker),
        general_retry: Retry,
        general_timeouts: RequestTimeouts,
        taken: &mut Taken,
    ) -> Cluster {
        let name = self.name("name", &given.name);
        let what = format!("cluster {name:?}");
        if given.addresses.is_empty() && given.sni.is_empty() {
            self.mistakes
                .add(format!("{what} has no address"), given.name.span(), "nothing can reach it")
                .help(r#"name the address that apps dial: addresses = ["10.96.0.10:80"]"#);
        }
        let mut addresses = Vec::with_capacity(given.addresses.len());
        for text in &given.addresses {
            let Some(address) = self.address(text) else { continue };
            match taken.addresses.get(&address) {
                Some((first, owner)) if *owner == name && addresses.contains(&address) => {
                    self.mistakes
                        .add(format!("{what} lists {address} twice"), text.span(), "again")
                        .also(first.clone(), "first")
                        .help("remove one of them");
                }
                Some((first, owner)) => {
                    self.mistakes
                        .add(format!("{address} belongs to two clusters"), text.span(), format!("of {name:?}"))
                        .also(first.clone(), format!("of {owner:?}"))
                        .help("a virtual address leads to one cluster: give one of them another address or port");
                }
                None => {
                    taken.addresses.insert(address, (text.span(), name.clone()));
                    addresses.push(address);
                }
            }
        }
        if given.endpoints.is_empty() {
            self.mistakes
                .add(format!("{what} has no endpoints"), given.name.span(), "every request to it would fail")
                .help(r#"list where it really is: endpoints = ["10.0.0.11:8080"]"#);
        }
        let mut endpoints = Vec::with_capacity(given.endpoints.len());
        let mut spans = Vec::with_capacity(given.endpoints.len());
        for text in &given.endpoints {
            let Some(endpoint) = self.address(text) else { continue };
            if addresses.contains(&endpoint) {
                let virtual_one = taken.addresses[&endpoint].0.clone();
                self.mistakes
                    .add(
                        format!("{what} has its own virtual address as an endpoint"),
                        text.span(),
                        "must be an instance of the service",
                    )
                    .also(virtual_one, "the virtual address")
                    .help("`addresses` is what apps dial, `endpoints` is where instances really listen");
            } else if let Some(first) = endpoints.iter().position(|other| *other == endpoint) {
                self.mistakes
                    .add(format!("{what} lists the endpoint {endpoint} twice"), text.span(), "again")
                    .also(Range::clone(&spans[first]), "first")
                    .help("remove one of them: an endpoint gets no larger share by being listed twice");
            } else {
                endpoints.push(endpoint);
                spans.push(text.span());
            }
        }
        let protocol = self.protocol(given.protocol.as_ref());
        let bridge = given.bridge.as_ref().filter(|bridge| *bridge.get_ref());
        if let (Some(bridge), Protocol::Tcp, Some(tcp)) = (bridge, protocol, &given.protocol) {
            self.mistakes
                .add("only HTTP can be bridged", bridge.span(), "carries HTTP/1 over HTTP/2")
                .also(tcp.span(), "opaque bytes")
                .help("leave `bridge` out, or say protocol = \"http\"");
        }
        Cluster {
            sni: self.server_names(&name, &given.sni, taken),
            name,
            addresses,
            protocol,
            opaque_at: BTreeSet::new(),
            endpoints,
            bridge: bridge.is_some(),
            timeouts: self.request_timeouts(
                [&given.timeouts.request, &given.timeouts.per_try, &given.timeouts.response]
                    .map(Option::as_ref),
                general_timeouts,
            ),
            retry: retry(given.retry.as_ref(), general_retry),
            breaker: self.breaker(given.breaker.as_ref(), Some(general_breaker)),
        }
    }

    fn server_names(&mut self, cluster: &str, given: &[Spanned<String>], taken: &mut Taken) -> Vec<String> {
        let mut names = Vec::with_capacity(given.len());
        for text in given {
            let pattern = text.get_ref().trim_end_matches('.').to_ascii_lowercase();
            if let Err((label, help)) = check_server_name(&pattern) {
                self.mistakes
                    .add(format!("{:?} is not a server name", text.get_ref()), text.span(), label)
                    .help(help);
                continue;
            }
            if let Some((first, owner)) = taken.names.get(&pattern) {
                self.mistakes
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

    fn address(&mut self, text: &Spanned<String>) -> Option<SocketAddr> {
        let words = text.get_ref().as_str();
        let (message, label, help) = match words.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => ("an address needs a port from 1 to 65535", "port 0", None),
            Ok(address) if address.ip().to_canonical().is_unspecified() => {
                let help = "it stands for every address of a machine; name the one to connect to";
                ("nobody can connect to the unspecified address", "not a destination", Some(help.to_owned()))
            }
            Ok(address) => return Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
            Err(_) => {
                let (label, help) = not_an_address(words);
                ("this is not an address and a port", label, Some(help))
            }
        };
        let note = self.mistakes.add(message, text.span(), label);
        note.help(help.unwrap_or_else(|| format!("such as {:?}", words.replace(":0", ":80"))));
        None
    }

    fn protocol(&mut self, given: Option<&Spanned<String>>) -> Protocol {
        const KNOWN: [&str; 3] = ["detect", "http", "tcp"];
        let Some(text) = given else { return Protocol::default() };
        match text.get_ref().as_str() {
            "detect" => Protocol::Detect,
            "http" => Protocol::Http,
            "tcp" => Protocol::Tcp,
            other => {
                let help = match did_you_mean(other, KNOWN) {
                    Some(meant) => {
                        format!("did you mean {meant:?}? The protocols are {}", one_of(&KNOWN, '"'))
                    }
                    None => format!(
                        r#"the protocols are {}; "tcp" forwards any other as it is"#,
                        one_of(&KNOWN, '"')
                    ),
                };
                self.mistakes
                    .add(format!("there is no protocol {other:?}"), text.span(), "not a protocol")
                    .help(help.replace("\" or \"", "\" and \""));
                Protocol::default()
            }
        }
    }

    fn inbound(
        &mut self,
        given: &[model::Inbound],
        listen: &Listen,
        opaque_ports: &BTreeSet<u16>,
    ) -> BTreeMap<u16, Protocol> {
        let own = [
            ("outbound", listen.outbound),
            ("inbound", listen.inbound),
            ("admin", listen.admin),
            ("metrics", listen.metrics),
            ("health", listen.health),
        ];
        let mut ports = BTreeMap::new();
        let mut spans: BTreeMap<u16, Range<usize>> = BTreeMap::new();
        for entry in given {
            let port = self.port("port", &entry.port);
            if let Some((name, _)) = own.iter().find(|(_, own)| *own == port && port != 0) {
                self.mistakes
                    .add(
                        format!("port {port} is the sidecar's own"),
                        entry.port.span(),
                        format!("`listen.{name}`"),
                    )
                    .help(
                        "[[inbound]] describes the app's ports; move the app or the sidecar to another one",
                    );
            }
            if let Some(first) = spans.insert(port, entry.port.span()).filter(|_| port != 0) {
                self.mistakes
                    .add(format!("port {port} is described twice"), entry.port.span(), "again")
                    .also(first, "first")
                    .help("keep one of the two");
            }
            let protocol = match &entry.protocol {
                None if opaque_ports.contains(&port) => Protocol::Tcp,
                given => self.protocol(given.as_ref()),
            };
            ports.insert(port, protocol);
        }
        ports
    }
}

/// The ports of an undeclared cluster's addresses that are opaque: those that are named as such, or all of them if an
/// endpoint's port is, since that is the port that the service was given.
fn opaque_at(cluster: &Cluster, opaque_ports: &BTreeSet<u16>) -> BTreeSet<u16> {
    let all = cluster.endpoints.iter().any(|endpoint| opaque_ports.contains(&endpoint.port()));
    let ports = cluster.addresses.iter().map(SocketAddr::port);
    ports.filter(|port| all || opaque_ports.contains(port)).collect()
}

/// Whether `pattern`, in lower case, can be a server name (RFC 6066 section 3) or a wildcard for all below one: what is
/// wrong, and what to write.
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
    if !crate::detect::tls::is_server_name(name.as_bytes()) {
        return Err(("not a host's name", "use letters, digits, hyphens and dots".into()));
    }
    Ok(())
}

fn retry(given: Option<&model::Retry>, general: Retry) -> Retry {
    let attempts = given.and_then(|given| given.attempts.as_ref());
    Retry { attempts: attempts.map_or(general.attempts, |attempts| *attempts.get_ref()) }
}

/// What is wrong with `words` as an address and a port, and what to write.
fn not_an_address(words: &str) -> (&'static str, String) {
    if let Ok(ip) = words.parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 80);
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
