//! The timeline: each entry's time and its one action, with every process and every pair of
//! instances resolved.
//!
//! Two entries may not hold the same process or the same direction of a link at one time, nor may
//! one begin at the very instant at which the other ends: a revert puts the base state back
//! whatever else is in force, so the result would depend on which of the two comes first.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde_spanned::Spanned;

use super::context::Context;
use crate::fault::{self, Entry, EntryTable, Lasts, Repeat};
use crate::syntax::diagnose::Mistake;
use crate::syntax::links::Profiles;
use crate::syntax::units::Span;

/// Resolves the timeline.
///
/// Gives one entry for each of the file's, even for a wrong one, so that positions stay those of
/// the file.
pub(super) fn timeline(
    entries: &[Spanned<EntryTable>],
    base: &Profiles,
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Entry> {
    let faults = fault::Context {
        names: &context.names,
        base,
        authorities: &context.authorities,
        certificates: &context.certificates,
        has_sidecars: context.has_sidecars,
    };
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
        let action = entry.resolve(&faults, mistakes);
        let (until, repeat) = repeat(entry, until, context, mistakes);
        resolved.push((Entry { name, at, until, repeat, action }, action_at));
    }
    overlaps(&resolved, context, mistakes);
    resolved.into_iter().map(|(entry, _)| entry).collect()
}

/// What an entry does, and where it says so.
fn kind(entry: &Spanned<EntryTable>, mistakes: &mut Vec<Mistake>) -> (&'static str, Range<usize>) {
    let e = entry.get_ref();
    let mut present = e.actions().into_iter();
    let Some(first) = present.next() else {
        let at = e.name.as_ref().map_or(e.at.span(), Spanned::span);
        let mistake = Mistake::new(at, "this entry does nothing", "no action");
        let kinds: Vec<&str> = fault::KINDS.iter().map(|kind| kind.key).collect();
        let (last, others) = kinds.split_last().expect("there are kinds");
        mistakes.push(mistake.help(format!("add one action: {} or {last}", others.join(", "))));
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

fn begins_in_time(entry: &EntryTable, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> bool {
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
fn end(entry: &EntryTable, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Option<Duration> {
    let at = entry.at.get_ref().0;
    let run = Span(context.duration);
    let action = entry.actions().into_iter().next();
    let (what, span) = action.unwrap_or(("entry", entry.at.span()));
    match entry.how_long() {
        Lasts::For => {}
        Lasts::Restart(restart) => {
            if let Some(lasts) = &entry.lasts {
                let message = format!("a {what} does not last");
                let mistake = Mistake::new(lasts.span(), message, "`for` means nothing here");
                let mistake = mistake.also(span, format!("this is a {what}"));
                let restart = format!(
                    "to start it again afterwards write {what} = {{ .., restart = \"{}\" }}",
                    lasts.get_ref()
                );
                mistakes.push(mistake.help(restart));
            }
            let restart = restart?;
            let until = at.saturating_add(restart.get_ref().0);
            if until >= context.duration {
                let message =
                    format!("the restart would come after the run is over: {} of {run}", Span(until));
                let mistake = Mistake::new(restart.span(), message, "too late");
                mistakes.push(mistake.help("restart sooner, or leave `restart` out to let it stay away"));
            }
            return Some(until);
        }
        Lasts::UntilDone(end) => {
            if let Some(lasts) = &entry.lasts {
                let message = format!("a {what} lasts {end}");
                let mistake = Mistake::new(lasts.span(), message, "`for` means nothing here");
                mistakes.push(mistake.also(span, format!("this is a {what}")).help("leave `for` out"));
            }
            return None;
        }
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

/// How often an entry is injected, and when it is reverted for the last time.
fn repeat(
    entry: &EntryTable,
    until: Option<Duration>,
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> (Option<Duration>, Option<Repeat>) {
    let (every, times) = match (&entry.every, &entry.times) {
        (None, None) => return (until, None),
        (Some(every), Some(times)) => (every, times),
        (Some(at), None) => {
            let mistake = Mistake::new(at.span(), "`every` needs `times`", "how often?");
            mistakes.push(mistake.help("add a line such as times = 5"));
            return (until, None);
        }
        (None, Some(at)) => {
            let mistake = Mistake::new(at.span(), "`times` needs `every`", "how far apart?");
            mistakes.push(mistake.help("add a line such as every = \"2s\""));
            return (until, None);
        }
    };
    let Some(end) = until else {
        let mistake =
            Mistake::new(every.span(), "only a fault that ends can be repeated", "this entry has no end");
        mistakes.push(
            mistake.help("add `for` (to a kill or a crash: `restart`); a `restart` entry is injected once"),
        );
        return (until, None);
    };
    let at = entry.at.get_ref().0;
    let apart = every.get_ref().0;
    if apart <= end.saturating_sub(at) {
        let message = format!("it would be injected again before it has ended: every {}", Span(apart));
        let mistake = Mistake::new(every.span(), message, format!("lasts {}", Span(end - at)));
        mistakes.push(mistake.help("`every` counts from one beginning to the next: make it longer"));
    }
    if *times.get_ref() == 0 {
        let mistake = Mistake::new(times.span(), "this entry is never injected", "must be at least 1");
        mistakes.push(mistake.help("leave `every` and `times` out to inject it once"));
    }
    let last = end.saturating_add(apart.saturating_mul(times.get_ref().saturating_sub(1)));
    if last > context.duration && end <= context.duration {
        let message = format!(
            "the last injection would end after the run is over: {} of {}",
            Span(last),
            Span(context.duration)
        );
        mistakes.push(Mistake::new(times.span(), message, "too many").help("fewer times, or a longer run"));
    }
    (Some(last), Some(Repeat { every: apart, times: *times.get_ref() }))
}

/// Finds entries that hold the same thing at one time.
fn overlaps(entries: &[(Entry, Range<usize>)], context: &Context<'_>, mistakes: &mut Vec<Mistake>) {
    let ends = |entry: &Entry| entry.until.unwrap_or(context.duration);
    for (later, (second, second_at)) in entries.iter().enumerate() {
        for (first, first_at) in &entries[..later] {
            let apart = ends(first) < second.at || ends(second) < first.at;
            let shared = first.action.conflict(&second.action, &context.names).filter(|_| !apart);
            let Some(shared) = shared else {
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
