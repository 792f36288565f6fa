//! The better of two drawn at random (power of two choices, Mitzenmacher 2001), by peak-EWMA cost:
//! Finagle's and Linkerd's balancer.
//!
//! Two different members are drawn by weight and the cheaper one is picked, so the worst of three
//! loses every comparison, whatever its latency is now. That would make a verdict final. So a
//! member that loses often enough in a row while it is idle is picked all the same
//! ([`Endpoint::pass_over`](crate::endpoint::Endpoint::pass_over)).
//!
//! A round is two draws, and one round is the rule. A member that was tried already, or is not warm
//! enough this time, is no comparison. Then further rounds look for another one; otherwise its
//! partner would win without a comparison.

use rand::Rng;

use super::{Shares, View};

/// Rounds before what was found has to do.
pub const ROUNDS: usize = 4;

/// The position, and whether it was picked to find out how it does now. `None` if none of those
/// drawn is admitted.
pub fn pick(open: &Shares, view: &View<'_>, rng: &mut impl Rng) -> Option<(usize, bool)> {
    if let [only] = open.positions() {
        return view.admits(*only as usize).then_some((*only as usize, false));
    }
    let mut view = *view;
    let mut held = None;
    for _ in 0..ROUNDS {
        let (first, second) = open.draw_two(rng)?;
        for position in [first, second] {
            if held == Some(position) || !view.admits(position) {
                continue;
            }
            if !view.lets_in(position, rng) {
                // Once refused is refused: asked again and again, a cold member would get in.
                view.attempted.insert(position);
                continue;
            }
            let Some(other) = held.replace(position) else { continue };
            let (better, worse) =
                if view.cost(other) <= view.cost(position) { (other, position) } else { (position, other) };
            let explore = view.endpoints[worse].pass_over();
            return Some(if explore { (worse, true) } else { (better, false) });
        }
    }
    held.map(|position| (position, false))
}
