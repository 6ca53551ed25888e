//! This node's links, routes and addresses, and our programs on its devices.

use sheetbend_apply::netlink::node::{self, NodeSpec};
use sheetbend_ebpf_abi as abi;
use sheetbend_model::state::NetworkMode;
use tracing::{error, info, warn};

use super::Core;
use crate::agent::cni::NodeFacts;

impl Core {
    pub(super) fn ensure_node(&mut self) -> anyhow::Result<()> {
        let ports = self.config.nat_ports;
        let spec = NodeSpec {
            overlay: self.compiler.overlay(),
            routes: self.compiler.routes(),
            nat_ports: (ports.first, ports.count()),
            keeps: !self.is_fresh(),
        };
        let links = node::ensure(&spec)?;
        for step in &links.steps {
            info!("node: {step}");
        }
        self.outputs.settings.add(&links.settings);
        self.kernel.configure(abi::NodeConfig {
            mode: match self.compiler.overlay().mode {
                NetworkMode::Vxlan => abi::MODE_VXLAN,
                NetworkMode::HostGw => abi::MODE_HOST_GW,
            },
            uplink_ifindex: links.uplink.ifindex,
            tunnel_ifindex: links.tunnel_ifindex.unwrap_or(0),
            uplink_mtu: links.uplink.mtu,
            pod_mtu: links.pod_mtu,
            nat_port_first: ports.first,
            nat_port_count: ports.count(),
            tunnel_port: abi::TUNNEL_PORT,
            ..abi::NodeConfig::default()
        })?;
        self.links = Some(links);
        Ok(())
    }

    /// After the first sync: programs on every device, then the node is ready for ADD.
    pub(super) fn attach_all(&mut self) -> anyhow::Result<()> {
        let Some(links) = &self.links else { return Ok(()) };
        for attachment in self.attachments.values() {
            if let Err(error) = self.kernel.attach_pod(attachment.host_ifindex) {
                warn!(container = %attachment.id.container_id, "its veth has no programs: {error}");
            }
        }
        self.kernel.attach_uplink(links.uplink.ifindex)?;
        if let Some(tunnel) = links.tunnel_ifindex {
            self.kernel.attach_tunnel(tunnel)?;
        }
        let sockets = match &self.config.cgroup {
            Some(cgroup) => self.kernel.attach_cgroup(cgroup),
            None => self.kernel.detach_cgroup(),
        };
        // Pods reach Services without it, and theirs must not wait.
        self.sockets = sockets.err().map(|error| error.to_string());
        if let Some(error) = &self.sockets {
            error!("this node's own processes do not reach Services until the agent starts anew: {error}");
        }
        let facts = NodeFacts {
            uplink: links.uplink.name.clone(),
            pod_mtu: links.pod_mtu,
            router_addresses: self.compiler.overlay().router_addresses.clone(),
            programs: self.kernel.pod_programs(),
        };
        self.outputs.facts.send_replace(Some(facts));
        self.outputs.ready.done();
        info!(node = %self.config.node, uplink = links.uplink.name, mtu = links.pod_mtu, "ready");
        Ok(())
    }
}
