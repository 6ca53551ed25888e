//! Compile against its naive twin, and against itself.
//!
//! Every test prints its seed; `SHEETBEND_SEED=n cargo test -p sheetbend-compile` runs with that one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "a failed test may panic, and says its seed"
)]

mod atomicity;
mod balancing;
mod counters;
mod diff;
mod direct;
mod explain;
mod hostile;
mod kernel;
mod lint;
mod names;
mod node_ports;
mod sctp;
mod sequences;
mod services;
mod tiers;
mod unserved;
mod verdicts;
mod why;

use std::hash::{BuildHasher, RandomState};

use proptest::test_runner::{Config, RngSeed, TestRunner};

/// A runner for `cases` cases with a fresh seed, which it prints.
fn runner(name: &str, cases: u32) -> TestRunner {
    let seed = match std::env::var("SHEETBEND_SEED") {
        Ok(text) => text.parse().expect("SHEETBEND_SEED must be a number"),
        Err(_) => RandomState::new().hash_one(name),
    };
    eprintln!("{name}: SHEETBEND_SEED={seed}");
    TestRunner::new(Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    })
}
