//! Lines that the example of the compile crate prints, as rows.

use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::cli::Bench;
use crate::netns::run;
use crate::report::{Row, Target};

/// A line of `crates/compile/examples/scale`.
#[derive(Debug, Deserialize)]
struct Line {
    name: String,
    p50: f64,
    p99: f64,
    unit: String,
}

/// What is judged of the lines whose name begins and ends so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// Start of the name.
    pub(super) start: &'static str,
    /// End of the name.
    pub(super) end: &'static str,
    /// Whether the 99th percentile is judged, else the median.
    pub(super) tail: bool,
    /// At most this, in the line's own unit.
    pub(super) most: f64,
}

impl Bound {
    fn is_of(&self, line: &Line) -> bool {
        line.name.starts_with(self.start) && line.name.ends_with(self.end)
    }
}

/// Runs the example with `arguments`. Units of bounded lines are `ms` or `KiB`.
///
/// # Errors
/// It is not built, fails, or prints something else.
pub(super) fn rows(
    bench: &Bench,
    section: &str,
    arguments: &[String],
    bounds: &[Bound],
) -> anyhow::Result<Vec<Row>> {
    let example = bench.binaries.join("examples/scale");
    if !example.exists() {
        bail!("{} is missing; cargo build --release -p sheetbend-compile --example scale", example.display());
    }
    let output = run(Command::new(example).args(arguments))?;
    let text = String::from_utf8(output).context("the example printed no text")?;
    text.lines()
        .map(|line| {
            let line: Line = serde_json::from_str(line).with_context(|| format!("line {line:?}"))?;
            Ok(row(section, &line, bounds.iter().find(|bound| bound.is_of(&line))))
        })
        .collect()
}

fn row(section: &str, line: &Line, bound: Option<&Bound>) -> Row {
    let unit = match line.unit.as_str() {
        "1" => "",
        "us/address" => "µs per address",
        unit => unit,
    };
    let tail = bound.is_some_and(|bound| bound.tail);
    let what = if tail { format!("{}, p99", line.name) } else { line.name.clone() };
    let row = Row::value(section, what, if tail { line.p99 } else { line.p50 }, unit);
    #[expect(clippy::float_cmp, reason = "equal when the example took one sample")]
    let spread = line.p50 != line.p99;
    let row = if spread { row.note(format!("p50 {}, p99 {}", line.p50, line.p99)) } else { row };
    match bound {
        Some(bound) => row.target(Target::AtMost(bound.most)),
        None => row,
    }
}
