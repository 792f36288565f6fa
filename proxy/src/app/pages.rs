//! The pages of the admin, health and metrics ports.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde::Serialize;
use tokio::time::Instant;

use super::Sidecar;
use crate::admin::{self, Page, TEXT};
use crate::balance::ClusterStatus;
use crate::discovery::SourceStatus;
use crate::health::app::ProbeKind;
use crate::telemetry::{Format, prometheus_text};

/// The pages of each port.
pub(super) struct Pages {
    pub(super) admin: Vec<Page>,
    pub(super) health: Vec<Page>,
    pub(super) metrics: Vec<Page>,
}

impl Pages {
    /// Those of a sidecar.
    pub(super) fn of(sidecar: &Arc<Sidecar>) -> Self {
        let probes = [
            probe(sidecar, "/app-health/startup", ProbeKind::Startup),
            probe(sidecar, "/app-health/readiness", ProbeKind::Readiness),
            probe(sidecar, "/app-health/liveness", ProbeKind::Liveness),
        ];
        let admin = vec![
            ready(sidecar),
            live(),
            scrape(sidecar),
            clusters(sidecar),
            config_dump(sidecar),
            shutdown(sidecar),
        ];
        let health = [ready(sidecar), live()].into_iter().chain(probes).collect();
        Pages { admin, health, metrics: vec![scrape(sidecar)] }
    }
}

fn ready(sidecar: &Arc<Sidecar>) -> Page {
    let sidecar = sidecar.clone();
    Page::new(Method::GET, "/ready", "200 once it carries traffic", move |_| sidecar.readiness())
}

fn live() -> Page {
    Page::new(Method::GET, "/live", "200 while the control thread runs", |_| {
        (StatusCode::OK, TEXT, "live\n".to_owned())
    })
}

fn probe(sidecar: &Arc<Sidecar>, path: &'static str, kind: ProbeKind) -> Page {
    let sidecar = sidecar.clone();
    Page::new(Method::GET, path, "what a probe of the app said last", move |_| sidecar.probe(kind))
}

fn scrape(sidecar: &Arc<Sidecar>) -> Page {
    let sidecar = sidecar.clone();
    Page::new(Method::GET, "/metrics", "counters, as OpenMetrics or text/plain", move |request| {
        sidecar.discovered.measure(Instant::now());
        let (format, text) = (Format::accepted(request.headers()), sidecar.scrape());
        let text = if format == Format::Prometheus { prometheus_text(&text) } else { text };
        (StatusCode::OK, format.content_type(), text)
    })
}

fn clusters(sidecar: &Arc<Sidecar>) -> Page {
    let sidecar = sidecar.clone();
    let about = "clusters and the state of their endpoints; also ?format=json";
    Page::new(Method::GET, "/clusters", about, move |request| match describe(&sidecar) {
        described if admin::wants_json(request) => admin::json(&described),
        described => (StatusCode::OK, TEXT, described.iter().map(ToString::to_string).collect()),
    })
}

fn config_dump(sidecar: &Arc<Sidecar>) -> Page {
    let sidecar = sidecar.clone();
    let about = "the configuration in force, as JSON, without secrets";
    Page::new(Method::GET, "/config_dump", about, move |_| admin::json(&sidecar.table.load().snapshot))
}

fn shutdown(sidecar: &Arc<Sidecar>) -> Page {
    let sidecar = sidecar.clone();
    Page::new(Method::POST, "/shutdown", "drains and exits", move |_| {
        sidecar.stop.notify_one();
        (StatusCode::ACCEPTED, TEXT, "draining\n".to_owned())
    })
}

/// A cluster and the source of its endpoints, if it has one.
#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    cluster: ClusterStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    discovery: Option<SourceStatus>,
}

fn describe(sidecar: &Sidecar) -> Vec<Described> {
    let (table, now) = (sidecar.table.load(), Instant::now());
    let described = table.clusters.iter().map(|cluster| Described {
        discovery: sidecar.discovered.status(&cluster.config.name, now),
        cluster: cluster.status(now),
    });
    described.collect()
}

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(source) = &self.discovery {
            writeln!(f, "{}  {source}", self.cluster.name)?;
        }
        self.cluster.fmt(f)
    }
}
