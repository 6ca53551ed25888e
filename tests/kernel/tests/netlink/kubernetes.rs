//! The real agent on an API server: what it owes its Node, and what goes on while the server is away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::AgentNode;
use sheetbend_testkit::api_server::ApiServer;

pub(crate) const TESTS: &[crate::Test] = &[
    ("kubernetes::a_node_is_ready_when_pods_can_be_attached", a_node_is_ready_when_pods_can_be_attached),
    (
        "kubernetes::an_agent_restarts_while_the_api_server_is_away",
        an_agent_restarts_while_the_api_server_is_away,
    ),
    ("kubernetes::another_plugin_or_kube_proxy_is_refused", another_plugin_or_kube_proxy_is_refused),
    ("kubernetes::uninstall_leaves_the_node_as_it_was", uninstall_leaves_the_node_as_it_was),
];

const PATIENCE: Duration = Duration::from_secs(30);

/// A node on an API server that has it, namespace `shop` and pod `shop/web`.
pub(crate) fn cluster() -> Result<(AgentNode, ApiServer)> {
    let mut node = AgentNode::new(&["10.244.1.0/24", "fd00:1::/64"])?;
    let server = node.netns.run(|| Ok(ApiServer::start()))?;
    node.watch_api_server(&server.url())?;
    server.put(
        "nodes",
        json!({"metadata": {"name": "a"},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"],
            "taints": [{"key": "sheetbend.dev/not-ready", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "2001:db8::1"}],
            "nodeInfo": node_info("containerd://1.6.20"),
            "conditions": [{"type": "NetworkUnavailable", "status": "True"}]}}),
    );
    server.put("namespaces", json!({"metadata": {"name": "shop"}}));
    server.put("pods", pod("web"));
    Ok((node, server))
}

fn node_info(runtime: &str) -> Value {
    let mut info = json!({"containerRuntimeVersion": runtime});
    for field in [
        "architecture",
        "bootID",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ] {
        info[field] = json!("");
    }
    info
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "a", "containers": [{"name": "c"}]}, "status": {"phase": "Pending"}})
}

fn until(what: &str, node: &AgentNode, mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}\n{}", node.log()?);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn a_node_is_ready_when_pods_can_be_attached() -> Result<()> {
    let (mut node, server) = cluster()?;
    ensure!(!node.path("net.d/05-sheetbend.conflist").exists());
    node.start_ready(None)?;
    let object = || server.object("nodes", "", "a").unwrap_or_default();
    until("the Node is clean", &node, || {
        let now = object();
        now["status"]["conditions"][0]["status"] == "False" && now["spec"]["taints"] == json!([])
    })?;
    let config: Value = serde_json::from_slice(&std::fs::read(node.path("net.d/05-sheetbend.conflist"))?)?;
    ensure!(config["cniVersion"] == "1.0.0", "containerd 1.6 reads no more: {config}");
    ensure!(node.path("plugins/sheetbend-cni").exists());

    let netns = Netns::new()?;
    let added = node.cni_pod("ADD", "shop/web", &netns.path())?;
    ensure!(added.ok, "{added:?}\n{}", node.log()?);
    until("the address is published", &node, || {
        let pod = server.object("pods", "shop", "web").unwrap_or_default();
        let published = pod["metadata"]["annotations"]["sheetbend.dev/pod-ips"].as_str().unwrap_or_default();
        published == "10.244.1.2,fd00:1::2"
    })
}

fn an_agent_restarts_while_the_api_server_is_away() -> Result<()> {
    let (mut node, mut server) = cluster()?;
    node.start_ready(None)?;
    let netns = Netns::new()?;
    ensure!(node.cni_pod("ADD", "shop/web", &netns.path())?.ok, "{}", node.log()?);
    until("the Snapshot is on disk", &node, || node.path("state/snapshot").exists())?;
    node.kill()?;
    server.stop();
    server.delete("pods", "shop", "web");
    node.start_ready(None).context("without an API server")?;
    ensure!(node.consistent()?.len() == 1, "the pod stays");
    ensure!(node.cni_pod("DEL", "shop/web", &netns.path())?.ok);
    let again = node.cni_pod("ADD", "shop/web", &netns.path())?;
    ensure!(again.ok, "a pod known before comes back: {again:?}\n{}", node.log()?);
    let other = Netns::new()?;
    let unknown = node.cni_pod("ADD", "shop/late", &other.path())?;
    ensure!(!unknown.ok && unknown.json["code"] == 11, "the runtime shall try again: {unknown:?}");

    server.put("pods", pod("late"));
    node.netns.run(|| {
        server.resume();
        Ok(())
    })?;
    until("the new pod is known", &node, || {
        node.cni_pod("ADD", "shop/late", &other.path()).is_ok_and(|answer| answer.ok)
    })?;
    ensure!(node.consistent()?.len() == 2);
    Ok(())
}

fn another_plugin_or_kube_proxy_is_refused() -> Result<()> {
    let (mut node, _server) = cluster()?;
    let health = node.netns.run(|| Ok(std::net::TcpListener::bind("127.0.0.1:10256")?))?;
    node.netns.ip("link add flannel.1 type vxlan id 1 dstport 4789 dev uplink")?;
    node.netns.ip("link set flannel.1 up")?;
    let Err(refused) = node.start_ready(None) else { bail!("it starts beside kube-proxy") };
    let text = format!("{refused:#}");
    ensure!(text.contains("kube-proxy runs here (port 10256"), "{text}");
    ensure!(text.contains("in use, and the tunnel needs it"), "{text}");
    drop(health);
    node.netns.ip("link del flannel.1")?;
    node.kill()?;
    node.start_ready(None).context("when they are gone")
}

fn uninstall_leaves_the_node_as_it_was() -> Result<()> {
    let (mut node, _server) = cluster()?;
    let look = |node: &AgentNode| -> Result<Vec<String>> {
        let mut seen = Vec::new();
        for what in ["-o link show", "-o addr show", "route show table all", "-6 route show table all"] {
            seen.push(node.netns.ip(what)?);
        }
        seen.push(node.netns.run(|| {
            let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}"));
            Ok(["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/ip_local_reserved_ports"]
                .map(|name| read(name).unwrap_or_default())
                .concat())
        })?);
        Ok(seen)
    };
    // The kernel sets a link up in steps of its own.
    until("the uplink is up", &node, || {
        let link = node.netns.ip("-o addr show dev uplink").unwrap_or_default();
        let state = node.netns.ip("-o link show uplink").unwrap_or_default();
        state.contains("state UP") && link.contains(" fe80::") && !link.contains("tentative")
    })?;
    let before = look(&node)?;
    node.start_ready(None)?;
    let netns = Netns::new()?;
    ensure!(node.cni_pod("ADD", "shop/web", &netns.path())?.ok, "{}", node.log()?);
    until("the configuration is there", &node, || node.path("net.d/05-sheetbend.conflist").exists())?;
    node.kill()?;
    let answer = node.uninstall()?;
    let after = || look(&node).unwrap_or_default();
    until("all is as it was", &node, || before == after())
        .with_context(|| format!("{answer}\nbefore {before:#?}\nafter {:#?}", after()))?;
    for gone in ["net.d/05-sheetbend.conflist", "plugins/sheetbend-cni", "state", "run", "bpf/sheetbend"] {
        ensure!(!node.path(gone).exists(), "{gone} is left: {answer}");
    }
    ensure!(node.uninstall().is_ok(), "again");
    Ok(())
}
