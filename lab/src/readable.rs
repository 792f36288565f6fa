//! Durations in JSON as the scenario file writes them: `"250ms"`, in the longest unit that needs no
//! fraction.
//!
//! For `#[serde(with = "crate::readable")]`. Exact to the nanosecond in both directions.

use std::time::{Duration, SystemTime};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// Units and their nanoseconds; "s" last, because every unit ends in it. No minutes: seconds
/// compare more easily.
const UNITS: [(&str, u128); 4] = [("ms", 1_000_000), ("us", 1_000), ("ns", 1), ("s", 1_000_000_000)];

/// `250ms`
pub fn text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fits = |(_, scale): &&(&str, u128)| nanos.is_multiple_of(*scale);
    let (unit, scale) = UNITS.iter().filter(fits).max_by_key(|(_, scale)| *scale).expect("1 ns divides all");
    format!("{}{unit}", nanos / scale)
}

/// `1 load`, `2 loads`
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Whether a value goes without saying. For `skip_serializing_if`.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A time of day: `2026-01-01T00:00:00.000004Z`.
pub fn utc(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let us = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

/// Year, month and day of a day since 1970. Howard Hinnant's `civil_from_days`: years begin with
/// March, so that the day that leap years have is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (month, day) = (if month < 10 { month + 3 } else { month - 9 }, of_year - (153 * month + 2) / 5 + 1);
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Writes it as [`text`] does.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*duration))
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
/// If it is anything else.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a duration")))
}

/// Reads what [`text`] wrote.
pub fn parse(text: &str) -> Option<Duration> {
    let (number, scale) = UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))?;
    let nanos = u128::from(number.parse::<u64>().ok()?) * scale;
    Some(Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32))
}

/// The same for a duration that may be missing.
pub mod option {
    use std::time::Duration;

    use serde::Serializer;

    /// Writes `null` for none.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, Deserialize)]
    struct Timed(#[serde(with = "super")] Duration);

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000000Z"),
            (1_772_323_200, "2026-03-01T00:00:00.000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn one_is_one_and_all_others_are_many() {
        assert_eq!([0, 1, 2].map(|n| count(n, "load")), ["0 loads", "1 load", "2 loads"]);
    }

    proptest! {
        #[test]
        fn a_duration_comes_back_from_its_text(secs in 0_u64..1 << 33, nanos in 0_u32..1_000_000_000) {
            // Longer ones, of centuries, would need more than 64 bits of nanoseconds.
            let duration = Duration::new(secs, nanos);
            let json = serde_json::to_string(&Timed(duration)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Timed>(&json).unwrap(), Timed(duration));
        }
    }

    #[test]
    fn a_duration_is_written_as_people_write_it() {
        for (duration, words) in [
            (Duration::ZERO, "0s"),
            (Duration::from_secs(90), "90s"),
            (Duration::from_millis(1_500), "1500ms"),
            (Duration::from_micros(250), "250us"),
            (Duration::from_nanos(1), "1ns"),
        ] {
            assert_eq!(text(duration), words);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for json in ["\"\"", "\"5\"", "\"s\"", "\"-1s\"", "\"1.5s\"", "5"] {
            assert!(serde_json::from_str::<Timed>(json).is_err(), "{json}");
        }
    }
}
