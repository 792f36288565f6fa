//! Probes of the local app, run by its own sidecar: has it started, does it take requests, is it alive. The words mean what
//! they mean in Kubernetes, whose probes cannot pass through interception.
//!
//! What they say goes three ways: readiness is part of the sidecar's own (`/ready`), so an orchestrator and a registry
//! learn of it; each result has a page of its own (`/app-health/...`) for an orchestrator that wants the app's and not the
//! sidecar's; and others may watch ([`AppHealth`]). Nothing else follows from them: requests that arrive before the app is
//! ready still go to it, since callers decide whom they call, and an app that is not alive is for its orchestrator to restart.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::sleep;

use super::ask::ask;
use crate::balance::Table;
use crate::config::{self, Probe};
use crate::endpoint::health::{Checks, Health};
use crate::world::Net;

/// How often to look whether the configuration has another probe now.
const LOOK: Duration = Duration::from_secs(1);

/// The probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Whether it has started. The other two wait for it.
    Startup,
    /// Whether it takes requests.
    Readiness,
    /// Whether it is alive.
    Liveness,
}

impl Which {
    /// All of them.
    pub const ALL: [Which; 3] = [Which::Startup, Which::Readiness, Which::Liveness];

    /// Its name in configuration, metrics and pages.
    pub fn label(self) -> &'static str {
        match self {
            Which::Startup => "startup",
            Which::Readiness => "readiness",
            Which::Liveness => "liveness",
        }
    }

    fn of(self, app: &config::App) -> Option<&Probe> {
        match self {
            Which::Startup => app.startup.as_ref(),
            Which::Readiness => app.readiness.as_ref(),
            Which::Liveness => app.liveness.as_ref(),
        }
    }
}

/// What one probe says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Whether the app passes it.
    pub passes: bool,
    /// Why not, or that nothing has been asked yet.
    pub why: Arc<str>,
}

/// What the probes of the local app say; of a probe that is not configured, nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppHealth([Option<Said>; 3]);

impl AppHealth {
    /// Before anything has been asked.
    pub fn beginning(app: &config::App) -> Self {
        AppHealth(Which::ALL.map(|which| which.of(app).map(|_| unasked(which))))
    }

    /// What one of them says.
    pub fn get(&self, which: Which) -> Option<&Said> {
        self.0[which as usize].as_ref()
    }

    /// Whether the app takes requests, as far as anybody asked.
    pub fn is_ready(&self) -> bool {
        self.unready().is_none()
    }

    /// The probe because of which it is not ready, and what that says.
    pub fn unready(&self) -> Option<(Which, &Said)> {
        let gates = [Which::Startup, Which::Readiness];
        gates.into_iter().find_map(|which| Some((which, self.get(which).filter(|said| !said.passes)?)))
    }
}

/// What counts before the first result. Only an app that was seen dead is.
fn unasked(which: Which) -> Said {
    Said { passes: which == Which::Liveness, why: "it has not been asked yet".into() }
}

/// Probes the app for ever. `from` may ask for a source address, so that the rules let the connection through.
pub async fn run<N: Net>(
    net: N,
    table: Arc<ArcSwap<Table>>,
    from: fn(SocketAddr) -> Option<IpAddr>,
    tell: &watch::Sender<AppHealth>,
) {
    let probing = |which| probe(&net, &table, from, tell, which);
    tokio::join!(probing(Which::Startup), probing(Which::Readiness), probing(Which::Liveness));
}

async fn probe<N: Net>(
    net: &N,
    table: &ArcSwap<Table>,
    from: fn(SocketAddr) -> Option<IpAddr>,
    tell: &watch::Sender<AppHealth>,
    which: Which,
) {
    let in_force = || which.of(&table.load().snapshot.app).cloned();
    let say = |said: Option<Said>| {
        tell.send_if_modified(|health| {
            let changed = health.0[which as usize] != said;
            health.0[which as usize] = said;
            changed
        });
    };
    loop {
        let Some(probe) = in_force() else {
            say(None);
            sleep(LOOK).await;
            continue;
        };
        // Another probe of the same app begins with what the last one said.
        let before = tell.borrow().get(which).cloned();
        let before = before.unwrap_or_else(|| unasked(which));
        let beginning = if before.passes { Health::Healthy } else { Health::Unhealthy };
        say(Some(before));
        if which != Which::Startup {
            let started = |health: &AppHealth| health.get(Which::Startup).is_none_or(|said| said.passes);
            // The sender is lent to this function, so it lives.
            let _ = tell.subscribe().wait_for(started).await;
        }
        sleep(probe.initial_delay).await;
        let mut checks = Checks::starting(beginning);
        while in_force().as_ref() == Some(&probe) {
            let result = ask(net, probe.address, from(probe.address), &probe.ask, probe.timeout).await;
            let turned = checks.on_result(result.is_ok(), probe.thresholds);
            let passes = checks.state() == Health::Healthy;
            let why = result.err().unwrap_or_default();
            if turned {
                let probe = which.label();
                match passes {
                    true => tracing::info!(probe, "the app passes"),
                    false => tracing::warn!(probe, %why, "the app does not pass"),
                }
            }
            say(Some(Said { passes, why: why.into() }));
            if which == Which::Startup && passes {
                // It has started for good.
                return;
            }
            sleep(probe.period).await;
        }
    }
}
