//! How an app's connections come to the sidecar without the app knowing.
//!
//! [`rules`] writes the iptables rules that redirect them, and takes the rules away again.

pub mod rules;
