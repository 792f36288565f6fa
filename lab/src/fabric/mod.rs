//! The wires between instances: what a link does to a packet, decided purely and from a seed.
//!
//! `decide` is the whole model, with no clock and no I/O of its own: the userspace wire on the
//! kernel and the links of the simulator both ask it. `gso` lets the wire lose single segments
//! out of the large frames that the kernel really sends. `engine` is the userspace wire itself:
//! one thread that reads the outer ends of all veth pairs through `packet` and hands each frame
//! on when `decide` says. [`netem`] writes the same links as a `tc` script, for kernels that can.
//!
//! What is left out: rate limits, queues of limited length, duplication, corruption and deliberate
//! reordering.

pub(crate) mod decide;
pub(crate) mod engine;
pub(crate) mod gso;
pub mod netem;
pub(crate) mod packet;
pub(crate) mod profile;
pub(crate) mod stats;

mod spin;

pub use decide::{Direction, LostSet, PacketVerdict};
pub use engine::{PortSpec, Wire};
pub use profile::LinkProfile;
pub use stats::{PairStats, WireStats};
