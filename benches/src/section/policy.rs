//! Policy at scale: the node from nothing, one change, memory, packets, and how soon a policy holds.

use super::enforcement;
use super::example::{self, Bound};
use super::memory::{self, Case};
use super::programs;
use crate::cli::{Bench, say};
use crate::kernel::world::Node;
use crate::objects::Amount;
use crate::report::Row;

const SECTION: &str = "Policy";
/// Policies and pods.
const SIZES: [(u32, u32); 4] = [(1_000, 10_000), (1_000, 50_000), (10_000, 10_000), (10_000, 50_000)];
/// ms.
const BOUNDS: [Bound; 2] = [
    Bound { start: "one node from nothing", end: "", tail: false, most: 10_000.0 },
    Bound { start: "one ", end: "less 5 µs per address touched", tail: true, most: 10.0 },
];
/// An agent in the largest cluster, MiB.
const MEMORY: f64 = 64.0;

/// All of it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Policy …");
    let sizes = if bench.quick { &SIZES[..1] } else { &SIZES[..] };
    let mut rows = Vec::new();
    for (policies, pods) in sizes {
        let arguments = [policies.to_string(), pods.to_string()];
        let measured = example::rows(bench, SECTION, &arguments, &BOUNDS);
        rows.extend(
            measured.unwrap_or_else(|error| vec![Row::missing(SECTION, arguments.join(" × "), &error)]),
        );
    }
    rows.extend(enforcement::rows(bench, SECTION));
    let others = [memory::rows(bench, memory_cases(bench)), packets(bench)].concat();
    rows.extend(others.into_iter().map(|row| Row { section: SECTION.to_owned(), ..row }));
    rows
}

fn memory_cases(bench: &Bench) -> Vec<Case> {
    let case = |name, policies, pods| Case {
        name,
        amount: Amount { net: 0, nodes: 90, pods, services: 0, endpoints: 0, policies },
        resident: Some(MEMORY),
        peak: None,
    };
    let mut cases = vec![case("agent, 1,000 policies and 10,000 pods", 1_000, 10_000)];
    if !bench.quick {
        cases.push(case("agent, 10,000 policies and 50,000 pods", 10_000, 50_000));
    }
    cases
}

/// The programs' part at ten times as many policies as `programs` has.
fn packets(bench: &Bench) -> Vec<Row> {
    let measured = Node::create("sbb-policy").and_then(|node| {
        let numbers = [0, 1_000, if bench.quick { 2_000 } else { 10_000 }];
        node.netns.enter(|| programs::policies(bench, &node, numbers))?
    });
    measured.unwrap_or_else(|error| vec![Row::missing(SECTION, "packets", &error)])
}
