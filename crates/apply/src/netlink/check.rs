//! Is a pod's interface still as ADD left it (CNI 1.1.0, CHECK)?

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::route::RouteAttribute;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sheetbend_ebpf_abi::HOST_MAC;
use sheetbend_model::types::Mac;

use super::attach::AttachSpec;
use super::connection::Connection;
use super::messages;
use super::namespace::Namespace;
use super::read_back::{addresses, find_link, neighbours, routes};
use super::{GATEWAY_IPV4, GATEWAY_IPV6, NetlinkError};

/// What differs.
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// It could, and this is not as ADD left it.
    #[error("{0}")]
    Differs(String),
}

fn differs<T>(what: String) -> Result<T, CheckFailure> {
    Err(CheckFailure::Differs(what))
}

/// Compares both ends of the veth, addresses, default routes and neighbours with `spec`.
///
/// # Errors
/// [`CheckFailure::Differs`] names the first difference.
pub fn check(spec: &AttachSpec) -> Result<(), CheckFailure> {
    check_host(spec)?;
    let mut pod = Namespace::open(&spec.netns)?.connect(&spec.netns)?;
    let name = &spec.ifname;
    let Some(link) = find_link(&mut pod, name)? else {
        return differs(format!("the pod has no interface {name}"));
    };
    if !link.up {
        return differs(format!("{name} is down in the pod"));
    }
    if link.mac != Some(spec.pod_mac) {
        return differs(format!("{name} has not the Ethernet address {}", spec.pod_mac));
    }
    let held: BTreeSet<IpAddr> =
        addresses(&mut pod)?.into_iter().filter(|a| a.index == link.index).map(|a| a.block.addr()).collect();
    let known = neighbours(&mut pod, link.index)?;
    for addr in &spec.addresses {
        if !held.contains(addr) {
            return differs(format!("{name} has lost the address {addr}"));
        }
        let gateway = match addr {
            IpAddr::V4(_) => IpAddr::from(GATEWAY_IPV4),
            IpAddr::V6(_) => IpAddr::from(GATEWAY_IPV6),
        };
        if known.get(&gateway) != Some(&Mac(HOST_MAC)) {
            return differs(format!("the pod has lost its neighbour entry of the gateway {gateway}"));
        }
        if !has_default_route(&mut pod, messages::family(*addr), link.index)? {
            return differs(format!("the pod has lost its default route via {gateway}"));
        }
    }
    Ok(())
}

fn check_host(spec: &AttachSpec) -> Result<(), CheckFailure> {
    let name = &spec.host_ifname;
    let mut host = Connection::open().map_err(NetlinkError::from)?;
    let Some(link) = find_link(&mut host, name)? else {
        return differs(format!("the node has no link {name}"));
    };
    if !link.up || link.mac != Some(Mac(HOST_MAC)) {
        return differs(format!(
            "{name} on the node is down or has not the Ethernet address {}",
            Mac(HOST_MAC)
        ));
    }
    let routed = routes(&mut host)?;
    for addr in &spec.addresses {
        let destination = messages::whole(*addr);
        if !routed.iter().any(|route| route.destination == destination && route.device == Some(link.index)) {
            return differs(format!("the node has no route to {addr} by {name}"));
        }
    }
    Ok(())
}

fn has_default_route(pod: &mut Connection, family: AddressFamily, index: u32) -> Result<bool, NetlinkError> {
    let answers = pod.dump("list the pod's routes", messages::dump_routes(family))?;
    Ok(answers.iter().any(|answer| {
        let RouteNetlinkMessage::NewRoute(route) = answer else { return false };
        route.header.destination_prefix_length == 0 && route.attributes.contains(&RouteAttribute::Oif(index))
    }))
}
