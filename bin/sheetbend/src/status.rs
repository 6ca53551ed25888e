//! `sheetbend status`: what this node's agent holds and whether it is well.

use std::path::PathBuf;
use std::process::ExitCode;

use sheetbend_shell::{admin, exit};

/// `sheetbend status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent's admin socket.
    #[arg(long, value_name = "SOCKET", default_value = "/run/sheetbend/admin.sock")]
    socket: PathBuf,
    /// Form of the answer.
    #[arg(short, long, value_name = "FORM", value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

/// Prints the agent's status.
pub(crate) fn run(args: &Args) -> ExitCode {
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

fn fetch(args: &Args) -> anyhow::Result<serde_json::Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(admin::fetch(&args.socket, "/status"))?;
    Ok(serde_json::from_str(&text)?)
}

fn print(value: &serde_json::Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
                        println!("{indent}{name}:");
                        print(field, depth + 1);
                    }
                    plain => println!("{indent}{name}: {}", text(plain)),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| match item {
            serde_json::Value::Object(_) => {
                println!("{indent}-");
                print(item, depth + 1);
            }
            plain => println!("{indent}- {}", text(plain)),
        }),
        plain => println!("{indent}{}", text(plain)),
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}
