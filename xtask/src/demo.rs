//! `cargo xtask demo`: builds, then hands over to `sheetbend lab demo`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::MISSING;
use crate::ebpf;
use crate::repo::Repo;
use crate::setup::{self, Purpose};

/// The manifests of the demo.
pub(crate) const SHOP: &str = "examples/shop";

/// See it work: two nodes, the pods of examples/shop, Services, policies, and a table that proves it.
///
/// Needs root and a kernel of 6.6 or newer, and no LLVM. Everything happens in network namespaces that end with the
/// command, Ctrl-C included. Exit code 0 only if every cell of the table is as the policies say. Arguments go to
/// `sheetbend lab demo`; try `cargo xtask demo -- --help`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for `sheetbend lab demo`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the subcommand: on success this process becomes the demo, so that Ctrl-C and its exit code are the demo's own.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    if setup::ensure(Purpose::Demo).iter().any(|thing| !thing.optional) {
        return Ok(ExitCode::from(MISSING));
    }
    build(repo)?;
    let mut command = lab(repo);
    command.arg("demo");
    let names_files = |argument: &OsString| {
        let text = argument.to_string_lossy();
        text.starts_with("-f") || text.starts_with("--filename") || text == "--help" || text == "-h"
    };
    if !args.arguments.iter().any(names_files) {
        command.args(["-f", SHOP]);
    }
    command.args(&args.arguments);
    let error = command.exec();
    Err(error).context("cannot start sheetbend")
}

/// Builds both binaries for release; cargo shows its own progress.
pub(crate) fn build(repo: &Repo) -> Result<()> {
    if !repo.path(ebpf::OBJECT).is_file() {
        bail!(
            "{} is missing; `git checkout -- crates/ebpf/object`, or build it: `cargo xtask ebpf`",
            ebpf::OBJECT
        );
    }
    let status = repo
        .cargo()
        .args(["build", "--release", "--package", "sheetbend", "--package", "sheetbend-cni"])
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the build failed");
    }
    Ok(())
}

/// `sheetbend lab`, as built by [`build`].
pub(crate) fn lab(repo: &Repo) -> Command {
    let mut command = Command::new(repo.target().join("release/sheetbend"));
    command.current_dir(repo.root()).arg("lab");
    command
}
