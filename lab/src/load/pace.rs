//! Waiting for the next due time.
//!
//! tokio's timers tick in milliseconds, so they are one to two milliseconds late: enough to hide
//! what a sidecar costs, because latency counts from the intended start. On the kernel a timerfd
//! takes their place, which is late by tens of microseconds; in the simulator tokio's virtual clock
//! is the only one there is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Something that waits until an instant.
#[allow(async_fn_in_trait, reason = "every caller is generic and runs on one thread")]
pub trait Pace {
    /// Returns at `at` or soon after; at once if it has passed.
    async fn until(&mut self, at: Instant);
}

/// tokio's own timers: exact in the simulator, one to two milliseconds late on the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioPace;

impl Pace for TokioPace {
    async fn until(&mut self, at: Instant) {
        tokio::time::sleep_until(at).await;
    }
}

/// A timerfd (kernel only).
#[derive(Debug)]
pub struct TimerPace(AsyncFd<Timer>);

/// [`AsyncFd`] asks for a trait that nix leaves out.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl TimerPace {
    /// A timer of this runtime.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    #[allow(
        deprecated,
        reason = "the successor is unsafe; it asks that the descriptor stays open, and TimerFd owns it"
    )]
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(TimerPace(AsyncFd::new(Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))?))
    }

    async fn wait(&self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Catching up. The requests under way get their turn between any two new ones: a burst
            // of new ones would each open a connection, and the catching up would be an overload of
            // its own.
            tokio::task::yield_now().await;
            return Ok(());
        }
        self.0
            .get_ref()
            .0
            .set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(fired) = ready.try_io(|fd| Ok(fd.get_ref().0.wait()?)) {
                return fired;
            }
        }
    }
}

impl Pace for TimerPace {
    async fn until(&mut self, at: Instant) {
        if let Err(e) = self.wait(at).await {
            tracing::warn!("no timerfd ({e}), falling back to a coarser timer");
            tokio::time::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_timerfd_never_fires_early_and_can_be_used_again() {
        let mut pace = TimerPace::new().unwrap();
        for micros in [300, 0, 1_700] {
            let at = Instant::now() + Duration::from_micros(micros);
            pace.until(at).await;
            assert!(Instant::now() >= at);
        }
    }
}
