//! Ctrl-C while histories are simulated: those under way are finished, and what was done is told.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::INTERRUPTED;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Listens from now on. The second time that the user asks, the process ends at once.
pub(super) fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        // Where signals cannot be heard, they end the process as they always did.
        std::thread::spawn(|| {
            Builder::new_current_thread().enable_all().build().map(|rt| rt.block_on(hear()))
        });
    });
}

/// Whether the user has asked to stop.
pub(super) fn is_requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

async fn hear() -> std::io::Result<()> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    for time in 0.. {
        tokio::select! {
            biased;
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
        if time > 0 {
            std::process::exit(i32::from(INTERRUPTED));
        }
        REQUESTED.store(true, Ordering::Relaxed);
        errln!("stopping when the histories under way are over; once more to stop at once");
    }
    Ok(())
}
