//! Control: the pages of the admin, health and metrics ports, and everything that works beside the data plane.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::Instant;

use super::{Sidecar, named, register, watch_memory};
use crate::admin::{self, Page, TEXT};
use crate::balance::ClusterStatus;
use crate::capture::listener::bind_any;
use crate::config::Listen;
use crate::discovery::{self, SourceStatus};
use crate::health;
use crate::health::app::Which;
use crate::inbound;
use crate::telemetry::{Format, prometheus_text};
use crate::world::{Net, World};

/// The listeners of the control pages. Nobody else may bind their ports, another sidecar included.
pub(super) struct Doors<N: Net> {
    admin: N::Listener,
    health: N::Listener,
    metrics: N::Listener,
}

impl<N: Net> Doors<N> {
    /// Binds them.
    ///
    /// # Errors
    /// If one cannot be bound.
    pub(super) async fn open(net: &N, listen: Listen) -> io::Result<Self> {
        let Listen { admin, health, metrics, .. } = listen;
        let alone = |at| net.bind_exclusive(at);
        let loopback = (Ipv4Addr::LOCALHOST, admin).into();
        Ok(Doors {
            admin: alone(loopback).await.map_err(named("admin", admin))?,
            health: bind_any(alone, health).await.map_err(named("health", health))?,
            metrics: bind_any(alone, metrics).await.map_err(named("metrics", metrics))?,
        })
    }
}

/// Binds and serves the control pages for ever.
///
/// # Errors
/// If a listener cannot be bound.
pub(super) async fn control<N: Net>(world: World<N>, sidecar: Arc<Sidecar>) -> io::Result<()> {
    let doors = Doors::open(&world.net, sidecar.table.load().snapshot.listen).await?;
    control_at(world, sidecar, doors).await;
    Ok(())
}

/// Serves the control pages, and works beside the data plane, for ever.
pub(super) async fn control_at<N: Net>(world: World<N>, sidecar: Arc<Sidecar>, doors: Doors<N>) {
    let page = |path, method, about, answer| Page { path, method, about, answer };
    let ready = || {
        let sidecar = sidecar.clone();
        page("/ready", Method::GET, "200 once it carries traffic", Box::new(move |_| sidecar.readiness()))
    };
    let live = || {
        let ok = |_: &_| (StatusCode::OK, TEXT, "live\n".to_owned());
        page("/live", Method::GET, "200 while the control thread runs", Box::new(ok))
    };
    let scrape = || {
        let sidecar = sidecar.clone();
        let answer = move |request: &Request<Incoming>| {
            sidecar.discovered.measure(Instant::now());
            let (format, text) = (Format::accepted(request.headers()), sidecar.scrape());
            let text = if format == Format::Prometheus { prometheus_text(&text) } else { text };
            (StatusCode::OK, format.content_type(), text)
        };
        page("/metrics", Method::GET, "counters, as OpenMetrics or text/plain", Box::new(answer))
    };
    let probe = |path, which| {
        let sidecar = sidecar.clone();
        page(path, Method::GET, "what a probe of the app said last", Box::new(move |_| sidecar.probe(which)))
    };
    let probes = [
        probe("/app-health/startup", Which::Startup),
        probe("/app-health/readiness", Which::Readiness),
        probe("/app-health/liveness", Which::Liveness),
    ];
    let clusters = {
        let sidecar = sidecar.clone();
        let answer = move |request: &Request<Incoming>| match describe(&sidecar) {
            described if admin::wants_json(request) => admin::json(&described),
            described => (StatusCode::OK, TEXT, described.iter().map(ToString::to_string).collect()),
        };
        let about = "clusters and the state of their endpoints; also ?format=json";
        page("/clusters", Method::GET, about, Box::new(answer))
    };
    let dump = {
        let sidecar = sidecar.clone();
        let answer = move |_: &_| admin::json(&sidecar.table.load().snapshot);
        page(
            "/config_dump",
            Method::GET,
            "the configuration in force, as JSON, without secrets",
            Box::new(answer),
        )
    };
    let shutdown = {
        let sidecar = sidecar.clone();
        let answer = move |_: &_| {
            sidecar.stop.notify_one();
            (StatusCode::ACCEPTED, TEXT, "draining\n".to_owned())
        };
        page("/shutdown", Method::POST, "drains and exits", Box::new(answer))
    };
    let limit = || {
        let table = sidecar.table.load();
        table.load.admin_connections(&table.snapshot.limits)
    };
    let (net, rng) = (world.net.clone(), world.rng);
    let applied = sidecar.clone();
    tokio::join!(
        discovery::run(world.clone(), sidecar.discovered.clone(), move || applied.prepare()),
        register(world, &sidecar),
        health::active::run(net.clone(), rng.child("checks", 0), sidecar.table.clone()),
        health::app::run(net.clone(), sidecar.table.clone(), inbound::source_for, &sidecar.app),
        watch_memory(net.clone(), &sidecar),
        admin::serve(
            net.clone(),
            doors.admin,
            limit,
            vec![ready(), live(), scrape(), clusters, dump, shutdown]
        ),
        admin::serve(net.clone(), doors.health, limit, [ready(), live()].into_iter().chain(probes).collect()),
        admin::serve(net, doors.metrics, limit, vec![scrape()]),
    );
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
