//! The rtnetlink messages that we send, each with the one meaning that we give it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::RawFd;

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sheetbend_model::types::Mac;

use super::PROTOCOL;

/// `IFLA_INET_CONF` and the settings in it (linux/if_link.h, linux/ip.h).
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_PROXY_ARP: u16 = 3;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;

pub(super) fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// `addr` as a block of its own.
pub(super) fn whole(addr: IpAddr) -> IpNet {
    IpNet::from(addr)
}

fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

/// A veth whose one end appears as `ifname` in the namespace `netns`, the other as `peer` in the socket's.
pub(super) fn veth(
    netns: RawFd,
    (ifname, mac): (&str, Mac),
    (peer, peer_mac): (&str, Mac),
    mtu: u32,
) -> RouteNetlinkMessage {
    let end = |name: &str, mac: Mac| {
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(mac.0.to_vec()),
        ]
    };
    let mut attributes = end(ifname, mac);
    attributes.push(LinkAttribute::NetNsFd(netns));
    attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(link(0, end(peer, peer_mac))))),
    ]));
    RouteNetlinkMessage::NewLink(link(0, attributes))
}

/// Creates `name` of the given kind in the socket's namespace.
pub(super) fn create(name: &str, mac: Mac, mtu: u32, info: Vec<LinkInfo>) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(link(
        0,
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(info),
        ],
    ))
}

/// Removes the link called `name`.
pub(super) fn delete(name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(link(0, vec![LinkAttribute::IfName(name.to_owned())]))
}

/// Asks for the link called `name`.
pub(super) fn get_link(name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(link(0, vec![LinkAttribute::IfName(name.to_owned())]))
}

/// Asks for every link.
pub(super) fn dump_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Brings a link up.
pub(super) fn up(index: u32) -> RouteNetlinkMessage {
    let mut message = link(index, Vec::new());
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Sets a link's MTU and Ethernet address.
pub(super) fn set_mtu_and_mac(index: u32, mtu: u32, mac: Mac) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(link(
        index,
        vec![LinkAttribute::Mtu(mtu), LinkAttribute::Address(mac.0.to_vec())],
    ))
}

/// Names a link for people.
pub(super) fn alias(index: u32, text: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(link(index, vec![LinkAttribute::IfAlias(text.to_owned())]))
}

/// No link-local address by itself, and with it no duplicate address detection (RFC 4862 §5.4).
pub(super) fn no_automatic_address(index: u32) -> RouteNetlinkMessage {
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    RouteNetlinkMessage::SetLink(link(index, vec![LinkAttribute::AfSpecUnspec(vec![inet6])]))
}

/// `rp_filter` off, and `proxy_arp` as said.
pub(super) fn ipv4_settings(index: u32, proxy_arp: bool) -> RouteNetlinkMessage {
    let mut settings = Vec::new();
    for (kind, value) in [(IPV4_DEVCONF_PROXY_ARP, u32::from(proxy_arp)), (IPV4_DEVCONF_RP_FILTER, 0)] {
        settings.extend_from_slice(&8u16.to_ne_bytes());
        settings.extend_from_slice(&kind.to_ne_bytes());
        settings.extend_from_slice(&value.to_ne_bytes());
    }
    let conf = DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, settings);
    let inet = AfSpecUnspec::Inet(vec![AfSpecInet::Other(conf)]);
    RouteNetlinkMessage::SetLink(link(index, vec![LinkAttribute::AfSpecUnspec(vec![inet])]))
}

fn address_message(index: u32, block: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(block.addr());
    message.header.prefix_len = block.prefix_len();
    message.header.index = index;
    message.header.scope = match block.addr() {
        IpAddr::V6(addr) if addr.is_unicast_link_local() => AddressScope::Link,
        IpAddr::V4(_) | IpAddr::V6(_) => AddressScope::Universe,
    };
    message.attributes = vec![
        AddressAttribute::Local(block.addr()),
        AddressAttribute::Address(block.addr()),
        AddressAttribute::Flags(AddressFlags::Nodad),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ];
    message
}

/// Gives a link an address, without duplicate address detection.
pub(super) fn add_address(index: u32, block: IpNet) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewAddress(address_message(index, block))
}

/// Takes an address away.
pub(super) fn delete_address(index: u32, block: IpNet) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(address_message(index, block))
}

/// Asks for every address.
pub(super) fn dump_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

fn neighbour_message(index: u32, addr: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(addr);
    message.header.ifindex = index;
    let destination = match addr {
        IpAddr::V4(addr) => NeighbourAddress::Inet(addr),
        IpAddr::V6(addr) => NeighbourAddress::Inet6(addr),
    };
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    message
}

/// A permanent neighbour: never asked for, never forgotten.
pub(super) fn neighbour(index: u32, addr: IpAddr, mac: Mac) -> RouteNetlinkMessage {
    let mut message = neighbour_message(index, addr);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    RouteNetlinkMessage::NewNeighbour(message)
}

/// Forgets a neighbour.
pub(super) fn delete_neighbour(index: u32, addr: IpAddr) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelNeighbour(neighbour_message(index, addr))
}

/// Asks for the neighbours on one link.
pub(super) fn dump_neighbours(index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.attributes = vec![NeighbourAttribute::IfIndex(index)];
    RouteNetlinkMessage::GetNeighbour(message)
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StackRoute {
    pub(super) destination: IpNet,
    /// Device, or `None`: unreachable.
    pub(super) device: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    /// The gateway is on the link although no address of the node says so.
    pub(super) onlink: bool,
    /// Source of what the node itself sends.
    pub(super) source: Option<IpAddr>,
}

impl StackRoute {
    /// `destination` straight out of `device`.
    pub(super) fn device(destination: IpNet, device: u32) -> Self {
        Self { destination, device: Some(device), gateway: None, onlink: false, source: None }
    }

    /// `destination` via `gateway`.
    pub(super) fn via(destination: IpNet, device: u32, gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::device(destination, device) }
    }

    /// `destination` is refused by the stack.
    pub(super) fn unreachable(destination: IpNet) -> Self {
        Self { destination, device: None, gateway: None, onlink: false, source: None }
    }

    pub(super) fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination.addr());
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Other(PROTOCOL);
        message.header.kind = if self.device.is_some() { RouteType::Unicast } else { RouteType::Unreachable };
        message.header.scope = match (self.device, self.gateway, self.destination) {
            (Some(_), None, IpNet::V4(_)) => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        if self.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        let mut attributes =
            vec![RouteAttribute::Destination(RouteAddress::from(self.destination.network()))];
        attributes.extend(self.device.map(RouteAttribute::Oif));
        attributes.extend(self.gateway.map(|addr| RouteAttribute::Gateway(addr.into())));
        attributes.extend(self.source.map(|addr| RouteAttribute::PrefSource(addr.into())));
        message.attributes = attributes;
        message
    }
}

/// As `ip route` writes it, with the device's index.
impl fmt::Display for StackRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(device) = self.device else { return write!(f, "unreachable {}", self.destination) };
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " dev {device}")?;
        if self.onlink {
            f.write_str(" onlink")?;
        }
        self.source.map_or(Ok(()), |source| write!(f, " src {source}"))
    }
}

/// Asks for every route of one family that is ours.
pub(super) fn dump_routes(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    RouteNetlinkMessage::GetRoute(message)
}

/// The link-local address made of an Ethernet address (RFC 4291, appendix A).
pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}
