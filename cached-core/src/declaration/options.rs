//! Writes the options of a declaration as text, for the ledger.
//!
//! A *declaration* is an annotated function with its options. The *ledger* is a table of all
//! declarations in a program.

use std::fmt::Write;
use std::time::Duration;

use super::Declaration;

impl Declaration {
    /// Returns the ttl as the ledger shows it: a duration, `computed` if an expression computes the
    /// ttl, or `default` if the cache's `default_ttl` applies.
    pub(super) fn ttl_text(&self) -> String {
        match self.ttl {
            Some(ttl) => duration_text(ttl),
            None if self.computes_ttl() => "computed".to_owned(),
            None => "default".to_owned(),
        }
    }

    fn computes_ttl(&self) -> bool {
        self.computed_options.split(", ").any(|option| matches!(option, "ttl" | "ttl_with"))
    }

    /// Returns the tiers that the function uses, except the request tier.
    pub(super) fn tiers_text(&self) -> &'static str {
        match (self.uses_local, self.uses_remote) {
            (true, true) => "local, remote",
            (true, false) => "local",
            (false, true) => "remote",
            (false, false) => "none",
        }
    }

    /// Returns the options other than those that the ledger shows in its columns for the ttl and
    /// the tiers. An option with a duration is shown as `name = duration`. An option with an
    /// expression is shown by its name alone.
    pub(super) fn options_text(&self) -> String {
        let nonzero = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let durations = [
            ("local_ttl", self.local_ttl),
            ("none_ttl", self.none_ttl),
            ("stale_if_error", nonzero(self.stale_if_error)),
            ("refresh_ahead", nonzero(self.refresh_ahead)),
            ("error_ttl", nonzero(self.error_ttl)),
        ];
        let durations = durations.into_iter().filter_map(|(option, duration)| {
            Some(format!("{option} = {}", duration_text(duration?)))
        });
        // A computed `ttl` is left out, because `ttl_text` shows it as `computed`.
        let computed = self.computed_options.split(", ");
        let computed = computed.filter(|option| !option.is_empty() && *option != "ttl");
        let options: Vec<String> = durations.chain(computed.map(str::to_owned)).collect();
        options.join(", ")
    }
}

/// Returns the duration in the form that the attribute accepts, such as `1h30m`.
pub(super) fn duration_text(duration: Duration) -> String {
    let (mut left, mut text) = (duration.as_millis(), String::new());
    for (unit, millis) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if left >= millis {
            // Writing to a `String` does not fail.
            let _ = write!(text, "{}{unit}", left / millis);
            left %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_in_the_attribute() {
        let written = |seconds| duration_text(Duration::from_secs(seconds));
        assert_eq!([5, 90, 1800, 5400].map(written), ["5s", "1m30s", "30m", "1h30m"]);
        assert_eq!(written(86_400 + 1), "1d1s");
        assert_eq!(duration_text(Duration::from_millis(1_250)), "1s250ms");
        assert_eq!(duration_text(Duration::ZERO), "0s");
    }

    #[test]
    fn the_ledger_shows_ttl_tiers_and_options() {
        let new = || Declaration::new("shown", "app::shown", "src/app.rs", 7, 1, || "");
        let plain = new();
        assert_eq!((plain.ttl_text().as_str(), plain.tiers_text()), ("default", "local, remote"));
        assert_eq!(plain.options_text(), "");

        let minute = Duration::from_secs(60);
        let rich = new().ttl(30 * minute).stale_if_error(60 * minute).refresh_ahead(2 * minute);
        let rich = rich.local_ttl(Duration::from_secs(5)).tiers(true, false);
        let rich = rich.error_ttl(Duration::from_secs(1));
        let rich = rich.computes("cache_if, weight");
        assert_eq!((rich.ttl_text().as_str(), rich.tiers_text()), ("30m", "local"));
        assert_eq!(
            rich.options_text(),
            "local_ttl = 5s, stale_if_error = 1h, refresh_ahead = 2m, error_ttl = 1s, cache_if, weight"
        );

        for (options, shown) in
            [("ttl", ""), ("ttl_with", "ttl_with"), ("cache_if, ttl", "cache_if")]
        {
            let computed = new().computes(options);
            assert_eq!(
                (computed.ttl_text().as_str(), computed.options_text().as_str()),
                ("computed", shown)
            );
        }
    }
}
