//! What a user can type after `sheetbend lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Stand a cluster's network up on this machine, look at it, and take it down.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read manifests and stand their cluster's network up; return when every pod answers.
    #[command(after_help = "Examples:
  sheetbend lab up -f examples/shop               two nodes, VXLAN between them
  sheetbend lab up -f dump.yaml --mode host-gw    a `kubectl get -A -o yaml` dump, plain routes
  sheetbend lab up -f . --name a --nodes 3        a lab beside others")]
    Up(Up),
    /// What runs: nodes, agents, pods with their addresses.
    Status(Status),
    /// Try every source against every destination and compare with what the policies say.
    #[command(after_help = "Exit code 1 when a cell differs from what the Kubernetes objects say.

Examples:
  sheetbend lab matrix                        a summary, and each mismatch in full
  sheetbend lab matrix -o wide                every cell
  sheetbend lab matrix -o json | jq '.cells[] | select(.match | not)'")]
    Matrix(Matrix),
    /// Run a command in a pod's network namespace.
    #[command(after_help = "Example: sheetbend lab exec shop/web-0 -- curl -s http://10.96.0.10/")]
    Exec(Exec),
    /// Add or change the objects of these manifests.
    Apply(Change),
    /// Delete the objects of these manifests; pods get their grace period.
    Delete(Delete),
    /// Stop, start or kill -9 the agent of one node. Traffic must not notice.
    Node(Node),
    /// End a lab and remove all it made.
    Down(Down),
    /// Up, matrix, spread of requests, latest drops, times, down: the proof in one command.
    Demo(Demo),
    /// First stage of a supervisor: makes its namespaces.
    #[command(hide = true)]
    Launch(Supervise),
    /// The supervisor itself: process 1 of a lab.
    #[command(hide = true)]
    Supervise(Supervise),
}

/// Which lab a command means.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The lab; without it, the only running one.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// How the lab is built.
#[derive(Clone, Debug, Args)]
pub(crate) struct Shape {
    /// A manifest, or a directory of manifests (*.yaml, *.yml, *.json). May be given several times.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Number of nodes; the nodes that the manifests name are mapped to them in name order.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) nodes: u8,
    /// How packets reach other nodes: vxlan or host-gw.
    #[arg(long, default_value = "vxlan", value_name = "MODE")]
    pub(crate) mode: String,
    /// Give pods the addresses that the manifests' status names.
    #[arg(long)]
    pub(crate) keep_addresses: bool,
}

/// `sheetbend lab up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// The lab's name.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) name: String,
}

/// `sheetbend lab demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// The lab's name; drawn when absent (`demo-<pid>`).
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For people, every row and column.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// `sheetbend lab status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// `sheetbend lab matrix`.
#[derive(Debug, Args)]
pub(crate) struct Matrix {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// At most this many cells, spread evenly; the answer says so.
    #[arg(long, value_name = "N")]
    pub(crate) sample: Option<usize>,
}

/// `sheetbend lab exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) which: Which,
    /// NAMESPACE/NAME of a pod, the name of a node, or `world`.
    #[arg(value_name = "POD")]
    pub(crate) pod: String,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// `sheetbend lab apply`.
#[derive(Debug, Args)]
pub(crate) struct Change {
    #[command(flatten)]
    pub(crate) which: Which,
    /// A manifest, or a directory of manifests. May be given several times.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// `sheetbend lab delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) change: Change,
    /// Seconds that pods still serve while they terminate; each pod's own terminationGracePeriodSeconds if absent.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace_period: Option<u64>,
}

/// What to do with a node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NodeAction {
    /// SIGTERM.
    Stop,
    /// Start it again.
    Start,
    /// SIGKILL.
    Kill,
}

/// `sheetbend lab node`.
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The node, as `node-1`.
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// What to do with its agent.
    #[arg(value_enum)]
    pub(crate) action: NodeAction,
}

/// `sheetbend lab down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// The supervisor's own arguments: everything else is in its directory.
#[derive(Debug, Args)]
pub(crate) struct Supervise {
    /// The lab's directory.
    pub(crate) dir: PathBuf,
}
