//! Text to [`File`], table by table.
//!
//! Each table of the file is read on its own, so that a wrong key in one service does not hide a
//! missing unit in a link. Serde stops at the first problem of a table; what it says is turned into
//! our own words here, which is the only place that knows how serde phrases things.

use serde::de::DeserializeOwned;
use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::model::File;
use crate::fault::EntryTable;
use crate::load::LoadTable;
use crate::syntax::diagnose::{Mistake, closest};
use crate::syntax::links::LinkTable;

/// The tables of a scenario.
const TABLES: [&str; 8] = ["scenario", "service", "ca", "cert", "link", "load", "timeline", "expect"];
/// Where TOML goes wrong once, its recovery tends to stumble again; more than this is noise.
const MOST_SYNTAX_ERRORS: usize = 3;

/// Reads a file's tables, or tells everything that is wrong with their shape.
pub(super) fn parse(text: &str) -> Result<File, Vec<Mistake>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.iter().take(MOST_SYNTAX_ERRORS).map(|e| syntax(e, text)).collect());
    }
    let mut reader = Reader { text, mistakes: Vec::new() };
    let mut header = None;
    let mut header_seen = false;
    let mut file = Tables::default();
    for (key, value) in root.into_inner() {
        match key.get_ref().as_ref() {
            "scenario" => {
                header_seen = true;
                header = reader.table(value);
            }
            "service" => file.service = reader.named(key.get_ref(), value),
            "ca" => file.ca = reader.named(key.get_ref(), value),
            "cert" => file.cert = reader.named(key.get_ref(), value),
            "load" => file.load = reader.named(key.get_ref(), value),
            "link" => file.link = reader.list(key.get_ref(), value),
            "timeline" => file.timeline = reader.list(key.get_ref(), value),
            "expect" => file.expect = reader.list(key.get_ref(), value),
            other => reader.mistakes.push(unknown_key(other, key.span(), &TABLES)),
        }
    }
    let mut mistakes = reader.mistakes;
    if !header_seen {
        let start = 0..text.find('\n').unwrap_or(text.len());
        let mistake = Mistake::new(start, "the [scenario] table is missing", "the file begins without it");
        mistakes
            .push(mistake.help("begin with:\n[scenario]\nname = \"what it is about\"\nduration = \"10s\""));
    }
    match (header, mistakes.is_empty()) {
        (Some(scenario), true) => Ok(File {
            scenario,
            service: file.service.into_iter().collect(),
            ca: file.ca.into_iter().collect(),
            cert: file.cert.into_iter().collect(),
            link: file.link,
            load: file.load.into_iter().collect(),
            timeline: file.timeline,
            expect: file.expect,
        }),
        _ => Err(mistakes),
    }
}

#[derive(Default)]
struct Tables {
    service: Vec<(Spanned<String>, super::model::Service)>,
    ca: Vec<(Spanned<String>, super::model::Authority)>,
    cert: Vec<(Spanned<String>, super::model::Certificate)>,
    link: Vec<Spanned<LinkTable>>,
    load: Vec<(Spanned<String>, LoadTable)>,
    timeline: Vec<Spanned<EntryTable>>,
    expect: Vec<Spanned<super::model::Expect>>,
}

/// Reads tables, and notes what is wrong with them.
struct Reader<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    /// One table.
    fn table<T: DeserializeOwned>(&mut self, value: Spanned<DeValue<'_>>) -> Option<T> {
        let at = value.span();
        let error = match T::deserialize(ValueDeserializer::from(value)) {
            Ok(table) => return Some(table),
            Err(error) => error,
        };
        self.mistakes.push(shape(&error, at, self.text));
        None
    }

    /// `[service.NAME]` and the like.
    fn named<T: DeserializeOwned>(
        &mut self,
        what: &str,
        value: Spanned<DeValue<'_>>,
    ) -> Vec<(Spanned<String>, T)> {
        let at = value.span();
        let DeValue::Table(tables) = value.into_inner() else {
            let help = format!("give it a name: [{what}.NAME]");
            self.mistakes.push(
                Mistake::new(at, format!("`{what}` is a table of named tables"), "not this").help(help),
            );
            return Vec::new();
        };
        let mut all = Vec::new();
        for (name, value) in tables {
            let at = name.span();
            if !value.get_ref().is_table() {
                let help = format!("give it a name: [{what}.NAME]");
                let message = format!("`{name}` stands in `{what}` itself", name = name.get_ref());
                self.mistakes
                    .push(Mistake::new(at, message, format!("this is not the table of a {what}")).help(help));
                continue;
            }
            if let Some(value) = self.table(value) {
                all.push((Spanned::new(at, name.into_inner().into_owned()), value));
            }
        }
        all
    }

    /// `[[link]]` and the like.
    fn list<T: DeserializeOwned>(&mut self, what: &str, value: Spanned<DeValue<'_>>) -> Vec<Spanned<T>> {
        let at = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            let help = format!("there may be several of them: write [[{what}]]");
            self.mistakes.push(
                Mistake::new(at, format!("`{what}` is a list of tables"), "one pair of brackets").help(help),
            );
            return Vec::new();
        };
        let items = items.into_iter().map(|item| {
            let at = item.span();
            self.table(item).map(|value| Spanned::new(at, value))
        });
        items.flatten().collect()
    }
}

/// What TOML itself refuses.
fn syntax(error: &toml::de::Error, text: &str) -> Mistake {
    let at = visible(error.span().unwrap_or(0..0), text);
    let (message, expected) = error.message().split_once(", expected ").unwrap_or((error.message(), ""));
    let label = if expected.is_empty() { "here".to_owned() } else { format!("expected {expected}") };
    // `duration = 5s` is by far the commonest: a value with a unit, without its quotes.
    let line = text[..at.start].rfind('\n').map_or(0, |i| i + 1);
    let line = text[line..].lines().next().unwrap_or_default();
    match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
        Some((key, value)) if value.starts_with(|c: char| c.is_ascii_digit()) && !value.contains('"') => {
            let mistake = Mistake::new(at, format!("not TOML: {message}"), "without quotation marks");
            mistake.help(format!("values with a unit are strings: {key} = \"{value}\""))
        }
        _ => Mistake::new(at, format!("not TOML: {message}"), label),
    }
}

/// What the table's type refuses.
fn shape(error: &toml::de::Error, table: std::ops::Range<usize>, text: &str) -> Mistake {
    let at = visible(error.span().unwrap_or(table), text);
    let said = error.message();
    if let Some((key, known)) = said.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        return unknown_key(key, at, &known);
    }
    if let Some(key) = said.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let help = example(key).map(|e| format!("add a line such as {key} = {e}"));
        let mistake = Mistake::new(first_line(at, text), format!("`{key}` is missing"), "from this table");
        return match help {
            Some(help) => mistake.help(help),
            None => mistake,
        };
    }
    let wrong = said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: "));
    if let Some((is, wants)) = wrong.and_then(|rest| rest.split_once(", expected ")) {
        let wants = match wants {
            "a string" => "a string, in quotation marks",
            "u16" => "a whole number from 0 to 65535",
            "u32" | "u64" => "a whole number, 0 or more",
            "a sequence" => "a list, in brackets",
            _ if wants.starts_with("struct ") => "a table, such as { .. }",
            other => other,
        };
        let is = is.replace("integer", "the number").replace("floating point", "the number");
        let label = format!("this is {}", is.replace("string", "the string").replace("boolean", "the word"));
        let mistake = Mistake::new(at.clone(), "a value of the wrong kind", label);
        return match (wants, text.get(at)) {
            ("a list, in brackets", Some(one)) => mistake.help(format!("this key takes a list: [{one}]")),
            _ => mistake.help(format!("this key takes {wants}")),
        };
    }
    // Our own types say "what is wrong; what to write".
    match said.split_once("; ") {
        Some((message, help)) => Mistake::new(at, message, "this value").help(help),
        None => Mistake::new(at, said, "here"),
    }
}

/// A value that a required key may have.
fn example(key: &str) -> Option<&'static str> {
    Some(match key {
        "name" => "\"what it is about\"",
        "duration" => "\"10s\"",
        "from" => "\"web\"",
        "url" => "\"http://orders:8080/\"",
        "rate" => "\"100/s\"",
        "at" => "\"2s\"",
        "process" => "\"orders-1/app\"",
        "that" => "[\"LOAD.errors == 0\"]",
        _ => return None,
    })
}

fn unknown_key(key: &str, at: std::ops::Range<usize>, known: &[&str]) -> Mistake {
    let near = closest(key, known.iter().copied()).or(match key {
        // Words of other tools, or of what the reader had in mind.
        "method" | "uri" | "target" if known.contains(&"url") => Some("url"),
        "latency" | "rtt" if known.contains(&"delay") => Some("delay"),
        "drop" | "packet_loss" if known.contains(&"loss") => Some("loss"),
        "count" | "instances" | "scale" if known.contains(&"replicas") => Some("replicas"),
        "duration" | "lasts" if known.contains(&"for") => Some("for"),
        "start" | "when" | "after" if known.contains(&"at") => Some("at"),
        "stop" | "freeze" if known.contains(&"pause") => Some("pause"),
        "rps" | "qps" if known.contains(&"rate") => Some("rate"),
        _ => None,
    });
    let hint = near.map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
    let known = known.join(", ");
    Mistake::new(at, format!("unknown key `{key}`"), "no such key here")
        .help(format!("{hint}keys here: {known}"))
}

/// At least one character, within the text, so that something is underlined.
fn visible(at: std::ops::Range<usize>, text: &str) -> std::ops::Range<usize> {
    if at.start < at.end {
        return at;
    }
    match text[at.start..].chars().next() {
        Some(c) if c != '\n' => at.start..at.start + c.len_utf8(),
        _ => match text[..at.start].char_indices().next_back() {
            Some((i, c)) if c != '\n' => i..at.start,
            _ => at,
        },
    }
}

/// The first line of a span, which for a table is its header.
fn first_line(at: std::ops::Range<usize>, text: &str) -> std::ops::Range<usize> {
    let line = text[at.clone()].lines().next().unwrap_or_default();
    at.start..at.start + line.trim_end().len()
}
