//! Parses a duration such as `"1h30m"`.
//!
//! The crate `cached_core` parses the durations in the environment variable `CACHE_URL` by the same
//! grammar. Tests of both crates read `tests-data/durations.txt`, which lists literals to accept
//! and to refuse.

/// Each unit, with its length in milliseconds. A duration must use its units in this order, and
/// each unit at most once.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const EXAMPLES: &str = "write for example `\"90s\"`, `\"1h30m\"` or `\"500ms\"`";

/// Returns the duration in milliseconds, or an error message of one line.
pub(crate) fn parse_duration(text: &str) -> Result<u64, String> {
    if text.trim().is_empty() {
        return Err(format!("a duration cannot be empty; {EXAMPLES}"));
    }
    let error = |what: String| Err(format!("`{text}` is not a duration: {what}"));
    let mut total: u64 = 0;
    let mut units_left = &UNITS[..];
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |letter| !letter.is_ascii_digit());
        let (unit, after) = split_where(after, |letter| letter.is_ascii_digit());
        if number.is_empty() {
            return error(format!("a number is missing; {EXAMPLES}"));
        }
        if unit.is_empty() {
            return error(format!("`{number}` has no unit; {EXAMPLES}"));
        }
        if unit.starts_with(['.', ',']) {
            return error("it has a fraction; write whole units, for example `\"1h30m\"`".into());
        }
        let Some(&(_, milliseconds)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return error(unknown_unit(number, unit));
        };
        let Some(position) = units_left.iter().position(|(name, _)| *name == unit) else {
            return error(
                "its units are out of order; write each once, the longest first, \
                    for example `\"1h30m\"`"
                    .into(),
            );
        };
        units_left = &units_left[position + 1..];
        let sum = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(milliseconds))
            .and_then(|part| total.checked_add(part));
        let Some(sum) = sum else { return error(format!("it is too long; {EXAMPLES}")) };
        total = sum;
        rest = after;
    }
    Ok(total)
}

/// Splits the text before the first character for which `is_end` returns true. Without such a
/// character the second part is empty.
fn split_where(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

/// Returns the message for a unit that the grammar lacks. For a synonym such as `min`, the message
/// says what to write.
fn unknown_unit(number: &str, unit: &str) -> String {
    let known = match unit.trim().to_ascii_lowercase().as_str() {
        "d" | "day" | "days" => Some("d"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "ms" | "msec" | "msecs" | "millis" | "milliseconds" => Some("ms"),
        _ => None,
    };
    match known {
        Some(known) => format!("unknown unit `{unit}`; write `\"{number}{known}\"`"),
        None => format!("unknown unit `{unit}`; the units are `d`, `h`, `m`, `s` and `ms`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_agree_with_the_shared_table() {
        let table = include_str!("../tests-data/durations.txt");
        let mut cases = 0;
        for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let fields: Vec<&str> = line.split('"').collect();
            let [verb, literal, milliseconds] = fields[..] else { panic!("unreadable: {line}") };
            let expected = match verb {
                "accept " => Some(milliseconds.trim().parse().expect("the text is a number")),
                "refuse " => None,
                _ => panic!("unreadable: {line}"),
            };
            assert_eq!(parse_duration(literal).ok(), expected, "{line}");
            cases += 1;
        }
        assert!(cases > 30, "the table has more than 30 cases: {cases}");
    }

    #[test]
    fn errors_say_what_to_write() {
        for (literal, error) in [
            ("30min", "`30min` is not a duration: unknown unit `min`; write `\"30m\"`"),
            (
                "2w",
                "`2w` is not a duration: unknown unit `w`; the units are `d`, `h`, `m`, `s` and `ms`",
            ),
            ("30 m", "`30 m` is not a duration: unknown unit ` m`; write `\"30m\"`"),
        ] {
            assert_eq!(parse_duration(literal), Err(error.to_owned()));
        }
    }
}
