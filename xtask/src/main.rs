//! The project's own commands. Each has a file; this one is the table of contents.

mod bench;
mod check;
mod demo;
mod ebpf;
mod fuzz;
mod image;
mod kube;
mod mutants;
mod process;
mod progress;
mod repo;
mod rooms;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::repo::Repo;

/// Exit code for "a check found mismatches", as in docs/user/exit-codes.md.
const MISMATCH: u8 = 1;
/// Exit code for "a right or a tool is missing".
const MISSING: u8 = 3;
/// Exit code for "no lab or cluster is up, or several are and none is named".
const NO_LAB: u8 = 5;
/// Exit code for our own faults.
const FAULT: u8 = 70;

/// Sheetbend's own commands.
///
/// Two are all a newcomer needs: `cargo xtask demo` shows the network at work, `cargo xtask test` runs every test.
/// Both call `setup` first, which installs what is missing and says what it could not get.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 110,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Demo(demo::Args),
    Test(test::Args),
    Check(check::Args),
    Rooms(rooms::Args),
    Ebpf(ebpf::Args),
    Fuzz(fuzz::Args),
    Bench(bench::Args),
    Image(image::Args),
    Kube(kube::Args),
    Mutants(mutants::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = Repo::find().and_then(|repo| match cli.command {
        Command::Setup(args) => setup::run(&repo, &args),
        Command::Demo(args) => demo::run(&repo, &args),
        Command::Test(args) => test::run(&repo, &args),
        Command::Check(args) => check::run(&repo, &args),
        Command::Rooms(args) => rooms::run(&repo, &args),
        Command::Ebpf(args) => ebpf::run(&repo, &args),
        Command::Fuzz(args) => fuzz::run(&repo, &args),
        Command::Bench(args) => bench::run(&repo, &args),
        Command::Image(args) => image::run(&repo, &args),
        Command::Kube(args) => kube::run(&repo, args),
        Command::Mutants(args) => mutants::run(&repo, &args),
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(FAULT)
    })
}
