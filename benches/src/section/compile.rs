//! Compile at scale, by the example of the crate that owns it: `crates/compile/examples/scale.rs`.

use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::cli::{Bench, say};
use crate::netns::run;
use crate::report::{Row, Target};

const SECTION: &str = "Compile";

/// A line of the example.
#[derive(Debug, Deserialize)]
struct Line {
    name: String,
    p50: f64,
    p99: f64,
    unit: String,
}

/// Start of a line's name, whether p99 is judged (else p50), and its bound (`design.md` §7).
const BOUNDS: [(&str, bool, f64); 4] = [
    ("first update 1000 policies x 10000 pods", false, 1_000.0),
    ("one pod changes, 1000 policies x 10000 pods", true, 5.0),
    ("first update 44000 services", false, 5_000.0),
    ("one slice changes, 44000 services", true, 10.0),
];

/// Runs the example.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Compile …");
    rows(bench).unwrap_or_else(|error| vec![Row::missing(SECTION, "all", &error)])
}

fn rows(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let example = bench.binaries.join("examples/scale");
    if !example.exists() {
        bail!("{} is missing; cargo build --release -p sheetbend-compile --example scale", example.display());
    }
    let output = run(&mut Command::new(example))?;
    let text = String::from_utf8(output).context("the example printed no text")?;
    text.lines()
        .map(|line| {
            let line: Line = serde_json::from_str(line).with_context(|| format!("line {line:?}"))?;
            Ok(row(&line))
        })
        .collect()
}

fn row(line: &Line) -> Row {
    let bound = BOUNDS.iter().find(|(name, ..)| line.name.starts_with(name) && line.unit == "ms");
    let unit = match line.unit.as_str() {
        "1" => "",
        "us/address" => "µs per address",
        unit => unit,
    };
    let tail = bound.is_some_and(|(_, tail, _)| *tail);
    let what = if tail { format!("{}, p99", line.name) } else { line.name.clone() };
    let row = Row::value(SECTION, what, if tail { line.p99 } else { line.p50 }, unit);
    #[expect(clippy::float_cmp, reason = "equal when the example took one sample")]
    let spread = line.p50 != line.p99;
    let row = if spread { row.note(format!("p50 {}, p99 {}", line.p50, line.p99)) } else { row };
    match bound {
        Some((.., bound)) => row.target(Target::AtMost(*bound)),
        None => row,
    }
}
