//! `sheetbend lab down` and `lab node`.

use std::process::ExitCode;

use super::command::{Down, Node};
use super::failure::Outcome;
use super::owner::finish;
use super::up::say;
use super::wire::{Request, ask};
use super::{launch, state};

/// Ends a lab and removes all it made.
pub(crate) fn run(args: &Down) -> Outcome<ExitCode> {
    launch::check_rights()?;
    let swept = state::sweep()?;
    for name in &swept {
        say(&format!("removed what was left of lab {name}, whose supervisor was gone"));
    }
    let found = state::find(args.which.name.as_deref());
    let gone = args.which.name.as_ref().map_or(!swept.is_empty(), |name| swept.contains(name));
    if found.is_err() && gone {
        return Ok(ExitCode::SUCCESS);
    }
    let (dir, file) = found?;
    // A supervisor that does not answer is ended all the same.
    let _ = ask(&dir, &Request::Down, |_| ());
    finish(&dir, &file.supervisor)?;
    say(&format!("lab {} is gone", file.name));
    Ok(ExitCode::SUCCESS)
}

/// Acts on the agent of a node.
pub(crate) fn node(args: Node) -> Outcome<ExitCode> {
    let (dir, _) = state::find(args.which.name.as_deref())?;
    let status = ask(&dir, &Request::Node { node: args.node.clone(), action: args.action }, |_| ())?;
    if let Some(node) = status.nodes.iter().find(|node| node.name == args.node) {
        say(&format!("{}: agent {}", node.name, node.agent));
    }
    Ok(ExitCode::SUCCESS)
}
