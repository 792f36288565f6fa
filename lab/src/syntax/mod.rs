//! What every part of a scenario file is made of: values with units, names and patterns of
//! instances, links, settings for sidecars; and mistakes, which point at their words.
//!
//! Everything here is about one value or one table by itself. What a whole file means is for
//! `scenario`, and the tables of faults are in `fault`.

pub mod diagnose;
pub mod links;
pub mod names;
pub mod one_or_many;
pub mod settings;
pub mod units;
