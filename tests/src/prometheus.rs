//! Reads the text that a Prometheus exporter prints.

use std::collections::BTreeMap;

/// One line of the text: a metric with its labels and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name of the metric.
    pub name: String,
    /// The labels by name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// The samples of one scrape.
#[derive(Debug, Clone)]
pub struct Scrape(Vec<Sample>);

impl Scrape {
    /// Reads the text of an exporter. Label values must contain neither `"` nor `,`.
    ///
    /// # Panics
    /// If a line is malformed.
    #[must_use]
    pub fn read(text: &str) -> Scrape {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Scrape(
            lines
                .map(|line| sample(line).unwrap_or_else(|| panic!("malformed line: {line}")))
                .collect(),
        )
    }

    /// Returns the samples of the metric that have all of these labels.
    pub fn samples<'s>(
        &'s self,
        name: &'s str,
        labels: &'s [(&'s str, &'s str)],
    ) -> impl Iterator<Item = &'s Sample> {
        self.0.iter().filter(move |sample| {
            let has = |(label, value): &(&str, &str)| {
                sample.labels.get(*label).is_some_and(|of| of == value)
            };
            sample.name == name && labels.iter().all(has)
        })
    }

    /// Returns the sum of the samples that [`samples`](Self::samples) returns, or `None` if there
    /// are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples(name, labels).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let label = |label: &str| {
        let (name, value) = label.split_once('=')?;
        Some((name.to_owned(), value.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
    };
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(label);
    let labels = labels.collect::<Option<_>>()?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}
