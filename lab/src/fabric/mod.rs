//! The wires between instances: what a link does to a packet, decided purely and from a seed.
//!
//! `decide` is the whole model, with no clock and no I/O of its own: the userspace wire on the kernel and the links
//! of the simulator both ask it.

pub mod profile;

pub use profile::LinkProfile;
