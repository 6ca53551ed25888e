//! What a command and a supervisor say to each other over `control.sock`: one request, then replies, a JSON object a
//! line each.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::command::NodeAction;
use super::failure::{Failure, NO_LAB, Outcome};
use super::state::LabDir;

/// What a command asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum Request {
    /// Say what happens until the lab is ready.
    Watch,
    /// Say what runs.
    Status,
    /// `objects/` has changed: make it so.
    Reload {
        /// Grace period of pods that go, seconds; absent = their own.
        grace_period: Option<u64>,
    },
    /// Act on a node's agent.
    Node {
        /// The node.
        node: String,
        /// What to do.
        action: NodeAction,
    },
    /// End the lab.
    Down,
}

/// What the supervisor answers: any number of `Progress`, then one of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// Something happened.
    Progress {
        /// What, for people.
        text: String,
    },
    /// It is done; this is how things stand.
    Done {
        /// How things stand.
        status: Box<LabStatus>,
    },
    /// It is not done.
    Failed {
        /// Exit code.
        code: u8,
        /// What, why, how to fix.
        message: String,
    },
}

/// How a lab stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabStatus {
    /// Its name.
    pub(crate) name: String,
    /// `vxlan` or `host-gw`.
    pub(crate) mode: String,
    /// Whether every pod has answered.
    pub(crate) ready: bool,
    /// Its nodes, by name.
    pub(crate) nodes: Vec<NodeStatus>,
    /// Its pods, by namespace and name.
    pub(crate) pods: Vec<PodStatus>,
    /// How long things took.
    pub(crate) times: Times,
}

/// How a node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    /// Its name.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) netns: String,
    /// Its addresses between the nodes.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its pods' ranges.
    #[serde(rename = "podCIDRs")]
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// `ready`, `starting`, `stopped` or how it ended.
    pub(crate) agent: String,
    /// The generation of objects that its agent has applied.
    pub(crate) applied: Option<String>,
}

/// How a pod stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// Its node.
    pub(crate) node: String,
    /// Its namespace; its node's for a hostNetwork pod.
    pub(crate) netns: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// `Pending`, `Running` or `Terminating`.
    pub(crate) phase: String,
    /// Condition Ready.
    pub(crate) ready: bool,
    /// The ports that its server answers on, as `8080/TCP`; none for a pod with a command of its own.
    pub(crate) serves: Vec<String>,
    /// Whether it runs a command of its own (`sheetbend.dev/lab-command`), of which the lab knows nothing.
    #[serde(default)]
    pub(crate) own_command: bool,
}

/// Seconds after the command that began the lab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Times {
    /// All agents served.
    pub(crate) agents: Option<f64>,
    /// The first pod answered.
    pub(crate) first_pod: Option<f64>,
    /// The last pod answered.
    pub(crate) last_pod: Option<f64>,
    /// Every node had applied what the last pod changed.
    pub(crate) converged: Option<f64>,
}

/// Asks `request` of the lab in `dir`; `progress` gets what happens meanwhile.
pub(crate) fn ask(dir: &LabDir, request: &Request, mut progress: impl FnMut(&str)) -> Outcome<LabStatus> {
    let mut stream = connect(dir)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?).context("the supervisor answers in another version's language")? {
            Reply::Progress { text } => progress(&text),
            Reply::Done { status } => return Ok(*status),
            Reply::Failed { code, message } => return Err(Failure::new(code, message)),
        }
    }
    Err(Failure::new(NO_LAB, "the lab ended before it answered"))
}

/// A supervisor makes its socket in the first moments of its life.
fn connect(dir: &LabDir) -> Outcome<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(dir.control()) {
            Ok(stream) => return Ok(stream),
            Err(_) if start.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(error) => {
                let text = format!("the lab in {} does not answer: {error}", dir.path.display());
                return Err(Failure::new(NO_LAB, text));
            }
        }
    }
}
