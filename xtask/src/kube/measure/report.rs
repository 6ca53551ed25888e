//! Rows, as a table for people and for docs/performance.md.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::super::settings::{KUBERNETES, Settings};
use crate::repo::Repo;

const DOCUMENT: &str = "docs/performance.md";

/// One figure.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Its part of the document.
    pub(super) section: &'static str,
    pub(super) what: String,
    pub(super) value: String,
    /// What was promised, as text.
    pub(super) target: String,
    /// Whether that was kept; `None`: nothing was promised.
    pub(super) kept: Option<bool>,
    pub(super) note: String,
}

impl Row {
    pub(super) fn new(section: &'static str, what: impl Into<String>, value: String, note: String) -> Self {
        Self { section, what: what.into(), value, target: "–".to_owned(), kept: None, note }
    }

    /// With a promise.
    pub(super) fn kept(self, kept: bool, target: &str) -> Self {
        Self { kept: Some(kept), target: target.to_owned(), ..self }
    }
}

/// What part of `times`, 0 to 1, is not above how many milliseconds.
pub(super) fn percentiles(mut times: Vec<Duration>) -> impl Fn(f64) -> f64 {
    times.sort();
    move |part| {
        let place = (times.len().saturating_sub(1) as f64 * part) as usize;
        times.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }
}

/// The rows as Markdown.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut section = "";
    for row in rows {
        if row.section != section {
            section = row.section;
            let _ = write!(
                text,
                "\n### {section}\n\n| what | Sheetbend | target | verdict | note |\n|---|--:|---|---|---|\n"
            );
        }
        let verdict = match row.kept {
            Some(true) => "pass",
            Some(false) => "**miss**",
            None => "–",
        };
        let _ =
            writeln!(text, "| {} | {} | {} | {verdict} | {} |", row.what, row.value, row.target, row.note);
    }
    text
}

/// Puts the rows' sections in place of what the document says of them.
pub(super) fn write(repo: &Repo, settings: &Settings, rows: &[Row]) -> Result<()> {
    let path = repo.path(DOCUMENT);
    let document = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (begin, end) = ("<!-- kube:begin -->", "<!-- kube:end -->");
    let (head, rest) = document.split_once(begin).with_context(|| format!("{DOCUMENT} has no {begin}"))?;
    let (old, tail) = rest.split_once(end).with_context(|| format!("{DOCUMENT} has no {end}"))?;
    let fresh = merge(old, rows, settings);
    std::fs::write(&path, format!("{head}{begin}\n{fresh}{end}{tail}"))?;
    Ok(())
}

/// Sections that were measured now replace their older ones; the others stay.
fn merge(old: &str, rows: &[Row], settings: &Settings) -> String {
    let mut parts: Vec<String> =
        old.split("\n### ").skip(1).map(|part| format!("\n### {}\n", part.trim_end())).collect();
    let mut sections: Vec<&str> = rows.iter().map(|row| row.section).collect();
    sections.dedup();
    for section in sections {
        let own: Vec<Row> = rows.iter().filter(|row| row.section == section).cloned().collect();
        let (mode, nodes) = (settings.mode.overlay(), settings.nodes);
        let mut text = table(&own);
        let _ = write!(text, "\nKubernetes {KUBERNETES}, {nodes} nodes on this machine, mode {mode}.\n");
        let title = format!("\n### {section}\n");
        match parts.iter_mut().find(|part| part.starts_with(&title)) {
            Some(part) => *part = text,
            None => parts.push(text),
        }
    }
    parts.concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::super::super::settings::{Family, Network};
    use super::*;

    #[test]
    fn a_section_replaces_itself_and_no_other() {
        let settings = Settings::new("a", 2, Family::Dual, Network::Sheetbend).unwrap();
        let row = |section, value: &str| Row::new(section, "w", value.to_owned(), String::new());
        let first = merge("\n", &[row("A", "1"), row("B", "2")], &settings);
        let second = merge(&first, &[row("A", "3")], &settings);
        assert!(
            second.contains("| w | 3 |") && second.contains("| w | 2 |") && !second.contains("| w | 1 |")
        );
        assert_eq!(second.matches("### ").count(), 2);
        assert_eq!(merge(&second, &[row("A", "3")], &settings), second);
    }
}
