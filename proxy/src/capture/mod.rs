//! How an app's connections come to the sidecar without the app knowing.
//!
//! [`rules`] writes the iptables rules that redirect them, and takes the rules away again;
//! [`listener`] accepts what they redirect. [`source`] is the address that tells the inbound side's
//! own connections apart over IPv6. Where a connection was meant to go is asked of
//! [`crate::world::Net::orig_dst`].

pub mod listener;
pub mod rules;
pub mod source;
