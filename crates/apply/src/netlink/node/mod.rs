//! What the node as a whole needs: tunnel device, routes to other nodes, router addresses, kernel settings.

mod settings;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkInfo};
use sheetbend_ebpf_abi::TUNNEL_PORT;
use sheetbend_model::plan::{Overlay, Route};
use sheetbend_model::state::NetworkMode;
use sheetbend_model::types::{BlockKey, Mac};

use super::NetlinkError;
use super::connection::{Change, Connection, Request};
use super::messages;
use super::read_back::{LinkState, addresses, find_link, links, neighbours, routes};

pub use settings::Setting;
pub use wanted::pod_mtu;

use wanted::Wanted;

/// Name of the tunnel device.
pub const TUNNEL_DEVICE: &str = "sb-vxlan";
/// The loopback device, index 1 in every network namespace. The router addresses are on it: in every mode, whatever
/// else comes and goes.
const LOOPBACK: u32 = 1;

/// What the node shall be.
#[derive(Clone, Copy, Debug)]
pub struct NodeSpec<'a> {
    /// This node's own part.
    pub overlay: &'a Overlay,
    /// Where the cluster's ranges are.
    pub routes: &'a BTreeMap<BlockKey, Route>,
    /// `nat.ports`: the first and how many. The stack never draws them by itself.
    pub nat_ports: (u16, u16),
    /// Nothing is removed: `overlay` and `routes` may lack what an earlier process knew.
    pub keeps: bool,
}

/// The device that carries the node's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its interface index.
    pub ifindex: u32,
    /// Its maximum transmission unit, bytes.
    pub mtu: u32,
}

/// What the node is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLinks {
    /// The device with the node's address.
    pub uplink: Uplink,
    /// Interface index of `sb-vxlan`; `None` in host-gw mode.
    pub tunnel_ifindex: Option<u32>,
    /// Maximum transmission unit of pods, bytes.
    pub pod_mtu: u32,
    /// What was changed to get here, in order; empty when all was right.
    pub steps: Vec<String>,
    /// Kernel settings among them, with what they were: whoever wants them back must write them down.
    pub settings: Vec<Setting>,
}

/// Reads back what the node has, and changes what differs from `spec`. Routes and addresses that carry
/// [`super::PROTOCOL`] and are not wanted go; all others are left alone, and so are the routes to the node's pods.
///
/// # Errors
/// The first thing that the kernel refuses. Calling again goes on from there.
pub fn ensure(spec: &NodeSpec<'_>) -> Result<NodeLinks, NetlinkError> {
    let mut connection = Connection::open()?;
    let uplink = find_uplink(&mut connection, spec.overlay)?;
    let pod_mtu = pod_mtu(spec, uplink.mtu);
    let settings = settings::ensure(spec, &uplink.name)?;
    let mut steps: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let tunnel_ifindex = match spec.overlay.mode {
        NetworkMode::Vxlan => Some(ensure_tunnel(&mut connection, spec.overlay, pod_mtu, &mut steps)?),
        NetworkMode::HostGw => {
            if find_link(&mut connection, TUNNEL_DEVICE)?.is_some() {
                change(&mut connection, &mut steps, vec![remove_tunnel()])?;
            }
            None
        }
    };
    let wanted = Wanted::of(spec, uplink.ifindex, tunnel_ifindex);
    ensure_addresses(&mut connection, &wanted, &mut steps)?;
    if let Some(tunnel) = tunnel_ifindex {
        ensure_neighbours(&mut connection, &wanted, tunnel, &mut steps)?;
    }
    ensure_routes(&mut connection, &wanted, uplink.ifindex, tunnel_ifindex, &mut steps)?;
    Ok(NodeLinks { uplink, tunnel_ifindex, pod_mtu, steps, settings })
}

/// Puts kernel settings back, where they still are what [`ensure`] set them to; returns which were.
///
/// # Errors
/// Whatever the kernel refuses.
pub fn restore(settings: &[Setting]) -> Result<Vec<String>, NetlinkError> {
    let mut steps = Vec::new();
    for setting in settings {
        if settings::restore(setting)? {
            steps.push(format!("set net.{} = {} again", setting.name.replace('/', "."), setting.before));
        }
    }
    Ok(steps)
}

/// Removes what [`ensure`] made: tunnel device, routes, router addresses. Kernel settings stay; see [`restore`].
///
/// # Errors
/// Whatever the kernel refuses.
pub fn remove() -> Result<Vec<String>, NetlinkError> {
    let mut connection = Connection::open()?;
    let mut steps = Vec::new();
    let nothing = Wanted::default();
    let pods = super::pod_links()?;
    let mut requests = Vec::new();
    for route in routes(&mut connection)? {
        let to_pod = pods.values().any(|pod| route.device == Some(pod.host_ifindex));
        if !to_pod {
            requests.push(delete_route(&route));
        }
    }
    change(&mut connection, &mut steps, requests)?;
    ensure_addresses(&mut connection, &nothing, &mut steps)?;
    if find_link(&mut connection, TUNNEL_DEVICE)?.is_some() {
        change(&mut connection, &mut steps, vec![remove_tunnel()])?;
    }
    Ok(steps)
}

fn change(
    connection: &mut Connection,
    steps: &mut Vec<String>,
    requests: Vec<Request>,
) -> Result<(), NetlinkError> {
    steps.extend(requests.iter().map(|request| request.what.clone()));
    connection.run(requests)
}

fn find_uplink(connection: &mut Connection, overlay: &Overlay) -> Result<Uplink, NetlinkError> {
    let unspecified = IpAddr::from([0, 0, 0, 0]);
    let wanted = overlay.node_addresses.first().copied().unwrap_or(unspecified);
    let held = addresses(connection)?;
    let index = held
        .iter()
        .find(|address| overlay.node_addresses.contains(&address.block.addr()))
        .map(|address| address.index)
        .ok_or(NetlinkError::NoUplink(wanted))?;
    let link = links(connection)?.into_iter().find(|link| link.index == index);
    let LinkState { name, index, mtu, .. } = link.ok_or(NetlinkError::NoUplink(wanted))?;
    Ok(Uplink { name, ifindex: index, mtu })
}

fn remove_tunnel() -> Request {
    Request::new(format!("remove link {TUNNEL_DEVICE}"), Change::Modify, messages::delete(TUNNEL_DEVICE))
}

/// One device for every peer (collect metadata): the programs say per packet where it goes. UDP checksums of zero are
/// accepted and sent over IPv6 too (RFC 6935, RFC 7348 §4.2): the inner packet has its own.
fn create_tunnel(mac: Mac, mtu: u32) -> Request {
    let info = vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(vec![
            InfoVxlan::CollectMetadata(true),
            InfoVxlan::Learning(false),
            InfoVxlan::Port(TUNNEL_PORT),
            InfoVxlan::UDPZeroCsumTX(true),
            InfoVxlan::UDPZeroCsumRX(true),
        ])),
    ];
    let message = messages::create(TUNNEL_DEVICE, mac, mtu, info);
    Request::new(format!("make tunnel device {TUNNEL_DEVICE}, {mac}, mtu {mtu}"), Change::Create, message)
}

fn ensure_tunnel(
    connection: &mut Connection,
    overlay: &Overlay,
    mtu: u32,
    steps: &mut Vec<String>,
) -> Result<u32, NetlinkError> {
    let mac = wanted::tunnel_mac(overlay);
    if find_link(connection, TUNNEL_DEVICE)?.is_none() {
        change(connection, steps, vec![create_tunnel(mac, mtu)])?;
    }
    let link = find_link(connection, TUNNEL_DEVICE)?
        .ok_or_else(|| NetlinkError::NoLink { name: TUNNEL_DEVICE.to_owned() })?;
    let index = link.index;
    let mut requests = Vec::new();
    if link.mtu != mtu || link.mac != Some(mac) {
        let what = format!("set {TUNNEL_DEVICE} to {mac}, mtu {mtu}");
        requests.push(Request::new(what, Change::Modify, messages::set_mtu_and_mac(index, mtu, mac)));
    }
    if !link.up {
        let what = format!("turn rp_filter and automatic addresses of {TUNNEL_DEVICE} off");
        requests.push(Request::new(&*what, Change::Modify, messages::ipv4_settings(index, false)));
        // Without IPv6 in the kernel there is nothing to turn off.
        let off = Request::new(&*what, Change::Modify, messages::no_automatic_address(index));
        requests.push(off.accepting(nix::libc::EAFNOSUPPORT));
        requests.push(Request::new(format!("bring {TUNNEL_DEVICE} up"), Change::Modify, messages::up(index)));
    }
    change(connection, steps, requests)?;
    Ok(index)
}

fn ensure_addresses(
    connection: &mut Connection,
    wanted: &Wanted,
    steps: &mut Vec<String>,
) -> Result<(), NetlinkError> {
    let mut requests = Vec::new();
    let held = addresses(connection)?;
    for addr in &wanted.addresses {
        let block = messages::whole(*addr);
        if !held.iter().any(|address| address.index == LOOPBACK && address.block == block) {
            let what = format!("add router address {block} to lo");
            requests.push(Request::new(what, Change::Replace, messages::add_address(LOOPBACK, block)));
        }
    }
    for address in held.iter().filter(|address| address.index == LOOPBACK && address.ours && !wanted.keeps) {
        if !wanted.addresses.contains(&address.block.addr()) {
            let what = format!("remove router address {} from lo", address.block);
            requests.push(Request::new(
                what,
                Change::Modify,
                messages::delete_address(LOOPBACK, address.block),
            ));
        }
    }
    change(connection, steps, requests)
}

fn ensure_neighbours(
    connection: &mut Connection,
    wanted: &Wanted,
    tunnel: u32,
    steps: &mut Vec<String>,
) -> Result<(), NetlinkError> {
    let held = neighbours(connection, tunnel)?;
    let mut requests = Vec::new();
    for (addr, mac) in &wanted.neighbours {
        if held.get(addr) != Some(mac) {
            let what = format!("add neighbour {addr} at {mac} on {TUNNEL_DEVICE}");
            requests.push(Request::new(what, Change::Replace, messages::neighbour(tunnel, *addr, *mac)));
        }
    }
    for addr in held.keys().filter(|addr| !wanted.keeps && !wanted.neighbours.contains_key(addr)) {
        let what = format!("remove neighbour {addr} on {TUNNEL_DEVICE}");
        requests.push(Request::new(what, Change::Modify, messages::delete_neighbour(tunnel, *addr)));
    }
    change(connection, steps, requests)
}

fn delete_route(route: &messages::StackRoute) -> Request {
    let message = RouteNetlinkMessage::DelRoute(route.message());
    Request::new(format!("remove route {route}"), Change::Modify, message)
}

fn ensure_routes(
    connection: &mut Connection,
    wanted: &Wanted,
    uplink: u32,
    tunnel: Option<u32>,
    steps: &mut Vec<String>,
) -> Result<(), NetlinkError> {
    let held: BTreeMap<IpNet, messages::StackRoute> = routes(connection)?
        .into_iter()
        // The routes to the node's pods are attach's.
        .filter(|route| route.device.is_none() || route.device == Some(uplink) || route.device == tunnel)
        .map(|route| (route.destination, route))
        .collect();
    let mut requests = Vec::new();
    for (destination, route) in &wanted.routes {
        let (verb, kind) = match held.get(destination) {
            Some(have) if have == route => continue,
            Some(_) => ("change", Change::Replace),
            None => ("add", Change::Create),
        };
        let message = RouteNetlinkMessage::NewRoute(route.message());
        requests.push(Request::new(format!("{verb} route {route}"), kind, message));
    }
    requests.extend(
        held.values()
            .filter(|route| !wanted.keeps && !wanted.routes.contains_key(&route.destination))
            .map(delete_route),
    );
    change(connection, steps, requests)
}
