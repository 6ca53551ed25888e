//! The kernel programs, packet by packet: `cargo xtask test kernel`.
#![allow(clippy::expect_used, reason = "a failed test may panic")]
#![allow(
    clippy::print_stdout,
    reason = "says which right is missing, and how many instructions were verified"
)]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use sheetbend_ebpf_abi::{GROWS_CT, GROWS_SERVICE_FLOWS, GROWS_SNAT};
use sheetbend_kernel_tests::apply::Place;
use sheetbend_kernel_tests::program::cases;
use sheetbend_kernel_tests::program::node::{Family, Node, make_devices};

/// Instructions of one program that the verifier may walk.
const MOST_INSTRUCTIONS: u32 = 200_000;

fn object() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/ebpf/object/sheetbend.o"))
}

fn enter() -> Result<Place> {
    let place =
        Place::enter().context("kernel tests need root (CAP_SYS_ADMIN, CAP_BPF): cargo xtask test kernel")?;
    make_devices()?;
    Ok(place)
}

fn verifier(place: &Place) -> Result<()> {
    let mut node = Node::new(Family::V4, &object(), place.bpffs())?;
    let mut growing = node.grown(GROWS_CT | GROWS_SERVICE_FLOWS | GROWS_SNAT)?;
    let growing = growing.tables.instructions()?.into_iter().map(|(name, count)| (name + ", growing", count));
    let verified: Vec<_> = node.tables.instructions()?.into_iter().chain(growing).collect();
    for (name, instructions) in &verified {
        println!("{name}: {instructions} instructions verified");
    }
    let above: Vec<_> = verified.iter().filter(|(_, count)| *count >= MOST_INSTRUCTIONS).collect();
    ensure!(above.is_empty(), "at most {MOST_INSTRUCTIONS} instructions: {above:?}");
    Ok(())
}

fn main() {
    let mut arguments = Arguments::from_args();
    // All cases share the namespaces of this process.
    arguments.test_threads = Some(1);
    let count = cases().len() * 2 + 1;
    if std::env::var_os("SHEETBEND_KERNEL_TESTS").is_none_or(|value| value != "1") && !arguments.list {
        println!("{count} tests need root: cargo xtask test kernel");
        return;
    }
    let place = (!arguments.list).then(|| Arc::new(enter().expect("namespaces")));
    let mut trials = Vec::new();
    for family in [Family::V4, Family::V6] {
        for (name, case) in cases() {
            let place = place.clone();
            trials.push(Trial::test(format!("{name}::{family:?}"), move || {
                let place = place.expect("tests run in their own namespaces");
                let run = || case(&mut Node::new(family, &object(), place.bpffs())?);
                run().map_err(|error| Failed::from(format!("{error:?}")))
            }));
        }
    }
    trials.push(Trial::test("every_program_is_verified", move || {
        let place = place.expect("tests run in their own namespaces");
        verifier(&place).map_err(|error| Failed::from(format!("{error:?}")))
    }));
    libtest_mimic::run(&arguments, trials).exit();
}
