//! `[cluster.health]` and `[app]`.

use std::ops::Range;
use std::time::Duration;

use serde_spanned::Spanned;

use super::Check;
use crate::config::{App, Health, Probe, ProbeRequest, Thresholds, defaults, model};

/// The words of a table that say what is asked.
struct Words<'a> {
    http: Option<&'a Spanned<String>>,
    grpc: Option<&'a Spanned<String>>,
    tcp: Option<&'a Spanned<bool>>,
    status: Option<&'a Spanned<Vec<u16>>>,
    host: Option<&'a Spanned<String>>,
}

/// Those of a check or a probe, whose tables share these keys.
macro_rules! words_of {
    ($given:ident) => {
        Words {
            http: $given.http.as_ref(),
            grpc: $given.grpc.as_ref(),
            tcp: $given.tcp.as_ref(),
            status: $given.status.as_ref(),
            host: $given.host.as_ref(),
        }
    };
}

impl Check<'_> {
    /// The checks of a cluster whose name stands at `name`.
    pub(super) fn health(&mut self, given: &model::Health, name: Range<usize>) -> Health {
        let words = words_of!(given);
        Health {
            ask: self.ask(&words, name, "`health`"),
            interval: self.positive("interval", given.interval.as_ref(), defaults::CHECK_INTERVAL),
            edge_interval: self.positive(
                "edge_interval",
                given.edge_interval.as_ref(),
                defaults::CHECK_EDGE_INTERVAL,
            ),
            no_traffic_interval: self.positive(
                "no_traffic_interval",
                given.no_traffic_interval.as_ref(),
                defaults::CHECK_NO_TRAFFIC_INTERVAL,
            ),
            timeout: self.positive("timeout", given.timeout.as_ref(), defaults::CHECK_TIMEOUT),
            thresholds: Thresholds {
                healthy: self.threshold(
                    "healthy_threshold",
                    given.healthy_threshold.as_ref(),
                    defaults::CHECK_HEALTHY,
                ),
                unhealthy: self.threshold(
                    "unhealthy_threshold",
                    given.unhealthy_threshold.as_ref(),
                    defaults::CHECK_UNHEALTHY,
                ),
            },
        }
    }

    pub(super) fn app(&mut self, given: &model::App) -> App {
        App {
            startup: given.startup.as_ref().and_then(|probe| self.probe("`app.startup`", probe)),
            readiness: given.readiness.as_ref().and_then(|probe| self.probe("`app.readiness`", probe)),
            liveness: given.liveness.as_ref().and_then(|probe| self.probe("`app.liveness`", probe)),
        }
    }

    fn probe(&mut self, what: &str, given: &model::Probe) -> Option<Probe> {
        let words = words_of!(given);
        let ask = self.ask(&words, given.address.span(), what);
        let initial_delay =
            self.duration("initial_delay", given.initial_delay.as_ref(), Duration::ZERO).value;
        let period = self.positive("period", given.period.as_ref(), defaults::PROBE_PERIOD);
        let timeout = self.positive("timeout", given.timeout.as_ref(), defaults::CHECK_TIMEOUT);
        let thresholds = Thresholds {
            healthy: self.threshold(
                "success_threshold",
                given.success_threshold.as_ref(),
                defaults::PROBE_SUCCESSES,
            ),
            unhealthy: self.threshold(
                "failure_threshold",
                given.failure_threshold.as_ref(),
                defaults::PROBE_FAILURES,
            ),
        };
        let address = self.address(&given.address)?;
        Some(Probe { address, ask, initial_delay, period, timeout, thresholds })
    }

    /// What is asked; a mistake without any of the three words is shown at `at`.
    fn ask(&mut self, words: &Words<'_>, at: Range<usize>, what: &str) -> ProbeRequest {
        let tcp = words.tcp.filter(|tcp| *tcp.get_ref());
        let places = [
            words.http.map(|word| (word.span(), "`http`")),
            words.grpc.map(|word| (word.span(), "`grpc`")),
            tcp.map(|word| (word.span(), "`tcp`")),
        ];
        let mut given = places.into_iter().flatten();
        let (first, second) = (given.next(), given.next());
        if let (Some((first, first_name)), Some((second, second_name))) = (&first, second) {
            self.diagnostics
                .add(format!("{what} asks two things at once"), second, second_name)
                .also(first.clone(), *first_name)
                .help("keep one of `http`, `grpc` and `tcp`");
        }
        if first.is_none() {
            self.diagnostics
                .add(format!("{what} does not say what to ask"), at, "of this one")
                .help(r#"give a path, http = "/healthz", a gRPC service, grpc = "", or tcp = true"#);
        }
        if words.http.is_none() {
            let idle = [
                words.status.map(|status| (status.span(), "status")),
                words.host.map(|host| (host.span(), "host")),
            ];
            for (span, key) in idle.into_iter().flatten() {
                self.diagnostics
                    .add(format!("`{key}` is for HTTP only"), span, "nothing is asked over HTTP")
                    .help(r#"add http = "/healthz", or leave it out"#);
            }
        }
        if let Some(path) = words.http {
            self.check_path(path);
            let host = words.host.map(|host| {
                if http::uri::Authority::try_from(host.get_ref().as_str()).is_err() {
                    self.diagnostics
                        .add("`host` is not a host", host.span(), "cannot stand in a `Host` header")
                        .help(r#"write a name, such as host = "orders.example""#);
                }
                host.get_ref().clone()
            });
            let status = words.status.map(|list| list.get_ref().clone()).unwrap_or_default();
            if let (Some(wrong), Some(list)) =
                (status.iter().find(|status| !(100..600).contains(*status)), words.status)
            {
                self.diagnostics
                    .add(format!("{wrong} is not a status"), list.span(), "not all of these are")
                    .help("statuses go from 100 to 599, such as status = [200, 204]");
            }
            return ProbeRequest::Http { path: path.get_ref().clone(), host, status };
        }
        match words.grpc {
            Some(service) => ProbeRequest::Grpc { service: service.get_ref().clone() },
            None => ProbeRequest::Tcp,
        }
    }

    fn check_path(&mut self, path: &Spanned<String>) {
        let words = path.get_ref();
        if !words.starts_with('/') || words.parse::<http::uri::PathAndQuery>().is_err() {
            self.diagnostics
                .add("`http` is not a path", path.span(), "not a path")
                .help(r#"a path begins with a slash and has no spaces: http = "/healthz""#);
        }
    }

    fn positive(&mut self, key: &str, given: Option<&Spanned<String>>, default: Duration) -> Duration {
        let value = self.duration(key, given, default);
        if let Some(span) = value.span.filter(|_| value.value.is_zero()) {
            self.diagnostics
                .add(format!("`{key}` of 0 would never rest"), span, "must be longer than 0")
                .help(format!("the default is {:?}", super::units::show(default)));
        }
        value.value
    }

    fn threshold(&mut self, key: &str, given: Option<&Spanned<u32>>, default: u32) -> u32 {
        self.ranged(key, given, default, 1..=defaults::MAX_THRESHOLD) as u32
    }
}
