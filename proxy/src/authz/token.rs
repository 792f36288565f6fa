//! What a verified token says.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Claims that are lists in one text, with spaces between (RFC 8693 section 4.2), as Istio reads
/// them.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// A token whose signature, issuer, audience and times were checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// `issuer/subject`; `None` without a subject.
    pub principal: Option<String>,
    /// All claims.
    pub claims: Map<String, Value>,
    /// Until when it holds, seconds of Unix time, without the clocks' difference.
    pub expires: Option<f64>,
    /// From when on it holds, in the same way.
    pub not_before: Option<f64>,
}

impl Token {
    /// One with these claims, whatever they are worth.
    pub fn of(claims: Map<String, Value>) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let principal = text("iss").zip(text("sub")).map(|(issuer, subject)| format!("{issuer}/{subject}"));
        let time = |name: &str| claims.get(name).and_then(Value::as_f64);
        Token { principal, expires: time("exp"), not_before: time("nbf"), claims }
    }

    /// Its `azp`.
    pub fn presenter(&self) -> Option<&str> {
        self.claims.get("azp").and_then(Value::as_str)
    }

    /// Its `aud`, one or many.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let list = match self.claims.get("aud") {
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        list.iter().filter_map(Value::as_str)
    }

    /// The claim that `keys` lead to.
    pub fn claim(&self, keys: &[String]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        rest.iter().try_fold(self.claims.get(first)?, |value, key| value.as_object()?.get(key))
    }

    /// Whether `fits` says yes to one of the texts of a claim: it may be a text, or a list of them.
    /// Other kinds of claims have none, as in Istio.
    pub(super) fn claim_texts(&self, keys: &[String], fits: &mut dyn FnMut(&str) -> bool) -> bool {
        let is_list_in_text = keys.len() == 1 && SPACE_DELIMITED.contains(&keys[0].as_str());
        match self.claim(keys) {
            Some(Value::String(text)) if is_list_in_text => text.split(' ').any(fits),
            Some(Value::String(text)) => fits(text),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).any(fits),
            _ => false,
        }
    }
}

/// The claims of a token as its text says them. One that stands there twice, at any depth, is a
/// mistake: of two readers, one takes the first and the other the last (RFC 7519 section 4).
#[derive(Debug, PartialEq)]
pub(super) struct Claims(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Unique::deserialize(deserializer)?.0 {
            Value::Object(claims) => Ok(Claims(claims)),
            _ => Err(D::Error::custom("claims are an object")),
        }
    }
}

/// A value without names that stand twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadUnique).map(Unique)
    }
}

struct ReadUnique;

impl<'de> Visitor<'de> for ReadUnique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((name, Unique(value))) = map.next_entry::<String, _>()? {
            if values.contains_key(&name) {
                return Err(A::Error::custom(format_args!("{name:?} stands there twice")));
            }
            values.insert(name, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_claim_that_stands_twice_is_refused_at_any_depth() {
        let read = serde_json::from_str::<Claims>;
        for text in [
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1, "\u0061": 1}"#,
            r#"{"x": {"a": 1, "a": 2}}"#,
            r#"{"x": [0, {"a": 1, "b": {}, "a": 2}]}"#,
        ] {
            assert!(read(text).unwrap_err().to_string().contains("\"a\" stands there twice"), "{text}");
        }
        for text in ["[]", "7", "\"a\"", "null"] {
            assert!(read(text).is_err(), "{text}");
        }
        let text = r#"{"a": {"a": [1, -1, 1.5, true, null, "a"]}, "b": {}, "c": 18446744073709551616}"#;
        assert_eq!(read(text).unwrap().0, serde_json::from_str(text).unwrap());
    }

    proptest! {
        #[test]
        fn what_stands_once_is_read_as_it_is_usually_read(text in "[\\[\\]{}\":,a0e.\\- ]{0,30}") {
            let text = format!("{{\"x\":{text}}}");
            if let Ok(Claims(claims)) = serde_json::from_str(&text) {
                prop_assert_eq!(claims, serde_json::from_str(&text).unwrap());
            }
        }
    }
}
