//! `[retry]` and `[retry_budget]`: which failures, how often, how long between.

use std::sync::Arc;

use serde_spanned::Spanned;

use super::Check;
use crate::config::diagnose::{did_you_mean, one_of};
use crate::config::{Retry, RetryBudget, RetryCondition, RetryConditions, defaults, model, units};

impl Check<'_> {
    /// The retries of `given`, and where that is silent, of `general`.
    pub(super) fn retry(&mut self, given: Option<&model::Retry>, general: Option<&Arc<Retry>>) -> Arc<Retry> {
        let general = general.cloned().unwrap_or_else(|| {
            Arc::new(Retry {
                attempts: defaults::RETRIES,
                on: defaults::RETRY_ON,
                status_codes: Vec::new(),
                unsafe_methods: false,
                base: defaults::BACKOFF_BASE,
                max: defaults::BACKOFF_MAX,
                retry_after: defaults::RETRY_AFTER_MAX,
                body: defaults::RETRY_BODY,
                hedge: None,
            })
        });
        let Some(given) = given else { return general };
        let attempts =
            self.ranged("attempts", given.attempts.as_ref(), general.attempts, 0..=defaults::MAX_RETRIES);
        let mut retry = Retry {
            attempts: attempts as u32,
            on: given.on.as_ref().map_or(general.on, |on| self.conditions(on)),
            status_codes: given
                .status_codes
                .as_ref()
                .map_or_else(|| general.status_codes.clone(), |codes| self.status_codes(codes.get_ref())),
            unsafe_methods: given.unsafe_methods.unwrap_or(general.unsafe_methods),
            base: self.duration("base", given.base.as_ref(), general.base).value,
            max: self.duration("max", given.max.as_ref(), general.max).value,
            retry_after: self.duration("retry_after", given.retry_after.as_ref(), general.retry_after).value,
            body: given.body.as_ref().map_or(general.body, |text| self.body_size(text)),
            hedge: self.limit("hedge", given.hedge.as_ref(), general.hedge),
        };
        self.backoff(given, &mut retry);
        self.idle_conditions(given, &retry);
        Arc::new(retry)
    }

    fn conditions(&mut self, given: &[Spanned<String>]) -> RetryConditions {
        let known = RetryCondition::ALL.map(RetryCondition::name);
        let mut found = Vec::with_capacity(given.len());
        for word in given {
            match RetryCondition::ALL.iter().find(|condition| condition.name() == word.get_ref()) {
                Some(condition) => found.push(*condition),
                None => {
                    let help = match (word.get_ref().as_str(), did_you_mean(word.get_ref(), known)) {
                        ("envoy-ratelimited" | "retriable-headers" | "http3-post-connect-failure", _) => {
                            "Envoy has it, this sidecar has not: leave it out".to_owned()
                        }
                        (word, _) if word.parse::<u16>().is_ok() => {
                            format!(r#"write on = ["retriable-status-codes"] and status_codes = [{word}]"#)
                        }
                        (_, Some(meant)) => format!("did you mean {meant:?}?"),
                        _ => format!(
                            "the conditions are {}",
                            one_of(&known, '"').replace("\" or \"", "\" and \"")
                        ),
                    };
                    self.diagnostics
                        .add(
                            format!("there is no condition {:?}", word.get_ref()),
                            word.span(),
                            "not a condition",
                        )
                        .help(help);
                }
            }
        }
        RetryConditions::of(&found)
    }

    fn status_codes(&mut self, given: &[Spanned<u16>]) -> Vec<u16> {
        for code in given.iter().filter(|code| !(400..=599).contains(code.get_ref())) {
            self.diagnostics
                .add(format!("{} is no status of a failure", code.get_ref()), code.span(), "out of range")
                .help("failures have statuses from 400 to 599");
        }
        given.iter().map(|code| *code.get_ref()).collect()
    }

    fn body_size(&mut self, text: &Spanned<String>) -> usize {
        let size = units::size(text.get_ref()).and_then(|size| {
            if size <= defaults::RETRY_BODY_MAX {
                Ok(size as usize)
            } else {
                Err(r#"at most "16MiB", because every request in flight may keep as much"#.to_owned())
            }
        });
        size.unwrap_or_else(|hint| {
            self.diagnostics
                .add("`body` is not a size", text.span(), "not a size that can be kept")
                .help(hint);
            defaults::RETRY_BODY
        })
    }

    fn backoff(&mut self, given: &model::Retry, retry: &mut Retry) {
        let Some(span) = given.max.as_ref().or(given.base.as_ref()).map(Spanned::span) else { return };
        if retry.base > retry.max {
            let (base, max) = (units::show(retry.base), units::show(retry.max));
            self.diagnostics
                .add(
                    "the first wait is longer than the longest",
                    span,
                    format!("`base` is {base}, `max` is {max}"),
                )
                .help(format!("set `max` to {base} or more, or `base` to {max} or less"));
            retry.max = retry.base;
        }
    }

    /// What is written out and has no effect.
    fn idle_conditions(&mut self, given: &model::Retry, retry: &Retry) {
        if let Some(codes) = given.status_codes.as_ref()
            && !retry.on.contains(RetryCondition::RetriableStatusCodes)
        {
            self.diagnostics
                .add("nothing looks at `status_codes`", codes.span(), "without effect")
                .help(r#"add "retriable-status-codes" to `on`"#);
        }
        let Some(on) = given.on.as_ref() else { return };
        for word in on {
            let Some(condition) = RetryCondition::ALL.iter().find(|known| known.name() == word.get_ref())
            else {
                continue;
            };
            if *condition == RetryCondition::RetriableStatusCodes && retry.status_codes.is_empty() {
                self.diagnostics
                    .add("no status is retriable", word.span(), "without effect")
                    .help("say which are: status_codes = [429, 503]");
            }
            if condition.grpc().is_some() && !retry.unsafe_methods {
                self.diagnostics
                    .add(
                        format!("a gRPC call that was answered {:?} may have had an effect", word.get_ref()),
                        word.span(),
                        "without effect",
                    )
                    .help("every gRPC call is a POST request; add unsafe_methods = true if it may be made twice");
            }
        }
    }

    /// The budget of `given`, and where that is silent, of `general`.
    pub(super) fn retry_budget(
        &mut self,
        given: Option<&model::RetryBudget>,
        general: Option<RetryBudget>,
    ) -> RetryBudget {
        let general = general.unwrap_or(RetryBudget {
            share: defaults::BUDGET_SHARE,
            per_second: defaults::BUDGET_PER_SECOND,
            reserve: defaults::BUDGET_RESERVE,
        });
        let Some(given) = given else { return general };
        let share = given.share.as_ref().map_or(general.share, |text| {
            units::percent(text.get_ref()).unwrap_or_else(|hint| {
                self.diagnostics
                    .add("`share` is not a share of the successes", text.span(), "out of range")
                    .help(hint);
                general.share
            })
        });
        let range = 0..=defaults::BUDGET_MAX;
        let per_second =
            self.ranged("per_second", given.per_second.as_ref(), general.per_second, range.clone());
        let reserve = self.ranged("reserve", given.reserve.as_ref(), general.reserve, range);
        if let Some(span) =
            given.reserve.as_ref().filter(|reserve| *reserve.get_ref() == 0).map(Spanned::span)
        {
            self.diagnostics
                .add("a reserve of 0 holds no retry", span, "must be at least 1")
                .help("to switch retries off, say attempts = 0 in [retry]");
        }
        RetryBudget { share, per_second: per_second as u32, reserve: reserve as u32 }
    }
}
