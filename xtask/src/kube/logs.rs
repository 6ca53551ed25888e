//! `kube logs`.

use std::process::Command;

use anyhow::{Result, bail};

use super::record::directory;
use super::{Which, wait};

/// Arguments of `kube logs`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// `MACHINE.SERVICE`, e.g. `node1.kubelet` or `control-plane.etcd`.
    service: Option<String>,
    /// How many of the last lines.
    #[arg(long, short = 'n', default_value_t = 50)]
    lines: usize,
    /// Go on as the file grows.
    #[arg(long, short)]
    follow: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Result<()> {
    let record = args.which.record()?;
    let logs = directory(&record.settings.name).join("logs");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&logs)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".log").map(str::to_owned));
    }
    names.sort();
    let Some(service) = &args.service else {
        println!("{}", names.join("\n"));
        return Ok(());
    };
    if !names.contains(service) {
        bail!("no service {service}; there are: {}", names.join(", "));
    }
    let path = logs.join(format!("{service}.log"));
    if args.follow {
        super::replace(Command::new("tail").arg("-n").arg(args.lines.to_string()).arg("-F").arg(path))?;
    } else {
        print!("{}", wait::tail(&path, args.lines));
    }
    Ok(())
}
