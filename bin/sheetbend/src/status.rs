//! `sheetbend status`: what this node's agent holds and whether it is well.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;
use sheetbend_shell::{admin, exit};

/// `sheetbend status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent's admin socket.
    #[arg(long, value_name = "SOCKET", default_value = "/run/sheetbend/admin.sock")]
    socket: PathBuf,
    /// Only say whether the agent is ready: exit code 1 and what it waits for where it is not.
    #[arg(long, conflicts_with = "live")]
    ready: bool,
    /// Only say whether the agent lives.
    #[arg(long)]
    live: bool,
    /// Form of the answer.
    #[arg(short, long, value_name = "FORM", value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

/// Prints the agent's status.
pub(crate) fn run(args: &Args) -> ExitCode {
    if args.ready || args.live {
        return probe(args);
    }
    match fetch(args) {
        Ok(status) if args.output == "json" => println!("{status:#}"),
        Ok(status) => print(&status, 0),
        Err(error) => {
            eprintln!("sheetbend status: no agent answers at {}: {error}", args.socket.display());
            return ExitCode::from(exit::NO_OBJECT);
        }
    }
    ExitCode::SUCCESS
}

fn probe(args: &Args) -> ExitCode {
    match fetch_text(args, if args.ready { "/readyz" } else { "/livez" }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sheetbend status: {error}");
            ExitCode::from(exit::MISMATCH)
        }
    }
}

fn fetch(args: &Args) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&fetch_text(args, "/status")?)?)
}

fn fetch_text(args: &Args, document: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(admin::fetch(&args.socket, document))?)
}

fn print(value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    if let Some(fields) = value.as_object() {
        for (name, field) in fields {
            if field.is_object() || field.is_array() {
                println!("{indent}{name}:");
                print(field, depth + 1);
            } else {
                println!("{indent}{name}: {}", text(field));
            }
        }
    } else if let Some(items) = value.as_array() {
        for item in items {
            if item.is_object() {
                println!("{indent}-");
                print(item, depth + 1);
            } else {
                println!("{indent}- {}", text(item));
            }
        }
    } else {
        println!("{indent}{}", text(value));
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}
