//! What must work on every cluster, in a minute: pods on two nodes, a Service, a policy, an agent that is replaced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::pods::{Cluster, NAMESPACE, Place, host};
use super::rolls;
use crate::progress::Step;

const CONNECT: Duration = Duration::from_secs(1);
/// `dns.nodeLocal` of the overlays in `deploy/kubernetes`.
const NODE_LOCAL: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd5b, 0x646e, 0x73, 0, 0, 0, 0, 0xa)),
];
/// How long a change of policy may take to show.
const PATIENCE: Duration = Duration::from_secs(20);

/// All of it, in the namespace that is there.
pub(super) fn run(cluster: &Cluster, step: &mut Step) -> Result<()> {
    step.note("pods and a Service");
    let to = rolls::destinations(cluster)?;
    let client = cluster.place(&cluster.record.settings.node_names()[0], "client")?;
    for ip in &to {
        until(&client, *ip, true).with_context(|| format!("{ip} of {to:?}"))?;
    }
    step.note("names");
    let name = format!("servers.{NAMESPACE}.svc.cluster.local");
    for asked in ["servers", &name] {
        let answer = cluster.ask(&["exec", "-n", NAMESPACE, "client", "--", "getent", "ahosts", asked])?;
        let service = to.last().context("a Service address")?.to_string();
        if !answer.contains(&service) {
            bail!("{asked} is {answer:?} and not {service}");
        }
    }
    step.note("names, from the node's own server");
    for server in NODE_LOCAL {
        if !to.iter().any(|ip| ip.is_ipv4() == server.is_ipv4()) {
            continue;
        }
        let kind = if server.is_ipv4() { "A" } else { "AAAA" };
        let server = format!("@{server}");
        for transport in ["+notcp", "+tcp"] {
            let ask =
                ["exec", "-n", NAMESPACE, "client", "--", "dig", "+short", transport, &server, &name, kind];
            let answer = cluster.ask(&ask).with_context(|| format!("{transport} {server}"))?;
            if !to.iter().any(|ip| answer.contains(&ip.to_string())) {
                bail!("{server} {transport} says {answer:?} of {name}, which is in {to:?}");
            }
        }
    }
    step.note("a process of the node");
    cluster.apply(&host("host", &cluster.record.settings.node_names()[0]))?;
    cluster.wait_ready("app=host")?;
    for ip in &to {
        let end = SocketAddr::new(*ip, 8080).to_string();
        let ask = ["exec", "-n", NAMESPACE, "host", "--", "/agnhost", "connect", "--timeout=3s", &end];
        cluster.ask(&ask).with_context(|| format!("from the node to {end}"))?;
    }
    step.note("a policy that denies");
    cluster.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": NAMESPACE},
        "spec": {"podSelector": {"matchLabels": {"pod": "far"}}, "policyTypes": ["Ingress"]},
    }))?;
    for ip in cluster.addresses("far")? {
        until(&client, ip, false).context("under a policy that denies")?;
    }
    for ip in cluster.addresses("near")? {
        until(&client, ip, true).context("whom the policy does not select")?;
    }
    // Probes come from the node, which no policy keeps out.
    std::thread::sleep(Duration::from_secs(3));
    cluster.wait_ready("pod=far").context("the kubelet's probes under a policy that denies")?;
    cluster.ask(&["delete", "networkpolicy", "-n", NAMESPACE, "deny"])?;
    for ip in cluster.addresses("far")? {
        until(&client, ip, true).context("after the policy")?;
    }
    step.note("an agent is replaced under load");
    replaced(cluster, &client, &to, step).or_else(|first| {
        // A machine that does other work too may keep a server from its socket for a second. `kube measure rolls` on a
        // quiet one forgives nothing.
        replaced(cluster, &client, &to, step).with_context(|| format!("again, after {first:#}"))
    })
}

fn replaced(cluster: &Cluster, client: &Place, to: &[IpAddr], step: &mut Step) -> Result<()> {
    let rows = rolls::under_load(cluster, client, to, 1, step)?;
    match rows.iter().find(|row| row.kept == Some(false) && row.target == "0") {
        Some(row) => bail!("{}: {} ({})", row.what, row.value, row.note),
        None => Ok(()),
    }
}

/// Waits until `ip` is reached, or not any more.
fn until(client: &Place, ip: IpAddr, reached: bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let to = SocketAddr::new(ip, 8080);
        let outcome = client.run(|| Ok(TcpStream::connect_timeout(&to, CONNECT).map(drop)))?;
        if outcome.is_ok() == reached {
            return Ok(());
        }
        if Instant::now() > end {
            match outcome {
                Ok(()) => bail!("{to} is still reached after {PATIENCE:?}"),
                Err(error) => bail!("{to} is not reached after {PATIENCE:?}: {error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
