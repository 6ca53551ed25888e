//! Links, addresses, routes and leases in a real kernel, in network namespaces that only this process knows.
#![allow(missing_docs, reason = "a test target")]

mod announce;
mod attach;
mod foreign;
mod health_checks;
mod kill;
mod kubernetes;
mod leaks;
mod moves;
mod node;
mod node_local;
mod sockets;
mod speed;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

/// A name and a body.
pub(crate) type Test = (&'static str, fn() -> Result<()>);

fn trial(name: &'static str, test: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || test().map_err(|error| format!("{error:#}").into()))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = attach::TESTS
        .iter()
        .chain(announce::TESTS)
        .chain(node::TESTS)
        .chain(node_local::TESTS)
        .chain(foreign::TESTS)
        .chain(health_checks::TESTS)
        .chain(kill::TESTS)
        .chain(kubernetes::TESTS)
        .chain(leaks::TESTS)
        .chain(moves::TESTS)
        .chain(sockets::TESTS)
        .chain(speed::TESTS)
        .map(|(name, test)| trial(name, *test))
        .collect();
    if !arguments.list && std::env::var_os("SHEETBEND_KERNEL_TESTS").is_none() {
        println!("{} tests need root: cargo xtask test kernel", trials.len());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = sheetbend_kernel_tests::netlink::agent::private_mounts() {
        eprintln!("{error:#}; run as root: cargo xtask test kernel");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
