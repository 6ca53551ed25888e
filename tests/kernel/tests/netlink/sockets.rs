//! Processes' sockets: a directory that the agent cannot put its programs on is named and costs the pods nothing, and what
//! is connected to a removed backend is ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::AgentNode;

pub(crate) const TESTS: &[crate::Test] = &[
    (
        "sockets::a_refused_cgroup_is_named_and_the_node_goes_on",
        a_refused_cgroup_is_named_and_the_node_goes_on,
    ),
    (
        "sockets::datagram_sockets_of_a_removed_backend_are_ended",
        datagram_sockets_of_a_removed_backend_are_ended,
    ),
];

/// Until a change of the objects shows.
const SOON: Duration = Duration::from_secs(10);

fn a_refused_cgroup_is_named_and_the_node_goes_on() -> Result<()> {
    let mut node = AgentNode::new(&["10.1.1.0/24", "fd00:1::/64"])?;
    let no_cgroup = node.path("state");
    std::fs::create_dir_all(&no_cgroup)?;
    node.set("node.cgroup", &no_cgroup);
    node.start_ready(None)?;
    let status = node.status()?;
    let error = status["sockets"]["error"].as_str().with_context(|| status.to_string())?;
    ensure!(error.contains("no directory of a cgroup v2 file system"), "{error}");
    ensure!(status["sockets"]["cgroup"].as_str() == no_cgroup.to_str(), "{status}");
    ensure!(status["synced"] == true, "{status}");
    let pod = Netns::new()?;
    let answer = node.cni("ADD", "c1", &pod.path(), &serde_json::Value::Null)?;
    ensure!(answer.ok, "{answer:?}: {}", node.log()?);
    Ok(())
}

/// A directory of the cgroup v2 file system that goes with this value.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// A directory whose name ends in `name`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root =
            mounts.find(|words| words.get(2) == Some(&"cgroup2")).context("a cgroup v2 file system")?;
        let path = Path::new(root[1]).join(format!("sheetbend-{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets it go once the last process is reaped.
        while fs::remove_dir(&self.0).is_err_and(|error| error.raw_os_error() == Some(nix::libc::EBUSY)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process of the node, under `cgroup`, whose socket is connected to `to` and waits for a datagram.
struct Waiting(Child);

impl Waiting {
    fn start(node: &AgentNode, cgroup: &Cgroup, to: &str) -> Result<Self> {
        let script = format!(
            "echo $$ > {}/cgroup.procs; exec 3<>/dev/udp/{to}; echo connected; read -r -u 3 line",
            cgroup.0.display()
        );
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", node.netns.path().display())).args(["bash", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut said = [0; 9];
        let output = child.stdout.as_mut().context("a standard output")?;
        std::io::Read::read_exact(output, &mut said).with_context(|| format!("connecting to {to}"))?;
        Ok(Self(child))
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn endpoint(node: &AgentNode, address: &str) -> Result<()> {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "time-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "time"}},
        "ports": [{"name": "", "port": 5353, "protocol": "UDP"}], "endpoints": [{"addresses": [address]}],
    });
    let draft = node.path("slice.draft");
    fs::write(&draft, slice.to_string())?;
    Ok(fs::rename(&draft, node.path("objects/slice.json"))?)
}

/// Ended is what came through the Service, and not what the process connected to the same address by itself.
fn datagram_sockets_of_a_removed_backend_are_ended() -> Result<()> {
    let cgroup = Cgroup::new("left")?;
    let mut node = AgentNode::new(&["10.1.1.0/24", "fd00:1::/64"])?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "time", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 53, "targetPort": 5353, "protocol": "UDP"}]},
    });
    fs::write(node.path("objects/service.json"), service.to_string())?;
    endpoint(&node, "192.0.2.2")?;
    node.set("node.cgroup", &cgroup.0);
    node.start_ready(None)?;
    let mut by_service = Waiting::start(&node, &cgroup, "10.96.0.10/53")?;
    let mut by_address = Waiting::start(&node, &cgroup, "192.0.2.2/5353")?;
    std::thread::sleep(Duration::from_millis(200));
    ensure!(!by_service.has_ended()?, "it waits as long as the backend is there");
    endpoint(&node, "192.0.2.3")?;
    let end = Instant::now() + SOON;
    while !by_service.has_ended()? {
        ensure!(Instant::now() < end, "still connected to a backend that is gone: {}", node.log()?);
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(!by_address.has_ended()?, "a socket that no Service had to do with was ended");
    Ok(())
}
