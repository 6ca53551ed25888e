//! What the kernel holds, in our words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressProtocol};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::ENODEV;
use sheetbend_model::types::Mac;

use super::connection::Connection;
use super::messages::{self, StackRoute};
use super::{NetlinkError, PROTOCOL};

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) mtu: u32,
    pub(super) mac: Option<Mac>,
    /// A veth's other end: its index, in its own namespace.
    pub(super) peer: Option<u32>,
}

impl LinkState {
    fn of(message: &LinkMessage) -> Self {
        let mut state = Self {
            index: message.header.index,
            name: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            mac: None,
            peer: None,
        };
        for attribute in &message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                state.name.clone_from(name);
            } else if let LinkAttribute::Mtu(mtu) = attribute {
                state.mtu = *mtu;
            } else if let LinkAttribute::Link(peer) = attribute {
                state.peer = Some(*peer);
            } else if let LinkAttribute::Address(bytes) = attribute {
                state.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
        }
        state
    }
}

/// The link called `name`, if there is one.
pub(super) fn find_link(connection: &mut Connection, name: &str) -> Result<Option<LinkState>, NetlinkError> {
    match connection.get(&format!("look link {name} up"), messages::get_link(name)) {
        Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(Some(LinkState::of(&message))),
        Ok(_) => Ok(None),
        Err(error) if error.errno() == Some(ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every link.
pub(super) fn links(connection: &mut Connection) -> Result<Vec<LinkState>, NetlinkError> {
    let answers = connection.dump("list links", messages::dump_links())?;
    Ok(answers
        .iter()
        .filter_map(|answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                Some(LinkState::of(message))
            } else {
                None
            }
        })
        .collect())
}

/// One address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkAddress {
    pub(super) index: u32,
    pub(super) block: IpNet,
    pub(super) ours: bool,
}

/// Every address.
pub(super) fn addresses(connection: &mut Connection) -> Result<Vec<LinkAddress>, NetlinkError> {
    let answers = connection.dump("list addresses", messages::dump_addresses())?;
    Ok(answers
        .iter()
        .filter_map(|answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
            let (mut local, mut address, mut ours) = (None, None, false);
            for attribute in &message.attributes {
                if let AddressAttribute::Local(addr) = attribute {
                    local = Some(*addr);
                } else if let AddressAttribute::Address(addr) = attribute {
                    address = Some(*addr);
                } else if let AddressAttribute::Protocol(protocol) = attribute {
                    ours = *protocol == AddressProtocol::Other(PROTOCOL);
                }
            }
            let block = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
            Some(LinkAddress { index: message.header.index, block, ours })
        })
        .collect())
}

/// Every route of the main table that is ours, both families.
pub(super) fn routes(connection: &mut Connection) -> Result<BTreeSet<StackRoute>, NetlinkError> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for answer in connection.dump("list routes", messages::dump_routes(family))? {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                found.extend(stack_route(&message));
            }
        }
    }
    Ok(found)
}

/// `message` in our words; `None` for a route that is not ours.
pub(super) fn stack_route(message: &RouteMessage) -> Option<StackRoute> {
    if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let (mut destination, mut device, mut gateway, mut source) = (None, None, None, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(addr) = attribute {
            destination = ip(addr);
        } else if let RouteAttribute::Oif(index) = attribute {
            device = Some(*index);
        } else if let RouteAttribute::Gateway(addr) = attribute {
            gateway = ip(addr);
        } else if let RouteAttribute::PrefSource(addr) = attribute {
            source = ip(addr);
        }
    }
    if message.header.kind == RouteType::Unreachable {
        // IPv6 shows the loopback device here, IPv4 none.
        device = None;
    }
    let destination = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    Some(StackRoute { destination, device, gateway, onlink, source })
}

fn ip(addr: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(addr) = addr {
        Some((*addr).into())
    } else if let RouteAddress::Inet6(addr) = addr {
        Some((*addr).into())
    } else {
        None
    }
}

/// The permanent neighbours on one link.
pub(super) fn neighbours(
    connection: &mut Connection,
    index: u32,
) -> Result<BTreeMap<IpAddr, Mac>, NetlinkError> {
    let mut found = BTreeMap::new();
    for answer in connection.dump("list neighbours", messages::dump_neighbours(index))? {
        let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
        if message.header.ifindex != index || message.header.state != NeighbourState::Permanent {
            continue;
        }
        let (mut addr, mut mac) = (None, None);
        for attribute in &message.attributes {
            if let NeighbourAttribute::Destination(destination) = attribute {
                if let NeighbourAddress::Inet(ipv4) = destination {
                    addr = Some(IpAddr::from(*ipv4));
                } else if let NeighbourAddress::Inet6(ipv6) = destination {
                    addr = Some(IpAddr::from(*ipv6));
                }
            } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
        }
        found.extend(addr.zip(mac));
    }
    Ok(found)
}

/// The node's end of a pod's veth, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Interface index on the node.
    pub host_ifindex: u32,
    /// It is up.
    pub up: bool,
    /// Destinations of our routes to it.
    pub routed: BTreeSet<IpAddr>,
}

/// Whether `name` is one that [`super::host_ifname`] makes.
pub(super) fn is_pod_link(name: &str) -> bool {
    let digits = name.strip_prefix("sb").unwrap_or_default();
    name.len() == 15 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Every link on the node whose name is one of ours (`sb` and 13 hexadecimal digits), by name.
///
/// # Errors
/// Whatever the kernel refuses.
pub fn pod_links() -> Result<BTreeMap<String, PodLink>, NetlinkError> {
    let mut connection = Connection::open()?;
    let mut routed: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    for route in routes(&mut connection)? {
        if let (Some(device), None) = (route.device, route.gateway) {
            routed.entry(device).or_default().insert(route.destination.addr());
        }
    }
    let found = links(&mut connection)?;
    Ok(found
        .into_iter()
        .filter(|link| is_pod_link(&link.name))
        .map(|link| {
            let routed = routed.remove(&link.index).unwrap_or_default();
            (link.name, PodLink { host_ifindex: link.index, up: link.up, routed })
        })
        .collect())
}
