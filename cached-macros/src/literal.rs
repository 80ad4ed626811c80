//! What the texts of the attribute may say: a cache name, a lifetime, a reason to overwrite.
//!
//! Each rule answers with one line that says what is wrong and what to write.

/// Longest cache name, in bytes: with a namespace and a digest it must fit memcached's 250.
const LONGEST_NAME: usize = 48;

/// Checks a cache name: `[a-z0-9][a-z0-9._-]{0,47}`.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a cache name cannot be empty; write one such as `name = \"payment\"`".into());
    }
    if name.len() > LONGEST_NAME {
        return Err(format!(
            "a cache name has at most {LONGEST_NAME} characters, this one has {}; shorten it",
            name.chars().count()
        ));
    }
    let well_formed = name.bytes().enumerate().all(|(place, byte)| match byte {
        b'a'..=b'z' | b'0'..=b'9' => true,
        b'.' | b'_' | b'-' => place > 0,
        _ => false,
    });
    if well_formed {
        return Ok(());
    }
    let rule = "a cache name is made of `a-z`, `0-9`, `.`, `_` and `-`, and begins with a \
        letter or a digit";
    match similar_name(name) {
        Some(similar) => Err(format!("{rule}; write `name = \"{similar}\"`")),
        None => Err(format!("{rule}; write one such as `name = \"payment\"`")),
    }
}

/// The well-formed name nearest to what was written, as an example to copy.
fn similar_name(name: &str) -> Option<String> {
    let mut similar = String::new();
    for letter in name.chars() {
        match letter {
            'a'..='z' | '0'..='9' => similar.push(letter),
            'A'..='Z' => similar.push(letter.to_ascii_lowercase()),
            '.' | '_' | '-' if !similar.is_empty() => similar.push(letter),
            _ if !similar.is_empty() && !similar.ends_with(['.', '_', '-']) => similar.push('-'),
            _ => {}
        }
    }
    let similar = similar.trim_end_matches(['.', '_', '-']);
    (!similar.is_empty()).then(|| similar.to_owned())
}

/// The units of a lifetime, longest first: the order in which they must be written.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const TTL_EXAMPLE: &str = "write one such as `\"90s\"`, `\"1h30m\"` or `\"500ms\"`";

/// The milliseconds of a lifetime such as `1h30m`.
pub(crate) fn milliseconds(ttl: &str) -> Result<u64, String> {
    if ttl.trim().is_empty() {
        return Err(format!("a lifetime cannot be empty; {TTL_EXAMPLE}"));
    }
    let mut rest = ttl;
    let mut total: u64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |letter| !letter.is_ascii_digit());
        let (unit, after) = split_where(after, |letter| letter.is_ascii_digit());
        if number.is_empty() {
            return Err(format!("`{ttl}` is no lifetime; {TTL_EXAMPLE}"));
        }
        if unit.is_empty() {
            return Err(format!(
                "`{number}` has no unit; write `{number}s`, `{number}m` or `{number}h`"
            ));
        }
        let place = UNITS
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or_else(|| unknown_unit(ttl, number, unit))?;
        if place < next_unit {
            return Err(format!(
                "the units of `{ttl}` are out of order; \
                    write each once, the longest first, as in `\"1h30m\"`"
            ));
        }
        next_unit = place + 1;
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(UNITS[place].1))
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("`{ttl}` is too long a lifetime; {TTL_EXAMPLE}"))?;
        rest = after;
    }
    if total == 0 {
        return Err(
            "a lifetime of zero would cache nothing; write a longer one, or remove the attribute"
                .into(),
        );
    }
    Ok(total)
}

fn split_where(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

fn unknown_unit(ttl: &str, number: &str, unit: &str) -> String {
    let meant = match unit.trim().to_ascii_lowercase().as_str() {
        "sec" | "secs" | "second" | "seconds" | "s" => "s",
        "min" | "mins" | "minute" | "minutes" | "m" => "m",
        "hr" | "hrs" | "hour" | "hours" | "h" => "h",
        "day" | "days" | "d" => "d",
        "msec" | "msecs" | "millis" | "milliseconds" | "ms" => "ms",
        _ if unit.starts_with(['.', ',']) => {
            return format!("`{ttl}` has a fraction; write whole units, as in `\"1h30m\"`");
        }
        _ => return format!("`{ttl}` is no lifetime: there is no unit `{unit}`; {TTL_EXAMPLE}"),
    };
    format!("there is no unit `{unit}`; write `{number}{meant}`")
}

/// Marks of a reason that somebody meant to write later.
const PLACEHOLDERS: &[&str] = &[
    "todo",
    "tbd",
    "tba",
    "fixme",
    "fix-me",
    "xxx",
    "lorem",
    "ipsum",
    "dolor",
    "asdf",
    "qwer",
    "qwerty",
    "zxcv",
    "foo",
    "bar",
    "baz",
    "placeholder",
    "blah",
    "bla",
    "test",
    "dummy",
];

/// Words that carry no reason of their own.
const FILLERS: &[&str] = &[
    "a",
    "an",
    "the",
    "this",
    "that",
    "it",
    "its",
    "is",
    "are",
    "be",
    "was",
    "i",
    "we",
    "you",
    "to",
    "of",
    "for",
    "in",
    "on",
    "and",
    "or",
    "so",
    "just",
    "because",
    "cause",
    "since",
    "as",
    "said",
    "need",
    "needs",
    "needed",
    "necessary",
    "required",
    "requires",
    "must",
    "have",
    "has",
    "want",
    "wanted",
    "do",
    "does",
    "not",
    "no",
    "yes",
    "some",
    "any",
    "good",
    "reason",
    "reasons",
    "overwrite",
    "overwrites",
    "overwriting",
    "cache",
    "cached",
    "caching",
    "entry",
    "entries",
    "here",
    "explain",
    "later",
    "why",
    "some",
    "thing",
    "something",
    "stuff",
    "please",
];

/// Checks a reason to overwrite: a sentence of at least three words that says something.
pub(crate) fn check_reason(reason: &str) -> Result<(), String> {
    const WRITE: &str = "write a sentence that says why entries must be replaced";
    let words = words(reason);
    if words.is_empty() {
        let wrong = if reason.trim().is_empty() { "is empty" } else { "says nothing" };
        return Err(format!("the reason {wrong}; {WRITE}"));
    }
    let begins_as_placeholder = PLACEHOLDERS.contains(&words[0].as_str()) && words[0] != "test";
    let shouts = ["TODO", "FIXME", "TBD", "XXX"]
        .iter()
        .any(|mark| reason.split(|c: char| !c.is_alphanumeric()).any(|word| word == *mark));
    let says_something = words.iter().any(|word| {
        let filler = FILLERS.contains(&word.as_str()) || PLACEHOLDERS.contains(&word.as_str());
        !filler && (word.chars().count() >= 3 || !word.is_ascii())
    });
    if begins_as_placeholder || shouts {
        return Err(format!("the reason is a placeholder; {WRITE}"));
    }
    if words.len() < 3 {
        return Err(format!("the reason is shorter than three words; {WRITE}"));
    }
    let mut different = words.clone();
    different.sort_unstable();
    different.dedup();
    if different.len() < 3 || !says_something {
        return Err(format!("the reason says nothing; {WRITE}"));
    }
    Ok(())
}

/// The words of a sentence, in lower case and without punctuation. A character of a script that
/// puts no spaces between its words counts as one.
fn words(sentence: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in sentence.split_whitespace() {
        let mut plain = String::new();
        for letter in word.chars() {
            if letter >= '\u{2E80}' && letter.is_alphanumeric() {
                words.push(letter.to_string());
            } else if letter.is_alphanumeric() || (letter == '-' && !plain.is_empty()) {
                plain.extend(letter.to_lowercase());
            }
        }
        if !plain.is_empty() {
            words.push(plain);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["payment", "a", "0", "user-profile.v2", "a_b", &"x".repeat(48)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "Payment", "-a", ".a", "a b", "a/b", "zahlung-ü", &"x".repeat(49)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(similar_name("Payment Data!").as_deref(), Some("payment-data"));
        assert_eq!(similar_name("!!").as_deref(), None);
    }

    #[test]
    fn lifetimes() {
        assert_eq!(milliseconds("90s"), Ok(90_000));
        assert_eq!(milliseconds("1h30m"), Ok(5_400_000));
        assert_eq!(milliseconds("500ms"), Ok(500));
        assert_eq!(milliseconds("2d"), Ok(172_800_000));
        assert_eq!(milliseconds("1m1ms"), Ok(60_001));
        for bad in [
            "",
            " ",
            "0s",
            "0h0m",
            "30",
            "s",
            "30m1h",
            "1h1h",
            "30 m",
            "1.5h",
            "-1s",
            "1h30",
            "99999999999999999999s",
            "999999999999999999d",
            "30x",
            "m30",
        ] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
        assert_eq!(milliseconds("30min"), Err("there is no unit `min`; write `30m`".into()));
    }

    #[test]
    fn reasons() {
        for good in [
            "the broker is told of every change and rewrites the entry",
            "prices change without a version",
            "upstream has no version",
            "the todo list of a user is edited in place",
            "支付状态没有版本号",
        ] {
            assert_eq!(check_reason(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "   ",
            "...",
            "!!! ??? ---",
            "because",
            "two words",
            "x x x",
            "a b c",
            "TODO",
            "todo: write a reason here",
            "we overwrite TODO explain",
            "tbd tbd tbd",
            "lorem ipsum dolor sit",
            "asdf asdf asdf",
            "foo bar baz",
            "because we need to",
            "it is necessary",
            "blah blah blah blah",
            "stale stale stale",
            "because reasons, please",
        ] {
            assert!(check_reason(bad).is_err(), "{bad}");
        }
    }
}
