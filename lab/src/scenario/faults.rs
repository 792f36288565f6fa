//! The timeline: each entry's time and its one action, with every process and every pair of
//! instances resolved.
//!
//! Two entries may not hold the same process or the same direction of a link at one time, nor may
//! one begin at the very instant at which the other ends: a revert puts the base state back
//! whatever else is in force, so the result would depend on which of the two comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde_spanned::Spanned;

use super::diagnose::Mistake;
use super::links::{Profiles, Sides, change};
use super::model;
use super::settings;
use super::units::Span;
use super::validate::{Context, status};
use crate::fabric::LinkProfile;
use crate::plan::{Action, BehaviourChange, Entry, Link, ProcessId, Repeat, Role};

/// Resolves the timeline.
///
/// Gives one entry for each of the file's, even for a wrong one, so that positions stay those of
/// the file.
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
        let (until, repeat) = repeat(entry, until, context, mistakes);
        resolved.push((Entry { name, at, until, repeat, action }, action_at));
    }
    overlaps(&resolved, context, mistakes);
    resolved.into_iter().map(|(entry, _)| entry).collect()
}

/// What an entry does, and where it says so.
fn kind(entry: &Spanned<model::Entry>, mistakes: &mut Vec<Mistake>) -> (&'static str, Range<usize>) {
    let e = entry.get_ref();
    let actions = [
        ("kill", e.kill.as_ref().map(Spanned::span)),
        ("crash", e.crash.as_ref().map(Spanned::span)),
        ("refuse", e.refuse.as_ref().map(Spanned::span)),
        ("restart", e.restart.as_ref().map(Spanned::span)),
        ("configure", e.configure.as_ref().map(Spanned::span)),
        ("app", e.app.as_ref().map(Spanned::span)),
        ("pause", e.pause.as_ref().map(Spanned::span)),
        ("partition", e.partition.as_ref().map(Spanned::span)),
        ("link", e.link.as_ref().map(Spanned::span)),
    ];
    let mut present = actions.into_iter().filter_map(|(kind, at)| at.map(|at| (kind, at)));
    let Some(first) = present.next() else {
        let at = e.name.as_ref().map_or(e.at.span(), Spanned::span);
        let mistake = Mistake::new(at, "this entry does nothing", "no action");
        mistakes.push(
            mistake.help(
                "add one action: kill, crash, refuse, restart, configure, app, pause, partition or link",
            ),
        );
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
    let kill = entry.kill.as_ref().map(|kill| ("kill", kill.span(), kill.get_ref().restart.as_ref()));
    let crash = entry.crash.as_ref().map(|crash| ("crash", crash.span(), crash.get_ref().restart.as_ref()));
    if let Some((what, span, restart)) = kill.or(crash) {
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
            let message = format!("the restart would come after the run is over: {} of {run}", Span(until));
            let mistake = Mistake::new(restart.span(), message, "too late");
            mistakes.push(mistake.help("restart sooner, or leave `restart` out to let it stay away"));
        }
        return Some(until);
    }
    if let (Some(restart), Some(lasts)) = (&entry.restart, &entry.lasts) {
        let mistake =
            Mistake::new(lasts.span(), "a restart lasts until all are back", "`for` means nothing here");
        mistakes.push(mistake.also(restart.span(), "this is a restart").help("leave `for` out"));
        return None;
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
        let hard = is_hard(kill.signal.as_ref(), true, mistakes);
        let processes = context.names.all_processes(&kill.process, context.has_sidecars, mistakes);
        return Action::Kill { processes, hard, rolling: None };
    }
    if let Some(crash) = &entry.crash {
        return power_off(crash, context, mistakes);
    }
    if let Some(refuse) = &entry.refuse {
        let refuse = &refuse.get_ref().process;
        let processes = context.names.all_processes(refuse, context.has_sidecars, mistakes);
        return Action::Refuse { processes };
    }
    if let Some(restart) = &entry.restart {
        let restart = restart.get_ref();
        let hard = is_hard(restart.signal.as_ref(), false, mistakes);
        let processes = context.names.all_processes(&restart.process, context.has_sidecars, mistakes);
        let wait = restart.wait.as_ref().map_or(model::RESTART_WAIT, |wait| wait.get_ref().0);
        return Action::Kill { processes, hard, rolling: Some(wait) };
    }
    if let Some(configure) = &entry.configure {
        return reconfigure(configure.get_ref(), context, mistakes);
    }
    if let Some(app) = &entry.app {
        return behave(app, context, mistakes);
    }
    if let Some(pause) = &entry.pause {
        let processes = context.names.all_processes(&pause.get_ref().process, context.has_sidecars, mistakes);
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

/// `crash = { .. }`
fn power_off(crash: &Spanned<model::Crash>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Action {
    let names = &context.names;
    let asked = &crash.get_ref().instance;
    let words = asked.get_ref().words(asked.span());
    if words.is_empty() {
        let mistake = Mistake::new(asked.span(), "no instance is named", "empty");
        mistakes.push(mistake.help("name one, such as \"orders-1\""));
    }
    let machines: BTreeSet<usize> = words.iter().flat_map(|word| names.instances(word, mistakes)).collect();
    let app = |instance: &usize| names.services[names.instances[*instance].service].has_app;
    let processes = machines.iter().flat_map(|instance| {
        let of = |role, is_there: bool| is_there.then_some(ProcessId { instance: *instance, role });
        [of(Role::App, app(instance)), of(Role::Sidecar, context.has_sidecars)].into_iter().flatten()
    });
    let all = 0..names.instances.len();
    let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
    let cut = pairs.filter(|(from, to)| from != to && (machines.contains(from) || machines.contains(to)));
    let links = cut.map(|(from, to)| Link { from, to, profile: LinkProfile::CUT }).collect();
    Action::Crash { processes: processes.collect(), links }
}

/// Whether a signal is SIGKILL.
fn is_hard(signal: Option<&Spanned<String>>, default: bool, mistakes: &mut Vec<Mistake>) -> bool {
    let Some(word) = signal else { return default };
    match &word.get_ref()[..] {
        "KILL" => true,
        "TERM" => false,
        other => {
            let plain = other.to_uppercase();
            let plain = plain.strip_prefix("SIG").unwrap_or(&plain);
            let mistake = Mistake::unknown("signal", word, ["KILL", "TERM"]);
            mistakes.push(match plain {
                "KILL" | "TERM" => mistake.help(format!("did you mean \"{plain}\"? known: KILL, TERM")),
                "STOP" => mistake.help("to stop it and let it go on later use `pause`; known: KILL, TERM"),
                _ => mistake,
            });
            true
        }
    }
}

/// `configure = { .. }`
fn reconfigure(asked: &model::Configure, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Action {
    settings::reserved_of_cluster(&asked.policy, mistakes);
    let services = &context.names.services;
    let service = services.iter().position(|service| service.name == *asked.service.get_ref());
    if service.is_none() {
        let known = services.iter().map(|service| service.name.as_str());
        mistakes.push(Mistake::unknown("service", &asked.service, known));
    }
    // The files follow when the plan is made.
    let policy = asked.policy.get_ref().plain();
    Action::Configure { service: service.unwrap_or_default(), policy, configs: Vec::new() }
}

/// `app = { .. }`
fn behave(app: &Spanned<model::Behave>, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Action {
    let asked = app.get_ref();
    let before = mistakes.len();
    let mut processes = context.names.all_processes(&asked.process, context.has_sidecars, mistakes);
    let found_some = !processes.is_empty();
    processes.retain(|p| p.role == Role::App);
    let stranger = processes.iter().find(|p| {
        let service = context.names.instances[p.instance].service;
        !context.names.services[service].has_echo
    });
    if let Some(stranger) = stranger {
        let name = &context.names.instances[stranger.instance].name;
        let message = format!("the app of `{name}` cannot be told how to answer");
        let mistake = Mistake::new(asked.process.span(), message, "not a built-in HTTP app");
        mistakes.push(mistake.help("only `app = { http = { .. } }` can; others can be killed or paused"));
    } else if processes.is_empty() && found_some && mistakes.len() == before {
        let mistake = Mistake::new(asked.process.span(), "a sidecar is no app", "names no app");
        mistakes.push(mistake.help("name an app, such as \"orders-1/app\""));
    }
    let change = BehaviourChange {
        work: asked.work.as_ref().map(|work| work.get_ref().0),
        fail: asked.fail.as_ref().map(|fail| fail.get_ref().0),
        status: asked.status.as_ref().map(|word| status(word, mistakes)),
        malformed: asked.malformed.as_ref().map(|malformed| malformed.get_ref().0),
        unhealthy: asked.unhealthy.as_ref().map(|unhealthy| unhealthy.get_ref().0),
        refuse_streams: asked.refuse_streams.as_ref().map(|share| share.get_ref().0),
        goaway: asked.goaway.as_ref().map(|share| share.get_ref().0),
        reset_streams: asked.reset_streams.as_ref().map(|share| share.get_ref().0),
    };
    if (BehaviourChange { status: None, ..change }) == BehaviourChange::default() {
        let missing =
            "no `work`, `fail`, `malformed`, `unhealthy`, `refuse_streams`, `goaway` or `reset_streams`";
        let mistake = Mistake::new(app.span(), "nothing changes", missing);
        mistakes.push(mistake.help("add work = \"200ms\", or one of the others = \"30%\""));
    }
    Action::App { processes, change }
}

/// How often an entry is injected, and when it is reverted for the last time.
fn repeat(
    entry: &model::Entry,
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
    if let (Action::Configure { .. }, Action::Configure { .. }) = (first, second) {
        return Some("the configuration of the sidecars".into());
    }
    // Two crashes cut the links between their machines alike, so either may end first.
    let crashes = |action: &Action| matches!(action, Action::Crash { .. });
    let others = if crashes(first) && crashes(second) { &[] } else { second.links() };
    if let Some(both) = first.links().iter().find(|l| others.iter().any(|o| (o.from, o.to) == (l.from, l.to)))
    {
        return Some(format!("the link from {} to {}", name(both.from), name(both.to)));
    }
    let both = first.processes().iter().find(|p| second.processes().contains(p))?;
    Some(format!("a process of {}", name(both.instance)))
}

/// The evidence that an action leaves, by the names that conditions use.
pub(super) fn evidence(entry: &Entry, is_partition: bool) -> &'static [&'static str] {
    match &entry.action {
        Action::Kill { rolling: Some(_), .. } => &["killed", "restarted"],
        Action::Kill { .. } if entry.until.is_some() => &["killed", "restarted"],
        Action::App { .. } => &["changed_requests"],
        Action::Kill { .. } => &["killed"],
        Action::Crash { .. } if entry.until.is_some() => &["killed", "restarted", "packets", "lost_packets"],
        Action::Crash { .. } => &["killed", "packets", "lost_packets"],
        Action::Refuse { .. } => &["refused"],
        Action::Configure { .. } => &["reloaded"],
        Action::Pause { .. } if entry.until.is_some() => &["stopped", "continued"],
        Action::Pause { .. } => &["stopped"],
        Action::Link { .. } if is_partition => &["packets", "lost_packets"],
        Action::Link { .. } => &["packets", "lost_packets", "delayed_packets"],
    }
}
