//! Tests of the table that the `Display` of `Stats` writes.

use super::*;

fn stats(rows: &[(&'static str, DeclarationStats)]) -> Stats {
    let row = |(name, counters): &(&'static str, DeclarationStats)| FunctionStatsRow {
        name,
        counters: *counters,
        fetch_durations: DurationHistogram::default(),
    };
    Stats { rows: rows.iter().map(row).collect(), ..Stats::default() }
}

/// Returns the titles of the table's columns.
fn titles(table: &str) -> Vec<&str> {
    let header = table.lines().next().expect("a table has a header");
    header.split("  ").map(str::trim).filter(|title| !title.is_empty()).collect()
}

#[test]
fn the_table_shows_unusual_counters_only_if_counted() {
    let always = ["name", "request", "local", "remote", "waited", "fetched", "failed"];
    let quiet = DeclarationStats { fetches: 3, local_hits: 12, ..DeclarationStats::default() };
    let table = stats(&[("quiet", quiet)]).to_string();
    assert_eq!(titles(&table), always, "{table}");

    let stale = DeclarationStats { stale_answers: 1, bypassed: 2, ..DeclarationStats::default() };
    let refreshed =
        DeclarationStats { refreshes: 4, fills_dropped: 5, ..DeclarationStats::default() };
    let table = stats(&[("quiet", quiet), ("a", stale), ("b", refreshed)]).to_string();
    let more = ["stale", "refreshed", "not stored", "bypassed"];
    assert_eq!(titles(&table), [&always[..], &more].concat(), "{table}");
    let row = table.lines().find(|line| line.starts_with("a ")).expect("the function was called");
    assert!(row.ends_with('2') && row.contains(" 1 "), "{table}");
}

#[test]
fn every_counter_has_a_column() {
    // The text of a derived `Debug` has one field for each counter.
    let fields = format!("{:?}", DeclarationStats::default()).matches(": 0").count();
    assert_eq!(COLUMNS.len(), fields);
    for column in COLUMNS {
        let others = COLUMNS.iter().filter(|other| other.title == column.title).count();
        assert_eq!(others, 1, "{}", column.title);
    }
}

#[test]
fn the_columns_of_a_long_table_are_aligned() {
    let name = |n: usize| -> &'static str { format!("function-{n}").leak() };
    let rows: Vec<_> = (0..100)
        .map(|n| {
            let count = 10_u64.pow(n as u32 % 11);
            let stats = DeclarationStats { local_hits: count, ..DeclarationStats::default() };
            (name(n), DeclarationStats { fills: count, fetches: n as u64 % 2, ..stats })
        })
        .collect();
    let table = stats(&rows).to_string();
    let lines: Vec<&str> = table.lines().collect();
    let [header, rows @ .., total, repeated] = &lines[..] else { panic!("{table}") };
    assert_eq!(header, repeated, "a long table repeats its header at the end");
    assert!(total.starts_with("total ") && rows.len() == 100, "{table}");
    let widths: Vec<usize> = lines.iter().map(|line| line.len()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    assert!(widths[0] < 100, "columns are no wider than their longest cell: {table}");
}
