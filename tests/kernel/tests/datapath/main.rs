//! Real packets through a whole lab: pods, nodes and the world, with the agents that a user would run.
#![allow(missing_docs, reason = "a test target")]

mod around;
mod bandwidth;
mod direct;
mod errors;
mod growth;
mod lab;
mod node_ports;
mod published;
mod refused;
mod restart;
mod sctp;
mod tunnel;
mod unserved;
mod ways;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use lab::Lab;
use libtest_mimic::{Arguments, Trial};

/// A name and a body.
pub(crate) type Test = (&'static str, fn(&Lab) -> Result<()>);

/// The lab of one mode, brought up by the first test that needs it; ends with the last.
type Shared = Arc<Mutex<Option<Lab>>>;

fn run((mode, is_small): (&str, bool), shared: &Shared, test: fn(&Lab) -> Result<()>) -> Result<()> {
    let mut lab = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if lab.is_none() {
        *lab = Some(Lab::up(mode, is_small)?);
    }
    test(lab.as_ref().context("just brought up")?)
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // What one test does to an agent, the others shall not see.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    let all = |mode| {
        let is_vxlan = mode == "vxlan";
        let in_vxlan = |tests| if is_vxlan { tests } else { &[][..] };
        let parts = [
            ways::TESTS,
            published::TESTS,
            bandwidth::TESTS,
            errors::TESTS,
            refused::TESTS,
            unserved::TESTS,
            sctp::TESTS,
            in_vxlan(tunnel::TESTS),
            in_vxlan(around::TESTS),
            in_vxlan(direct::TESTS),
            in_vxlan(published::TUNNEL_TESTS),
            restart::TESTS,
        ];
        parts.into_iter().flatten()
    };
    for mode in ["vxlan", "host-gw"] {
        // Where tables begin small and few addresses lead to node ports, in a lab of its own.
        for (is_small, tests) in [
            (false, all(mode).collect::<Vec<_>>()),
            (true, node_ports::TESTS.iter().chain(growth::TESTS).collect()),
        ] {
            let shared = Shared::default();
            for (name, test) in tests {
                let shared = Arc::clone(&shared);
                let body = move || {
                    run((mode, is_small), &shared, *test).map_err(|error| format!("{error:#}").into())
                };
                trials.push(Trial::test(format!("{mode}::{name}"), body));
            }
        }
    }
    if !arguments.list && std::env::var_os("SHEETBEND_KERNEL_TESTS").is_none() {
        println!("{} tests need root: cargo xtask test kernel", trials.len());
        return ExitCode::SUCCESS;
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
