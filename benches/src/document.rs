//! The document of results. A run replaces the tables that it measured and leaves the others in place; where a table
//! is of another run than most, it says of which.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use crate::report::{COLUMNS, VERDICT_COLUMN, Verdict};

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";
const HEADING: &str = "### ";
/// How the line begins that says when, where and of which commit a table is.
const MEASURED: &str = "Measured ";

/// One table under its heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) heading: String,
    /// The line of the run that measured it.
    pub(crate) measured: String,
    /// Its lines, the header first.
    pub(crate) lines: Vec<String>,
}

/// Puts `new` into `file`, between its markers if it exists.
pub(crate) fn write(file: &Path, new: &[Table]) -> anyhow::Result<()> {
    let text = match fs::read_to_string(file) {
        Ok(old) => merge(&old, new).with_context(|| format!("in {}", file.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => render(new),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    // By rename: whoever interrupts the run finds the old document or the new one.
    let temporary = file.with_extension("md.new");
    fs::write(&temporary, text).with_context(|| format!("writing {}", temporary.display()))?;
    fs::rename(&temporary, file).with_context(|| format!("replacing {}", file.display()))
}

/// The document `old` with the tables of `new` in the place of those with the same headings.
fn merge(old: &str, new: &[Table]) -> anyhow::Result<String> {
    let Some((before, rest)) = old.split_once(BEGIN) else {
        bail!("no line {BEGIN}; add it and {END} around the place of the tables");
    };
    let Some((inside, after)) = rest.split_once(END) else {
        bail!("{BEGIN} without {END}; add it below the tables")
    };
    let mut tables = parse(inside);
    for table in new {
        match tables.iter_mut().find(|old| old.heading == table.heading) {
            Some(old) => old.clone_from(table),
            None => tables.push(table.clone()),
        }
    }
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", render(&tables)))
}

fn parse(inside: &str) -> Vec<Table> {
    let mut head = "";
    let mut tables: Vec<Table> = Vec::new();
    for line in inside.lines() {
        let table = tables.last_mut();
        if let Some(heading) = line.strip_prefix(HEADING) {
            tables.push(Table { heading: heading.to_owned(), measured: head.to_owned(), lines: Vec::new() });
        } else if line.starts_with(MEASURED) {
            table.map_or_else(|| head = line, |table| table.measured = line.to_owned());
        } else if let Some(table) = table.filter(|_| line.starts_with('|')) {
            table.lines.push(line.to_owned());
        }
    }
    tables
}

/// The line most tables share, how the numbers stand, and every table; those of other runs with their own line.
pub(crate) fn render(tables: &[Table]) -> String {
    let shared_by = |line: &str| tables.iter().filter(|table| table.measured == line).count();
    // Of as many, the later run: its line begins with the date.
    let head = tables.iter().map(|table| &*table.measured).max_by_key(|line| (shared_by(line), *line));
    let head = head.unwrap_or_default();
    let mut text = format!("{head}\n\n{}\n", summary(tables));
    for table in tables {
        text.push_str(&format!("\n{HEADING}{}\n\n", table.heading));
        if table.measured != head {
            text.push_str(&format!("{}\n\n", table.measured));
        }
        for line in &table.lines {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

fn summary(tables: &[Table]) -> String {
    // Below the header and the line under it.
    let rows = tables.iter().flat_map(|table| table.lines.iter().skip(2));
    let verdicts: Vec<&str> =
        rows.filter_map(|row| row.split('|').nth(VERDICT_COLUMN + 1)).map(str::trim).collect();
    let count = |verdict: Verdict| verdicts.iter().filter(|cell| **cell == verdict.cell()).count();
    format!(
        "{} numbers: {} meet their target, {} are within noise of it, {} miss it, {} have none, {} could not be measured.",
        verdicts.len(),
        count(Verdict::Pass),
        count(Verdict::Noise),
        count(Verdict::Fail),
        count(Verdict::Informative),
        count(Verdict::Missing),
    )
}

/// The two lines that every table begins with.
pub(crate) fn header() -> [String; 2] {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let rules: Vec<&str> = COLUMNS.iter().map(|(_, rule)| *rule).collect();
    [format!("| {} |", names.join(" | ")), format!("|{}|", rules.join("|"))]
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, Table, header, merge, parse, render};

    const MONDAY: &str = "Measured 2026-11-23 on a machine, at commit aaaa.";
    const TUESDAY: &str = "Measured 2026-11-24 on a machine, at commit bbbb.";

    fn table(heading: &str, measured: &str, what: &str, verdict: &str) -> Table {
        let mut lines = header().to_vec();
        lines.push(format!("| {what} |  | 1 s | – | – | – | – | {verdict} |  |"));
        Table { heading: heading.to_owned(), measured: measured.to_owned(), lines }
    }

    fn document(tables: &[Table]) -> String {
        format!("# Performance\n{BEGIN}\n{}{END}\n\nHow it is measured.\n", render(tables))
    }

    fn merged(old: &[Table], new: &[Table]) -> String {
        merge(&document(old), new).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let tables = [
            table("Same node", MONDAY, "round trip", "pass"),
            table("CNI", MONDAY, "ADD", "**miss**"),
            table("Agent memory", TUESDAY, "resident", "–"),
        ];
        assert_eq!(parse(&document(&tables)), tables);
    }

    #[test]
    fn a_run_of_one_section_leaves_the_others_in_place() {
        let old = ["Same node", "CNI", "Agent memory"].map(|heading| table(heading, MONDAY, "old", "pass"));
        let text = merged(&old, &[table("CNI", TUESDAY, "new", "**miss**")]);
        let expected = [old[0].clone(), table("CNI", TUESDAY, "new", "**miss**"), old[2].clone()];
        assert_eq!(parse(&text), expected);
        assert!(text.starts_with("# Performance\n") && text.ends_with("\n\nHow it is measured.\n"), "{text}");
        assert_eq!(text.matches(MONDAY).count(), 1, "most tables are of Monday: it is the head line\n{text}");
        assert!(text.contains(&format!("### CNI\n\n{TUESDAY}\n\n| what |")), "{text}");
        assert!(
            text.contains("3 numbers: 2 meet their target, 0 are within noise of it, 1 miss it"),
            "{text}"
        );
    }

    #[test]
    fn written_section_by_section_a_whole_run_ends_as_if_written_at_once() {
        let headings = ["Same node", "CNI", "Agent memory"];
        let old = headings.map(|heading| table(heading, MONDAY, "old", "pass"));
        let new = headings.map(|heading| table(heading, TUESDAY, "new", "within noise"));
        let mut text = document(&old);
        for finished in 1..=new.len() {
            text = merge(&text, &new[..finished]).unwrap_or_else(|error| error.to_string());
        }
        assert_eq!(text, document(&new));
        assert!(!text.contains(MONDAY) && text.matches(TUESDAY).count() == 1, "{text}");
    }

    #[test]
    fn a_new_table_comes_last_and_of_as_many_the_later_run_heads() {
        let text =
            merged(&[table("CNI", MONDAY, "old", "–")], &[table("DNS", TUESDAY, "new", "not measured")]);
        assert!(text.contains(&format!("{BEGIN}\n{TUESDAY}\n")), "{text}");
        assert!(text.contains(&format!("### CNI\n\n{MONDAY}\n")), "{text}");
        assert_eq!(parse(&text).iter().map(|table| &*table.heading).collect::<Vec<_>>(), ["CNI", "DNS"]);
        assert!(text.contains("1 have none, 1 could not be measured."), "{text}");
    }

    #[test]
    fn a_document_without_its_markers_is_refused() {
        assert!(merge("no markers", &[]).is_err());
        assert!(merge("<!-- bench:begin -->\n", &[]).is_err());
    }
}
