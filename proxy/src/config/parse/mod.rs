//! The second step of reading a configuration: what its values mean, and whether they contradict
//! each other.
//!
//! Takes the [`File`] that `shape` has read and fills in every default. A value with a mistake is
//! noted and replaced by a stand-in so that the rest can be checked too; the stand-in never leaves
//! this module, since a file with a mistake gives no [`Snapshot`]. Addresses are compared in their
//! canonical form: `[::ffff:10.0.0.1]:80` is `10.0.0.1:80`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use serde_spanned::Spanned;

use super::diagnose::{ConfigErrors, Diagnostics, did_you_mean, one_of};
use super::model::{self, File};
use super::{
    Adaptive, Balance, Cluster, Forwarded, Http1, InboundTimeouts, Limits, Listen, OutlierDetection,
    Protocol, RequestTimeouts, Retry, RetryBudget, Snapshot, defaults, shape, units,
};
use cluster::Taken;

pub use discovery::parse_endpoints;

mod access_log;
mod audit;
mod authorization;
mod balance;
mod cluster;
mod discovery;
mod health;
mod http2;
mod identity;
mod jwt;
mod limits;
mod matches;
mod outlier_detection;
mod policy_paths;
mod policy_values;
mod retry;
mod route;
mod timeouts;

/// The configuration that `text` describes, complete and checked. `path_name` is what errors call
/// it.
///
/// # Errors
/// Every mistake in the text: all of its shape (keys, types), or if there is none, all of its
/// meaning.
pub fn parse(path_name: &str, text: &str) -> Result<Snapshot, ConfigErrors> {
    let mut diagnostics = Diagnostics::new(path_name, text);
    let snapshot = shape::read(text, &mut diagnostics)
        .map(|file: File| Check { diagnostics: &mut diagnostics }.file(&file));
    // Without a snapshot there is a mistake, so this unwraps only what was there all along.
    diagnostics.finish(snapshot).map(|snapshot| snapshot.expect("a file without mistakes gives a snapshot"))
}

struct Check<'a> {
    diagnostics: &'a mut Diagnostics,
}

/// What holds for every cluster that does not say otherwise.
struct General<'a> {
    /// As it was given, and what it means.
    outlier_detection: (Option<&'a model::OutlierDetection>, OutlierDetection),
    retry: Arc<Retry>,
    balance: Arc<Balance>,
    retry_budget: RetryBudget,
    timeouts: RequestTimeouts,
}

/// A value, and where it was given if it was.
struct Given<T> {
    value: T,
    span: Option<Range<usize>>,
}

impl Check<'_> {
    fn file(mut self, file: &File) -> Snapshot {
        let service = self.name("service", &file.service);
        let instance =
            file.instance.as_ref().map_or_else(|| service.clone(), |name| self.name("instance", name));
        let workers = file.workers.as_ref().map(|workers| self.workers(workers));
        let listen = self.listen(&file.listen);
        let timeouts = self.timeouts(&file.timeouts);
        let given = &file.timeouts;
        let requests = self.request_timeouts(
            [given.request.as_ref(), given.per_try.as_ref(), given.response.as_ref()],
            RequestTimeouts::default(),
        );
        let limits = self.limits(&file.limits);
        let http1 = self.http1(file);
        let http2 = self.http2(&file.http2);
        let forwarded = self.forwarded(file.forwarded.as_ref());
        let general = General {
            outlier_detection: (
                file.outlier_detection.as_ref(),
                self.outlier_detection(file.outlier_detection.as_ref(), None),
            ),
            retry: self.retry(file.retry.as_ref(), None),
            retry_budget: self.retry_budget(file.retry_budget.as_ref(), None),
            balance: Arc::new(self.balance(file.balance.as_ref(), None)),
            timeouts: requests,
        };

        let opaque_ports: BTreeSet<u16> = match &file.opaque_ports {
            Some(ports) => ports.iter().map(|port| self.port("opaque_ports", port)).collect(),
            None => defaults::OPAQUE_PORTS.into(),
        };
        let clusters = self.clusters(file, &general, &opaque_ports);
        let register = file.register.as_ref().and_then(|register| self.register(register));
        let inbound = self.inbound(&file.inbound, &listen, &opaque_ports);
        let inbound_adaptive = self.inbound_adaptive(file);
        let inbound_port_timeouts = self.inbound_port_timeouts(file);
        let connect = file.inbound.iter().filter(|entry| entry.connect);
        let inbound_connect = connect.map(|entry| *entry.port.get_ref()).collect();
        let app = self.app(&file.app);
        let identity = file.identity.as_ref().and_then(|identity| self.identity(identity));
        let admin_token = file.admin.token.as_ref().map(|token| self.place_of("token", token));
        let audit = file.audit.as_ref().map(|audit| self.audit(audit));
        let access_log = file.access_log.as_ref().map(|log| self.access_log(log, audit.as_ref()));
        let tls = self.tls(file);
        let inbound_port_tls = self.inbound_port_tls(file);
        let authorization = Arc::new(self.authorization(&file.authorization));
        let jwt = self.jwt(&file.jwt);
        let zone = file.zone.as_ref().map(|zone| self.name("zone", zone).into());
        Snapshot {
            zone,
            service,
            instance,
            workers,
            seed: file.seed,
            listen,
            mark: file.mark,
            passthrough: file.passthrough.unwrap_or(true),
            http1,
            http2,
            forwarded,
            opaque_ports,
            timeouts,
            limits,
            per_endpoint_metrics: file.metrics.per_endpoint,
            identity,
            tls,
            inbound_port_tls,
            inbound_connect,
            register,
            admin_token,
            access_log,
            audit,
            clusters: clusters.into_iter().map(Arc::new).collect(),
            inbound,
            inbound_timeouts: InboundTimeouts { request: requests.request },
            inbound_port_timeouts,
            inbound_adaptive,
            app,
            authorization,
            jwt,
        }
    }

    fn workers(&mut self, given: &Spanned<usize>) -> usize {
        let help = "leave `workers` out to have one for each CPU that the process may use";
        let most = format!("must be at most {}", defaults::MAX_WORKERS);
        let wrong = match *given.get_ref() {
            0 => Some(("without a worker nothing is forwarded", "must be at least 1")),
            1..=defaults::MAX_WORKERS => None,
            _ => Some(("each worker is a thread of its own", &*most)),
        };
        if let Some((message, label)) = wrong {
            self.diagnostics.add(message, given.span(), label).help(help);
        }
        *given.get_ref()
    }

    fn http1(&mut self, file: &File) -> Http1 {
        let (bytes, bytes_range) = (file.limits.header_bytes.as_ref(), defaults::HEADER_BYTES_RANGE);
        let (lines, lines_range) = (file.limits.headers.as_ref(), defaults::HEADERS_RANGE);
        Http1 {
            header_bytes: self.ranged("header_bytes", bytes, defaults::HEADER_BYTES, bytes_range),
            headers: self.ranged("headers", lines, defaults::HEADERS, lines_range),
            preserve_header_case: file.preserve_header_case.unwrap_or(false),
        }
    }

    /// All clusters with their routes.
    fn clusters(&mut self, file: &File, general: &General<'_>, opaque_ports: &BTreeSet<u16>) -> Vec<Cluster> {
        let mut names = BTreeMap::new();
        let mut taken = Taken { led_to: route::led_to(&file.cluster), ..Taken::default() };
        let mut clusters = Vec::with_capacity(file.cluster.len());
        for cluster in &file.cluster {
            let mut checked = self.cluster(cluster, general, &mut taken);
            checked.settle_protocol(opaque_ports);
            if let Some(first) = names.insert(checked.name.clone(), cluster.name.span()) {
                let what = format!("two clusters are called {:?}", checked.name);
                let help =
                    "metrics and logs tell clusters apart by name: rename one, or merge their endpoints";
                self.diagnostics
                    .add(what, cluster.name.span(), "the second")
                    .also(first, "the first")
                    .help(help);
            }
            clusters.push(checked);
        }
        let routes: Vec<_> =
            file.cluster.iter().enumerate().map(|(own, given)| self.routes(given, own, &clusters)).collect();
        for (cluster, routes) in clusters.iter_mut().zip(routes) {
            cluster.routes = routes;
        }
        clusters
    }

    /// The ports of the app with adaptive concurrency.
    fn inbound_adaptive(&mut self, file: &File) -> BTreeMap<u16, Adaptive> {
        let adaptive = file.inbound.iter().filter_map(|entry| {
            Some((*entry.port.get_ref(), self.adaptive(entry.adaptive_concurrency.as_ref())?))
        });
        adaptive.collect()
    }

    /// The ports of the app with time limits of their own.
    fn inbound_port_timeouts(&mut self, file: &File) -> BTreeMap<u16, InboundTimeouts> {
        let differing =
            file.inbound.iter().filter_map(|entry| Some((entry, entry.timeouts.request.as_ref()?)));
        let timeouts = differing.map(|(entry, limit)| {
            let request = self.limit("request", Some(limit), None);
            (*entry.port.get_ref(), InboundTimeouts { request })
        });
        timeouts.collect()
    }

    fn name(&mut self, key: &str, value: &Spanned<String>) -> String {
        let name = value.get_ref();
        if name.is_empty() {
            self.diagnostics
                .add(format!("`{key}` is empty"), value.span(), "a name is needed")
                .help("metrics and logs are told apart by it");
        } else if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            self.diagnostics
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
                        self.diagnostics
                            .add(message, here.span(), format!("`{name}`"))
                            .also(there.span(), format!("`{other_name}`"))
                            .help(help);
                    }
                    (Some(here), None) | (None, Some(here)) => {
                        let silent = if given.is_none() { name } else { other_name };
                        self.diagnostics
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
            self.diagnostics.add(format!("`{key}` cannot be port 0"), port.span(), "not a port").help(
                "ports go from 1 to 65535; others have to know this one, so it cannot be left to the system",
            );
        }
        *port.get_ref()
    }

    fn limits(&mut self, given: &model::Limits) -> Limits {
        let mut count = |key: &str, given: &Option<Spanned<usize>>, default| {
            let Some(count) = given else { return default };
            if *count.get_ref() == 0 {
                self.diagnostics
                    .add(format!("`{key}` of 0 would refuse everything"), count.span(), "must be at least 1")
                    .help("to take a sidecar out of service, stop it: it drains");
            }
            *count.get_ref()
        };
        let connections = count("connections", &given.connections, defaults::MAX_CONNECTIONS);
        let requests = count("requests", &given.requests, defaults::MAX_REQUESTS);
        let endpoint_connections =
            count("endpoint_connections", &given.endpoint_connections, defaults::POOL_CONNECTIONS);
        let admin_connections =
            count("admin_connections", &given.admin_connections, defaults::ADMIN_CONNECTIONS);
        let pending = given.pending.as_ref().map_or(defaults::POOL_PENDING, |pending| *pending.get_ref());
        let memory = given.memory.as_ref().and_then(|text| {
            units::bytes(text.get_ref())
                .map_err(|hint| {
                    self.diagnostics
                        .add("`memory` is not a size", text.span(), "not a size with a unit")
                        .help(hint);
                })
                .ok()
        });
        let message = "`client_share` is not a share of the limits";
        let client_share = self.share(message, given.client_share.as_ref(), defaults::CLIENT_SHARE);
        Limits {
            connections,
            requests,
            endpoint_connections,
            pending,
            client_share,
            memory,
            admin_connections,
        }
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
            self.diagnostics
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
                self.diagnostics
                    .add(format!("`forwarded` cannot be {other:?}"), text.span(), "not one of its values")
                    .help(help);
                Forwarded::default()
            }
        }
    }

    fn duration(&mut self, key: &str, given: Option<&Spanned<String>>, default: Duration) -> Given<Duration> {
        let Some(text) = given else { return Given { value: default, span: None } };
        let value = units::duration(text.get_ref()).unwrap_or_else(|hint| {
            self.diagnostics
                .add(format!("`{key}` is not a length of time"), text.span(), "not a time with a unit")
                .help(hint);
            default
        });
        Given { value, span: Some(text.span()) }
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
                self.diagnostics
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
                self.diagnostics
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
                self.diagnostics
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
