//! The first step of reading a configuration: is it TOML, are its keys known, are its values of the
//! right type?
//!
//! serde stops at the first mistake. To report them all, what it stopped at is taken out of the
//! tree (or put in, if it was missing) and the tree is read again, until it fits; what was mended
//! is never used, because a file with a mistake gives no [`File`]. Mistakes of syntax are the
//! exception: only the first one is shown, since the rest of the text is guesswork after it.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_spanned::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Error};

use super::TlsMode;
use super::diagnose::{Diagnostics, did_you_mean, one_of};

/// Keys whose values are lengths of time.
const DURATIONS: [&str; 30] = [
    "delay",
    "ttl",
    "empty_grace",
    "stale_after",
    "min_ttl",
    "max_ttl",
    "connect",
    "detect",
    "pool_idle",
    "pool_age",
    "half_close",
    "tcp_idle",
    "tunnel_idle",
    "drain_min",
    "drain",
    "stream_idle",
    "request",
    "per_try",
    "response",
    "base",
    "max",
    "window",
    "interval",
    "edge_interval",
    "no_traffic_interval",
    "timeout",
    "initial_delay",
    "period",
    "retry_after",
    "hedge",
];

/// Keys whose values are percentages.
const SHARES: [&str; 7] =
    ["cap", "success_rate", "panic", "min_weight", "share", "delay_share", "abort_share"];

/// Keys whose values are ports.
const PORTS: [&str; 9] =
    ["outbound", "inbound", "admin", "metrics", "health", "port", "ports", "not_ports", "opaque_ports"];

const ETCD_EXAMPLE: &str =
    "etcd = { endpoints = [\"http://10.0.0.5:2379\"], prefix = \"/sidelab/services/orders/\" }";

/// The file that `text` describes, or `None` once what is wrong with it has been noted.
pub(super) fn read<File: DeserializeOwned>(text: &str, diagnostics: &mut Diagnostics) -> Option<File> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if let Some(first) = errors.iter().min_by_key(|error| error.span().map_or(0, |span| span.start)) {
        syntax(first, text, diagnostics);
        return None;
    }
    let mut reader = Reader { text, root, excused: Vec::new() };
    // Each round mends one place, and there are no more places than bytes.
    for _ in 0..=text.len() {
        match File::deserialize(toml::Deserializer::from(reader.root.clone())) {
            Ok(file) => return diagnostics.is_empty().then_some(file),
            Err(error) => {
                if !reader.mend(&error, diagnostics) {
                    return None;
                }
            }
        }
    }
    None
}

fn syntax(error: &Error, text: &str, diagnostics: &mut Diagnostics) {
    let span = error.span().unwrap_or(0..0);
    let words = text.get(span.clone()).unwrap_or_default();
    let said = error.message();
    if said.starts_with("string values must be quoted") {
        let help = format!("text stands in quotes: \"{words}\"");
        diagnostics.add("this text has no quotes", span, "not a value in TOML").help(help);
    } else if said == "duplicate key" {
        diagnostics
            .add(format!("`{words}` stands here for the second time"), span, "already given above")
            .help("a key stands once in a table; where there may be several tables, as with [[cluster]], the brackets are double");
    } else if said.starts_with("invalid basic string") || said.starts_with("invalid literal string") {
        let span = quoted_from(text, &span);
        let words = &text[span.clone()];
        let help = match words.chars().next() {
            Some(quote @ ('"' | '\'')) => format!("close it on the same line: {words}{quote}"),
            _ => "close it on the line on which it begins".into(),
        };
        diagnostics.add("this text does not end", span, "the closing quote is missing").help(help);
    } else if said.starts_with("key with no value") {
        diagnostics.add("this key has no value", line_of(text, span.start), "expected `key = value`");
    } else {
        let (what, hint) = said.split_once(", ").unwrap_or((said, "not TOML"));
        diagnostics.add(format!("this is not TOML: {what}"), span, hint.to_owned());
    }
}

/// From the last quote on the line before `span` to `span`: the text that was meant to end there.
fn quoted_from(text: &str, span: &Range<usize>) -> Range<usize> {
    let line = line_of(text, span.start);
    match text[line.start..span.start].rfind(['"', '\'']) {
        Some(quote) => line.start + quote..span.end,
        None => span.clone(),
    }
}

/// The line around `at`, without the space before and after it.
fn line_of(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    let line = &text[start..end];
    let indent = line.len() - line.trim_start().len();
    start + indent..(start + line.trim_end().len()).max(start + indent)
}

struct Reader<'i> {
    text: &'i str,
    root: Spanned<DeTable<'i>>,
    /// Keys that are missing only because what stood there was taken out: the table's place and the
    /// key.
    excused: Vec<(Range<usize>, String)>,
}

/// What stood somewhere in the tree.
struct Found<'i> {
    /// The keys that lead there; an element of a list has its list's.
    path: Vec<String>,
    /// The place of the table around it.
    table: Range<usize>,
    value: DeValue<'i>,
    /// Whether it is an element of a list.
    in_list: bool,
}

impl<'i> Reader<'i> {
    /// Notes what `error` says and changes the tree so that the next reading gets past it. False if
    /// it cannot.
    fn mend(&mut self, error: &Error, diagnostics: &mut Diagnostics) -> bool {
        let span = error.span().unwrap_or(0..0);
        let said = error.message();
        if said.starts_with("missing field") {
            return self.missing(ticked(said).first().copied().unwrap_or_default(), span, diagnostics);
        }
        let Some(found) = take_out(self.root.get_mut(), 0..0, &mut Vec::new(), &span) else {
            // What it says of the value that it found stays out of logs.
            let wanted = said.rsplit_once("expected ").map_or("something else", |(_, expected)| expected);
            diagnostics.add(format!("this should be {wanted}"), span, "here");
            return false;
        };
        let key = found.path.last().cloned().unwrap_or_default();
        if said.starts_with("unknown field") {
            let known = &ticked(said)[1..];
            let meant = did_you_mean(&key, known.iter().copied());
            let note = diagnostics.add(format!("unknown key `{key}`"), span, "no such key here");
            match meant {
                Some(meant) => {
                    note.help(format!("did you mean `{meant}`?"));
                    self.excused.push((found.table, meant.to_owned()));
                }
                None => {
                    note.help(format!("the keys here are {}", one_of(known, '`').replace(" or ", " and ")));
                }
            }
        } else {
            self.wrong_type(said, span, &found, diagnostics);
            self.excused.push((found.table, key));
        }
        true
    }

    fn missing(&mut self, key: &str, table: Range<usize>, diagnostics: &mut Diagnostics) -> bool {
        let (placeholder, example) = match key {
            "service" => ("''", "service = \"orders\""),
            "name" => ("''", "name = \"orders\""),
            "endpoints" => ("[]", "endpoints = [\"http://10.0.0.5:2379\"]"),
            "port" => ("1", "port = 8080"),
            "address" => ("''", "address = \"10.0.0.11:8080\""),
            "prefix" => ("'/'", "prefix = \"/sidelab/services/orders/\""),
            "etcd" => ("{endpoints=[],prefix='/'}", ETCD_EXAMPLE),
            "endpoint" => ("[]", "[[endpoint]]"),
            _ => {
                diagnostics.add(format!("`{key}` is missing"), table, "missing from this table");
                return false;
            }
        };
        if !self.excused.contains(&(table.clone(), key.to_owned())) {
            let purpose = match key {
                "service" => "it is the name of the app's service in metrics and logs",
                "name" => "metrics, logs and mistakes call it so",
                "endpoints" => "it lists where etcd listens",
                "address" => "it is where to connect to",
                "prefix" => "it is what the keys of the service begin with",
                "etcd" => "it is where the app is registered",
                "endpoint" => "a file of endpoints has a table for each, or says `endpoint = []`",
                _ => "it is the port that the app listens on",
            };
            let whole_file = table.is_empty();
            let span = if whole_file { line_of(self.text, 0) } else { table.clone() };
            let label = if whole_file { "missing from the file" } else { "missing from this table" };
            let place = if whole_file { " at the top of the file" } else { "" };
            diagnostics
                .add(format!("`{key}` is missing"), span, label)
                .help(format!("{purpose}; add for example `{example}`{place}"));
        }
        let placeholder = DeValue::parse(placeholder).expect("the placeholders are TOML").into_inner();
        put_in(self.root.get_mut(), 0..0, &table, key, &placeholder)
    }

    fn wrong_type(&self, said: &str, span: Range<usize>, found: &Found<'i>, diagnostics: &mut Diagnostics) {
        let key = found.path.last().map_or("", String::as_str);
        let path = found.path.join(".");
        let words = &self.text[span.clone()];
        let expected = said.rsplit_once("expected ").map_or("another value", |(_, expected)| expected);
        let number = matches!(found.value, DeValue::Integer(_) | DeValue::Float(_));
        let is_natural = matches!(found.value, DeValue::Integer(_)) && !words.starts_with('-');
        let most = match expected {
            "u16" => Some(u64::from(u16::MAX)),
            "u32" => Some(u64::from(u32::MAX)),
            "u64" | "usize" => Some(u64::MAX),
            _ => None,
        };
        let is_port = PORTS.contains(&key);
        let (message, label, help) = if DURATIONS.contains(&key) && number {
            let help = format!(r#"write {key} = "{words}ms" for milliseconds or "{words}s" for seconds"#);
            (format!("`{path}` has no unit"), "a bare number".into(), help)
        } else if matches!(key, "memory" | "body") && number {
            let unit = if key == "memory" { "MiB" } else { "KiB" };
            let name = if unit == "MiB" { "mebibytes" } else { "kibibytes" };
            let help = format!(r#"write {key} = "{words}{unit}" for {name}"#);
            (format!("`{path}` has no unit"), "a bare number".into(), help)
        } else if SHARES.contains(&key) && number {
            let share = words.parse::<f64>().unwrap_or(50.0);
            let share = if share <= 1.0 { share * 100.0 } else { share };
            (
                format!("`{path}` is a percentage"),
                "a bare number".into(),
                format!(r#"write {key} = "{share}%""#),
            )
        } else if matches!(key, "cluster" | "inbound" | "endpoint") && expected == "a sequence" {
            let help = format!("write [[{key}]], with double brackets: there may be several");
            (format!("`{key}` is a list of tables"), "a single table".into(), help)
        } else if is_port && number {
            (format!("{words} is not a port"), "out of range".into(), "ports go from 1 to 65535".into())
        } else if let Some(most) = most.filter(|_| is_natural) {
            (format!("`{path}` is out of range"), "too large".into(), format!("it is at most {most}"))
        } else {
            let wanted = match expected {
                "a string" => "text",
                "a boolean" => "true or false",
                "a sequence" => "a list",
                "f64" => "a number",
                "u16" if is_port => "a port number",
                "u16" | "u32" | "u64" | "usize" => "a whole number, not negative",
                _ if expected.starts_with("struct") => "a table",
                other => other,
            };
            let help = how_to_write(found, expected, words).unwrap_or_else(|| format!("write {wanted}"));
            let kind = if number && words.starts_with('-') { "negative" } else { kind(&found.value) };
            (format!("`{path}` takes {wanted}"), format!("this is {kind}"), help)
        };
        diagnostics.add(message, span, label).help(help);
    }
}

/// How a value of the wrong type is written as one of the right type.
fn how_to_write(found: &Found<'_>, expected: &str, words: &str) -> Option<String> {
    let key = found.path.last().map_or("", String::as_str);
    let as_key = |value: &str| match found.in_list {
        true => format!("{key} = [{value}]"),
        false => format!("{key} = {value}"),
    };
    let help = match (&found.value, expected) {
        (DeValue::String(text), "u16" | "u32" | "u64" | "usize") if text.parse::<u64>().is_ok() => {
            format!("write it without quotes: {}", as_key(text))
        }
        (DeValue::String(text), "a boolean") if *text == "true" || *text == "false" => {
            format!("write it without quotes: {}", as_key(text))
        }
        (DeValue::String(_), "a sequence") => format!("put it in brackets: {key} = [{words}]"),
        (DeValue::Table(_), "a sequence") if words.starts_with('{') => {
            format!("put it in brackets: {key} = [{words}]")
        }
        (DeValue::Integer(_), "a string") if matches!(key, "addresses" | "endpoints") => {
            format!(r#"write an address and a port in quotes, such as "10.0.0.11:{words}""#)
        }
        (_, "a string") if matches!(key, "mode" | "tls") => {
            format!("it is one of {}", one_of(&TlsMode::ALL.map(|(word, _)| word), '"'))
        }
        (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_), "a string") => {
            format!(r#"put it in quotes: "{words}""#)
        }
        (_, "struct Listen") => "write it as a table: [listen]".into(),
        (DeValue::String(_), "struct TokenHeader") => {
            format!("write it as a table: {}", as_key(&format!("{{ name = {words} }}")))
        }
        (_, expected) if expected.starts_with("struct") && found.in_list => {
            format!("write tables in braces: {}", as_key("{ .. }"))
        }
        (_, expected) if expected.starts_with("struct") => {
            format!("write it as a table: [{}]", found.path.join("."))
        }
        (_, "f64") => format!("write a number, such as {}", as_key("1.5")),
        (_, "u16" | "u32" | "u64" | "usize") => format!("write a whole number, such as {}", as_key("4")),
        _ => return None,
    };
    Some(help)
}

/// What a person calls a value of this type.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The words that a message of serde has between backticks.
fn ticked(said: &str) -> Vec<&str> {
    said.split('`').skip(1).step_by(2).collect()
}

/// Removes the entry whose key or value stands at `span`, wherever it is. What is outside is looked
/// at first: a list of tables stands where its first table does.
fn take_out<'i>(
    table: &mut DeTable<'i>,
    at: Range<usize>,
    path: &mut Vec<String>,
    span: &Range<usize>,
) -> Option<Found<'i>> {
    let hit = table.iter().find(|(key, value)| key.span() == *span || value.span() == *span);
    if let Some(key) = hit.map(|(key, _)| key.clone()) {
        let value = table.remove(&key)?.into_inner();
        path.push(key.into_inner().into_owned());
        return Some(Found { path: path.clone(), table: at, value, in_list: false });
    }
    for (key, value) in table.iter_mut() {
        path.push(key.get_ref().to_string());
        let place = value.span();
        let found = match value.get_mut() {
            DeValue::Table(inner) => take_out(inner, place, path, span),
            DeValue::Array(list) => take_out_of_list(list, &at, path, span),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        path.pop();
    }
    None
}

fn take_out_of_list<'i>(
    list: &mut DeArray<'i>,
    at: &Range<usize>,
    path: &mut Vec<String>,
    span: &Range<usize>,
) -> Option<Found<'i>> {
    if let Some(index) = list.iter().position(|element| element.span() == *span) {
        let value = list[index].get_ref().clone();
        *list = list.iter().filter(|element| element.span() != *span).cloned().collect();
        return Some(Found { path: path.clone(), table: at.clone(), value, in_list: true });
    }
    list.iter_mut().find_map(|element| {
        let place = element.span();
        match element.get_mut() {
            DeValue::Table(inner) => take_out(inner, place, path, span),
            DeValue::Array(inner) => take_out_of_list(inner, at, path, span),
            _ => None,
        }
    })
}

/// Adds `key` to the table at `span`; false if there is no such table.
fn put_in<'i>(
    table: &mut DeTable<'i>,
    at: Range<usize>,
    span: &Range<usize>,
    key: &str,
    value: &DeValue<'i>,
) -> bool {
    if at == *span && !table.contains_key(key) {
        table.insert(Spanned::new(at.clone(), key.to_owned().into()), Spanned::new(at, value.clone()));
        return true;
    }
    table.iter_mut().any(|(_, inner)| {
        let place = inner.span();
        match inner.get_mut() {
            DeValue::Table(inner) => put_in(inner, place, span, key, value),
            DeValue::Array(list) => list.iter_mut().any(|element| {
                let place = element.span();
                match element.get_mut() {
                    DeValue::Table(inner) => put_in(inner, place, span, key, value),
                    _ => false,
                }
            }),
            _ => false,
        }
    })
}
