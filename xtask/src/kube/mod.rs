//! `cargo xtask kube`: a real Kubernetes of several nodes on this machine, without registry, cloud or Docker.
//!
//! [`build`] makes the programs and images, [`plan`] says what every machine runs, [`supervisor`] and [`machine`] are
//! process 1 of the cluster and of each machine, [`record`] knows what was created.

mod build;
mod cgroups;
mod conformance;
mod control_plane;
mod down;
mod e2e;
mod enter;
mod images;
mod install;
mod internet;
mod junit;
mod layout;
mod logs;
mod machine;
pub(crate) mod measure;
mod mounts;
mod node;
mod peer;
mod pki;
mod plan;
mod record;
mod settings;
mod status;
mod supervisor;
mod up;
mod verdicts;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

pub(crate) use self::build::{coredns_for_bench, cyclonus, kube_proxy_for_bench};
use self::record::Record;
use self::settings::{Family, Mode, Network};
use crate::repo::Repo;
use crate::setup::{self, Purpose};
use crate::{MISSING, NO_LAB};

/// A real Kubernetes of several nodes: etcd, the control plane, and for each node containerd and kubelet.
///
/// Needs root, Debian (or a relative) and Go; the first build takes ten minutes, later ones nothing. Every node is a
/// set of namespaces, so the machine's own network, mounts and services are not touched, several clusters run at
/// once, and `down` leaves nothing. Nodes stay NotReady until something gives them a Pod network: see `--network`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cluster.
    Up {
        /// The cluster's name.
        #[arg(long, default_value = "default")]
        name: String,
        /// Nodes beside the control plane.
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// Address families of Pods, Services and nodes.
        #[arg(long, value_enum, default_value_t = Family::Dual)]
        family: Family,
        /// What gives the cluster its Pod network.
        #[arg(long, value_enum, default_value_t = Network::None)]
        network: Network,
        /// Only with `--network sheetbend`: how packets go from node to node; by default vxlan.
        #[arg(long, value_enum)]
        mode: Option<Mode>,
    },
    /// End a cluster and remove all it left; also one whose `up` was killed.
    Down {
        #[command(flatten)]
        which: Which,
        /// Every cluster on this machine.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Show clusters, their services and nodes.
    Status(Which),
    /// Show the output of a service, e.g. `node1.kubelet`; without one, list them.
    Logs(logs::Args),
    /// Run kubectl as the cluster's administrator.
    Kubectl {
        #[command(flatten)]
        which: Which,
        /// Arguments for kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a program on a machine: `control-plane`, `node1`, …, or `underlay`, the router between them.
    Exec {
        #[command(flatten)]
        which: Which,
        /// The machine.
        machine: String,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Import an image archive (OCI or Docker) into every node.
    LoadImage {
        #[command(flatten)]
        which: Which,
        /// The archive; without one, Sheetbend's own image is built and loaded.
        archive: Option<PathBuf>,
    },
    /// Run Kubernetes' end-to-end tests in parallel.
    E2e(e2e::Args),
    /// Run a conformance suite.
    Conformance(conformance::Args),
    /// Measure Sheetbend on a cluster that it runs, and write the tables into docs/performance.md.
    Measure(measure::Args),
    #[command(hide = true)]
    Supervise { plan: PathBuf },
    #[command(hide = true)]
    Machine { plan: PathBuf, name: String },
}

/// Which cluster.
#[derive(clap::Args)]
struct Which {
    /// The cluster's name; may be left out while there is only one.
    #[arg(long)]
    name: Option<String>,
}

/// No cluster, or more than one and no name.
#[derive(Debug)]
struct NoCluster(String);

impl std::fmt::Display for NoCluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for NoCluster {}

impl Which {
    fn record(&self) -> Result<Record> {
        let names = record::names();
        let list = names.join(", ");
        let name = match (&self.name, names.as_slice()) {
            (Some(name), _) => name,
            (None, [name]) => name,
            (None, []) => {
                return Err(NoCluster("no cluster is up; `cargo xtask kube up` makes one".into()).into());
            }
            (None, _) => return Err(NoCluster(format!("name one of the clusters by --name: {list}")).into()),
        };
        settings::check_name(name)?;
        Record::read(name)?
            .ok_or_else(|| NoCluster(format!("no cluster is named {name}; there are: {list}")).into())
    }
}

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, args: Args) -> Result<ExitCode> {
    if !setup::is_root() {
        eprintln!("error: test clusters need root: sudo env \"PATH=$PATH\" cargo xtask kube …");
        return Ok(ExitCode::from(MISSING));
    }
    let outcome = dispatch(repo, args.command);
    match outcome {
        Err(error) if error.is::<NoCluster>() => {
            eprintln!("error: {error}");
            Ok(ExitCode::from(NO_LAB))
        }
        other => other,
    }
}

/// Builds all that a cluster needs.
pub(crate) fn prepare() -> Result<()> {
    let missing = setup::ensure(Purpose::Kube);
    if let Some(thing) = missing.iter().find(|thing| !thing.optional) {
        anyhow::bail!("{} is missing", thing.name);
    }
    build::components().map(drop)
}

fn dispatch(repo: &Repo, command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { name, nodes, family, network, mode } => {
            anyhow::ensure!(
                mode.is_none() || network == Network::Sheetbend,
                "--mode says how Sheetbend sends packets: add --network sheetbend"
            );
            let mode = mode.unwrap_or(Mode::Vxlan);
            let settings =
                settings::Settings { mode, ..settings::Settings::new(&name, nodes, family, network)? };
            if setup::ensure(Purpose::Kube).iter().any(|thing| !thing.optional) {
                return Ok(ExitCode::from(MISSING));
            }
            up::run(repo, settings)?;
        }
        Command::Down { which, all } => down::run(&which, all)?,
        Command::Status(which) => status::run(&which)?,
        Command::Logs(args) => logs::run(&args)?,
        Command::Kubectl { which, arguments } => {
            let mut command = enter::kubectl(&which.record()?, &build::kubectl()?)?;
            return replace(command.args(arguments));
        }
        Command::Exec { which, machine, command } => {
            let record = which.record()?;
            let mut entered = enter::command(&record, &machine, &command[0])?;
            cgroups::join(&record.cgroups, &machine)?;
            return replace(entered.args(&command[1..]));
        }
        Command::LoadImage { which, archive } => install::load(repo, &which.record()?, archive)?,
        Command::E2e(args) => return e2e::run(repo, &args),
        Command::Conformance(args) => return conformance::run(repo, args),
        Command::Measure(args) => return measure::run(repo, &args),
        Command::Supervise { plan } => supervisor::run(&plan)?,
        Command::Machine { plan, name } => machine::run(&plan, &name)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes `command`, so that its terminal, signals and exit code are its own.
fn replace(command: &mut std::process::Command) -> Result<ExitCode> {
    let error = std::os::unix::process::CommandExt::exec(command);
    Err(anyhow::Error::new(error).context(format!("cannot start {}", command.get_program().display())))
}
