//! The matrix for people and for programs.

use std::collections::BTreeMap;
use std::io::Write;

use super::cell::{Cell, Matrix, Verdict};
use crate::lab::command::Output;
use crate::lab::status::table;

/// Prints the matrix in the form asked for.
pub(super) fn print(out: &mut impl Write, matrix: &Matrix, output: Output) -> std::io::Result<()> {
    match output {
        // JSON is YAML too (YAML 1.2 §1.2).
        Output::Json | Output::Yaml => {
            return writeln!(out, "{}", serde_json::to_string_pretty(matrix)?);
        }
        Output::Wide => writeln!(out, "{}\n", rows(matrix.cells.iter()))?,
        Output::Table => {}
    }
    summary(out, matrix)?;
    mismatches(out, matrix, usize::MAX)
}

/// Counts by family, protocol and way.
pub(crate) fn summary(out: &mut impl Write, matrix: &Matrix) -> std::io::Result<()> {
    let mut counts: BTreeMap<(String, &str, &str), [usize; 5]> = BTreeMap::new();
    for cell in &matrix.cells {
        let row = counts.entry((cell.family.to_string(), &cell.protocol, &cell.way)).or_default();
        let column = match cell.observed {
            Verdict::Skipped => 4,
            _ if !cell.matches => 3,
            Verdict::Allow => 0,
            Verdict::Deny => 1,
            Verdict::Refuse | Verdict::Silent => 2,
        };
        if let Some(count) = row.get_mut(column) {
            *count += 1;
        }
    }
    let mut text =
        table(&["FAMILY", "PROTOCOL", "WAY", "ALLOWED", "DENIED", "REFUSED", "MISMATCHES", "SKIPPED"], None);
    for ((family, protocol, way), row) in counts {
        let names = [family, protocol.to_owned(), way.to_owned()];
        text.add_row(names.into_iter().chain(row.map(|count| count.to_string())));
    }
    writeln!(out, "{text}")?;
    let totals = matrix.summary;
    if let Some(all) = matrix.sampled_from {
        writeln!(out, "a sample: {} of {all} cells", totals.cells)?;
    }
    writeln!(out, "{} cells, {} mismatches, {} skipped", totals.cells, totals.mismatches, totals.skipped)
}

/// Each mismatch in full, at most `most`.
pub(crate) fn mismatches(out: &mut impl Write, matrix: &Matrix, most: usize) -> std::io::Result<()> {
    let wrong = || matrix.cells.iter().filter(|cell| !cell.matches);
    if wrong().next().is_none() {
        return Ok(());
    }
    writeln!(out, "\nMismatches:\n{}", rows(wrong().take(most)))?;
    match wrong().count().checked_sub(most) {
        Some(more) if more > 0 => writeln!(out, "… and {more} more"),
        _ => Ok(()),
    }
}

fn rows<'a>(cells: impl Iterator<Item = &'a Cell>) -> comfy_table::Table {
    let columns = [
        "SOURCE",
        "DESTINATION",
        "ADDRESS",
        "PROTOCOL",
        "EXPECTED",
        "OBSERVED",
        "ANSWERED BY",
        "SEES",
        "REASON",
        "BY",
    ];
    let mut text = table(&columns, None);
    for cell in cells {
        let decided = cell.decided_by.as_ref().map(|by| {
            let rule = by.rule.map_or("default deny".to_owned(), |rule| format!("rule {rule}"));
            format!("{} {} {rule}", by.policy, by.direction)
        });
        text.add_row([
            cell.source.clone(),
            cell.destination.clone(),
            cell.address.to_string(),
            format!("{}/{}", cell.port, cell.protocol),
            cell.expected.to_string(),
            cell.observed.to_string(),
            cell.answered_by.clone().unwrap_or_default(),
            cell.source_seen.map(|addr| addr.to_string()).unwrap_or_default(),
            cell.reason.clone().unwrap_or_default(),
            decided.unwrap_or_default(),
        ]);
    }
    text
}
