//! `sheetbend-bench`: measures Sheetbend beside its peers. Every packet stays inside namespaces of its own.

mod cli;
mod contest;
mod dns;
mod document;
mod kernel;
mod machine;
mod netns;
mod objects;
mod report;
mod sandbox;
mod section;
mod stats;
mod topology;
mod traffic;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if let Some(held) = traffic::holder::run() {
        return finish(held);
    }
    let cli = cli::Cli::parse();
    match sandbox::enter() {
        Ok(Some(code)) => code,
        Ok(None) => finish(cli::run(&cli)),
        Err(error) => finish(Err(error)),
    }
}

fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        cli::say(&format!("sheetbend-bench: {error:#}"));
        ExitCode::from(70)
    })
}
