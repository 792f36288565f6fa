//! What every part of a scenario file is made of: values with units, names and patterns of
//! instances, links, settings for sidecars; and mistakes, which point at their words.
//!
//! Everything here is about one value or one table by itself. What a whole file means is for
//! `scenario`, and the tables of faults are in `fault`.

pub mod diagnose;
pub(crate) mod links;
pub(crate) mod names;
pub(crate) mod one_or_many;
pub mod settings;
pub(crate) mod units;
