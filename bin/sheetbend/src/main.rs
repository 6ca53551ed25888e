//! `sheetbend`: the daemons of a node and the commands of people, a file each.

mod agent;
mod ask;
mod completion;
mod controller;
mod daemon;
mod debug;
mod dns;
mod install;
mod lab;
mod learnt;
mod monitor;
mod near;
mod policy;
mod service;
mod source;
mod status;
mod uninstall;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A complete Kubernetes network stack.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    propagate_version = true,
    after_help = "Try it on this machine, without a cluster:
  sheetbend lab up -f examples/shop && sheetbend lab matrix && sheetbend lab down"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stand a cluster's network up on this machine, look at it, and take it down.
    #[command(subcommand)]
    Lab(lab::Command),
    /// Stream drops and new flows as they happen, with pod names, reason and rule.
    Monitor(monitor::Args),
    /// What this node's agent holds and whether it is well.
    Status(status::Args),
    /// Services, and why each of their endpoints is chosen or not.
    #[command(subcommand)]
    Service(service::Command),
    /// Policies: why a packet may pass or not, and what is wrong with them.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Look for what should not be there.
    #[command(subcommand)]
    Debug(debug::Command),
    /// Run a node's agent: the daemon that makes pods' networks.
    Agent(agent::Args),
    /// Run what a cluster needs once: gives nodes their pod ranges and Services their addresses, says on objects what is wrong with them.
    Controller(controller::Args),
    /// Remove everything that the agent put on this node.
    Uninstall(uninstall::Args),
    /// Run the cluster DNS: the server that pods ask for names.
    Dns(dns::Args),
    /// Print a completion script for a shell.
    Completion(completion::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Lab(command) => lab::run(command),
        Command::Monitor(args) => monitor::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Service(command) => service::run(&command),
        Command::Policy(command) => policy::run(&command),
        Command::Debug(command) => debug::run(&command),
        Command::Agent(args) => agent::run(args),
        Command::Controller(args) => controller::run(&args),
        Command::Uninstall(args) => uninstall::run(&args),
        Command::Dns(args) => dns::run(&args),
        Command::Completion(args) => completion::run::<Cli>(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_subcommand_can_be_parsed() {
        super::Cli::command().debug_assert();
    }
}
