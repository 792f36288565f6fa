//! `[outlier_detection]` and `[cluster.outlier_detection]`.

use serde_spanned::Spanned;

use super::Check;
use crate::config::defaults::OUTLIER_WINDOW_MIN;
use crate::config::{OutlierDetection, defaults, model, units};

impl Check<'_> {
    /// The outlier detection of `given`, and where that is silent, of `general`. A contradiction
    /// inside `general` is its own mistake, and is not told once more for each cluster.
    pub(super) fn outlier_detection(
        &mut self,
        given: Option<&model::OutlierDetection>,
        general: Option<(Option<&model::OutlierDetection>, OutlierDetection)>,
    ) -> OutlierDetection {
        let (general_file, general) = general.unwrap_or_default();
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
                    self.diagnostics.add(message, base, "`base`, the first").also(max, "`max`, the longest")
                }
                (Some(base), None) => self.diagnostics.add(
                    message,
                    base,
                    format!("`max`, the longest, is {shown_max} by default"),
                ),
                (None, max) => {
                    let label = format!("`base`, the first, is {shown_base} by default");
                    self.diagnostics.add(message, max.unwrap_or(0..0), label)
                }
            };
            note.help(format!("set `max` to {shown_base} or more, or `base` to {shown_max} or less"));
        }
        let cap = self.share("`cap` is not a share of the endpoints", given.cap.as_ref(), general.cap);
        let success_rate = self.share(
            "`success_rate` is not a share of the requests",
            given.success_rate.as_ref(),
            general.success_rate,
        );
        let window = self.duration("window", given.window.as_ref(), general.window);
        if let Some(span) = window.span.filter(|_| window.value < OUTLIER_WINDOW_MIN) {
            self.diagnostics.add("`window` is too short to see anything in", span, "too short").help(
                format!(
                    "it is {} or more; the default is {}",
                    units::show(OUTLIER_WINDOW_MIN),
                    units::show(defaults::OUTLIER_WINDOW)
                ),
            );
        }
        let number =
            |given: Option<&Spanned<u32>>, general| given.map_or(general, |number| *number.get_ref());
        OutlierDetection {
            consecutive_failures: number(given.consecutive_failures.as_ref(), general.consecutive_failures),
            success_rate,
            min_requests: number(given.min_requests.as_ref(), general.min_requests),
            window: window.value,
            base: base.value,
            max: max.value,
            cap,
        }
    }

    pub(super) fn share(
        &mut self,
        message: &'static str,
        given: Option<&Spanned<String>>,
        default: f64,
    ) -> f64 {
        let Some(text) = given else { return default };
        units::percent(text.get_ref()).unwrap_or_else(|hint| {
            self.diagnostics.add(message, text.span(), "out of range").help(hint);
            default
        })
    }
}
