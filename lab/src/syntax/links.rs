//! Links: which ordered pairs of instances a table means, and what it makes of their profile.
//!
//! A `[[link]]` sets the values that it names and keeps the others, so that a general link can be
//! followed by an exception. The `link` action of a timeline entry does the same to the base
//! profile for a while.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_spanned::Spanned;

use super::diagnose::Mistake;
use super::names::Names;
use super::units::{Bandwidth, Delay, Percent, Span};
use crate::fabric::LinkProfile;

/// Profiles of the ordered pairs that have one.
pub type Profiles = BTreeMap<(usize, usize), LinkProfile>;

/// `[[link]]`, and the `link` action of a timeline entry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkTable {
    /// Both directions between two sets of instances (globs allowed).
    pub between: Option<Vec<Spanned<String>>>,
    /// One direction: packets from these ...
    pub from: Option<Vec<Spanned<String>>>,
    /// ... to these.
    pub to: Option<Vec<Spanned<String>>>,
    /// One-way delay. In a timeline entry `"+5ms"` adds to the base link.
    pub delay: Option<Spanned<Delay>>,
    /// Half-width of the uniform variation around the delay. Never reorders packets.
    pub jitter: Option<Spanned<Span>>,
    /// Chance for each packet (each segment of a large one) to be lost.
    pub loss: Option<Spanned<Percent>>,
    /// Bits a second, with a queue in front of it that has no end.
    pub bandwidth: Option<Spanned<Bandwidth>>,
}

/// The two sides of a link or a partition.
pub struct Sides<'a> {
    /// Both directions.
    pub between: Option<&'a Vec<Spanned<String>>>,
    /// One direction, from these.
    pub from: Option<&'a Vec<Spanned<String>>>,
    /// One direction, to these.
    pub to: Option<&'a Vec<Spanned<String>>>,
    /// The table that says so.
    pub at: Range<usize>,
    /// What the table is called.
    pub what: &'static str,
}

impl<'a> Sides<'a> {
    /// Those of a link.
    pub fn of_link(link: &'a Spanned<LinkTable>) -> Self {
        let at = link.span();
        let link = link.get_ref();
        let (between, from, to) = (link.between.as_ref(), link.from.as_ref(), link.to.as_ref());
        Sides { between, from, to, at, what: "link" }
    }

    /// The ordered pairs that are meant, without an instance's link to itself.
    pub fn pairs(&self, names: &Names, mistakes: &mut Vec<Mistake>) -> Vec<(usize, usize)> {
        let before = mistakes.len();
        let mut pairs = Vec::new();
        match (self.between, self.from, self.to) {
            (Some(between), None, None) => match &between[..] {
                [] | [_] => {
                    let at = between.first().map_or(self.at.clone(), Spanned::span);
                    let message = format!("`between` takes two sides or more, not {}", between.len());
                    let help = match &between[..] {
                        [one] => format!("for the links among them write between = [\"{one}\", \"{one}\"]"),
                        _ => "a side may be a service or a glob: between = [\"web\", \"orders-*\"]".into(),
                    };
                    mistakes.push(Mistake::new(at, message, "two are needed").help(help));
                }
                sides => {
                    let sides: Vec<_> = sides.iter().map(|side| names.instances(side, mistakes)).collect();
                    for (position, left) in sides.iter().enumerate() {
                        for right in &sides[position + 1..] {
                            pairs.extend(product(left, right));
                            pairs.extend(product(right, left));
                        }
                    }
                }
            },
            (None, Some(from), Some(to)) => {
                let mut all = |side: &Vec<Spanned<String>>| -> Vec<usize> {
                    side.iter().flat_map(|pattern| names.instances(pattern, mistakes)).collect()
                };
                let (from, to) = (all(from), all(to));
                pairs = product(&from, &to);
            }
            (between, from, to) => {
                let message = match (between.is_some(), from.is_some(), to.is_some()) {
                    (false, true, false) => format!("this {} has `from` but no `to`", self.what),
                    (false, false, true) => format!("this {} has `to` but no `from`", self.what),
                    (false, ..) => format!("this {} does not say between whom", self.what),
                    _ => format!("this {} has both `between` and a direction", self.what),
                };
                let help = "between = [\"web\", \"orders-*\"] means both directions, from = [\"web\"] with \
                            to = [\"orders-*\"] means one";
                mistakes.push(Mistake::new(self.at.clone(), message, "here").help(help));
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        if pairs.is_empty() && mistakes.len() == before {
            let message = format!("this {} joins no two instances", self.what);
            let help = "both sides are the same single instance, and an instance has no link to itself";
            mistakes.push(Mistake::new(self.at.clone(), message, "here").help(help));
        }
        pairs
    }
}

fn product(left: &[usize], right: &[usize]) -> Vec<(usize, usize)> {
    let pairs = left.iter().flat_map(|l| right.iter().map(move |r| (*l, *r)));
    pairs.filter(|(l, r)| l != r).collect()
}

/// The base profiles of all pairs that have one.
pub fn base(links: &[Spanned<LinkTable>], names: &Names, mistakes: &mut Vec<Mistake>) -> Profiles {
    let mut profiles = Profiles::new();
    for link in links {
        let pairs = Sides::of_link(link).pairs(names, mistakes);
        let changed = change(link, &pairs, &profiles, false, mistakes);
        profiles.extend(changed);
    }
    profiles.retain(|_, profile| *profile != LinkProfile::default());
    profiles
}

/// What a link makes of these pairs. `fault` allows a delay of `"+5ms"`, which adds.
pub fn change(
    link: &Spanned<LinkTable>,
    pairs: &[(usize, usize)],
    base: &Profiles,
    fault: bool,
    mistakes: &mut Vec<Mistake>,
) -> Profiles {
    let at = link.span();
    let link = link.get_ref();
    if link.delay.is_none() && link.jitter.is_none() && link.loss.is_none() && link.bandwidth.is_none() {
        let mistake =
            Mistake::new(at, "this link changes nothing", "neither delay, jitter, loss nor bandwidth");
        mistakes.push(mistake.help("add one, such as delay = \"5ms\", jitter = \"1ms\" or loss = \"1%\""));
        return Profiles::new();
    }
    if let (Some(delay), false) =
        (link.delay.as_ref().filter(|d| matches!(d.get_ref(), Delay::Add(_))), fault)
    {
        let mistake = Mistake::new(delay.span(), "a base link has nothing to add a delay to", "`+` adds");
        mistakes.push(mistake.help("leave the `+` out; it is for the links of a timeline entry"));
    }
    let profiles: Profiles = pairs
        .iter()
        .map(|pair| {
            let mut profile = base.get(pair).copied().unwrap_or_default();
            match link.delay.as_ref().map(Spanned::get_ref) {
                Some(Delay::Set(delay)) => profile.delay = *delay,
                Some(Delay::Add(delay)) => profile.delay += *delay,
                None => {}
            }
            if let Some(jitter) = &link.jitter {
                profile.jitter = jitter.get_ref().0;
            }
            if let Some(loss) = &link.loss {
                profile.loss = loss.get_ref().0;
            }
            if let Some(bandwidth) = &link.bandwidth {
                profile.bandwidth = bandwidth.get_ref().0;
            }
            (*pair, profile)
        })
        .collect();
    let named = link.jitter.as_ref().map(Spanned::span).or(link.delay.as_ref().map(Spanned::span));
    if let (Some(at), Some(profile)) = (named, profiles.values().find(|p| p.jitter > p.delay)) {
        let (jitter, delay) = (Span(profile.jitter), Span(profile.delay));
        let message =
            format!("a jitter of {jitter} around a delay of {delay} would send packets back in time");
        mistakes.push(Mistake::new(at, message, "jitter is more than delay").help(format!(
            "jitter is the half-width of the variation: at most the delay, so write delay = \"{jitter}\" or more"
        )));
    }
    profiles
}
