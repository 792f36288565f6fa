//! The timeline: each entry's time and its one action, with every process and every pair of instances resolved.
//!
//! Two entries may not hold the same process or the same direction of a link at one time, nor may one begin at the very
//! instant at which the other ends: a revert puts the base state back whatever else is in force, so the result would
//! depend on which of the two comes first.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde_spanned::Spanned;

use super::diagnose::Mistake;
use super::links::{Profiles, Sides, change};
use super::model;
use super::units::Span;
use super::validate::Context;
use crate::fabric::LinkProfile;
use crate::plan::{Action, Entry, Link, ProcessId};

/// Resolves the timeline.
///
/// Gives one entry for each of the file's, even for a wrong one, so that positions stay those of the file.
pub(super) fn timeline(
    entries: &[Spanned<model::Entry>],
    base: &Profiles,
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Entry> {
    let mut resolved = Vec::new();
    let mut names: BTreeMap<String, Range<usize>> = BTreeMap::new();
    for (position, spanned) in entries.iter().enumerate() {
        let entry = spanned.get_ref();
        let (kind, action_at) = kind(spanned, mistakes);
        let name = match &entry.name {
            Some(name) => {
                entry_name(name, mistakes);
                name.get_ref().clone()
            }
            None => format!("{kind}-{}", position + 1),
        };
        let name_at = entry.name.as_ref().map_or(action_at.clone(), Spanned::span);
        if let Some(other) = names.insert(name.clone(), name_at.clone()) {
            let mistake = Mistake::new(name_at, format!("two entries are called `{name}`"), "this one");
            mistakes.push(mistake.also(other, "and this one").help("give one of them another name"));
        }
        let at = entry.at.get_ref().0;
        let in_time = begins_in_time(entry, context, mistakes);
        let until = if in_time { end(entry, context, mistakes) } else { None };
        let action = action(entry, base, context, mistakes);
        resolved.push((Entry { name, at, until, action }, action_at));
    }
    overlaps(&resolved, context, mistakes);
    resolved.into_iter().map(|(entry, _)| entry).collect()
}

/// What an entry does, and where it says so.
fn kind(entry: &Spanned<model::Entry>, mistakes: &mut Vec<Mistake>) -> (&'static str, Range<usize>) {
    let e = entry.get_ref();
    let actions = [
        ("kill", e.kill.as_ref().map(Spanned::span)),
        ("pause", e.pause.as_ref().map(Spanned::span)),
        ("partition", e.partition.as_ref().map(Spanned::span)),
        ("link", e.link.as_ref().map(Spanned::span)),
    ];
    let mut present = actions.into_iter().filter_map(|(kind, at)| at.map(|at| (kind, at)));
    let Some(first) = present.next() else {
        let at = e.name.as_ref().map_or(e.at.span(), Spanned::span);
        let mistake = Mistake::new(at, "this entry does nothing", "no action");
        mistakes.push(mistake.help("add one action: kill, pause, partition or link"));
        return ("entry", entry.span());
    };
    let others: Vec<_> = present.collect();
    if !others.is_empty() {
        let message = format!("this entry does {} things at once", others.len() + 1);
        let mistake = Mistake::new(first.1.clone(), message, format!("a {}", first.0));
        let mistake =
            others.iter().fold(mistake, |m, (kind, at)| m.also(at.clone(), format!("and a {kind}")));
        mistakes.push(
            mistake.help("make one [[timeline]] entry of each; entries with the same `at` begin together"),
        );
    }
    first
}

fn entry_name(name: &Spanned<String>, mistakes: &mut Vec<Mistake>) {
    let word = &name.get_ref()[..];
    if word.is_empty() || !word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        let mistake =
            Mistake::new(name.span(), format!("`{word}` cannot be the name of an entry"), "not a plain word");
        mistakes.push(mistake.help("letters, digits, `-` and `_`, because expectations refer to it"));
    }
}

fn begins_in_time(entry: &model::Entry, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> bool {
    let (at, duration) = (entry.at.get_ref(), context.duration);
    if at.0 < duration || duration.is_zero() {
        return true;
    }
    let message = format!("this entry would begin after the run is over: {at} of {}", Span(duration));
    let help = format!("`at` counts from the end of the warm-up; begin before {}", Span(duration));
    mistakes.push(Mistake::new(entry.at.span(), message, "too late").help(help));
    false
}

/// When an entry is reverted.
fn end(entry: &model::Entry, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Option<Duration> {
    let at = entry.at.get_ref().0;
    let run = Span(context.duration);
    if let Some(kill) = &entry.kill {
        if let Some(lasts) = &entry.lasts {
            let mistake = Mistake::new(lasts.span(), "a kill does not last", "`for` means nothing here");
            let mistake = mistake.also(kill.span(), "this is a kill");
            let restart = format!(
                "to start it again afterwards write kill = {{ .., restart = \"{}\" }}",
                lasts.get_ref()
            );
            mistakes.push(mistake.help(restart));
        }
        let restart = kill.get_ref().restart.as_ref()?;
        let until = at.saturating_add(restart.get_ref().0);
        if until >= context.duration {
            let message = format!("the restart would come after the run is over: {} of {run}", Span(until));
            let mistake = Mistake::new(restart.span(), message, "too late");
            mistakes.push(mistake.help("restart sooner, or leave `restart` out to let it stay away"));
        }
        return Some(until);
    }
    let lasts = entry.lasts.as_ref()?;
    let until = at.saturating_add(lasts.get_ref().0);
    if lasts.get_ref().0.is_zero() {
        let mistake = Mistake::new(lasts.span(), "this entry lasts no time", "this long");
        mistakes.push(
            mistake.help("write how long, such as \"2s\", or leave `for` out: then it lasts to the end"),
        );
    } else if until > context.duration {
        let message = format!("this entry would end after the run is over: {} of {run}", Span(until));
        let longest = Span(context.duration.saturating_sub(at));
        let help = format!("at most \"{longest}\", or leave `for` out: then it lasts to the end");
        mistakes.push(Mistake::new(lasts.span(), message, "too long").help(help));
    }
    Some(until)
}

fn action(
    entry: &model::Entry,
    base: &Profiles,
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Action {
    if let Some(kill) = &entry.kill {
        let kill = kill.get_ref();
        let hard = match kill.signal.as_ref().map(|s| &s.get_ref()[..]) {
            None | Some("KILL") => true,
            Some("TERM") => false,
            Some(_) => {
                let word = kill.signal.as_ref().expect("it is there");
                let plain = word.get_ref().to_uppercase();
                let plain = plain.strip_prefix("SIG").unwrap_or(&plain);
                let mistake = Mistake::unknown("signal", word, ["KILL", "TERM"]);
                mistakes.push(match plain {
                    "KILL" | "TERM" => mistake.help(format!("did you mean \"{plain}\"? known: KILL, TERM")),
                    "STOP" => {
                        mistake.help("to stop it and let it go on later use `pause`; known: KILL, TERM")
                    }
                    _ => mistake,
                });
                true
            }
        };
        let processes = context.names.processes(&kill.process, context.has_sidecars, mistakes);
        return Action::Kill { processes, hard };
    }
    if let Some(pause) = &entry.pause {
        let processes = context.names.processes(&pause.get_ref().process, context.has_sidecars, mistakes);
        return Action::Pause { processes };
    }
    let profiles = if let Some(partition) = &entry.partition {
        let pairs = Sides::of_partition(partition).pairs(&context.names, mistakes);
        pairs.into_iter().map(|pair| (pair, LinkProfile::CUT)).collect()
    } else if let Some(link) = &entry.link {
        let pairs = Sides::of_link(link).pairs(&context.names, mistakes);
        change(link, &pairs, base, true, mistakes)
    } else {
        Profiles::new()
    };
    let links = profiles.into_iter().map(|((from, to), profile)| Link { from, to, profile });
    Action::Link { links: links.collect() }
}

/// Finds entries that hold the same thing at one time.
fn overlaps(entries: &[(Entry, Range<usize>)], context: &Context<'_>, mistakes: &mut Vec<Mistake>) {
    let ends = |entry: &Entry| entry.until.unwrap_or(context.duration);
    for (later, (second, second_at)) in entries.iter().enumerate() {
        for (first, first_at) in &entries[..later] {
            let apart = ends(first) < second.at || ends(second) < first.at;
            let Some(shared) = shared(&first.action, &second.action, context).filter(|_| !apart) else {
                continue;
            };
            let touch = ends(first) == second.at || ends(second) == first.at;
            let (message, help) = match touch {
                true => (
                    format!("two entries change {shared} at the same instant"),
                    "one would be reverted while the other begins: leave a millisecond between them",
                ),
                false => (
                    format!("two entries hold {shared} at one time"),
                    "the end of one would undo the other: end the first before the second begins",
                ),
            };
            let when = |e: &Entry| match e.until {
                Some(until) => format!("`{}`, {} to {}", e.name, Span(e.at), Span(until)),
                None => format!("`{}`, {} to the end", e.name, Span(e.at)),
            };
            let mistake =
                Mistake::new(second_at.clone(), message, when(second)).also(first_at.clone(), when(first));
            mistakes.push(mistake.help(help));
        }
    }
}

/// Something that both actions hold.
fn shared(first: &Action, second: &Action, context: &Context<'_>) -> Option<String> {
    let name = |instance: usize| &context.names.instances[instance].name;
    match (first, second) {
        (Action::Link { links }, Action::Link { links: others }) => {
            let both = links.iter().find(|l| others.iter().any(|o| (o.from, o.to) == (l.from, l.to)))?;
            Some(format!("the link from {} to {}", name(both.from), name(both.to)))
        }
        _ => {
            let both = processes(first).iter().find(|p| processes(second).contains(p))?;
            Some(format!("a process of {}", name(both.instance)))
        }
    }
}

fn processes(action: &Action) -> &[ProcessId] {
    match action {
        Action::Kill { processes, .. } | Action::Pause { processes } => processes,
        Action::Link { .. } => &[],
    }
}

/// The evidence that an action leaves, by the names that conditions use.
pub(super) fn evidence(entry: &Entry, is_partition: bool) -> &'static [&'static str] {
    match &entry.action {
        Action::Kill { .. } if entry.until.is_some() => &["killed", "restarted"],
        Action::Kill { .. } => &["killed"],
        Action::Pause { .. } => &["stopped"],
        Action::Link { .. } if is_partition => &["lost_packets"],
        Action::Link { .. } => &["lost_packets", "delayed_packets"],
    }
}
