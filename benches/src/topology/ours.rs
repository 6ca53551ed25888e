//! Ways through our agent and plugin.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::agent::{NodeSpec, Ours};
use super::fabric::{Fabric, fabric};
use super::kube_proxy::cluster_ip;
use super::routed::Pod;
use crate::contest::Way;
use crate::traffic::{Responder, Session, Tool};

/// Name of ours in the tables.
pub(crate) const NAME: &str = "Sheetbend";

/// Name of ours from another build (`--before`).
pub(crate) const BEFORE: &str = "Sheetbend, before";

/// How long an agent may take over a change, 50,000 new Services included.
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
        cluster.answers(&cluster.direct())?;
        Ok(cluster)
    }

    /// The same on one node, with Services `0..count` that all lead to the server. Service 0 has all tools' ports, the
    /// others the one of new connections.
    pub(crate) fn with_services(binaries: &Path, name: &str, net: u8, count: u32) -> anyhow::Result<Self> {
        let cluster = Self::start(binaries, name, net, "host-gw", 0)?;
        cluster.agents.services(1..count, &cluster.server)?;
        let last = [cluster_ip(false, count - 1), cluster_ip(true, count - 1)];
        cluster.answers(&Way { servers: last, ..cluster.direct() })?;
        Ok(cluster)
    }

    /// By pod address.
    pub(crate) fn direct(&self) -> Way {
        Way { name: NAME, client: self.client.netns.clone(), servers: self.server.addresses }
    }

    /// By ClusterIP, once that answers.
    pub(crate) fn service(&self) -> anyhow::Result<Way> {
        let servers = [cluster_ip(false, 0), cluster_ip(true, 0)];
        let way = Way { name: NAME, client: self.client.netns.clone(), servers };
        self.answers(&way)?;
        Ok(way)
    }

    /// Waits until both families answer.
    fn answers(&self, way: &Way) -> anyhow::Result<()> {
        let start = Instant::now();
        for server in way.servers {
            while let Err(error) = Session::open(Tool::TcpConnect, &way.client, server)
                .and_then(|mut session| session.rate(Duration::from_millis(1)))
            {
                if start.elapsed() > PATIENCE {
                    return Err(error).with_context(|| format!("{server} never answered"));
                }
                sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}
