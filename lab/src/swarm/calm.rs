//! Periods without a fault that an invariant would have to allow for.

use super::facts::Facts;
use crate::app::http::behaviour::BehaviourChange;
use crate::fault::{Action, Entry};

/// How long the effects of a fault outlast it, microseconds.
const AFTERMATH: u64 = 500_000;

impl Facts {
    /// Whether nothing goes wrong with an instance between two moments that could hold up or tear
    /// what is on its way to or from it. How an app answers is no such thing, if it answers as HTTP
    /// has it.
    pub fn is_undisturbed(&self, instance: usize, from: u64, to: u64) -> bool {
        let is_harmless = |change: &BehaviourChange| {
            change.malformed.is_none()
                && change.refuse_streams.is_none()
                && change.goaway.is_none()
                && change.reset_streams.is_none()
        };
        self.is_undisturbed_but(is_harmless, instance, from, to)
    }

    /// The same, where it is for the caller to say which changes of an app's answers do no harm.
    pub fn is_undisturbed_but(
        &self,
        is_harmless: impl Fn(&BehaviourChange) -> bool,
        instance: usize,
        from: u64,
        to: u64,
    ) -> bool {
        let torn = self.chaos.resets > 0.0 && from < self.chaos.until.as_micros() as u64 + AFTERMATH;
        self.chaos.most == 0
            && !torn
            && self.plan.timeline.iter().filter(|entry| entry.action.touches(instance)).all(|entry| {
                let is_narrow = entry.action.links().iter().any(|link| link.profile.bandwidth > 0);
                let ends = entry.action.ends_processes();
                let over = match self.over(entry) {
                    // What queues at a slow link is there for as long as it takes.
                    _ if is_narrow => u64::MAX,
                    Some(over) => over + AFTERMATH,
                    None if ends => self.time_us(entry.at) + AFTERMATH,
                    None => u64::MAX,
                };
                let is_harmless = match &entry.action {
                    Action::Behave(behave) => is_harmless(&behave.change),
                    _ => false,
                };
                is_harmless || to < self.time_us(entry.at) || from > over
            })
    }

    /// Whether nothing at all goes wrong between two moments, nor anything that went wrong before
    /// is still felt: connections may have been lost without a word, or packets and be sent again
    /// late.
    pub fn is_calm(&self, is_harmless: impl Fn(&BehaviourChange) -> bool, from: u64, to: u64) -> bool {
        let lasts = |entry: &Entry| match &entry.action {
            Action::Configure(_) => true,
            Action::Behave(_) => false,
            action => entry.until.is_none() || !action.links().is_empty(),
        };
        let mut before = self.plan.timeline.iter().filter(|entry| self.time_us(entry.at) <= to);
        !before.any(lasts)
            && (0..self.plan.instances.len())
                .all(|instance| self.is_undisturbed_but(&is_harmless, instance, from, to))
    }
}
