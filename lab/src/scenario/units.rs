//! Values with units: durations, rates and percentages are strings, so that a file can be read aloud.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A length of time: `"250ms"`, `"1.5s"`, `"2m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A rate per second: `"400/s"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub f64);

/// A share: `"1%"` is 0.01.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

macro_rules! from_text {
    ($type:ident) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
from_text!(Span);
from_text!(Rate);
from_text!(Percent);

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(_: &str) -> Result<Self, String> {
        Err("to come".into())
    }
}
impl std::str::FromStr for Rate {
    type Err = String;
    fn from_str(_: &str) -> Result<Self, String> {
        Err("to come".into())
    }
}
impl std::str::FromStr for Percent {
    type Err = String;
    fn from_str(_: &str) -> Result<Self, String> {
        Err("to come".into())
    }
}
