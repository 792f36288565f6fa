//! Expectations: the window of each, in times of the run, and its conditions.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_spanned::Spanned;

use super::Scenario;
use super::condition::{self, ConditionNames};
use super::context::{Context, sidecar_kind};
use super::model::{self, File};
use crate::fault::Entry;
use crate::metrics::{CAPTURED, FABRIC};
use crate::plan::{Expectation, Op, SidecarKind, Subject, TimePoint, Window};
use crate::syntax::diagnose::{Mistake, inside};
use crate::syntax::one_or_many::OneOrMany;
use crate::syntax::units::Span;

/// Resolves all expectations.
pub(super) fn expectations(
    file: &File,
    timeline: &[Entry],
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Expectation> {
    let loads: Vec<String> = file.load.keys().map(|name| name.get_ref().clone()).collect();
    let processes = context.names.process_names(context.has_sidecars);
    let mut all = Vec::new();
    for expect in &file.expect {
        let window = window(expect, timeline, context, mistakes);
        let evidence = match window {
            Some(Window::Evidence { entry }) => {
                let entry = &timeline[entry];
                Some(entry.action.kind().leaves(entry.until.is_some()))
            }
            // Which fault is meant is not known, so nothing can be said about its evidence.
            None if expect.get_ref().fault.is_some() => continue,
            _ => None,
        };
        let names = ConditionNames { loads: &loads, processes: &processes, evidence: evidence.as_deref() };
        let conditions = conditions(expect, (window.as_ref(), timeline), names, file, context, mistakes);
        let Some(window) = window else { continue };
        let name = match &expect.get_ref().name {
            Some(name) => name.get_ref().clone(),
            None => describe(expect.get_ref()),
        };
        let sidecar = expect.get_ref().sidecar.as_ref().and_then(|word| sidecar_kind(word, mistakes));
        all.push(Expectation { name, window, sidecar, conditions });
    }
    all
}

/// A name for an expectation that has none.
fn describe(expect: &model::Expect) -> String {
    match (&expect.during, &expect.after, &expect.fault) {
        (Some(during), ..) => format!("during {during}"),
        (_, Some(after), _) => format!("after {after}"),
        (.., Some(fault)) => format!("{fault} bites"),
        _ => "the whole run".to_owned(),
    }
}

fn conditions(
    expect: &Spanned<model::Expect>,
    (window, timeline): (Option<&Window>, &[Entry]),
    names: ConditionNames<'_>,
    file: &File,
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<crate::plan::Condition> {
    let that = &expect.get_ref().that;
    let mut conditions = encrypted(expect.get_ref(), context, mistakes);
    if that.is_empty() && expect.get_ref().no_plaintext_between.is_none() {
        let at = expect.get_ref().name.as_ref().map_or(expect.span(), Spanned::span);
        let mistake = Mistake::new(at, "this expectation expects nothing", "`that` is empty");
        mistakes.push(mistake.help("add a condition such as \"LOAD.errors == 0\""));
    }
    for text in that {
        match condition::parse(text.get_ref(), names) {
            Ok(condition) => {
                let length = window.and_then(|window| length(window, timeline, context.duration));
                mistakes.extend(length.and_then(|l| too_few_samples(text, &condition.subject, l, file)));
                conditions.push(condition);
            }
            Err(error) => {
                let at = inside(text, error.at, context.text);
                mistakes.push(Mistake::new(at, error.message, "here").help(error.help));
            }
        }
    }
    conditions
}

/// The services or instances of a `no_plaintext_between`, by name.
fn sides(expect: &model::Expect) -> Vec<Spanned<String>> {
    expect.no_plaintext_between.as_ref().map_or_else(Vec::new, |sides| sides.get_ref().words(sides.span()))
}

/// The instances whose packets must be captured.
pub(super) fn captures(file: &File, context: &Context<'_>, mistakes: &mut Vec<Mistake>) -> Vec<usize> {
    let asked = file.scenario.capture.as_ref();
    let mut all: BTreeSet<usize> = BTreeSet::new();
    for word in asked.map_or_else(Vec::new, |words| words.get_ref().words(words.span())) {
        all.extend(context.names.instances(&word, mistakes));
    }
    // Unknown sides have been told of.
    for side in file.expect.iter().flat_map(|expect| sides(expect.get_ref())) {
        all.extend(context.names.instances(&side, &mut Vec::new()));
    }
    all.into_iter().collect()
}

/// The conditions that a `no_plaintext_between` stands for: from each side to each other, something
/// was read, all of it was records of TLS, and none of it a request of a load.
fn encrypted(
    expect: &model::Expect,
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<crate::plan::Condition> {
    let Some(asked) = &expect.no_plaintext_between else { return Vec::new() };
    let windows = [&expect.during, &expect.after, &expect.fault];
    if let Some(window) = windows.into_iter().flatten().next() {
        let mistake = Mistake::new(asked.span(), "packets are judged over the whole run", "not in a window");
        mistakes.push(mistake.also(window.span(), "this window").help("make an [[expect]] of its own of it"));
    }
    let sides = sides(expect);
    check_sides(asked, &sides, context, mistakes);
    let label = |direction: &str, side: &str| {
        let is_service = context.names.services.iter().any(|service| service.name == side);
        let key = if is_service { format!("{direction}_service") } else { direction.to_owned() };
        (key, side.to_owned())
    };
    let mut conditions = Vec::new();
    for (from, to) in sides.iter().flat_map(|from| sides.iter().map(move |to| (from.get_ref(), to.get_ref())))
    {
        if from == to {
            continue;
        }
        for (name, words, op, sign) in [
            ("tls_records", "TLS records", Op::Gt, ">"),
            ("plaintext_segments", "segments of plaintext", Op::Eq, "=="),
            ("marked_requests", "words of loads that can be read", Op::Eq, "=="),
            ("unread_segments", "segments that could not be judged", Op::Eq, "=="),
        ] {
            let labels = vec![label("from", from), label("to", to)];
            let subject =
                Subject::Metric { process: FABRIC.to_owned(), name: format!("{CAPTURED}{name}"), labels };
            let text = format!("{from} to {to}: {words} {sign} 0");
            conditions.push(crate::plan::Condition { text, subject, op, value: 0.0 });
        }
    }
    conditions
}

/// Refuses sides between any two of which no packet can pass: nothing would be judged there.
fn check_sides(
    asked: &Spanned<OneOrMany>,
    sides: &[Spanned<String>],
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) {
    if sides.len() < 2 {
        let mistake = Mistake::new(asked.span(), "between what?", "one side");
        mistakes.push(mistake.help("name two or more services or instances, such as [\"web\", \"orders\"]"));
    }
    let names = &context.names;
    // Everybody may call, except an authority; what has no program cannot be called.
    let passes = |from: &[usize], to: &[usize]| {
        let may_call =
            |from: usize, to: usize| from != to && !names.is_authority(from) && names.has_program(to);
        from.iter().any(|&from| to.iter().any(|&to| may_call(from, to)))
    };
    let mut before: Vec<(&Spanned<String>, Vec<usize>)> = Vec::new();
    for side in sides {
        if side.get_ref().contains('*') {
            let mistake = Mistake::new(side.span(), "a side is a service or an instance", "a pattern");
            mistakes.push(mistake.help("write the name of a service for all of its instances"));
            continue;
        }
        let these = names.instances(side, mistakes);
        if these.is_empty() {
            continue;
        }
        for (other, those) in &before {
            let (message, label, help) = if other.get_ref() == side.get_ref() {
                let help = "name another side; replicas of one service are named each, such as \"orders-0\"";
                (format!("between `{side}` and itself nothing is judged"), "again", help)
            } else if !passes(&these, those) && !passes(those, &these) {
                let help = "one side must have an app, or be the authority of the other";
                (format!("no packet can pass between `{other}` and `{side}`"), "nobody to call", help)
            } else {
                continue;
            };
            let mistake = Mistake::new(side.span(), message, label).also(other.span(), "one side");
            mistakes.push(mistake.help(help));
        }
        before.push((side, these));
    }
}

/// Refuses what no run of the file would judge: it would vanish, and could not fail.
pub(super) fn never_judged(file: &File, scenario: &Scenario) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (written, expectation) in file.expect.iter().zip(&scenario.expectations) {
        let written = written.get_ref();
        let wanted = |kind: &&SidecarKind| expectation.sidecar.is_none_or(|only| only == **kind);
        // One for another kind of sidecar says so itself, and a file may be run without for once.
        let mut kinds = scenario.sidecars.iter().filter(wanted).peekable();
        if kinds.peek().is_none() || kinds.any(|kind| *kind != SidecarKind::None) {
            continue;
        }
        let lost = scenario.only_with_sidecars(expectation);
        // Those of `no_plaintext_between` come first, and `that` follows.
        let of_capture = expectation.conditions.len() - written.that.len();
        let capture = written.no_plaintext_between.as_ref().map(Spanned::span);
        let capture = capture.filter(|_| lost.iter().any(|&condition| condition < of_capture));
        let that = lost.iter().filter_map(|condition| condition.checked_sub(of_capture));
        let that = that.map(|condition| written.that[condition].span());
        for at in capture.into_iter().chain(that) {
            let message = "this can only be judged with sidecars";
            let mistake = Mistake::new(at, message, "never judged here");
            mistakes.push(mistake.help("add \"ours\" to `sidecar`, or leave the condition out"));
        }
    }
    mistakes
}

/// Over how much time conditions are judged at once, if over any.
fn length(window: &Window, timeline: &[Entry], duration: Duration) -> Option<Duration> {
    match window {
        Window::During { from, to } => Some(to.in_run(timeline, duration) - from.in_run(timeline, duration)),
        Window::Recovery { hold, .. } => Some(*hold),
        Window::Evidence { .. } => None,
    }
}

/// A window of a `length` in which a load sends nothing cannot be judged.
fn too_few_samples(
    text: &Spanned<String>,
    subject: &Subject,
    length: Duration,
    file: &File,
) -> Option<Mistake> {
    let Subject::Load { load, .. } = subject else { return None };
    let (name, load) = file.load.iter().nth(*load)?;
    let rate = load.rate.get_ref();
    if rate.0 * length.as_secs_f64() >= 1.0 || rate.0 <= 0.0 {
        return None;
    }
    let message = format!("`{name}` sends nothing in this window: {rate} for {}", Span(length));
    let mistake =
        Mistake::new(text.span(), message, "cannot be measured").also(load.rate.span(), "at this rate");
    Some(mistake.help("widen the window or raise the rate"))
}

fn window(
    expect: &Spanned<model::Expect>,
    timeline: &[Entry],
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Window> {
    let e = expect.get_ref();
    let windows = [("during", &e.during), ("after", &e.after), ("fault", &e.fault)];
    let mut given = windows.iter().filter_map(|(key, word)| word.as_ref().map(|w| (*key, w)));
    let first = given.next();
    let others: Vec<_> = given.collect();
    if let (Some((key, word)), [(other, at), ..]) = (first, &others[..]) {
        let message = format!("this expectation has two windows, `{key}` and `{other}`");
        let mistake = Mistake::new(word.span(), message, "one").also(at.span(), "the other");
        mistakes.push(mistake.help("make two [[expect]] of it"));
        return None;
    }
    if e.after.is_none() {
        let orphan = e.within.as_ref().map(|w| ("within", w)).or(e.hold.as_ref().map(|h| ("hold", h)));
        if let Some((key, span)) = orphan {
            let mistake = Mistake::new(span.span(), format!("`{key}` belongs to `after`"), "after what?");
            mistakes.push(mistake.help("add after = \"ENTRY\" or after = \"ENTRY.end\""));
            return None;
        }
    }
    match first {
        None => Some(during(Duration::ZERO, context.duration)),
        Some(("during", word)) => match word.get_ref().split_once("..") {
            Some((from, to)) => times(word, from, to, context, mistakes),
            None => {
                let entry = entry(word, word.get_ref(), timeline, mistakes)?;
                let window = Window::During { from: TimePoint::Begin(entry), to: TimePoint::End(entry) };
                // An entry that is out of bounds has been told of where it stands.
                (timeline[entry].at < context.duration).then_some(window)
            }
        },
        Some(("after", word)) => recovery(e, word, timeline, context, mistakes),
        Some((_, word)) => Some(Window::Evidence { entry: entry(word, word.get_ref(), timeline, mistakes)? }),
    }
}

/// The position of a timeline entry.
fn entry(
    word: &Spanned<String>,
    name: &str,
    timeline: &[Entry],
    mistakes: &mut Vec<Mistake>,
) -> Option<usize> {
    let found = timeline.iter().position(|entry| entry.name == name);
    if found.is_none() {
        let name = Spanned::new(word.span(), name.to_owned());
        mistakes.push(Mistake::unknown(
            "timeline entry",
            &name,
            timeline.iter().map(|entry| &entry.name[..]),
        ));
    }
    found
}

/// `"10s..20s"`
fn times(
    word: &Spanned<String>,
    from: &str,
    to: &str,
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Window> {
    let mut time = |text: &str, or: Duration| {
        if text.trim().is_empty() {
            return Some(or);
        }
        let parsed = text.trim().parse::<Span>();
        parsed
            .map(|s| s.0)
            .map_err(|error| {
                let (message, help) = error.split_once("; ").unwrap_or((&error, ""));
                mistakes.push(Mistake::new(word.span(), message, "in this window").help(help));
            })
            .ok()
    };
    let (from, to) = (time(from, Duration::ZERO), time(to, context.duration));
    let (from, to) = (from?, to?);
    let run = Span(context.duration);
    if to > context.duration {
        let message = format!("this window ends after the run is over: {} of {run}", Span(to));
        let mistake = Mistake::new(word.span(), message, "too late");
        mistakes.push(
            mistake.help("windows count from the end of the warm-up; lengthen `duration` or end sooner"),
        );
        return None;
    }
    if from >= to {
        let (message, help) = match from == to {
            true => ("this window is empty".to_owned(), format!("end it after {}", Span(from))),
            false => (
                "this window ends before it begins".to_owned(),
                format!("did you mean \"{}..{}\"?", Span(to), Span(from)),
            ),
        };
        mistakes.push(Mistake::new(word.span(), message, "this window").help(help));
        return None;
    }
    Some(during(from, to))
}

/// The window between two fixed times.
fn during(from: Duration, to: Duration) -> Window {
    Window::During { from: TimePoint::At(from), to: TimePoint::At(to) }
}

/// `after`, `within`, `hold`
fn recovery(
    expect: &model::Expect,
    word: &Spanned<String>,
    timeline: &[Entry],
    context: &Context<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Window> {
    let (name, at_end) = match word.get_ref().strip_suffix(".end") {
        Some(name) => (name, true),
        None => (&word.get_ref()[..], false),
    };
    let entry = entry(word, name, timeline, mistakes)?;
    if at_end && timeline[entry].until.is_none() {
        let mistake =
            Mistake::new(word.span(), format!("`{name}` never ends"), "lasts to the end of the run");
        mistakes.push(
            mistake.help("give the entry a `for` (a kill: a `restart`), or write the name without `.end`"),
        );
        return None;
    }
    let point = if at_end { TimePoint::End(entry) } else { TimePoint::Begin(entry) };
    let start = point.in_run(timeline, context.duration);
    let Some(within) = &expect.within else {
        let mistake = Mistake::new(word.span(), "`after` needs `within`", "how soon after?");
        mistakes.push(mistake.help("add a line such as within = \"2s\""));
        return None;
    };
    let hold_at = expect.hold.as_ref().map_or(within.span(), Spanned::span);
    let (within_for, hold) =
        (within.get_ref().0, expect.hold.as_ref().map_or(model::HOLD, |h| h.get_ref().0));
    if hold.is_zero() {
        let mistake = Mistake::new(hold_at, "what holds for no time has not held", "this long");
        mistakes.push(mistake.help("write how long, such as \"1s\", which is the default"));
        return None;
    }
    let last = start.saturating_add(within_for).saturating_add(hold);
    if last > context.duration && start < context.duration {
        let message = format!(
            "the run is over before this can be judged: {} of {}",
            Span(last),
            Span(context.duration)
        );
        let label = format!("from {}, within {}, for {}", Span(start), Span(within_for), Span(hold));
        let mistake = Mistake::new(within.span(), message, label);
        mistakes.push(mistake.help("lengthen `duration`, or shorten `within` or `hold`"));
        return None;
    }
    Some(Window::Recovery { start: point, within: within_for, hold })
}
