//! `sheetbend uninstall`: leaves the node as it was before the agent came.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use sheetbend_apply::netlink;
use sheetbend_shell::config::Config;
use sheetbend_shell::drain::Drain;
use sheetbend_shell::exit;

use crate::agent::{Args as AgentArgs, SettingsFile};
use crate::daemon;
use crate::install::Install;

/// `sheetbend uninstall`.
#[derive(Debug, clap::Args)]
#[group(id = "uninstall")]
pub(crate) struct Args {
    /// Stay until SIGTERM when all is removed, as a DaemonSet's pod must.
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

/// Removes links, routes, programs, maps, the runtime's configuration and plugin, and the state; puts kernel settings
/// back.
pub(crate) fn run(args: &Args) -> ExitCode {
    let config = match daemon::configured(args.agent.config()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match remove(&config).and_then(|()| if args.stay { stay() } else { Ok(()) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sheetbend uninstall: {error:#}");
            ExitCode::from(exit::INTERNAL)
        }
    }
}

fn stay() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        println!("nothing of Sheetbend is left on this node");
        Drain::on_signals()?.requested().await;
        Ok(())
    })
}

fn remove(config: &Config) -> anyhow::Result<()> {
    let node = &config.node;
    let _lock = crate::agent::lock(&node.run_dir).context("an agent still runs here; stop it first")?;
    let install = Install {
        config_dir: config.cni.config_dir.clone(),
        plugin_dir: config.cni.plugin_dir.clone(),
        run_dir: node.run_dir.clone(),
        version: String::new(),
    };
    // First, so that the runtime asks for no more pods.
    say(install.undo()?);
    for name in netlink::pod_links().context("listing the pods' links")?.into_keys() {
        netlink::detach(&name).with_context(|| format!("removing link {name}"))?;
        println!("remove link {name}");
    }
    say(netlink::node::remove().context("removing routes and devices")?);
    // The pins hold the last references to programs and maps.
    remove_pins(&node.bpffs.join("sheetbend"), &node.instance)?;
    let settings = SettingsFile::new(&node.state_dir).read()?;
    say(netlink::node::restore(&settings).context("putting kernel settings back")?);
    for directory in [&node.state_dir, &node.run_dir] {
        remove_tree(directory)?;
    }
    Ok(())
}

fn say(steps: Vec<String>) {
    for step in steps {
        println!("{step}");
    }
}

fn remove_pins(root: &Path, instance: &str) -> anyhow::Result<()> {
    let pins = root.join(instance);
    if instance.is_empty() || !pins.starts_with(root) {
        bail!("{instance:?} names no instance");
    }
    remove_tree(&pins)?;
    // Other instances' pins keep it.
    drop(fs::remove_dir(root));
    Ok(())
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let removed = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A mount point cannot be removed, what is in it can.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && empty() => Ok(()),
        other => other,
    };
    removed.with_context(|| format!("removing {}", path.display()))?;
    println!("remove {}", path.display());
    Ok(())
}
