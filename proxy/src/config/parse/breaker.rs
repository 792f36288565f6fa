//! `[breaker]` and `[cluster.breaker]`.

use serde_spanned::Spanned;

use super::Check;
use crate::config::{Breaker, defaults, model, units};

impl Check<'_> {
    /// The breaker of `given`, and where that is silent, of `general`. A contradiction inside `general` is its own
    /// mistake, and is not told once more for each cluster.
    pub(super) fn breaker(
        &mut self,
        given: Option<&model::Breaker>,
        general: Option<(Option<&model::Breaker>, Breaker)>,
    ) -> Breaker {
        let (general_file, general) = general.unwrap_or((
            None,
            Breaker {
                consecutive_failures: defaults::CONSECUTIVE_FAILURES,
                base: defaults::EJECTION_BASE,
                max: defaults::EJECTION_MAX,
                cap: defaults::EJECTION_CAP,
            },
        ));
        let Some(given) = given else { return general };
        let span_of = |value: Option<&Option<Spanned<String>>>| value?.as_ref().map(Spanned::span);
        let mut base = self.duration("base", given.base.as_ref(), general.base);
        let mut max = self.duration("max", given.max.as_ref(), general.max);
        if base.value > max.value && (base.span.is_some() || max.span.is_some()) {
            base.span = base.span.or_else(|| span_of(general_file.map(|file| &file.base)));
            max.span = max.span.or_else(|| span_of(general_file.map(|file| &file.max)));
            let message = "the first ejection is longer than the longest";
            let (shown_base, shown_max) = (units::show(base.value), units::show(max.value));
            let note = match (base.span, max.span) {
                (Some(base), Some(max)) => {
                    self.mistakes.add(message, base, "`base`, the first").also(max, "`max`, the longest")
                }
                (Some(base), None) => {
                    self.mistakes.add(message, base, format!("`max`, the longest, is {shown_max} by default"))
                }
                (None, max) => {
                    let label = format!("`base`, the first, is {shown_base} by default");
                    self.mistakes.add(message, max.unwrap_or(0..0), label)
                }
            };
            note.help(format!("set `max` to {shown_base} or more, or `base` to {shown_max} or less"));
        }
        let cap = given.cap.as_ref().map_or(general.cap, |text| {
            units::percent(text.get_ref()).unwrap_or_else(|hint| {
                self.mistakes
                    .add("`cap` is not a share of the endpoints", text.span(), "out of range")
                    .help(hint);
                general.cap
            })
        });
        let failures = given.consecutive_failures.as_ref().map(|failures| *failures.get_ref());
        Breaker {
            consecutive_failures: failures.unwrap_or(general.consecutive_failures),
            base: base.value,
            max: max.value,
            cap,
        }
    }
}
