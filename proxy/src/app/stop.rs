//! The order in which everything ends, in both worlds.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Sidecar;
use super::worker::Signals;
use crate::mutant::Mutant;

/// What had ended when the sidecar did.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    /// Connections that were cut.
    pub(super) left: usize,
    /// The app's exit code; 0 if it is no child of the sidecar.
    pub(super) code: u8,
}

/// Ends everything, once the sidecar is not ready any more ([`Sidecar::drain`]). `stop_app` ends
/// the app within the time that it gets, and says its exit code. Without a child nobody knows when
/// the app is done, so the way out takes connections until the end in any case; it is only told to
/// finish.
///
/// # Errors
/// What `stop_app` says.
pub(super) async fn stop(
    sidecar: &Sidecar,
    signals: &Signals,
    stop_app: impl AsyncFnOnce(Duration) -> io::Result<u8>,
) -> io::Result<Stopped> {
    let timeouts = sidecar.timeouts();
    tokio::join!(sleep(timeouts.drain_min), sidecar.deregistered());
    let limit = if Mutant::DrainsInNoTime.is_planted() { Duration::ZERO } else { timeouts.drain };
    let deadline = Instant::now() + limit;
    let mut left = signals.inbound.drain(deadline).await;
    let code = stop_app(deadline.saturating_duration_since(Instant::now())).await?;
    left += signals.outbound.drain(deadline).await;
    Ok(Stopped { left, code })
}
