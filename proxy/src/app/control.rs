//! The control thread: it serves the pages of the admin, health and metrics ports, and does all
//! that is done beside the data plane.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::pages::Pages;
use super::{Sidecar, named};
use crate::access_log;
use crate::admin::{self, Access};
use crate::audit;
use crate::capture::listener::bind_any;
use crate::config::{Listen, defaults};
use crate::connect::Connector;
use crate::discovery;
use crate::health;
use crate::identity;
use crate::inbound;
use crate::key_sets;
use crate::limit;
use crate::world::{Net, World};

/// The listeners of the control pages. Nobody else may bind their ports, another sidecar included.
pub(super) struct ControlListeners<N: Net> {
    admin: N::Listener,
    health: N::Listener,
    metrics: N::Listener,
}

impl<N: Net> ControlListeners<N> {
    /// Binds them.
    ///
    /// # Errors
    /// If one cannot be bound.
    pub(super) async fn open(net: &N, listen: Listen) -> io::Result<Self> {
        let Listen { admin, health, metrics, .. } = listen;
        let alone = |at| net.bind_exclusive(at);
        let loopback = (Ipv4Addr::LOCALHOST, admin).into();
        Ok(ControlListeners {
            admin: alone(loopback).await.map_err(named("admin", admin))?,
            health: bind_any(alone, health).await.map_err(named("health", health))?,
            metrics: bind_any(alone, metrics).await.map_err(named("metrics", metrics))?,
        })
    }
}

/// Binds the control pages, serves them, and works beside the data plane, for ever.
///
/// # Errors
/// If a listener cannot be bound.
pub(super) async fn control<N: Net>(world: World<N>, sidecar: Arc<Sidecar>) -> io::Result<()> {
    let listeners = ControlListeners::open(&world.net, sidecar.table.load().snapshot.listen).await?;
    control_at(world, sidecar, listeners).await;
    Ok(())
}

/// Serves the control pages, and works beside the data plane, for ever.
pub(super) async fn control_at<N: Net>(
    world: World<N>,
    sidecar: Arc<Sidecar>,
    listeners: ControlListeners<N>,
) {
    let limit = || {
        let table = sidecar.table.load();
        table.load.admin_connections(&table.snapshot.limits)
    };
    let (net, rng) = (world.net.clone(), world.rng);
    let key_sets_world = world.clone();
    let to_endpoints = Connector::new(net.clone(), |_| None)
        .with_tls(sidecar.tls.clone(), &sidecar.metrics.side("outbound").handshakes);
    let to_app = Connector::new(net.clone(), inbound::source_for);
    let access = Access { token: sidecar.table.load().snapshot.admin_token.clone() };
    let (pages, applied) = (Pages::of(&sidecar), sidecar.clone());
    tokio::join!(
        discovery::run(world.clone(), sidecar.discovered.clone(), move || applied.prepare()),
        prove(world.clone(), &sidecar),
        write_access_log(world.clone(), &sidecar),
        write_audit(world.clone(), &sidecar),
        register(world, &sidecar),
        health::active::run(to_endpoints, rng.child("checks", 0), sidecar.table.clone()),
        health::app::run(to_app, sidecar.table.clone(), &sidecar.app),
        key_sets::run(key_sets_world, sidecar.table.clone(), sidecar.metrics.clone()),
        watch_memory(net.clone(), &sidecar),
        admin::serve(net.clone(), listeners.admin, limit, pages.admin, access),
        admin::serve(net.clone(), listeners.health, limit, pages.health, Access::default()),
        admin::serve(net, listeners.metrics, limit, pages.metrics, Access::default()),
    );
}

/// Keeps the certificate of this workload up to date, if it has an identity.
async fn prove<N: Net>(world: World<N>, sidecar: &Sidecar) {
    let identity = sidecar.table.load().snapshot.identity.clone();
    if let (Some(identity), Some(store)) = (identity, sidecar.tls.clone()) {
        identity::run(world, identity, store, sidecar.metrics.clone()).await;
    }
}

/// Writes the access log, if there is one.
async fn write_access_log<N: Net>(world: World<N>, sidecar: &Sidecar) {
    let queue = sidecar.access_queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(queue) = queue {
        access_log::run(world, queue, sidecar.metrics.access_log()).await;
    }
}

/// Writes the audit log, if there is one.
async fn write_audit<N: Net>(world: World<N>, sidecar: &Sidecar) {
    let queue = sidecar.audit_queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(queue) = queue {
        audit::writer::run(world, queue, sidecar.metrics.audit()).await;
    }
}

/// Keeps the app in the registry while it should be there.
async fn register<N: Net>(world: World<N>, sidecar: &Sidecar) {
    let table = sidecar.table.load_full();
    let Some(register) = table.snapshot.register.clone() else { return };
    let tell = |registered: bool| {
        sidecar.metrics.set_registered(registered);
        sidecar.registered.send_replace(registered);
    };
    // It should be there while the workers listen, no drain has begun, and the app's own probes
    // have nothing against it.
    let (want, wanted) = watch::channel(false);
    let deciding = async {
        let (mut open, mut app) = (sidecar.open.subscribe(), sidecar.app.subscribe());
        loop {
            let ready = *open.borrow_and_update() && app.borrow_and_update().unready().is_none();
            want.send_if_modified(|wanted| std::mem::replace(wanted, ready) != ready);
            tokio::select! {
                biased;
                _ = open.changed() => {}
                _ = app.changed() => {}
            }
        }
    };
    let instance = table.snapshot.instance.clone();
    tokio::select! {
        biased;
        () = deciding => {}
        () = discovery::register::run(world, register, instance, wanted, tell) => {}
    }
}

/// Sheds load while memory is short, and gives back what is not needed any more.
async fn watch_memory<N: Net>(net: N, sidecar: &Sidecar) {
    let default = net.memory_limit().map(|limit| (limit as f64 * defaults::MEMORY_SHARE) as u64);
    let mut shedding = false;
    let mut release = limit::memory::MemoryRelease::default();
    while let Some(used) = net.resident() {
        let table = sidecar.table.load();
        if let Some(budget) = table.snapshot.limits.memory.or(default) {
            shedding = limit::memory::is_short(used, budget, shedding);
            if table.load.set_out_of_memory(shedding) {
                let (used, budget) = (used >> 20, budget >> 20);
                match shedding {
                    true => tracing::warn!(used, budget, "memory is short (MiB): nothing more is taken on"),
                    false => tracing::info!(used, budget, "memory is no longer short (MiB)"),
                }
            }
        }
        if release.is_due(Instant::now(), table.load.carried(), shedding) {
            net.give_memory_back();
        }
        drop(table);
        sleep(defaults::MEMORY_INTERVAL).await;
    }
}
