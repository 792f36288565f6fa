//! What a verified token says.

use serde_json::{Map, Value};

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
