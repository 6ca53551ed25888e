//! `sheetbend policy`: what policies do, and what is wrong with them.

mod diff;
pub(crate) mod flows;
pub(crate) mod lint;
mod offline;
mod text;
pub(crate) mod why;
mod workload;

use std::process::ExitCode;

/// `sheetbend policy`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Why a packet may pass or not: every policy and rule that is asked, and the one that decides.
    ///
    /// Both ends must allow a packet: egress policies of the sender, ingress policies of the receiver. At each end come
    /// the ClusterNetworkPolicies of tier Admin, then the NetworkPolicies that select the pod, then tier Baseline. Behind
    /// a Service the endpoint is judged. The verdict is read from the rows that the kernel is given. Of a default deny,
    /// the rule that is nearest to allow the packet is named, and by what it does not match.
    #[command(after_help = "Examples:
  sheetbend policy why shop/web-0 shop/cart-0:8081
  sheetbend policy why shop/web-0 svc/data/db:sql            each endpoint of the Service
  sheetbend policy why world '[2001:db8::1]:53/UDP'
  sheetbend policy why shop/web-0 data/db-0/ICMP --lab demo
  sheetbend policy why -f examples/shop shop/worker-0 data/db-0:5432 --expect allow
  sheetbend policy why -f examples/shop partners/crawler-0 shop/web-0:8080 -o svg > why.svg

Ends with 0 when it is explained, whatever the verdict; with 1 if it is not the one of --expect; with 4 if somebody
named does not exist.")]
    Why(why::Args),
    /// Look for what policies say in vain or cannot mean, and end with 1 if something is found.
    ///
    /// Only what is certain is told: policies that select nothing, rules that can never decide, port names that no pod
    /// has, blocks of pod addresses, priorities that clash, pods that cannot ask for names, and what the API takes and
    /// nobody can follow. Each code has a section in docs/user/policy-lint.md.
    #[command(after_help = "Examples:
  sheetbend policy lint -f examples/shop
  sheetbend policy lint --level info                 what the agent of this node knows
  sheetbend policy lint -f . -o json | jq -r '.findings[] | .code + \" \" + .policy'")]
    Lint(lint::Args),
    /// What a change of policies would open and close, before it is applied.
    ///
    /// Every pair of pods, nodes and the world outside is compared on every protocol and port, by the rows that kernels
    /// are given before and after. A difference names the end that decides: egress of the sender or ingress of the
    /// receiver, and what it said and would say. An object of the manifests takes the place of what has its kind,
    /// namespace and name.
    #[command(after_help = "Examples:
  sheetbend policy diff -f new.yaml                       against what the agent of this node knows
  sheetbend policy diff -f new.yaml --lab demo -o wide    against a lab, with the names of pods
  sheetbend policy diff --staged                          what the staged policies would change
  sheetbend policy diff --delete NetworkPolicy/shop/web-for-everybody --objects examples/shop

Ends with 0 if no verdict changes, with 1 if one does.")]
    Diff(diff::Args),
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> ExitCode {
    let (name, done) = match command {
        Command::Why(args) => ("why", why::run(args)),
        Command::Lint(args) => ("lint", lint::run(args)),
        Command::Diff(args) => ("diff", diff::run(args)),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err((code, text)) => {
            eprintln!("sheetbend policy {name}: {text}");
            ExitCode::from(code)
        }
    }
}
