//! Checks two string literals of the attribute: the cache name and the reason to overwrite entries.
//!
//! Each error is one line that says what is wrong and what to write.

/// The longest cache name, in characters. The name is part of a memcached key, together with a
/// namespace and a digest, and the whole key has at most 250 bytes.
const NAME_MAX_LEN: usize = 48;

/// Checks a cache name: `[a-z0-9][a-z0-9._-]{0,47}`.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(
            "a cache name cannot be empty; write for example `name = \"payment\"`".to_owned()
        );
    }
    let length = name.chars().count();
    if length > NAME_MAX_LEN {
        return Err(format!(
            "a cache name has at most {NAME_MAX_LEN} characters, and this one has {length}; \
                shorten it"
        ));
    }
    let is_valid = name.bytes().enumerate().all(|(index, byte)| match byte {
        b'a'..=b'z' | b'0'..=b'9' => true,
        b'.' | b'_' | b'-' => index > 0,
        _ => false,
    });
    if is_valid {
        return Ok(());
    }
    let suggestion = valid_name_like(name).unwrap_or_else(|| "payment".to_owned());
    Err(format!(
        "a cache name consists of `a-z`, `0-9`, `.`, `_` and `-`, and starts with a letter or \
            a digit; write for example `name = \"{suggestion}\"`"
    ))
}

/// Turns an invalid name into a valid one, which the error message suggests. Returns `None` if no
/// character can stay.
fn valid_name_like(name: &str) -> Option<String> {
    let mut valid = String::new();
    for letter in name.chars() {
        match letter {
            'a'..='z' | '0'..='9' => valid.push(letter),
            'A'..='Z' => valid.push(letter.to_ascii_lowercase()),
            '.' | '_' | '-' if !valid.is_empty() => valid.push(letter),
            _ if !valid.is_empty() && !valid.ends_with(['.', '_', '-']) => valid.push('-'),
            _ => {}
        }
    }
    let valid = valid.trim_end_matches(['.', '_', '-']);
    (!valid.is_empty()).then(|| valid.to_owned())
}

/// If a reason begins with one of these words, it is a placeholder.
const PLACEHOLDERS: [&str; 9] =
    ["todo", "fixme", "tbd", "xxx", "placeholder", "reason", "foo", "asdf", "lorem"];

/// Checks a reason to overwrite: at least three different words, and not a placeholder.
pub(crate) fn check_reason(reason: &str) -> Result<(), String> {
    const INSTEAD: &str = "write a sentence that says why entries must be replaced";
    let mut words = words(reason);
    let Some(first) = words.first() else {
        return Err(format!("the reason has no words; {INSTEAD}"));
    };
    if PLACEHOLDERS.contains(&first.as_str()) {
        return Err(format!("the reason is a placeholder; {INSTEAD}"));
    }
    words.sort_unstable();
    words.dedup();
    if words.len() < 3 {
        return Err(format!("the reason has fewer than three different words; {INSTEAD}"));
    }
    Ok(())
}

/// Returns the words of a sentence in lower case, without punctuation. Each character of an East
/// Asian script counts as a word, because scripts such as Chinese put no spaces between words.
fn words(sentence: &str) -> Vec<String> {
    /// In Unicode, nearly all letters of East Asian scripts are at or after this code point.
    const FIRST_EAST_ASIAN: char = '\u{2E80}';
    let mut words = Vec::new();
    for spaced in sentence.split_whitespace() {
        let mut word = String::new();
        for letter in spaced.chars().filter(|letter| letter.is_alphanumeric()) {
            if letter >= FIRST_EAST_ASIAN {
                words.push(letter.to_string());
            } else {
                word.extend(letter.to_lowercase());
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_have_allowed_characters_only() {
        for good in ["payment", "a", "0", "user-profile.v2", "a_b", &"x".repeat(48)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "Payment", "-a", ".a", "a b", "a/b", "zahlung-ü", &"x".repeat(49)] {
            assert!(check_name(bad).is_err(), "`{bad}` is refused");
        }
        // This name has 30 characters in 60 bytes, and its length is counted in characters.
        let umlauts = check_name(&"ü".repeat(30)).expect_err("`ü` is not allowed");
        assert!(umlauts.starts_with("a cache name consists of"), "{umlauts}");
        let long = check_name(&"ü".repeat(49)).expect_err("49 characters are too many");
        assert!(long.contains("and this one has 49"), "{long}");
        assert_eq!(valid_name_like("Payment Data!").as_deref(), Some("payment-data"));
        assert_eq!(valid_name_like("!!").as_deref(), None);
    }

    #[test]
    fn reasons_have_three_different_words() {
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
            "TODO",
            "todo: write a reason here",
            "FIXME say why this is needed",
            "tbd tbd tbd",
            "lorem ipsum dolor sit",
            "asdf asdf asdf",
            "foo bar baz",
            "reason goes here later",
            "blah blah blah blah",
            "stale stale stale",
        ] {
            assert!(check_reason(bad).is_err(), "`{bad}` is refused");
        }
    }
}
