//! Values with units: durations, rates and percentages are strings, so that a file can be read
//! aloud.
//!
//! A value without its unit is refused, because `timeout = 250` and `loss = 0.01` mean something
//! else to every reader. Each error is one sentence of the form `what is wrong; what to write`: the
//! part after the semicolon becomes the help line of the rendered message. Every type prints in a
//! form that parses back to the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A length of time: `"250ms"`, `"1.5s"`, `"2m"`. Units: ns, us, ms, s, m, h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A delay of a link: `"5ms"` in the place of the base link's, or `"+5ms"` on top of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// `"5ms"`
    Set(Duration),
    /// `"+5ms"`
    Add(Duration),
}

/// A rate per second: `"400/s"`, or `"50/m"` and `"1/h"`, converted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub f64);

/// A share from nothing to everything: `"1%"` is 0.01.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

/// A share of the machine's CPUs: `"200m"` is 0.2 of one, as Kubernetes writes it, and so is
/// `"20%"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cores(pub f64);

/// A size in memory: `"64MiB"`. Units: KiB, MiB, GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A bandwidth in bits per second: `"10Mbit/s"`. Units: kbit/s, Mbit/s, Gbit/s, in powers of a
/// thousand as networks count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth(pub u64);

/// Units of time with their nanoseconds, short to long.
const TIME: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// What people write instead, and what they mean.
const ALIASES: [(&str, &str); 14] = [
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hour", "h"),
    ("hours", "h"),
    ("msec", "ms"),
    ("millis", "ms"),
    ("µs", "us"),
    ("usec", "us"),
];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        if number.is_empty() {
            return Err(format!(
                "`{text}` is not a length of time; write a number and a unit, such as \"250ms\""
            ));
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if !decimal(number) {
            return Err(format!("`{number}` is not a number; write it such as \"1.5s\""));
        }
        if unit.is_empty() {
            return Err(no_time_unit(number));
        }
        let Some((_, scale)) = TIME.iter().find(|(name, _)| *name == unit) else {
            return Err(match meant(unit.trim()) {
                Some(right) => format!("`{unit}` is not a unit of time; did you mean \"{number}{right}\"?"),
                None => format!("`{unit}` is not a unit of time; the units are ns, us, ms, s, m and h"),
            });
        };
        // Whole arithmetic: "0.1s" is exactly 100 ms, and printing gives back what was read.
        let scale = u128::from(*scale);
        let fraction = fraction.trim_end_matches('0');
        let finer = || format!("`{text}` is finer than a nanosecond; round it");
        let ten = 10_u128.checked_pow(fraction.len() as u32).ok_or_else(finer)?;
        let digits = if fraction.is_empty() { Some(0) } else { fraction.parse::<u128>().ok() };
        let part = digits.and_then(|d| d.checked_mul(scale)).ok_or_else(finer)?;
        if part % ten != 0 {
            return Err(finer());
        }
        let nanos =
            whole.parse::<u64>().ok().and_then(|w| u64::try_from(u128::from(w) * scale + part / ten).ok());
        let nanos = nanos.ok_or_else(|| format!("`{text}` is too long; the longest is about 500 years"))?;
        Ok(Span(Duration::from_nanos(nanos)))
    }
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('+') {
            Some(added) => added.parse().map(|s: Span| Delay::Add(s.0)),
            None => text.parse().map(|s: Span| Delay::Set(s.0)),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        if number.is_empty() || !decimal(number) {
            return Err(format!(
                "`{text}` is not a rate; write a number and a unit of time, such as \"400/s\""
            ));
        }
        let value: f64 =
            number.parse().map_err(|_| format!("`{number}` is not a number; write it such as \"400/s\""))?;
        match unit {
            "/s" => Ok(Rate(value)),
            "/m" => Ok(Rate(value / 60.0)),
            "/h" => Ok(Rate(value / 3600.0)),
            "" => Err(no_rate_unit(number)),
            _ => {
                let right = unit.trim().strip_prefix('/').and_then(|u| meant(u.trim()));
                let right = right.filter(|u| ["s", "m", "h"].contains(u)).unwrap_or("s");
                Err(format!("`{unit}` is not a unit of a rate; did you mean \"{number}/{right}\"?"))
            }
        }
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        if number.is_empty() || !decimal(number) {
            return Err(format!(
                "`{text}` is not a share; write a number and a percent sign, such as \"1%\""
            ));
        }
        let value: f64 =
            number.parse().map_err(|_| format!("`{number}` is not a number; write it such as \"1%\""))?;
        match unit {
            "%" if value > 100.0 => Err(format!("`{text}` is more than everything; 100% is the most")),
            "%" => Ok(Percent(value / 100.0)),
            "" => Err(no_percent_sign(value)),
            _ => Err(format!("`{unit}` is not a percent sign; did you mean \"{number}%\"?")),
        }
    }
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let value = number.parse::<f64>().ok().filter(|_| decimal(number));
        let value = value.ok_or_else(|| {
            format!("`{text}` is not a share of a CPU; write it such as \"200m\" or \"20%\"")
        })?;
        match unit {
            "m" => Ok(Cores(value / 1_000.0)),
            "%" => Ok(Cores(value / 100.0)),
            _ => Err(no_cpu_unit(value)),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let value = number.parse::<f64>().ok().filter(|_| decimal(number));
        let value = value.ok_or_else(|| format!("`{text}` is not a size; write it such as \"64MiB\""))?;
        let scale = match unit {
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(no_size_unit(value)),
        };
        Ok(Size((value * scale) as u64))
    }
}

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let value = number.parse::<f64>().ok().filter(|_| decimal(number));
        let value =
            value.ok_or_else(|| format!("`{text}` is not a bandwidth; write it such as \"10Mbit/s\""))?;
        let scale = match unit {
            "kbit/s" => 1e3,
            "Mbit/s" => 1e6,
            "Gbit/s" => 1e9,
            _ => return Err(no_bandwidth_unit(value)),
        };
        match (value * scale) as u64 {
            0 => Err(format!("`{text}` lets nothing through; a partition or loss = \"100%\" does that")),
            bits => Ok(Bandwidth(bits)),
        }
    }
}

impl fmt::Display for Span {
    /// In the longest unit that needs no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let (unit, scale) =
            TIME.iter().rev().find(|(_, s)| nanos.is_multiple_of(u128::from(*s))).expect("1 ns divides all");
        write!(f, "{}{unit}", nanos / u128::from(*scale))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

impl fmt::Display for Percent {
    /// With as few digits as give the same value back; close to it for a value that no percentage
    /// gives exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |digits: usize| format!("{:.digits$}%", self.0 * 100.0);
        let near = |t: &String| t.parse().is_ok_and(|p: Percent| (p.0 - self.0).abs() < 1e-12);
        let short =
            (0..17).map(text).find(|t| t.parse() == Ok(*self)).or_else(|| (0..17).map(text).find(near));
        f.write_str(&short.unwrap_or_else(|| text(17)))
    }
}

/// The number at the start, and the rest.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// Digits with at most one point among them, and a digit before it.
fn decimal(number: &str) -> bool {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    digits(whole) && digits(fraction)
}

/// The unit that a word means.
fn meant(word: &str) -> Option<&'static str> {
    let exact = TIME.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(name, _)| *name);
    exact.or_else(|| ALIASES.iter().find(|(alias, _)| *alias == word).map(|(_, unit)| *unit))
}

fn no_time_unit(number: impl fmt::Display) -> String {
    format!("`{number}` has no unit; write it with a unit, such as \"{number}ms\" or \"{number}s\"")
}

fn no_rate_unit(number: impl fmt::Display) -> String {
    format!("`{number}` has no unit; write it with a unit, such as \"{number}/s\"")
}

fn no_percent_sign(value: f64) -> String {
    // 0.01 was probably meant as a fraction, and 5 as percent.
    let meant = if value < 1.0 { Percent(value) } else { Percent(value / 100.0) };
    format!("`{value}` has no percent sign; did you mean \"{meant}\"?")
}

fn no_cpu_unit(value: f64) -> String {
    format!("`{value}` has no unit; write \"{value}m\" for thousandths of a CPU, or \"{value}%\"")
}

fn no_size_unit(value: f64) -> String {
    format!("`{value}` has no unit that is known; write \"{value}MiB\"; the units are KiB, MiB and GiB")
}

fn no_bandwidth_unit(value: f64) -> String {
    format!(
        "`{value}` has no unit that is known; write \"{value}Mbit/s\"; the units are kbit/s, Mbit/s and Gbit/s"
    )
}

macro_rules! deserialize {
    ($type:ident, $what:literal, $no_unit:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: Error>(self, value: i64) -> Result<$type, E> {
                        Err(E::custom($no_unit(value as f64)))
                    }
                    fn visit_u64<E: Error>(self, value: u64) -> Result<$type, E> {
                        Err(E::custom($no_unit(value as f64)))
                    }
                    fn visit_f64<E: Error>(self, value: f64) -> Result<$type, E> {
                        Err(E::custom($no_unit(value)))
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    };
}
deserialize!(Span, "a length of time, such as \"250ms\"", no_time_unit);
deserialize!(Delay, "a length of time, such as \"5ms\", or \"+5ms\" in the timeline", no_time_unit);
deserialize!(Rate, "a rate, such as \"400/s\"", no_rate_unit);
deserialize!(Cores, "a share of a CPU, such as \"200m\"", no_cpu_unit);
deserialize!(Size, "a size, such as \"64MiB\"", no_size_unit);
deserialize!(Bandwidth, "a bandwidth, such as \"10Mbit/s\"", no_bandwidth_unit);
deserialize!(Percent, "a share, such as \"1%\"", no_percent_sign);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(text: &str) -> Result<Duration, String> {
        text.parse::<Span>().map(|s| s.0)
    }

    #[test]
    fn bandwidths_are_bits_in_powers_of_a_thousand() {
        let bits = |text: &str| text.parse::<Bandwidth>().map(|b| b.0);
        assert_eq!(bits("64kbit/s"), Ok(64_000));
        assert_eq!(bits("2.5Mbit/s"), Ok(2_500_000));
        assert_eq!(bits("1Gbit/s"), Ok(1_000_000_000));
        assert!(bits("10MB/s").unwrap_err().contains("\"10Mbit/s\""));
        assert!(bits("0kbit/s").unwrap_err().contains("nothing through"));
        assert!(bits("fast").unwrap_err().contains("not a bandwidth"));
    }

    #[test]
    fn durations_are_exact_in_every_unit() {
        for (text, nanos) in [
            ("0s", 0),
            ("7ns", 7),
            ("1.5us", 1_500),
            ("250ms", 250_000_000),
            ("0.1s", 100_000_000),
            ("1.000000001s", 1_000_000_001),
            ("1.5m", 90_000_000_000),
            ("0.25h", 900_000_000_000),
        ] {
            assert_eq!(span(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn a_wrong_duration_says_what_to_write() {
        for (text, part) in [
            ("250", "write it with a unit, such as \"250ms\" or \"250s\""),
            ("10sec", "did you mean \"10s\"?"),
            ("10 ms", "did you mean \"10ms\"?"),
            ("10S", "did you mean \"10s\"?"),
            ("10parsecs", "the units are"),
            ("fast", "is not a length of time"),
            ("", "is not a length of time"),
            ("-5s", "is not a length of time"),
            ("1.2.3s", "is not a number"),
            (".5s", "is not a number"),
            ("0.5ns", "finer than a nanosecond"),
            ("99999999999h", "too long"),
        ] {
            let error = span(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_plus_adds_to_a_delay() {
        assert_eq!("5ms".parse(), Ok(Delay::Set(Duration::from_millis(5))));
        assert_eq!("+5ms".parse(), Ok(Delay::Add(Duration::from_millis(5))));
        assert!("+5".parse::<Delay>().unwrap_err().contains("has no unit"));
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!("400/s".parse(), Ok(Rate(400.0)));
        assert_eq!("90/m".parse(), Ok(Rate(1.5)));
        assert_eq!("36/h".parse(), Ok(Rate(0.01)));
        assert!("400".parse::<Rate>().unwrap_err().contains("\"400/s\""));
        assert!("400/min".parse::<Rate>().unwrap_err().contains("\"400/m\""));
        assert!("400rps".parse::<Rate>().unwrap_err().contains("\"400/s\""));
    }

    #[test]
    fn a_fraction_is_not_mistaken_for_a_percentage() {
        assert_eq!("0.5%".parse(), Ok(Percent(0.005)));
        assert_eq!("100%".parse(), Ok(Percent(1.0)));
        assert!("0.01".parse::<Percent>().unwrap_err().contains("did you mean \"1%\"?"));
        assert!("5".parse::<Percent>().unwrap_err().contains("did you mean \"5%\"?"));
        assert!("101%".parse::<Percent>().unwrap_err().contains("more than everything"));
    }

    #[test]
    fn a_bare_toml_number_gets_the_same_hint_as_a_bare_string() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code, reason = "only its errors are looked at")]
        struct File {
            loss: Option<Percent>,
            delay: Option<Span>,
            rate: Option<Rate>,
        }
        for (text, part) in [
            ("loss = 0.01", "did you mean \"1%\"?"),
            ("loss = 2", "did you mean \"2%\"?"),
            ("delay = 250", "write it with a unit, such as \"250ms\""),
            ("delay = 1.5", "\"1.5s\""),
            ("rate = 400", "\"400/s\""),
            ("delay = true", "a length of time, such as"),
        ] {
            let error = toml::from_str::<File>(text).expect_err(text);
            assert!(error.message().contains(part), "{text}: {}", error.message());
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_duration(nanos in prop_oneof![any::<u32>().prop_map(u64::from), any::<u64>()]) {
            let span = Span(Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn what_is_printed_parses_to_the_same_rate(rate in 0.0f64..1e9) {
            let rate = Rate(rate);
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn what_is_printed_parses_to_the_same_percentage(ten_thousandths in 0u32..=1_000_000) {
            let text = format!("{}.{:04}%", ten_thousandths / 10_000, ten_thousandths % 10_000);
            let share: Percent = text.parse().unwrap();
            prop_assert_eq!(share.to_string().parse(), Ok(share));
            prop_assert!(share.to_string().len() <= text.len());
        }

        #[test]
        fn no_text_makes_a_unit_panic(text in "\\PC{0,12}") {
            let _ = text.parse::<Span>();
            let _ = text.parse::<Rate>();
            let _ = text.parse::<Percent>();
        }
    }
}
