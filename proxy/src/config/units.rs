//! Values with units. They are text in the file, so that it can be read aloud and `30` is never
//! seconds to one reader and milliseconds to another.
//!
//! Pure functions from text to value; an error says what to write instead, and the caller knows
//! where it stands.

use std::time::Duration;

/// Units of time and how many nanoseconds each has; the longer suffix stands before the one it ends
/// with.
const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9), ("d", 86_400e9)];

/// How times of a kind are written.
struct Times {
    units: &'static [(&'static str, f64)],
    units_in_words: &'static str,
    /// Some of them, in full.
    usual: [(&'static str, &'static str); 2],
    examples: &'static str,
    longest: Duration,
    longest_in_words: &'static str,
}

/// Times that something takes. No limit of a sidecar is longer than seven days: a larger figure is
/// a slip of the unit.
const DURATIONS: Times = Times {
    units: UNITS.split_at(6).0,
    units_in_words: "ns, us, ms, s, m (minutes) and h",
    usual: [("ms", "milliseconds"), ("s", "seconds")],
    examples: r#""250ms", "1.5s" or "2m""#,
    longest: Duration::from_secs(7 * 24 * 3600),
    longest_in_words: "seven days, 168h",
};

/// Times that certificates and tokens are valid.
const LIFETIMES: Times = Times {
    units: UNITS.split_at(3).1,
    units_in_words: "s, m (minutes), h and d (days)",
    usual: [("h", "hours"), ("d", "days")],
    examples: r#""30m", "24h" or "7d""#,
    longest: Duration::from_secs(36_500 * 24 * 3600),
    longest_in_words: "a hundred years, 36500d",
};

/// A length of time such as `"250ms"`, `"1.5s"`, `"2m"` or `"1h"`, up to seven days.
///
/// # Errors
/// A hint at what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    time(text, &DURATIONS)
}

/// How long something is valid, such as `"24h"` or `"30d"`, up to a hundred years.
///
/// # Errors
/// A hint at what to write instead.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    time(text, &LIFETIMES)
}

fn time(text: &str, times: &Times) -> Result<Duration, String> {
    let number_ends = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..number_ends], text[number_ends..].trim());
    if number.is_empty() {
        return Err(format!("write a number and a unit, such as {}", times.examples));
    }
    let Ok(value) = number.parse::<f64>() else {
        return Err(format!(r#"{number} is not a number; write it like "1.5s""#));
    };
    if unit.is_empty() {
        let [(short, shorter), (long, longer)] = times.usual;
        return Err(format!(
            r#"add the unit: "{number}{short}" for {shorter}, "{number}{long}" for {longer}"#
        ));
    }
    let Some((_, nanos)) = times.units.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "sec" | "secs" | "second" | "seconds" => format!(r#"write "{number}s""#),
            "min" | "mins" | "minute" | "minutes" => format!(r#"write "{number}m""#),
            "msec" | "millis" | "milliseconds" => format!(r#"write "{number}ms""#),
            _ => format!("the units are {}", times.units_in_words),
        });
    };
    let nanos = (value * nanos).round();
    if nanos > times.longest.as_nanos() as f64 {
        return Err(format!("the longest time is {}", times.longest_in_words));
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// A size of memory such as `"256MiB"` or `"1.5GiB"`, at least one MiB.
///
/// # Errors
/// A hint at what to write instead.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes < 1024 * 1024 {
        return Err("a sidecar cannot live in less than 1MiB".into());
    }
    Ok(bytes)
}

/// A size such as `"64KiB"` or `"1MiB"`; `"0KiB"` is none.
///
/// # Errors
/// A hint at what to write instead.
pub fn size(text: &str) -> Result<u64, String> {
    let number_ends = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..number_ends], text[number_ends..].trim());
    let Ok(value) = number.parse::<f64>() else {
        return Err(r#"write a number and a unit, such as "256MiB""#.into());
    };
    let factor = match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "" => return Err(format!(r#"add the unit: "{number}MiB""#)),
        _ => return Err(format!(r#"the units are KiB, MiB and GiB: "{number}MiB""#)),
    };
    Ok((value * factor) as u64)
}

/// A share from `"0%"` to `"100%"`; `"50%"` is 0.5.
///
/// # Errors
/// A hint at what to write instead.
pub fn percent(text: &str) -> Result<f64, String> {
    let Some(number) = text.trim().strip_suffix('%') else {
        return Err(r#"a share is a percentage, such as "50%""#.into());
    };
    match number.trim().parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value / 100.0),
        Ok(_) => Err("a share is between 0% and 100%".into()),
        Err(_) => Err(r#"a share is a percentage, such as "50%""#.into()),
    }
}

/// How [`duration`] would write `value`, with the largest unit that leaves no more than three
/// decimals.
pub fn show(value: Duration) -> String {
    let nanos = value.as_nanos() as f64;
    for (unit, size) in DURATIONS.units.iter().rev() {
        let scaled = nanos / size;
        if scaled >= 1.0
            && (scaled * 1000.0).fract() == 0.0
            && (*unit != "h" && *unit != "m" || scaled.fract() == 0.0)
        {
            return format!("{scaled}{unit}");
        }
    }
    if value.is_zero() { "0s".into() } else { format!("{nanos}ns") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("250ms", 250), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0), ("5 s", 5000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("7us"), Ok(Duration::from_micros(7)));
        assert_eq!(duration("3ns"), Ok(Duration::from_nanos(3)));
    }

    #[test]
    fn a_duration_that_is_not_one_comes_with_a_hint() {
        for (text, hint) in [
            ("250", r#"add the unit: "250ms" for milliseconds, "250s" for seconds"#),
            ("", r#"write a number and a unit, such as "250ms", "1.5s" or "2m""#),
            ("-1s", r#"write a number and a unit, such as "250ms", "1.5s" or "2m""#),
            ("1.2.3s", r#"1.2.3 is not a number; write it like "1.5s""#),
            ("10 minutes", r#"write "10m""#),
            ("10d", "the units are ns, us, ms, s, m (minutes) and h"),
            ("99999999999999999999999h", "the longest time is seven days, 168h"),
        ] {
            assert_eq!(duration(text), Err(hint.to_owned()), "{text}");
        }
    }

    #[test]
    fn percentages_are_shares() {
        assert_eq!(percent("50%"), Ok(0.5));
        assert_eq!(percent("0%"), Ok(0.0));
        assert_eq!(percent("100 %"), Ok(1.0));
        for text in ["50", "101%", "-1%", "NaN%", "%", "half"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_duration() {
        for (text, shown) in
            [("1500ms", "1.5s"), ("60s", "1m"), ("90s", "90s"), ("0s", "0s"), ("36h", "36h"), ("1us", "1us")]
        {
            let value = duration(text).unwrap();
            assert_eq!(show(value), shown);
            assert_eq!(duration(&show(value)), Ok(value));
        }
    }

    #[test]
    fn a_lifetime_has_days_and_a_duration_has_not() {
        let day = Duration::from_secs(24 * 3600);
        for (text, days) in [("1d", 1), ("24h", 1), ("192h", 8), ("36500d", 36_500)] {
            assert_eq!(lifetime(text), Ok(day * days), "{text}");
        }
        assert_eq!(lifetime("36501d"), Err("the longest time is a hundred years, 36500d".into()));
        assert_eq!(lifetime("1w"), Err("the units are s, m (minutes), h and d (days)".into()));
        assert_eq!(lifetime("1500ms"), Err("the units are s, m (minutes), h and d (days)".into()));
        assert_eq!(lifetime("7"), Err(r#"add the unit: "7h" for hours, "7d" for days"#.into()));
        assert_eq!(lifetime(""), Err(r#"write a number and a unit, such as "30m", "24h" or "7d""#.into()));
        assert!(duration("1d").unwrap_err().ends_with("m (minutes) and h"));
    }
}
