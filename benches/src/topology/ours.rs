//! Ways through our agent and plugin.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use super::agent::{NodeSpec, Ours};
use super::cluster_api::Load;
use super::fabric::{Fabric, fabric};
use super::kube_proxy::cluster_ip;
use super::routed::Pod;
use crate::contest::Way;
use crate::traffic::Responder;

/// Name of ours in the tables.
pub(crate) const NAME: &str = "Sheetbend";

/// Name of ours from another build (`--before`).
pub(crate) const BEFORE: &str = "Sheetbend, before";

/// How long an agent may take over a change.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of two nodes with a client on the first and a server on either.
pub(crate) struct Cluster {
    /// Kept alive.
    pub(crate) agents: Ours,
    client: Pod,
    server: Pod,
}

impl Cluster {
    /// Starts the agents in `mode` and makes both pods; the server is on node `server_node` (0 or 1).
    pub(crate) fn start(
        binaries: &Path,
        name: &str,
        net: u8,
        mode: &str,
        server_node: usize,
    ) -> anyhow::Result<Self> {
        let Fabric { nodes, addresses } = fabric(name, net)?;
        let specs: Vec<NodeSpec> = nodes
            .into_iter()
            .zip(addresses)
            .enumerate()
            .map(|(index, (netns, addresses))| NodeSpec {
                netns,
                addresses,
                pod_cidrs: [format!("10.{net}.{index}.0/24"), format!("fd{net}:{index}::/64")],
            })
            .collect();
        let mut agents = Ours::start(binaries, name, mode, &specs, &|_| Ok(()))?;
        agents.wait()?;
        let client = agents.pod(0, "client")?;
        let server = agents.pod(server_node, "server")?;
        for address in server.addresses {
            Responder::start(&server.netns, address)?;
        }
        agents.service("server", [cluster_ip(false, 0), cluster_ip(true, 0)], &server)?;
        let cluster = Self { agents, client, server };
        cluster.direct().wait(PATIENCE)?;
        Ok(cluster)
    }

    /// The same on one node, from an API server that holds these Services before the agent starts; and how long the
    /// agent took from its start to the end of its first sync, seconds.
    pub(crate) fn with_services(
        binaries: &Path,
        name: &str,
        net: u8,
        load: Load,
    ) -> anyhow::Result<(Self, f64)> {
        let Fabric { nodes: [netns, _other], addresses: [addresses, _] } = fabric(name, net)?;
        let pod_cidrs = [format!("10.{net}.0.0/24"), format!("fd{net}:0::/64")];
        let spec = NodeSpec { netns, addresses, pod_cidrs };
        // The node itself is first, then the client.
        let server = [format!("10.{net}.0.3").parse()?, format!("fd{net}::3").parse()?];
        let (agents, took) = Ours::watching(binaries, name, &spec, |api| api.fill(load, server))?;
        let client = agents.pod(0, "client")?;
        let pod = agents.pod(0, "server")?;
        ensure!(pod.addresses == server, "the second pod has {:?}, not {server:?}", pod.addresses);
        for address in server {
            Responder::start(&pod.netns, address)?;
        }
        let cluster = Self { agents, client, server: pod };
        let last = load.services - 1;
        cluster.service_at(last).wait(PATIENCE)?;
        Ok((cluster, took))
    }

    /// By pod address.
    pub(crate) fn direct(&self) -> Way {
        Way { name: NAME, client: self.client.netns.clone(), servers: self.server.addresses }
    }

    /// By ClusterIP, once that answers.
    pub(crate) fn service(&self) -> anyhow::Result<Way> {
        let way = self.service_at(0);
        way.wait(PATIENCE)?;
        Ok(way)
    }

    /// By the ClusterIP of Service `index`.
    pub(crate) fn service_at(&self, index: u32) -> Way {
        Way { servers: [cluster_ip(false, index), cluster_ip(true, index)], ..self.direct() }
    }
}
