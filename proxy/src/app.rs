//! The order in which a sidecar starts and stops; no other place knows both.
//!
//! Start: configuration, the sidecar's own identity, listeners of the control pages and of every
//! worker, ready, the app if it is a child ([`crate::command`]).
//!
//! Stop (SIGTERM): not ready and not in the registry, so that callers go elsewhere; after the time
//! they may need for that, no more connections are taken for the app, those that are open are told
//! (`connection: close`, GOAWAY), and what is under way ends; then the app is told, if it is a
//! child. The way out takes connections until the process ends; what is open there is told last.
//! What is left at the deadline is cut, and a second signal cuts it at once. The logs are written
//! last, since what is cut has lines too.
//!
//! Workers are threads with a runtime, listeners (`SO_REUSEPORT`) and pools of their own, so a
//! request never changes threads; control has its own thread, so readiness and metrics answer under
//! load. In the simulator the same parts run on one simulated host: [`serve`].

mod control;
mod kernel;
mod log;
mod pages;
mod ports;
mod privileges;
mod sidecar;
mod stop;
mod threads;
mod worker;

use std::future::Future;
use std::io;
use std::sync::Arc;

use crate::config::Snapshot;
use crate::mutant::Mutant;
use crate::telemetry::emit;
use crate::world::{Net, World};
use control::control;
pub use kernel::{Options, run};
pub(crate) use kernel::{local_runtime, start_logging, told_to_end};
pub(crate) use privileges::{become_authority, drop_capabilities};
pub use sidecar::Sidecar;
use worker::{drains, work};

/// The exit code of a sidecar that failed while running.
pub const FAILED: u8 = 1;

/// A whole sidecar on one thread, until `stop` ends and the drain after it: what a simulated host
/// runs.
///
/// # Errors
/// If a listener cannot be bound.
pub async fn serve<N: Net>(
    world: World<N>,
    snapshot: Snapshot,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_and_reload(world, snapshot, std::future::pending, stop).await
}

/// The same, with every configuration that `next` comes to, in force from then on.
///
/// # Errors
/// As [`serve`].
pub async fn serve_and_reload<N: Net>(
    world: World<N>,
    snapshot: Snapshot,
    mut next: impl AsyncFnMut() -> Snapshot,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let sidecar = Sidecar::new(snapshot, 1);
    let wall = world.wall.clone();
    sidecar.loaded(&*wall);
    let (signals, watches) = drains();
    let working = work(world.clone(), sidecar.clone(), watches);
    let reloading = async {
        loop {
            let next = Arc::new(next().await);
            if !Mutant::IgnoresReloads.is_planted() {
                sidecar.apply(next, &*wall);
            }
            emit!(ConfigurationInForce);
        }
    };
    let running = async {
        tokio::select! {
            biased;
            result = async { tokio::try_join!(working, control(world, sidecar.clone())) } => result,
            never = reloading => never,
        }
    };
    let stopping = async {
        stop.await;
        sidecar.drain();
        stop::stop(&sidecar, &signals, async |_| Ok(0)).await?;
        sidecar.write_last_lines().await;
        emit!(Drained);
        Ok(())
    };
    tokio::select! {
        biased;
        result = running => result.map(|_| ()),
        result = stopping => result,
    }
}

fn named(what: &'static str, port: u16) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("cannot listen on port {port} ({what}): {e}"))
}
