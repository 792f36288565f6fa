//! What one direction of a link does to packets.

use std::time::Duration;

use serde::Serialize;

/// Delay, jitter, loss and bandwidth of one direction. The default is a wire: none of them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, serde::Deserialize)]
pub struct LinkProfile {
    /// One-way delay.
    #[serde(with = "crate::readable")]
    pub delay: Duration,
    /// Half-width of the uniform variation around the delay; packets keep their order.
    #[serde(with = "crate::readable")]
    pub jitter: Duration,
    /// Chance of each packet (each segment of a large one) to be lost, 0 to 1.
    pub loss: f64,
    /// Bits per second; 0 is without limit. Packets wait for those before them in a queue that has
    /// no end.
    #[serde(default, skip_serializing_if = "is_unlimited")]
    pub bandwidth: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_unlimited(bandwidth: &u64) -> bool {
    *bandwidth == 0
}

impl LinkProfile {
    /// A link that loses everything.
    pub const CUT: LinkProfile =
        LinkProfile { delay: Duration::ZERO, jitter: Duration::ZERO, loss: 1.0, bandwidth: 0 };
}
