//! `sheetbend completion`: scripts for shells.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// `sheetbend completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: source <(sheetbend completion bash)")]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run<C: CommandFactory>(args: &Args) -> ExitCode {
    clap_complete::generate(args.shell, &mut C::command(), "sheetbend", &mut std::io::stdout());
    ExitCode::SUCCESS
}
