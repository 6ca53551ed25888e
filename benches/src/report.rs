//! Results: rows with a target and a verdict, as JSON lines and as Markdown.

use serde::Serialize;

use crate::document::{self, Table};
use crate::machine::Machine;
use crate::stats::Interval;

/// What a number must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// The median is on the right side.
    Pass,
    /// The median is on the wrong side, but the interval reaches the right one.
    Noise,
    /// The whole interval is on the wrong side.
    Fail,
    /// There is no target for it.
    Informative,
    /// It could not be measured; the note says why.
    Missing,
}

impl Verdict {
    /// Its cell of a table.
    pub(crate) const fn cell(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Noise => "within noise",
            Verdict::Fail => "**miss**",
            Verdict::Informative => "–",
            Verdict::Missing => "not measured",
        }
    }
}

/// One measured number.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// Heading it belongs under.
    pub(crate) section: String,
    /// What was measured.
    pub(crate) what: String,
    /// `IPv4`, `IPv6`, or empty where a family makes no difference.
    pub(crate) family: String,
    /// Ours, in `unit`.
    pub(crate) value: Option<f64>,
    /// Unit of `value` and `peer_value`.
    pub(crate) unit: String,
    /// Who was measured beside it.
    pub(crate) peer: String,
    /// The peer's number.
    pub(crate) peer_value: Option<f64>,
    /// Ours against the peer's, more is better: median of the pairs' ratios. Or the value's own interval.
    pub(crate) ratio: Option<Interval>,
    /// What the ratio, or else the value, must be.
    pub(crate) target: Option<Target>,
    /// What became of it.
    pub(crate) verdict: Verdict,
    /// Sample sizes, percentiles, reasons.
    pub(crate) note: String,
}

impl Row {
    /// A number beside nobody.
    pub(crate) fn value(section: &str, what: impl Into<String>, value: f64, unit: &str) -> Self {
        Self {
            section: section.into(),
            what: what.into(),
            family: String::new(),
            value: Some(value),
            unit: unit.into(),
            peer: String::new(),
            peer_value: None,
            ratio: None,
            target: None,
            verdict: Verdict::Informative,
            note: String::new(),
        }
    }

    /// Something that could not be measured.
    pub(crate) fn missing(section: &str, what: impl Into<String>, why: &anyhow::Error) -> Self {
        Self {
            value: None,
            verdict: Verdict::Missing,
            note: format!("not measured: {why:#}"),
            ..Self::value(section, what, 0.0, "")
        }
    }

    pub(crate) fn family(mut self, family: impl Into<String>) -> Self {
        self.family = family.into();
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    pub(crate) fn beside(mut self, peer: impl Into<String>, value: f64) -> Self {
        self.peer = peer.into();
        self.peer_value = Some(value);
        self
    }

    pub(crate) fn ratio(mut self, ratio: Interval) -> Self {
        self.ratio = Some(ratio);
        self
    }

    /// Sets the target and judges it.
    pub(crate) fn target(mut self, target: Target) -> Self {
        let value = self.value.unwrap_or(f64::NAN);
        let seen = self.ratio.unwrap_or(Interval { median: value, low: value, high: value });
        let (right, reached) = match target {
            Target::AtLeast(bound) => (seen.median >= bound, seen.high >= bound),
            Target::AtMost(bound) => (seen.median <= bound, seen.low <= bound),
        };
        self.verdict = match (right, reached) {
            (true, _) => Verdict::Pass,
            (false, true) => Verdict::Noise,
            (false, false) => Verdict::Fail,
        };
        self.target = Some(target);
        self
    }
}

/// All rows as JSON lines, the machine first.
pub(crate) fn json_lines(machine: &Machine, rows: &[Row]) -> anyhow::Result<String> {
    let mut text = serde_json::to_string(&serde_json::json!({ "machine": machine }))?;
    text.push('\n');
    for row in rows {
        text.push_str(&serde_json::to_string(row)?);
        text.push('\n');
    }
    Ok(text)
}

/// Name and alignment of every column of a table.
pub(crate) const COLUMNS: [(&str, &str); 9] = [
    ("what", "---"),
    ("family", "---"),
    ("Sheetbend", "--:"),
    ("beside", "---"),
    ("its number", "--:"),
    ("ratio (95 %)", "--:"),
    ("target", "--:"),
    ("verdict", "---"),
    ("note", "---"),
];
/// Which of [`COLUMNS`] has the verdict.
pub(crate) const VERDICT_COLUMN: usize = 7;

/// A table per section.
pub(crate) fn tables(machine: &Machine, rows: &[Row]) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for row in rows {
        let at = tables.iter().position(|table| table.heading == row.section).unwrap_or_else(|| {
            let (heading, measured) = (row.section.clone(), machine.to_string());
            tables.push(Table { heading, measured, lines: document::header().to_vec() });
            tables.len() - 1
        });
        tables[at].lines.push(table_line(row));
    }
    tables
}

fn table_line(row: &Row) -> String {
    let number = |value: Option<f64>| match value {
        Some(value) => format!("{} {}", short(value), row.unit),
        None => "–".into(),
    };
    let ratio = row.ratio.map_or_else(
        || "–".into(),
        |ratio| format!("{:.3} ({:.3}–{:.3})", ratio.median, ratio.low, ratio.high),
    );
    let target = match row.target {
        Some(Target::AtLeast(bound)) => format!("≥ {}", short(bound)),
        Some(Target::AtMost(bound)) => format!("≤ {}", short(bound)),
        None => "–".into(),
    };
    let peer = if row.peer.is_empty() { "–" } else { &row.peer };
    format!(
        "| {} | {} | {} | {peer} | {} | {ratio} | {target} | {} | {} |",
        row.what,
        row.family,
        number(row.value),
        number(row.peer_value),
        row.verdict.cell(),
        row.note.replace('|', "/").replace('\n', " "),
    )
}

/// Three significant digits, and thousands in full.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 || value.fract() == 0.0 && magnitude < 1e9 {
        format!("{value:.0}")
    } else if magnitude >= 100.0 {
        format!("{value:.1}")
    } else if magnitude >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Interval, Row, Target, Verdict};

    fn row(low: f64, median: f64, high: f64) -> Row {
        Row::value("s", "w", 1.0, "µs").ratio(Interval { median, low, high })
    }

    #[test]
    fn only_a_whole_interval_on_the_wrong_side_misses() {
        assert_eq!(row(0.94, 0.96, 0.97).target(Target::AtLeast(0.95)).verdict, Verdict::Pass);
        assert_eq!(row(0.92, 0.94, 0.96).target(Target::AtLeast(0.95)).verdict, Verdict::Noise);
        assert_eq!(row(0.90, 0.92, 0.94).target(Target::AtLeast(0.95)).verdict, Verdict::Fail);
        assert_eq!(row(2.4, 2.6, 2.8).target(Target::AtMost(2.5)).verdict, Verdict::Noise);
        assert_eq!(row(2.6, 2.7, 2.8).target(Target::AtMost(2.5)).verdict, Verdict::Fail);
    }

    #[test]
    fn a_value_without_ratio_is_judged_itself() {
        assert_eq!(Row::value("s", "w", 4.2, "s").target(Target::AtMost(5.0)).verdict, Verdict::Pass);
        assert_eq!(Row::value("s", "w", 5.2, "s").target(Target::AtMost(5.0)).verdict, Verdict::Fail);
    }
}
