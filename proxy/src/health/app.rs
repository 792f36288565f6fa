//! Probes of the local app, run by its own sidecar: has it started, does it take requests, is it
//! alive. The words mean what they mean in Kubernetes, whose probes cannot pass through
//! interception.
//!
//! What they say goes three ways: readiness is part of the sidecar's own (`/ready`), so an
//! orchestrator and a registry learn of it; each result has a page of its own (`/app-health/...`)
//! for an orchestrator that wants the app's and not the sidecar's; and others may watch
//! ([`AppHealth`]). Nothing else follows from them: requests that arrive before the app is ready
//! still go to it, since callers decide whom they call, and an app that is not alive is for its
//! orchestrator to restart.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::sleep;

use super::ask::ask;
use crate::balance::Table;
use crate::config::defaults::PROBE_LOOK;
use crate::config::{self, Probe};
use crate::connect::Connector;
use crate::endpoint::health::{Checks, Health};
use crate::world::Net;

/// The probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// Whether it has started. The other two wait for it.
    Startup,
    /// Whether it takes requests.
    Readiness,
    /// Whether it is alive.
    Liveness,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

    /// Its name in configuration, metrics and pages.
    pub fn label(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Readiness => "readiness",
            ProbeKind::Liveness => "liveness",
        }
    }

    fn of(self, app: &config::App) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => app.startup.as_ref(),
            ProbeKind::Readiness => app.readiness.as_ref(),
            ProbeKind::Liveness => app.liveness.as_ref(),
        }
    }
}

/// What one probe says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStatus {
    /// Whether the app passes it.
    pub passes: bool,
    /// Why not, or that nothing has been asked yet.
    pub why: Arc<str>,
}

/// What the probes of the local app say; of a probe that is not configured, nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppHealth([Option<ProbeStatus>; 3]);

impl AppHealth {
    /// Before anything has been asked.
    pub fn beginning(app: &config::App) -> Self {
        AppHealth(ProbeKind::ALL.map(|kind| kind.of(app).map(|_| unasked(kind))))
    }

    /// What one of them says.
    pub fn get(&self, kind: ProbeKind) -> Option<&ProbeStatus> {
        self.0[kind as usize].as_ref()
    }

    /// Whether the app takes requests, as far as anybody asked.
    pub fn is_ready(&self) -> bool {
        self.unready().is_none()
    }

    /// The probe because of which it is not ready, and what that says.
    pub fn unready(&self) -> Option<(ProbeKind, &ProbeStatus)> {
        let gates = [ProbeKind::Startup, ProbeKind::Readiness];
        gates.into_iter().find_map(|kind| Some((kind, self.get(kind).filter(|status| !status.passes)?)))
    }
}

/// What counts before the first result. Only an app that was seen dead is.
fn unasked(kind: ProbeKind) -> ProbeStatus {
    ProbeStatus { passes: kind == ProbeKind::Liveness, why: "it has not been asked yet".into() }
}

/// Probes the app for ever. `connector` asks for a source address that the rules let through.
pub async fn run<N: Net>(
    connector: Connector<N>,
    table: Arc<ArcSwap<Table>>,
    tell: &watch::Sender<AppHealth>,
) {
    let probing = |kind| probe(&connector, &table, tell, kind);
    tokio::join!(probing(ProbeKind::Startup), probing(ProbeKind::Readiness), probing(ProbeKind::Liveness));
}

async fn probe<N: Net>(
    connector: &Connector<N>,
    table: &ArcSwap<Table>,
    tell: &watch::Sender<AppHealth>,
    kind: ProbeKind,
) {
    let in_force = || kind.of(&table.load().snapshot.app).cloned();
    let say = |status: Option<ProbeStatus>| {
        tell.send_if_modified(|health| {
            let changed = health.0[kind as usize] != status;
            health.0[kind as usize] = status;
            changed
        });
    };
    loop {
        let Some(probe) = in_force() else {
            say(None);
            sleep(PROBE_LOOK).await;
            continue;
        };
        // Another probe of the same app begins with what the last one said.
        let before = tell.borrow().get(kind).cloned();
        let before = before.unwrap_or_else(|| unasked(kind));
        let beginning = if before.passes { Health::Healthy } else { Health::Unhealthy };
        say(Some(before));
        if kind != ProbeKind::Startup {
            let started =
                |health: &AppHealth| health.get(ProbeKind::Startup).is_none_or(|status| status.passes);
            // The sender is lent to this function, so it lives.
            let _ = tell.subscribe().wait_for(started).await;
        }
        sleep(probe.initial_delay).await;
        let mut checks = Checks::starting(beginning);
        while in_force().as_ref() == Some(&probe) {
            let result = ask(connector, &probe.address.into(), &probe.ask, probe.timeout).await;
            let turned = checks.on_result(result.is_ok(), probe.thresholds);
            let passes = checks.state() == Health::Healthy;
            let why = result.err().unwrap_or_default();
            if turned {
                let probe = kind.label();
                match passes {
                    true => tracing::info!(probe, "the app passes"),
                    false => tracing::warn!(probe, %why, "the app does not pass"),
                }
            }
            say(Some(ProbeStatus { passes, why: why.into() }));
            if kind == ProbeKind::Startup && passes {
                // It has started for good.
                return;
            }
            sleep(probe.period).await;
        }
    }
}
