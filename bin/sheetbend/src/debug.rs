//! `sheetbend debug`: is everything as it should be?

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use sheetbend_shell::{admin, exit};

use crate::agent::Leak;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// `sheetbend debug`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Look for what is left of pods that are gone: addresses, attachments, links, programs and rows of kernel tables.
    ///
    /// Compares the kernel, the files of the agent and the API server. Ends with 1 and a list where they differ. What is
    /// under way is no leak: only what stays for the whole of --wait is told.
    Leaks(LeaksArgs),
}

/// `sheetbend debug leaks`.
#[derive(Debug, clap::Args)]
pub(crate) struct LeaksArgs {
    /// The agent's admin socket.
    #[arg(long, value_name = "SOCKET", default_value = "/run/sheetbend/admin.sock")]
    socket: PathBuf,
    /// How long something must be wrong to be told.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    wait: u64,
    /// Form of the answer.
    #[arg(short, long, value_name = "FORM", value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> ExitCode {
    let Command::Leaks(args) = command;
    match leaks(args) {
        Ok(leaks) => {
            if args.output == "json" {
                println!("{:#}", json!({ "leaks": leaks }));
            } else if leaks.is_empty() {
                println!("no leaks");
            } else {
                leaks.iter().for_each(|leak| println!("{} {}: {}", leak.kind, leak.object, leak.why));
            }
            ExitCode::from(if leaks.is_empty() { exit::OK } else { exit::MISMATCH })
        }
        Err(error) => {
            eprintln!("sheetbend debug leaks: {error:#}");
            ExitCode::from(exit::NO_OBJECT)
        }
    }
}

/// What every look within `--wait` has found; the first that finds nothing ends it.
fn leaks(args: &LeaksArgs) -> anyhow::Result<BTreeSet<Leak>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = Instant::now() + Duration::from_secs(args.wait);
    let mut found = runtime.block_on(look(args))?;
    while !found.is_empty() && Instant::now() < end {
        std::thread::sleep(PERIOD);
        let now = runtime.block_on(look(args))?;
        found.retain(|leak| now.contains(leak));
    }
    Ok(found)
}

async fn look(args: &LeaksArgs) -> anyhow::Result<BTreeSet<Leak>> {
    let text = admin::fetch(&args.socket, "/leaks")
        .await
        .with_context(|| format!("no agent answers at {}", args.socket.display()))?;
    let answer: Value = serde_json::from_str(&text)?;
    if let Some(error) = answer["error"].as_str() {
        bail!("the agent cannot tell: {error}");
    }
    Ok(serde_json::from_value(answer["leaks"].clone())?)
}
