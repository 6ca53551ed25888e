//! Compile at scale, by the example of the crate that owns it: `crates/compile/examples/scale`.

use super::example::{self, Bound};
use crate::cli::{Bench, say};
use crate::report::Row;

const SECTION: &str = "Compile";

/// `design.md` §7, in ms.
const BOUNDS: [Bound; 4] = [
    Bound { start: "first update 1000 policies x 10000 pods", end: "", tail: false, most: 1_000.0 },
    Bound { start: "one pod changes, 1000 policies x 10000 pods", end: "", tail: true, most: 5.0 },
    Bound { start: "first update 44000 services", end: "", tail: false, most: 5_000.0 },
    Bound { start: "one slice changes, 44000 services", end: "", tail: true, most: 10.0 },
];

/// Runs the example.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Compile …");
    example::rows(bench, SECTION, &[], &BOUNDS)
        .unwrap_or_else(|error| vec![Row::missing(SECTION, "all", &error)])
}
