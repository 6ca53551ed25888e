//! The wires: a bridge between the nodes, and the world behind their default route.

use std::fmt::Write as _;

use sheetbend_model::types::Family;

use crate::lab::launch::LabRequest;
use crate::lab::layout::{self, FABRIC_MTU, WORLD_GATEWAYS, WORLD_RANGES};
use crate::lab::netns::Netns;

/// Settings of every namespace made here: no waiting for duplicate address detection, echo without a raw socket, and
/// an ICMP error for each refused datagram (the matrix asks for hundreds within a second).
pub(super) const NAMESPACE_SYSCTLS: [(&str, &str); 6] = [
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_msgs_per_sec", "1000000"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// The world answers and sends from any address of its ranges, which no device has.
const WORLD_SYSCTLS: [(&str, &str); 2] = [("ipv4/ip_nonlocal_bind", "1"), ("ipv6/ip_nonlocal_bind", "1")];

/// The bridge and the world.
#[derive(Debug)]
pub(super) struct Fabric {
    /// The bridge's namespace, which is the supervisor's own.
    pub(super) bridge: Netns,
    /// The world's namespace.
    pub(super) world: Netns,
}

impl Fabric {
    /// Makes both, joined by a wire. Returns the devices made, as `namespace/device`.
    pub(super) fn create(request: &LabRequest) -> anyhow::Result<(Self, Vec<String>)> {
        let lab = &request.name;
        let (fabric, world) = (layout::node_netns(lab, "fabric"), layout::node_netns(lab, "world"));
        let made = Self { bridge: Netns::name_own(&fabric)?, world: Netns::create(&world)? };
        made.bridge.sysctl(&NAMESPACE_SYSCTLS)?;
        made.world.sysctl(&NAMESPACE_SYSCTLS)?;
        made.world.sysctl(&WORLD_SYSCTLS)?;
        made.bridge.batch(&format!(
            "link add br0 mtu {FABRIC_MTU} type bridge stp_state 0 mcast_snooping 0\nlink set br0 up\n\
             link add world type veth peer name eth0 netns {world}\nlink set world master br0 up"
        ))?;
        made.world.batch(&world_commands(request))?;
        Ok((made, vec![format!("{fabric}/br0"), format!("{fabric}/world"), format!("{world}/eth0")]))
    }

    /// Makes a node's namespace and its uplink `eth0`. Returns the devices made.
    pub(super) fn add_node(&self, lab: &str, node: &str, index: u8) -> anyhow::Result<(Netns, Vec<String>)> {
        let name = layout::node_netns(lab, node);
        let netns = Netns::create(&name)?;
        netns.sysctl(&NAMESPACE_SYSCTLS)?;
        // A device's name has at most 15 characters; a node's name may be longer.
        let port = format!("node{index}");
        self.bridge.batch(&format!(
            "link add {port} mtu {FABRIC_MTU} type veth peer name eth0 netns {name} mtu {FABRIC_MTU}\n\
             link set {port} master br0 up"
        ))?;
        netns.batch(&node_commands(index))?;
        let fabric = layout::node_netns(lab, "fabric");
        Ok((netns, vec![format!("{fabric}/{port}"), format!("{name}/eth0")]))
    }
}

fn node_commands(index: u8) -> String {
    let (ipv4, ipv6) = (layout::node_address(index, Family::IPv4), layout::node_address(index, Family::IPv6));
    let [gateway4, gateway6] = WORLD_GATEWAYS;
    format!(
        "link set eth0 up\naddr add {ipv4}/24 dev eth0\naddr add {ipv6}/64 dev eth0 nodad\n\
         route add default via {gateway4}\nroute add ::/0 via {gateway6}"
    )
}

/// The world owns every address of its ranges, and reaches the pods as a router outside the cluster would.
fn world_commands(request: &LabRequest) -> String {
    let [gateway4, gateway6] = WORLD_GATEWAYS;
    let mut text =
        format!("link set eth0 up\naddr add {gateway4}/24 dev eth0\naddr add {gateway6}/64 dev eth0 nodad\n");
    for range in WORLD_RANGES {
        let _ = writeln!(text, "route add local {range} dev lo");
    }
    for index in 1..=request.nodes {
        for cidr in request.cidrs_of(index) {
            let via = layout::node_address(index, Family::of(cidr.addr()));
            let _ = writeln!(text, "route add {cidr} via {via}");
        }
    }
    text
}
