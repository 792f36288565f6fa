//! `[balance]` and `[cluster.balance]`.

use std::collections::BTreeMap;

use http::HeaderName;
use serde_spanned::Spanned;

use super::Check;
use crate::config::diagnose::{did_you_mean, one_of};
use crate::config::{Balance, BalancePolicy, Endpoint, HashSource, Labels, SlowStart, defaults, model};

const POLICIES: [&str; 6] = ["p2c", "least_request", "round_robin", "random", "ring_hash", "maglev"];

impl Check<'_> {
    /// What `given` says, and where it is silent, `general`. What does nothing under a cluster's
    /// policy is a mistake there only: general settings are for clusters of every policy.
    pub(super) fn balance(&mut self, given: Option<&model::Balance>, general: Option<&Balance>) -> Balance {
        let defaults = Balance::default();
        let in_force = general.unwrap_or(&defaults);
        let Some(given) = given else {
            return in_force.clone();
        };
        let known = self.policy(given, in_force.policy);
        let policy = known.unwrap_or(in_force.policy);
        let hash = given.hash.as_ref().map_or_else(|| in_force.hash.clone(), |hash| self.hash_source(hash));
        let slow_start = given.slow_start.as_ref();
        let slow_start =
            slow_start.map_or(in_force.slow_start, |given| self.slow_start(given, in_force.slow_start));
        let overprovisioning = given.overprovisioning.as_ref();
        let panic = given.panic.as_ref();
        let balance = Balance {
            policy,
            hash,
            zone_aware: given.zone_aware.unwrap_or(in_force.zone_aware),
            overprovisioning: overprovisioning.map_or(in_force.overprovisioning, |factor| {
                self.factor(
                    "overprovisioning",
                    factor,
                    defaults::OVERPROVISIONING_RANGE,
                    defaults::OVERPROVISIONING,
                )
            }),
            panic: self.share("`panic` is not a share of the endpoints", panic, in_force.panic),
            slow_start,
        };
        if known.is_none() {
            // Nobody knows what fits to it.
            return balance;
        }
        if let (true, None, Some(asked)) = (policy.hashes(), &balance.hash, &given.policy) {
            self.diagnostics
                .add(format!("`{}` needs to know what to hash", asked.get_ref()), asked.span(), "no `hash`")
                .help(r#"add hash = "header:NAME", "cookie:NAME" or "source""#);
        }
        if general.is_some() {
            self.fits_together(given, &balance);
        }
        balance
    }

    /// Refuses what the policy makes nothing of.
    fn fits_together(&mut self, given: &model::Balance, balance: &Balance) {
        let policy = balance.policy;
        let mut vain = |key: &str, span: Option<std::ops::Range<usize>>, of: &[&str]| {
            let Some(span) = span else { return };
            let (owners, is) = (one_of(of, '"'), name(policy));
            self.diagnostics
                .add(format!("`{key}` does nothing here"), span, format!("the policy is {is:?}"))
                .help(format!("it is for the policy {owners}: change `policy`, or leave `{key}` out"));
        };
        if !policy.hashes() {
            vain("hash", given.hash.as_ref().map(Spanned::span), &["ring_hash", "maglev"]);
        }
        if !matches!(policy, BalancePolicy::LeastRequest { .. }) {
            vain("choices", given.choices.as_ref().map(Spanned::span), &["least_request"]);
        }
        if !matches!(policy, BalancePolicy::RingHash { .. }) {
            vain("ring_points", given.ring_points.as_ref().map(Spanned::span), &["ring_hash"]);
        }
        if !matches!(policy, BalancePolicy::Maglev { .. }) {
            vain("table_size", given.table_size.as_ref().map(Spanned::span), &["maglev"]);
        }
        let window = given.slow_start.as_ref().and_then(|slow_start| slow_start.window.as_ref());
        if let (true, Some(window), Some(_)) = (policy.hashes(), window, balance.slow_start) {
            self.diagnostics
                .add("a hash knows no slow start", window.span(), format!("the policy is {:?}", name(policy)))
                .help("a key has one owner from the first moment: leave `slow_start` out, or choose another policy");
        }
    }

    /// The policy that `given` names, or the `general` one with what `given` says of it; `None` if
    /// there is no such policy.
    fn policy(&mut self, given: &model::Balance, general: BalancePolicy) -> Option<BalancePolicy> {
        let (choices, points, table_size) = match general {
            BalancePolicy::LeastRequest { choices } => {
                (choices as u32, defaults::RING_POINTS, defaults::MAGLEV_SIZE)
            }
            BalancePolicy::RingHash { points } => (defaults::CHOICES, points, defaults::MAGLEV_SIZE),
            BalancePolicy::Maglev { table_size } => (defaults::CHOICES, defaults::RING_POINTS, table_size),
            _ => (defaults::CHOICES, defaults::RING_POINTS, defaults::MAGLEV_SIZE),
        };
        let choices = self.ranged("choices", given.choices.as_ref(), choices, defaults::CHOICES_RANGE);
        let (points_range, sizes) = (defaults::RING_POINTS_RANGE, defaults::MAGLEV_RANGE);
        let points = self.ranged("ring_points", given.ring_points.as_ref(), points, points_range) as u32;
        let table_size =
            self.ranged("table_size", given.table_size.as_ref(), table_size, sizes.clone()) as u32;
        if let Some(size) =
            given.table_size.as_ref().filter(|_| sizes.contains(&table_size) && !is_prime(table_size))
        {
            let next = (table_size..).find(|n| is_prime(*n)).unwrap_or(defaults::MAGLEV_SIZE);
            self.diagnostics
                .add("`table_size` is not a prime number", size.span(), "not prime")
                .help(format!("with another number some endpoints could not reach every slot: write {next}"));
        }
        let known = |word: &str| match word {
            "p2c" => Some(BalancePolicy::P2c),
            "least_request" => Some(BalancePolicy::LeastRequest { choices }),
            "round_robin" => Some(BalancePolicy::RoundRobin),
            "random" => Some(BalancePolicy::Random),
            "ring_hash" => Some(BalancePolicy::RingHash { points }),
            "maglev" => Some(BalancePolicy::Maglev { table_size }),
            _ => None,
        };
        let word = given.policy.as_ref().map_or(name(general), |text| text.get_ref().as_str());
        let policy = known(word);
        if let (None, Some(text)) = (policy, &given.policy) {
            let all = one_of(&POLICIES, '"').replace("\" or \"", "\" and \"");
            let help = match did_you_mean(word, POLICIES) {
                Some(meant) => format!("did you mean {meant:?}? The policies are {all}"),
                None => format!("the policies are {all}"),
            };
            self.diagnostics
                .add(format!("there is no policy {word:?}"), text.span(), "not a policy")
                .help(help);
        }
        policy
    }

    fn hash_source(&mut self, text: &Spanned<String>) -> Option<HashSource> {
        let words = text.get_ref().as_str();
        let (label, help) = match words.split_once(':') {
            Some(("header", header)) => match HeaderName::try_from(header) {
                Ok(header) => return Some(HashSource::Header(header)),
                Err(_) => ("not a header's name", r#"such as "header:x-user-id""#),
            },
            Some(("cookie", cookie)) => {
                // RFC 6265: a cookie's name is a token, as a header's is.
                if HeaderName::try_from(cookie).is_ok() {
                    return Some(HashSource::Cookie(cookie.to_owned()));
                }
                ("not a cookie's name", r#"such as "cookie:session""#)
            }
            _ if words == "source" => return Some(HashSource::Source),
            _ => ("not one of its values", r#"write "header:NAME", "cookie:NAME" or "source""#),
        };
        self.diagnostics.add(format!("`hash` cannot be {words:?}"), text.span(), label).help(help);
        // A stand-in, so that a missing hash is not a second mistake.
        Some(HashSource::Source)
    }

    fn slow_start(&mut self, given: &model::SlowStart, general: Option<SlowStart>) -> Option<SlowStart> {
        let window = self.limit("window", given.window.as_ref(), general.map(|general| general.window));
        let (min_weight, aggression) = general
            .map_or((defaults::SLOW_START_MIN, defaults::SLOW_START_AGGRESSION), |general| {
                (general.min_weight, general.aggression)
            });
        let (message, given_least) = ("`min_weight` is not a share of the weight", given.min_weight.as_ref());
        let least = self.share(message, given_least, min_weight);
        if let Some(text) = given_least.filter(|_| least == 0.0) {
            self.diagnostics
                .add("an endpoint that begins with nothing never begins", text.span(), "must be above 0%")
                .help(format!("the default is \"{}%\"", defaults::SLOW_START_MIN * 100.0));
        }
        let aggression = given.aggression.as_ref().map_or(aggression, |factor| {
            let (range, default) = (defaults::SLOW_START_AGGRESSION_RANGE, defaults::SLOW_START_AGGRESSION);
            self.factor("aggression", factor, range, default)
        });
        Some(SlowStart { window: window?, min_weight: least, aggression })
    }

    fn factor(
        &mut self,
        key: &str,
        given: &Spanned<f64>,
        range: std::ops::RangeInclusive<f64>,
        default: f64,
    ) -> f64 {
        let factor = *given.get_ref();
        if !range.contains(&factor) {
            self.diagnostics
                .add(format!("`{key}` is out of range"), given.span(), "out of range")
                .help(format!("it goes from {} to {}; the default is {default}", range.start(), range.end()));
        }
        factor
    }

    /// The labels that a cluster's endpoints must have. One that no endpoint has is a slip while
    /// all endpoints are known.
    pub(super) fn subset(
        &mut self,
        given: &BTreeMap<String, Spanned<String>>,
        endpoints: &[Endpoint],
    ) -> Labels {
        let mut labels = BTreeMap::new();
        for (key, value) in given {
            labels.insert(key.clone(), value.get_ref().clone());
            if endpoints.is_empty() || endpoints.iter().any(|endpoint| endpoint.has(&labels)) {
                continue;
            }
            let values: std::collections::BTreeSet<_> = endpoints
                .iter()
                .filter_map(|endpoint| endpoint.labels.get(key))
                .map(String::as_str)
                .collect();
            let values: Vec<_> = values.into_iter().collect();
            let help = if values.is_empty() {
                format!(
                    "no endpoint has a label `{key}`: give it to some, as in labels = {{ {key} = {:?} }}",
                    value.get_ref()
                )
            } else {
                format!("`{key}` is {} on the endpoints of this cluster", one_of(&values, '"'))
            };
            let label =
                if labels.len() == 1 { "no endpoint has it" } else { "no endpoint has it and all before it" };
            self.diagnostics.add("no endpoint is in this subset", value.span(), label).help(help);
            break;
        }
        labels.into()
    }
}

/// Whether a table may have so many slots.
fn is_prime(size: u32) -> bool {
    size > 1 && (2..).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d))
}

fn name(policy: BalancePolicy) -> &'static str {
    match policy {
        BalancePolicy::P2c => "p2c",
        BalancePolicy::LeastRequest { .. } => "least_request",
        BalancePolicy::RoundRobin => "round_robin",
        BalancePolicy::Random => "random",
        BalancePolicy::RingHash { .. } => "ring_hash",
        BalancePolicy::Maglev { .. } => "maglev",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_others() {
        let primes: Vec<u32> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(
            is_prime(defaults::MAGLEV_SIZE) && is_prime(*defaults::MAGLEV_RANGE.end()) && !is_prime(65536)
        );
    }
}
