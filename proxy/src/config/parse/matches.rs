//! `match` of a route: what its words mean.

use std::ops::Range;

use http::Method;
use http::header::HeaderName;
use http::uri::{Authority, PathAndQuery};
use serde_spanned::Spanned;

use super::Check;
use crate::config::model;
use crate::config::route::{HostPattern, Match, PathMatch, Pattern, ValueMatch};

impl Check<'_> {
    pub(super) fn matches(&mut self, given: &model::Match) -> Match {
        let paths = [("path", &given.path), ("prefix", &given.prefix), ("regex", &given.regex)];
        let mut said = paths.into_iter().filter_map(|(key, given)| Some((key, given.as_ref()?)));
        let first = said.next();
        if let (Some((key, first)), Some((other, second))) = (first, said.next()) {
            self.diagnostics
                .add(format!("`{key}` and `{other}` both say which paths match"), second.span(), "the second")
                .also(first.span(), "the first")
                .help("keep one of the two");
        }
        let path = match first {
            None => PathMatch::Any,
            Some(("regex", text)) => {
                self.pattern(text.get_ref(), text.span()).map_or(PathMatch::Any, PathMatch::Regex)
            }
            Some((key, text)) => {
                self.path(key, text);
                match key {
                    "path" => PathMatch::Exact(text.get_ref().clone()),
                    _ => PathMatch::Prefix(text.get_ref().trim_end_matches('/').to_owned()),
                }
            }
        };
        let methods = given.methods.iter().filter_map(|text| self.method(text)).collect();
        let authorities = given.authorities.iter().filter_map(|text| self.host(text)).collect();
        let mut headers = Vec::with_capacity(given.headers.len());
        for (name, value) in &given.headers {
            if name.get_ref().eq_ignore_ascii_case("host") {
                self.diagnostics
                    .add("`host` is not matched as a header", name.span(), "HTTP/2 has none")
                    .help("use `authorities`, which knows both");
            }
            let value = self.value(name, value);
            headers.extend(self.header_name(name).map(|name| (name, value)));
        }
        let query = given.query.iter().map(|(name, value)| (name.get_ref().clone(), self.value(name, value)));
        Match { path, methods, authorities, headers, query: query.collect() }
    }

    /// Whether `text` is a path without a query.
    pub(super) fn path(&mut self, key: &str, text: &Spanned<String>) {
        let words = text.get_ref().as_str();
        if !words.starts_with('/') {
            let help = format!("write {:?}", format!("/{words}"));
            self.diagnostics
                .add(format!("`{key}` is not a path"), text.span(), "a path begins with a slash")
                .help(help);
        } else if words.contains(['?', '#']) {
            let help = "a path ends before its query; parameters are matched by `query`";
            self.diagnostics
                .add(format!("`{key}` is not a path"), text.span(), "more than a path")
                .help(help);
        } else if PathAndQuery::try_from(words).is_err() || !words.bytes().all(|b| b.is_ascii_graphic()) {
            self.diagnostics
                .add(format!("`{key}` is not a path"), text.span(), "a character that no path has")
                .help("paths are compared as they are sent: write %20 for a space");
        }
    }

    fn pattern(&mut self, text: &str, span: Range<usize>) -> Option<Pattern> {
        Pattern::new(text)
            .map_err(|wrong| {
                self.diagnostics.add("this is not a regular expression", span, wrong).help(
                    "the syntax is that of RE2, without look-around and back-references; the whole text must match",
                );
            })
            .ok()
    }

    fn method(&mut self, text: &Spanned<String>) -> Option<Method> {
        let words = text.get_ref().as_str();
        let upper = words.to_ascii_uppercase();
        match Method::from_bytes(words.as_bytes()) {
            Ok(method) if words == upper => Some(method),
            Ok(_) => {
                let help = format!("methods are upper case: write {upper:?}");
                self.diagnostics
                    .add(format!("nobody sends the method {words:?}"), text.span(), "lower case")
                    .help(help);
                None
            }
            Err(_) => {
                self.diagnostics
                    .add(format!("{words:?} is not a method"), text.span(), "not a method")
                    .help(r#"such as methods = ["GET", "HEAD"]"#);
                None
            }
        }
    }

    fn host(&mut self, text: &Spanned<String>) -> Option<HostPattern> {
        let words = text.get_ref().to_ascii_lowercase();
        let (below, name) = match words.strip_prefix('*') {
            Some(rest) => (true, rest.strip_prefix('.').unwrap_or_default()),
            None => (false, words.as_str()),
        };
        let authority = Authority::try_from(name).ok().filter(|authority| {
            !name.is_empty() && !name.contains(['@', '*']) && authority.host().len() <= 255
        });
        let Some(authority) = authority else {
            self.diagnostics
                .add(format!("{:?} is not a host", text.get_ref()), text.span(), "not a host")
                .help(r#"write a name such as "orders.example", or "*.example" for every name below"#);
            return None;
        };
        if authority.port().is_some() {
            self.diagnostics
                .add("a host is matched without its port", text.span(), "names a port")
                .help(format!("write {:?}", authority.host()));
            return None;
        }
        Some(if below { HostPattern::Below(format!(".{name}")) } else { HostPattern::Exact(words) })
    }

    pub(super) fn header_name(&mut self, name: &Spanned<String>) -> Option<HeaderName> {
        HeaderName::from_bytes(name.get_ref().as_bytes())
            .map_err(|_| {
                self.diagnostics
                    .add(
                        format!("{:?} is not the name of a header", name.get_ref()),
                        name.span(),
                        "not a name",
                    )
                    .help("use letters, digits and hyphens, such as \"x-canary\"");
            })
            .ok()
    }

    fn value(&mut self, name: &Spanned<String>, given: &model::Value) -> ValueMatch {
        let table = match given {
            model::Value::Exact(text) => return ValueMatch::Exact(text.clone()),
            model::Value::Table(table) => table,
        };
        match (&table.prefix, &table.regex, &table.present) {
            (Some(prefix), None, None) => ValueMatch::Prefix(prefix.get_ref().clone()),
            (None, Some(regex), None) => {
                self.pattern(regex.get_ref(), regex.span()).map_or(ValueMatch::Present, ValueMatch::Regex)
            }
            (None, None, Some(present)) if *present.get_ref() => ValueMatch::Present,
            (None, None, Some(_)) => ValueMatch::Absent,
            _ => {
                self.diagnostics
                    .add(
                        format!("{:?} is matched in no way or in several", name.get_ref()),
                        name.span(),
                        "this one",
                    )
                    .help("write a text, { prefix = \"...\" }, { regex = \"...\" } or { present = true }");
                ValueMatch::Present
            }
        }
    }
}
