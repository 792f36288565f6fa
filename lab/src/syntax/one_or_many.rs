//! A key that takes one word or a list of words.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_spanned::Spanned;

/// One word or a list of words.
#[derive(Debug)]
pub enum OneOrMany {
    /// `"ours"`
    One(String),
    /// `["ours", "none"]`
    Many(Vec<Spanned<String>>),
}

impl OneOrMany {
    /// The words; `at` is where all of it stands.
    pub fn words(&self, at: std::ops::Range<usize>) -> Vec<Spanned<String>> {
        match self {
            OneOrMany::One(word) => vec![Spanned::new(at, word.clone())],
            OneOrMany::Many(words) => words.clone(),
        }
    }
}

// By hand: a derived untagged enum loses the places of its words and says only "did not match any
// variant".
impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a list of words, such as \"ours\" or [\"ours\", \"none\"]")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(word.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, words: A) -> Result<OneOrMany, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(words)).map(OneOrMany::Many)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}
