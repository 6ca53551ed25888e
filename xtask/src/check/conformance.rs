//! `docs/conformance/*.md`: each row of a table names the test that holds it, or says when it comes.

use anyhow::{Result, bail};

use super::Outcome;
use crate::progress::Step;
use crate::repo::Repo;
use crate::rooms::names_in;

/// A row that no test holds yet begins its last cell with this word, followed by why or when.
const LATER: &str = "later:";

/// The gate.
pub(super) fn check(repo: &Repo, _step: &mut Step) -> Result<Outcome> {
    let (mut wrong, mut held, mut later) = (Vec::new(), 0, 0);
    for page in repo.files("docs/conformance", ".md")? {
        for (number, line) in repo.read(&page)?.lines().enumerate() {
            let Some(cell) = last_cell(line) else { continue };
            let tests = references(cell);
            if cell.starts_with(LATER) && cell.len() > LATER.len() + 3 {
                later += 1;
            } else if tests.is_empty() {
                wrong.push(format!(
                    "{page}:{}: name a test as `path/to/file.rs::test_name`, or `later: why`",
                    number + 1
                ));
            }
            for (file, name) in tests {
                held += 1;
                if let Err(why) = exists(repo, file, name) {
                    wrong.push(format!("{page}:{}: `{file}::{name}`: {why}", number + 1));
                }
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(Outcome::Passed(format!("{held} tests named, {later} rows for later")))
}

/// The last cell of a table's row; headings and rules are no rows.
fn last_cell(line: &str) -> Option<&str> {
    let inside = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let cells: Vec<&str> = inside.split('|').map(str::trim).collect();
    let last = cells.last()?;
    let is_rule = inside.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '));
    (!is_rule && cells.len() >= 2 && *last != "test").then_some(last)
}

/// The `file.rs::name` pairs in backquotes.
fn references(cell: &str) -> Vec<(&str, &str)> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once(".rs::"))
        .map(|(file, name)| (&cell[offset(cell, file)..offset(cell, file) + file.len() + 3], name))
        .collect()
}

fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn exists(repo: &Repo, file: &str, name: &str) -> Result<(), String> {
    let text = repo.read(file).map_err(|_| "no such file".to_owned())?;
    let words = |line: &str| names_in(line).iter().any(|(word, _)| *word == name);
    // A trial of libtest-mimic is named by a string or its function; a test by its function.
    let named = text.lines().any(|line| !line.trim_start().starts_with("//") && words(line));
    if named { Ok(()) } else { Err("the file has no such test".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    fn verdict(row: &str) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("docs/conformance")).unwrap();
        std::fs::create_dir_all(dir.path().join("tests")).unwrap();
        std::fs::write(dir.path().join("tests/a.rs"), "// gone\n#[test]\nfn drops_it() {}").unwrap();
        std::fs::write(
            dir.path().join("docs/conformance/x.md"),
            format!("| what | test |\n|---|---|\n{row}\n"),
        )
        .unwrap();
        match check(&Repo::at(dir.path().to_owned()), &mut Step::start("")) {
            Ok(Outcome::Passed(note) | Outcome::Skipped(note)) => Ok(note),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_row_is_held_by_a_test_that_exists_or_is_for_later() {
        assert_eq!(verdict("| a | `tests/a.rs::drops_it` |").unwrap(), "1 tests named, 0 rows for later");
        assert_eq!(verdict("| a | later: with NodePort |").unwrap(), "0 tests named, 1 rows for later");
        assert!(verdict("| a | `tests/a.rs::gone` |").unwrap_err().contains("no such test"));
        assert!(verdict("| a | `tests/b.rs::x` |").unwrap_err().contains("no such file"));
        assert!(verdict("| a | sure |").unwrap_err().contains("x.md:3"));
        assert!(verdict("| a | later: |").is_err());
    }
}
