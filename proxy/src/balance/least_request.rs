//! The one with the fewest active requests among a few drawn at random: Envoy's LEAST_REQUEST for
//! members of one weight. For members of different weights Envoy takes turns instead, by weight
//! over active requests; see [`Edf`](super::edf::Edf).
//!
//! Unlike Envoy's, the members drawn are different ones, so that a pair never consists of one busy
//! member twice. As many draws as choices, or as members if there are fewer.

use rand::{Rng, RngExt};

use super::{Shares, View};

/// The most that may be drawn for one pick.
pub const MAX_CHOICES: usize = 16;

/// The position; `None` if none of those drawn is admitted.
pub fn pick(open: &Shares, choices: usize, view: &View<'_>, rng: &mut impl Rng) -> Option<usize> {
    let members = open.positions();
    let mut drawn = [0; MAX_CHOICES];
    let mut best: Option<(u32, usize)> = None;
    for taken in 0..choices.min(MAX_CHOICES).min(members.len()) {
        let mut at = rng.random_range(0..members.len() - taken);
        // Those drawn before are left out of the count. They stand in rising order.
        let mut slot = 0;
        while slot < taken && at >= drawn[slot] {
            (at, slot) = (at + 1, slot + 1);
        }
        drawn.copy_within(slot..taken, slot + 1);
        drawn[slot] = at;
        let position = members[at] as usize;
        if view.lets_in(position, rng) {
            let pending = view.endpoints[position].pending();
            // Among equals the one that was drawn first.
            if best.is_none_or(|(fewest, _)| pending < fewest) {
                best = Some((pending, position));
            }
        }
    }
    best.map(|(_, position)| position)
}
