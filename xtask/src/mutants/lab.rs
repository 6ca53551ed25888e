//! One lab with given kernel programs: up, matrix, down.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::progress::Step;
use crate::repo::Repo;
use crate::{demo, process};

/// Longer than any lab takes; running into it is no kill.
const LIMIT: Duration = Duration::from_secs(420);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Matrix {
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cell {
    source: String,
    destination: String,
    service: Option<String>,
    family: String,
    protocol: String,
    port: u16,
    expected: String,
    observed: String,
    answered_by: Option<String>,
    r#match: bool,
}

/// The cells of the matrix that do not match, in words.
pub(super) fn mismatches(repo: &Repo, name: &str, object: &Path, step: &mut Step) -> Result<Vec<String>> {
    let lab = format!("mutant-{}-{}", short(name), std::process::id());
    let up = run(repo, object, &["up", "-f", demo::SHOP, "--name", &lab], step)?;
    let matrix = if up.ok() {
        run(repo, object, &["matrix", "-o", "json", "--name", &lab], step)
    } else {
        Err(anyhow::anyhow!(
            "the lab does not come up ({}), so the matrix is not reached:\n{}",
            up.ending(),
            up.tail(10)
        ))
    };
    let down = run(repo, object, &["down", "--name", &lab], step)?;
    let matrix = matrix?;
    if up.ok() && !down.ok() {
        bail!("`lab down` failed ({}):\n{}", down.ending(), down.tail(10));
    }
    if matrix.timed_out || !matches!(matrix.code, Some(0 | 1)) {
        bail!("the matrix did not end by itself ({}):\n{}", matrix.ending(), matrix.tail(10));
    }
    read(&matrix.output)
}

/// Lab names end up in namespace names, which are short.
fn short(name: &str) -> &str {
    name.get(..8).unwrap_or(name).trim_end_matches('-')
}

fn run(repo: &Repo, object: &Path, arguments: &[&str], step: &mut Step) -> Result<process::Finished> {
    let mut command = demo::lab(repo);
    command.args(arguments).env("SHEETBEND_EBPF_OBJECT", object);
    process::capture_within(&mut command, Some(LIMIT), &mut |line| {
        if line.len() < 200 {
            step.note(line);
        }
    })
}

/// The JSON may stand between other lines: standard error comes on the same way.
fn read(output: &str) -> Result<Vec<String>> {
    let start = output
        .find("{\"apiVersion\"")
        .or_else(|| output.find("{\n"))
        .context("the matrix printed no JSON")?;
    let mut values = serde_json::Deserializer::from_str(&output[start..]).into_iter::<Matrix>();
    let matrix = values
        .next()
        .context("the matrix printed no JSON")?
        .context("the matrix printed other JSON than the schema")?;
    if matrix.cells.is_empty() {
        bail!("the matrix has no cells");
    }
    Ok(matrix.cells.iter().filter(|cell| !cell.r#match).map(words).collect())
}

fn words(cell: &Cell) -> String {
    let via = cell.service.as_deref().map(|service| format!(" through {service}")).unwrap_or_default();
    let by = cell.answered_by.as_deref().map(|pod| format!(" by {pod}")).unwrap_or_default();
    format!(
        "{} → {}{via} {} {}/{}: expected {}, observed {}{by}",
        cell.source, cell.destination, cell.family, cell.port, cell.protocol, cell.expected, cell.observed
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn cells_that_do_not_match_are_named() {
        let cell = |matches: bool| {
            serde_json::json!({"source":"shop/web-0","destination":"shop/db-0","service":null,"address":"10.0.0.1",
                "family":"IPv4","protocol":"TCP","port":80,"expected":"deny","observed":"allow","answeredBy":"shop/db-0",
                "sourceSeen":null,"reason":null,"decidedBy":null,"match":matches})
        };
        let text =
            serde_json::json!({"apiVersion":"sheetbend.dev/v1alpha1","cells":[cell(true), cell(false)]})
                .to_string();
        let found = read(&format!("a line before\n{text}\nmismatches\n")).unwrap();
        assert_eq!(found, ["shop/web-0 → shop/db-0 IPv4 80/TCP: expected deny, observed allow by shop/db-0"]);
        assert!(read("nothing").is_err());
    }
}
