//! `sheetbend dns` as strangers see it: `dig`, and clients whose server is killed.
#![allow(missing_docs, reason = "a test target")]

mod answers;
mod api_server;
mod kill;
mod server;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

type Test = (&'static str, fn() -> Result<()>);

const TESTS: &[Test] = &[
    ("dns::dig_gets_the_answers_of_the_specification", answers::dig_gets_the_answers_of_the_specification),
    ("dns::a_change_is_served_and_a_broken_file_changes_nothing", answers::a_change_is_served),
    ("dns::names_outlive_the_api_server_and_a_restart_meanwhile", api_server::names_outlive_it),
    ("dns::kill_9_costs_no_answer_beyond_those_in_flight", kill::kill_9_costs_what_is_in_flight),
    ("dns::an_upgrade_costs_no_answer", kill::an_upgrade_costs_no_answer),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::test(*name, move || test().map_err(|error| format!("{error:#}").into()))
    };
    let trials: Vec<Trial> = TESTS.iter().map(trial).collect();
    if !arguments.list && std::env::var_os("SHEETBEND_KERNEL_TESTS").is_none() {
        println!("{} tests need root: cargo xtask test interop", trials.len());
        return ExitCode::SUCCESS;
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
