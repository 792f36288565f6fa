//! How connections get here: the rules that redirect them, and the loop that accepts them.

pub mod listener;
