//! `adaptive_concurrency`: a limit of requests in flight that follows latency.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_spanned::Spanned;

/// `true`, or `{ initial = 20, min = 3, max = 1000 }`.
#[derive(Debug)]
pub enum Adaptive {
    /// With the default bounds, or not at all.
    On(bool),
    /// With these bounds.
    Table(AdaptiveTable),
}

/// The bounds of such a limit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveTable {
    /// Where it begins. Default 20.
    pub initial: Option<Spanned<u32>>,
    /// Lowest. Default 3.
    pub min: Option<Spanned<u32>>,
    /// Highest. Default 1000.
    pub max: Option<Spanned<u32>>,
}

// By hand: a derived untagged enum loses the places of its words and says only "did not match any
// variant".
impl<'de> Deserialize<'de> for Adaptive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Adaptive;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean")
            }
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Adaptive, E> {
                Ok(Adaptive::On(on))
            }
            fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<Adaptive, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(keys)).map(Adaptive::Table)
            }
        }
        deserializer.deserialize_any(Words)
    }
}
