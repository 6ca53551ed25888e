//! A pod's veth: made, brought up, removed.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc::{EEXIST, ENODEV};
use sha2::{Digest, Sha256};
use sheetbend_ebpf_abi::HOST_MAC;
use sheetbend_model::state::{AttachmentId, Bandwidth};
use sheetbend_model::types::Mac;

use super::connection::{Change, Connection, Request};
use super::filters::{self, PodPrograms};
use super::messages::{self, StackRoute};
use super::namespace::Namespace;
use super::read_back::find_link;
use super::shaping;
use super::{GATEWAY_IPV4, GATEWAY_IPV6, NetlinkError};

/// The loopback device, index 1 in every network namespace.
const LOOPBACK: u32 = 1;
/// linux/if.h IFALIASZ − 1.
const ALIAS_BYTES: usize = 255;

/// What a pod's interface shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachSpec {
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// Name inside the pod, 1 to 15 bytes.
    pub ifname: String,
    /// Name on the node, see [`host_ifname`].
    pub host_ifname: String,
    /// `namespace/pod`, or what else people shall read on the node's end.
    pub alias: String,
    /// Maximum transmission unit, bytes.
    pub mtu: u32,
    /// Ethernet address inside the pod.
    pub pod_mac: Mac,
    /// Addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Addresses of the node, at most one per family, that the node itself uses towards the pod.
    pub sources: Vec<IpAddr>,
    /// Limits.
    pub bandwidth: Bandwidth,
}

/// What [`attach`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Interface index of the veth's end on the node.
    pub host_ifindex: u32,
    /// The pod's programs are on it, as filters.
    pub filtered: bool,
}

/// Name of the node's end of an attachment's veth: `sb` and 13 hexadecimal digits of the SHA-256 of its id. Stable
/// over restarts; two attachments of one node share a name once in 2⁵² pairs.
pub fn host_ifname(id: &AttachmentId) -> String {
    let digest = id_digest(id);
    let mut name = String::from("sb");
    for byte in &digest[..7] {
        name.push_str(&format!("{byte:02x}"));
    }
    name.truncate(15);
    name
}

/// Ethernet address of the pod's end: locally administered, from the attachment's id.
pub fn pod_mac(id: &AttachmentId) -> Mac {
    let digest = id_digest(id);
    Mac([0x0a, 0x5d, digest[16], digest[17], digest[18], digest[19]])
}

fn id_digest(id: &AttachmentId) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(id.container_id.as_bytes());
    hash.update([0]);
    hash.update(id.ifname.as_bytes());
    hash.finalize().into()
}

/// Makes the veth and all that the pod needs: addresses, routes, neighbours, loopback; and puts `programs` on the
/// node's end where the kernel has filters for them. That end stays down, so that nothing passes until [`activate`].
///
/// A link of the same name on the node is one that a crash left behind: it is replaced.
///
/// # Errors
/// Whatever the kernel refuses; the veth is removed again.
pub fn attach(spec: &AttachSpec, programs: Option<&PodPrograms>) -> Result<Attached, NetlinkError> {
    let namespace = Namespace::open(&spec.netns)?;
    let mut host = Connection::open()?;
    let veth = || {
        let ends = ((spec.ifname.as_str(), spec.pod_mac), (spec.host_ifname.as_str(), Mac(HOST_MAC)));
        let what = format!(
            "make veth {} with its other end {} in {}",
            spec.host_ifname,
            spec.ifname,
            spec.netns.display()
        );
        let message = messages::veth(namespace.file.as_raw_fd(), ends.0, ends.1, spec.mtu);
        vec![Request::new(what, Change::Create, message)]
    };
    match host.run(veth()) {
        Err(error) if error.errno() == Some(EEXIST) && find_link(&mut host, &spec.host_ifname)?.is_some() => {
            remove(&mut host, &spec.host_ifname)?;
            host.run(veth())?;
        }
        made => made?,
    }
    let configured = configure(spec, &namespace, programs, &mut host);
    if configured.is_err() {
        // The first error is the one worth telling.
        let _ = remove(&mut host, &spec.host_ifname);
    }
    configured
}

fn configure(
    spec: &AttachSpec,
    namespace: &Namespace,
    programs: Option<&PodPrograms>,
    host: &mut Connection,
) -> Result<Attached, NetlinkError> {
    let link = find_link(host, &spec.host_ifname)?
        .ok_or_else(|| NetlinkError::NoLink { name: spec.host_ifname.clone() })?;
    let peer = link.peer.ok_or_else(|| NetlinkError::NoLink { name: spec.ifname.clone() })?;
    host.run(host_end(spec, link.index))?;
    let filtered = match programs {
        Some(programs) => filters::add(host, link.index, programs)?,
        None => false,
    };
    namespace.connect(&spec.netns)?.run(pod_end(spec, peer))?;
    Ok(Attached { host_ifindex: link.index, filtered })
}

fn host_end(spec: &AttachSpec, index: u32) -> Vec<Request> {
    let name = &spec.host_ifname;
    let alias: String = spec.alias.chars().take(ALIAS_BYTES).collect();
    let mut requests = vec![
        Request::new(format!("name {name} {alias}"), Change::Modify, messages::alias(index, &alias)),
        Request::new(
            format!("set rp_filter and proxy_arp of {name}"),
            Change::Modify,
            messages::ipv4_settings(index, true),
        ),
    ];
    if spec.addresses.iter().any(IpAddr::is_ipv6) {
        requests.push(no_automatic_address(name, index));
    }
    requests.extend(spec.bandwidth.ingress.map(|rate| shaping::limit(name, index, rate)));
    requests
}

fn no_automatic_address(name: &str, index: u32) -> Request {
    let what = format!("turn automatic addresses of {name} off");
    Request::new(what, Change::Modify, messages::no_automatic_address(index))
}

fn pod_end(spec: &AttachSpec, index: u32) -> Vec<Request> {
    let name = &spec.ifname;
    let mut requests = vec![Request::new("bring lo up in the pod", Change::Modify, messages::up(LOOPBACK))];
    let ipv6 = spec.addresses.iter().any(IpAddr::is_ipv6);
    if ipv6 {
        requests.push(no_automatic_address(name, index));
    }
    requests.extend(spec.bandwidth.egress.map(|rate| shaping::limit(name, index, rate)));
    requests.push(Request::new(format!("bring {name} up in the pod"), Change::Modify, messages::up(index)));
    if ipv6 {
        let own = IpNet::V6(Ipv6Net::new_assert(messages::link_local(spec.pod_mac), 64));
        requests.push(address(name, index, own));
    }
    for addr in &spec.addresses {
        requests.push(address(name, index, messages::whole(*addr)));
        let (gateway, everything) = match addr {
            IpAddr::V4(_) => (IpAddr::from(GATEWAY_IPV4), IpNet::V4(Ipv4Net::default())),
            IpAddr::V6(_) => (IpAddr::from(GATEWAY_IPV6), IpNet::V6(Ipv6Net::default())),
        };
        requests.push(neighbour(name, index, gateway, Mac(HOST_MAC)));
        if addr.is_ipv4() {
            requests.push(route(name, Change::Create, StackRoute::device(messages::whole(gateway), index)));
        }
        requests.push(route(name, Change::Create, StackRoute::via(everything, index, gateway)));
    }
    requests
}

fn address(name: &str, index: u32, block: IpNet) -> Request {
    Request::new(
        format!("give {name} the address {block}"),
        Change::Replace,
        messages::add_address(index, block),
    )
}

fn neighbour(name: &str, index: u32, addr: IpAddr, mac: Mac) -> Request {
    let what = format!("add neighbour {addr} at {mac} on {name}");
    Request::new(what, Change::Replace, messages::neighbour(index, addr, mac))
}

fn route(name: &str, change: Change, route: StackRoute) -> Request {
    let what = format!("add route {} on {name}", route.destination);
    Request::new(what, change, netlink_packet_route::RouteNetlinkMessage::NewRoute(route.message()))
}

/// Brings the node's end up and routes the pod's addresses to it. To be called when the programs are attached. May be
/// repeated: what is already so stays untouched.
///
/// # Errors
/// Whatever the kernel refuses.
pub fn activate(spec: &AttachSpec, host_ifindex: u32) -> Result<(), NetlinkError> {
    let name = &spec.host_ifname;
    let mut requests =
        vec![Request::new(format!("bring {name} up"), Change::Modify, messages::up(host_ifindex))];
    if spec.addresses.iter().any(IpAddr::is_ipv6) {
        let gateway = IpNet::V6(Ipv6Net::new_assert(GATEWAY_IPV6, 64));
        requests.push(address(name, host_ifindex, gateway));
    }
    for addr in &spec.addresses {
        let source = spec.sources.iter().copied().find(|source| source.is_ipv4() == addr.is_ipv4());
        let to_pod = StackRoute { source, ..StackRoute::device(messages::whole(*addr), host_ifindex) };
        requests.push(neighbour(name, host_ifindex, *addr, spec.pod_mac));
        requests.push(route(name, Change::Replace, to_pod));
    }
    Connection::open()?.run(requests)
}

/// Removes the veth, and with it everything [`attach`] and [`activate`] made. Returns whether it was there.
///
/// # Errors
/// Whatever the kernel refuses.
pub fn detach(host_ifname: &str) -> Result<bool, NetlinkError> {
    remove(&mut Connection::open()?, host_ifname)
}

fn remove(host: &mut Connection, name: &str) -> Result<bool, NetlinkError> {
    let what = format!("remove link {name}");
    match host.run(vec![Request::new(what, Change::Modify, messages::delete(name))]) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}
