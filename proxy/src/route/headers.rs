//! Changes of a message's headers.

use http::HeaderMap;

use crate::config::route::HeaderEdits;

impl HeaderEdits {
    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderValue;

    #[test]
    fn what_is_set_stands_once_what_is_added_stands_beside_and_what_is_removed_is_gone() {
        let pair = |name: &'static str, value| (name.parse().unwrap(), HeaderValue::from_static(value));
        let edits = HeaderEdits {
            set: vec![pair("x-set", "new")],
            add: vec![pair("x-add", "new")],
            remove: vec!["x-gone".parse().unwrap()],
        };
        let mut headers = HeaderMap::new();
        for name in ["x-set", "x-add", "x-gone", "x-other"] {
            for value in ["1", "2"] {
                headers.append(name, HeaderValue::from_static(value));
            }
        }
        edits.apply(&mut headers);
        let all = |name| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-set"), ["new"]);
        assert_eq!(all("x-add"), ["1", "2", "new"]);
        assert!(all("x-gone").is_empty());
        assert_eq!(all("x-other"), ["1", "2"]);
    }
}
