//! YAML with the lines of its nodes.

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::{Outcome, Remark, cannot};

/// The documents of a text.
pub(super) fn load(text: &str) -> Result<Vec<MarkedYaml<'_>>, Remark> {
    MarkedYaml::load_from_str(text).map_err(|error| {
        let message = format!("this is not YAML: {error}");
        Remark { line: error.marker().line(), left_out: true, message }
    })
}

/// A node of a document.
#[derive(Clone, Copy)]
pub(super) struct Node<'d, 't>(pub(super) &'d MarkedYaml<'t>);

impl<'d, 't> Node<'d, 't> {
    /// Its line, from 1.
    pub(super) fn line(self) -> usize {
        self.0.span.start.line()
    }

    /// Whether nothing stands there.
    pub(super) fn is_null(self) -> bool {
        matches!(self.0.data, YamlData::Value(Scalar::Null))
    }

    /// What stands under a key.
    pub(super) fn get(self, key: &str) -> Option<Node<'d, 't>> {
        let YamlData::Mapping(mapping) = &self.0.data else { return None };
        let found = mapping.iter().find(|(own, _)| Node(own).text().ok() == Some(key));
        found.map(|(_, value)| Node(value))
    }

    /// The same, which must be there.
    pub(super) fn required(self, key: &str) -> Outcome<Node<'d, 't>> {
        self.get(key).ok_or_else(|| cannot(self, format!("`{key}` is missing")))
    }

    /// Keys and values of a mapping.
    pub(super) fn entries(self) -> Outcome<Vec<(Node<'d, 't>, Node<'d, 't>)>> {
        match &self.0.data {
            YamlData::Mapping(mapping) => {
                Ok(mapping.iter().map(|(key, value)| (Node(key), Node(value))).collect())
            }
            _ => Err(cannot(self, "keys and values are expected here")),
        }
    }

    /// That it has no other keys than these.
    pub(super) fn only(self, known: &[&str]) -> Outcome<()> {
        for (key, _) in self.entries()? {
            let name = key.text()?;
            if !known.contains(&name) {
                return Err(cannot(key, format!("`{name}` is not known here")));
            }
        }
        Ok(())
    }

    /// The elements of a list.
    pub(super) fn list(self) -> Outcome<Vec<Node<'d, 't>>> {
        match &self.0.data {
            YamlData::Sequence(list) => Ok(list.iter().map(Node).collect()),
            _ => Err(cannot(self, "a list is expected here")),
        }
    }

    /// A text.
    pub(super) fn text(self) -> Outcome<&'d str> {
        match &self.0.data {
            YamlData::Value(Scalar::String(text)) => Ok(text),
            _ => Err(cannot(self, "a text is expected here")),
        }
    }

    /// A text, or a number that somebody has written without quotes.
    pub(super) fn scalar(self) -> Outcome<String> {
        match &self.0.data {
            YamlData::Value(Scalar::String(text)) => Ok(text.to_string()),
            YamlData::Value(Scalar::Integer(number)) => Ok(number.to_string()),
            YamlData::Value(Scalar::Boolean(flag)) => Ok(flag.to_string()),
            _ => Err(cannot(self, "a text is expected here")),
        }
    }

    /// True or false.
    pub(super) fn flag(self) -> Outcome<bool> {
        match &self.0.data {
            YamlData::Value(Scalar::Boolean(flag)) => Ok(*flag),
            _ => Err(cannot(self, "true or false is expected here")),
        }
    }
}
