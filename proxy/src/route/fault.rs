//! Failures made on purpose, to see what callers do about them.
//!
//! As Envoy's HTTP fault filter: delay and abort are drawn independently, each with its own share,
//! and a request that gets both waits first. An endpoint never sees an aborted request.

use std::time::Duration;

use http::StatusCode;
use rand::{Rng, RngExt};

use crate::config::route::Fault;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InjectedFault {
    /// How long it waits first.
    pub delay: Option<Duration>,
    /// What it is answered with.
    pub abort: Option<StatusCode>,
}

impl Fault {
    /// Draws what happens to a request: one number for each share that is neither 0 nor 1.
    pub fn draw(&self, rng: &mut impl Rng) -> InjectedFault {
        InjectedFault {
            delay: self.delay.filter(|(_, share)| strikes(*share, rng)).map(|(delay, _)| delay),
            abort: self.abort.filter(|(_, share)| strikes(*share, rng)).map(|(status, _)| status),
        }
    }
}

/// Whether a share of all requests has this one in it.
pub fn strikes(share: f64, rng: &mut impl Rng) -> bool {
    share >= 1.0 || share > 0.0 && rng.random_bool(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::RngTree;

    #[test]
    fn delays_and_aborts_strike_independently_and_as_often_as_they_say() {
        let (delay, abort) = (Duration::from_millis(200), StatusCode::SERVICE_UNAVAILABLE);
        let settings = Fault { delay: Some((delay, 0.1)), abort: Some((abort, 0.5)) };
        let mut rng = RngTree::new(1).rng();
        let faults: Vec<_> = (0..10_000).map(|_| settings.draw(&mut rng)).collect();
        for (share, fault) in [
            (0.45, InjectedFault::default()),
            (0.05, InjectedFault { delay: Some(delay), abort: None }),
            (0.45, InjectedFault { delay: None, abort: Some(abort) }),
            (0.05, InjectedFault { delay: Some(delay), abort: Some(abort) }),
        ] {
            let count = faults.iter().filter(|d| **d == fault).count() as f64;
            // Five standard deviations.
            assert!(
                (count - 10_000.0 * share).abs() < 5.0 * (10_000.0 * share * (1.0 - share)).sqrt(),
                "{fault:?} {count}"
            );
        }
    }

    #[test]
    fn no_fault_and_a_certain_one_draw_nothing() {
        let (mut rng, untouched) = (RngTree::new(1).rng(), RngTree::new(1).rng());
        assert_eq!(Fault::default().draw(&mut rng), InjectedFault::default());
        let certain = Fault { delay: None, abort: Some((StatusCode::IM_A_TEAPOT, 1.0)) };
        assert_eq!(certain.draw(&mut rng).abort, Some(StatusCode::IM_A_TEAPOT));
        assert_eq!(rng, untouched);
    }
}
