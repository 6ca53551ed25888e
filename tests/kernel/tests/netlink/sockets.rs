//! A directory that the agent cannot put its programs on is named, and costs the pods nothing.

use anyhow::{Context, Result, ensure};
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::AgentNode;

pub(crate) const TESTS: &[crate::Test] = &[(
    "sockets::a_refused_cgroup_is_named_and_the_node_goes_on",
    a_refused_cgroup_is_named_and_the_node_goes_on,
)];

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
