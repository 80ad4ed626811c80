//! Parses the durations, sizes and numbers in `CACHE_URL`.
//!
//! `#[coordinator_cached]` accepts the same durations, but the macro crate parses them with its own
//! code. The tests of both crates read the same table of accepted and refused durations.

use std::time::Duration;

use crate::error::{ConfigError, ConfigErrorKind};

/// Each unit of a duration, with its length in milliseconds. A duration must list its units in this
/// order, and must not repeat one.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 4] =
    [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads a duration such as `50ms`, `30m` or `1h30m`.
pub(super) fn parse_duration(setting: &str, text: &str) -> Result<Duration, ConfigError> {
    parse_milliseconds(text).map(Duration::from_millis).map_err(|reason| {
        let wrong = format!(
            "`{setting}={text}` is not a duration: {reason}; write for example `50ms`, `5s` or `1h30m`"
        );
        ConfigError::new(ConfigErrorKind::Value, wrong)
    })
}

fn parse_milliseconds(text: &str) -> Result<u64, String> {
    let mut total: u64 = 0;
    let mut rest = text;
    let mut units = &DURATION_UNITS[..];
    while !rest.is_empty() {
        let (digits, after) = split_at_first(rest, |c| !c.is_ascii_digit());
        let (unit, after) = split_at_first(after, |c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err("it must begin with a number".into());
        }
        if unit.is_empty() {
            return Err(format!("`{digits}` has no unit"));
        }
        let Some(index) = units.iter().position(|(name, _)| *name == unit) else {
            let is_known = DURATION_UNITS.iter().any(|(name, _)| *name == unit);
            return Err(match is_known {
                true => "each unit is written once, the longest first".into(),
                false => format!("`{unit}` is not a unit; the units are d, h, m, s and ms"),
            });
        };
        let part = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(units[index].1));
        let sum = part.and_then(|part| total.checked_add(part));
        total = sum.ok_or("it is too long")?;
        units = &units[index + 1..];
        rest = after;
    }
    if text.is_empty() { Err("it is empty".into()) } else { Ok(total) }
}

/// Reads a size in bytes such as `67108864`, `512KiB`, `64MiB` or `1GiB`.
pub(super) fn parse_size(setting: &str, text: &str) -> Result<u64, ConfigError> {
    let (digits, unit) = split_at_first(text, |c| !c.is_ascii_digit());
    let unit = SIZE_UNITS.iter().find(|(name, _)| *name == unit);
    let count = digits.parse::<u64>().ok();
    let bytes = count.zip(unit).and_then(|(count, (_, bytes))| count.checked_mul(*bytes));
    bytes.ok_or_else(|| {
        let wrong = format!(
            "`{setting}={text}` is not a size; write bytes, or a number with the unit KiB, MiB or GiB, for example `64MiB`"
        );
        ConfigError::new(ConfigErrorKind::Value, wrong)
    })
}

/// Reads a number such as `0.1`.
pub(super) fn parse_number(setting: &str, text: &str) -> Result<f64, ConfigError> {
    text.parse().map_err(|_| {
        let wrong = format!("`{setting}={text}` is not a number; write for example `0.1`");
        ConfigError::new(ConfigErrorKind::Value, wrong)
    })
}

fn split_at_first(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_agree_with_the_shared_table() {
        let table = include_str!("../../../cached-macros/tests-data/durations.txt");
        let cases = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for case in cases {
            let [verb, text, millis] = case.split('"').collect::<Vec<_>>()[..] else {
                panic!("unreadable: {case}");
            };
            let expected = match verb.trim() {
                "accept" => Some(Duration::from_millis(
                    millis.trim().parse().expect("the text is a number"),
                )),
                _ => None,
            };
            assert_eq!(parse_duration("ttl", text).ok(), expected, "the table says: {case}");
        }
    }

    #[test]
    fn a_refused_duration_is_explained() {
        for (text, reason) in [
            ("", "it is empty"),
            ("s", "must begin with a number"),
            ("1h30", "`30` has no unit"),
            ("30m1h", "the longest first"),
            ("1h1h", "each unit is written once"),
            ("1.5h", "`.` is not a unit"),
            ("99999999999999999999s", "it is too long"),
        ] {
            let error = parse_duration("ttl", text).expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains("`1h30m`"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_parsed_or_refused() {
        for (text, bytes) in [("0", 0), ("1000", 1000), ("512KiB", 512 << 10), ("1GiB", 1 << 30)] {
            assert_eq!(parse_size("local_capacity", text), Ok(bytes), "`{text}` is a size");
        }
        for text in ["", "MiB", "64MB", "64 MiB", "-1", "1.5GiB", "99999999999GiB"] {
            let error = parse_size("local_capacity", text).expect_err(text).to_string();
            assert!(error.contains("`64MiB`"), "{text}: {error}");
        }
    }
}
