//! A worker: its listeners, its pools, and the connections that it carries.

use std::io;
use std::sync::Arc;

use tokio::time::sleep;

use super::{Sidecar, named};
use crate::capture::listener::{accept, accept_always, bind_any};
use crate::config::defaults::POOL_SWEEP;
use crate::drain;
use crate::inbound::{self, Inbound};
use crate::mutant::Mutant;
use crate::outbound::{self, Outbound};
use crate::world::{Net, World};

/// Tells the two sides to drain.
pub(super) struct Signals {
    pub(super) inbound: drain::Signal,
    pub(super) outbound: drain::Signal,
}

/// Learns that the sides drain.
#[derive(Clone)]
pub struct Watches {
    inbound: drain::Watch,
    /// A listener does not hold up the drain of the way out, because it is open until the end.
    outbound: drain::Source,
}

/// One signal for each side.
pub(super) fn drains() -> (Signals, Watches) {
    let (inbound, inbound_watch) = drain::channel();
    let (outbound, _) = drain::channel();
    let watches = Watches { inbound: inbound_watch, outbound: outbound.source() };
    (Signals { inbound, outbound }, watches)
}

/// Binds one worker's listeners and accepts connections: for the app until the drain begins, of the
/// app for ever. The connections end in tasks of their own, each of which holds a watch of its
/// side's drain.
///
/// # Errors
/// If a listener cannot be bound.
pub async fn work<N: Net>(world: World<N>, sidecar: Arc<Sidecar>, drains: Watches) -> io::Result<()> {
    let listen = sidecar.table.load().snapshot.listen;
    let bind = |at| world.net.bind(at);
    let out = bind_any(bind, listen.outbound).await.map_err(named("outbound", listen.outbound))?;
    let into = bind_any(bind, listen.inbound).await.map_err(named("inbound", listen.inbound))?;
    let outbound = Outbound::new(&world, sidecar.tls.clone(), sidecar.table.clone(), sidecar.metrics.clone());
    let inbound = Inbound::new(&world, sidecar.tls.clone(), sidecar.table.clone(), sidecar.metrics.clone());
    if let Some(audit) = &sidecar.audit {
        inbound.audit_to(audit.clone());
    }
    if let Some(access) = &sidecar.access {
        inbound.side.log_to(access.clone());
        outbound.side.log_to(access.clone());
    }
    sidecar.listening();

    let (o, i) = (outbound.clone(), inbound.clone());
    let accepting = async {
        tokio::join!(
            accept_always(world.net.clone(), out, drains.outbound, "outbound", move |io, peer, drain| {
                outbound::carry(o.clone(), io, peer, drain)
            }),
            accept(world.net.clone(), into, drains.inbound, "inbound", move |io, peer, drain| {
                inbound::carry(i.clone(), io, peer, drain)
            }),
        );
    };
    let sweeping = async {
        let mut before = sidecar.table.load_full();
        loop {
            sleep(POOL_SWEEP).await;
            let table = sidecar.table.load_full();
            if !Arc::ptr_eq(&before, &table) {
                for gone in table.gone_since(&before) {
                    outbound.side.pool.forget(&gone);
                }
                if Mutant::ReloadForgetsConnections.is_planted() {
                    outbound.side.pool.clear();
                }
                before = table;
            }
            let max_idle = before.snapshot.timeouts.pool_idle;
            outbound.side.pool.sweep(max_idle);
            inbound.side.pool.sweep(max_idle);
        }
    };
    tokio::select! {
        biased;
        () = accepting => {}
        () = inbound.follow_policies() => {}
        () = inbound.side.follow_trust() => {}
        () = outbound.side.follow_trust() => {}
        () = sweeping => {}
    }
    Ok(())
}
