//! Symbolic rows as keys and values of the kernel, and keys back.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sheetbend_ebpf_abi as abi;
use sheetbend_ebpf_abi::{ClassKey, PrefixKey};
use sheetbend_model::plan::{
    AddressHolder, Backend, Frontend, LOOPBACK, LocalPod, Overlay, Posture, Reach, Route, RuleKey, Scope,
    ServiceEntry, Slot,
};
use sheetbend_model::state::{Algorithm, NetworkMode};
use sheetbend_model::types::{AddrKey, BlockKey, Direction, Mac, NetworkId, Port, Protocol};

use super::plain::Lpm;

/// What a pod's row needs beyond the Dataplane; it comes from the pod's attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Ethernet address of the veth's end in the pod.
    pub mac: Mac,
    /// MTU of the veth, bytes.
    pub mtu: u32,
    /// What it receives has to pass the queue of the veth's end on the node.
    pub shaped: bool,
}

/// 16 bytes in network order, IPv4 mapped.
pub(super) fn addr(addr: IpAddr) -> abi::Addr {
    match addr {
        IpAddr::V4(addr) => abi::mapped(addr.octets()),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// The address that 16 bytes are.
pub(super) fn addr_back(bytes: abi::Addr) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

pub(super) fn class_key(key: &AddrKey) -> ClassKey {
    ClassKey { network: key.network.0, addr: addr(key.addr) }
}

pub(super) fn class_key_back(key: &ClassKey) -> AddrKey {
    AddrKey { network: NetworkId(key.network), addr: addr_back(key.addr) }
}

pub(super) fn prefix_key(key: &BlockKey) -> Lpm<PrefixKey> {
    let (bits, network_addr) = match key.block {
        IpNet::V4(block) => (96 + u32::from(block.prefix_len()), IpAddr::V4(block.network())),
        IpNet::V6(block) => (u32::from(block.prefix_len()), IpAddr::V6(block.network())),
    };
    Lpm { len: 32 + bits, data: PrefixKey { network: key.network.0.to_be_bytes(), addr: addr(network_addr) } }
}

/// A range of clients that the Service with this number admits.
pub(super) fn source_key(service: u32, range: IpNet) -> Lpm<abi::SourceKey> {
    let Lpm { len, data: PrefixKey { addr, .. } } = prefix_key(&BlockKey::new(range));
    Lpm { len, data: abi::SourceKey { service: service.to_be_bytes(), client: addr } }
}

/// The block behind a key; `None` for a length that [`prefix_key`] never writes.
pub(super) fn prefix_key_back(key: &Lpm<PrefixKey>) -> Option<BlockKey> {
    let bits = key.len.checked_sub(32)?;
    let block = if abi::is_ipv4(&key.data.addr) && bits >= 96 {
        let [.., a, b, c, d] = key.data.addr;
        Ipv4Net::new([a, b, c, d].into(), u8::try_from(bits - 96).ok()?).ok().map(IpNet::V4)?
    } else {
        Ipv6Net::new(key.data.addr.into(), u8::try_from(bits).ok()?).ok().map(IpNet::V6)?
    };
    Some(BlockKey { network: NetworkId(u32::from_be_bytes(key.data.network)), block })
}

/// Whether every key of `inner` lies in `outer`, which is another, shorter prefix.
pub(super) fn encloses(outer: &Lpm<PrefixKey>, inner: &Lpm<PrefixKey>) -> bool {
    if outer.len >= inner.len || outer.data.network != inner.data.network {
        return false;
    }
    let bits = outer.len.saturating_sub(32);
    let shift = 128 - bits.min(128);
    let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
    (u128::from_be_bytes(outer.data.addr) ^ u128::from_be_bytes(inner.data.addr)) & mask == 0
}

/// Key of a rule whose set and class have these numbers.
pub(super) fn rule_key(rule: &RuleKey, set: u32, class: u32) -> Lpm<abi::RuleKey> {
    let direction = match rule.direction {
        Direction::Ingress => abi::DIRECTION_INGRESS,
        Direction::Egress => abi::DIRECTION_EGRESS,
    };
    let (len, protocol) = match rule.protocol {
        Some(protocol) => (abi::RuleKey::FULL - 16 + u32::from(rule.ports.len), protocol.number()),
        None => (abi::RuleKey::ANY_PROTOCOL, 0),
    };
    Lpm { len, data: abi::RuleKey { set, class, direction, protocol, port: rule.ports.value.to_be_bytes() } }
}

pub(super) fn route(route: &Route, mode: NetworkMode) -> abi::RouteEntry {
    let (kind, via) = match route {
        Route::Local => (abi::ROUTE_LOCAL, None),
        Route::Node { via, .. } => (abi::ROUTE_NODE, Some(addr(*via))),
        Route::Unowned => (abi::ROUTE_UNOWNED, None),
        Route::NodeAddress { other, .. } => (abi::ROUTE_NODE_ADDRESS, other.map(addr)),
        Route::NoMasquerade => (abi::ROUTE_NO_MASQUERADE, None),
        Route::Service => (abi::ROUTE_SERVICE, None),
    };
    let flags = match route {
        Route::NodeAddress { node_ports: false, .. } => abi::ROUTE_WITHOUT_NODE_PORTS,
        Route::Node { direct: true, .. } => abi::ROUTE_TAKES_DIRECT,
        Route::Local
        | Route::Node { .. }
        | Route::Unowned
        | Route::NodeAddress { .. }
        | Route::NoMasquerade
        | Route::Service => 0,
    };
    let mut entry = abi::RouteEntry { kind, mac: [0; 6], flags, via: via.unwrap_or(abi::NO_ADDR) };
    entry.mac = route_mac(&entry, mode);
    entry
}

/// Ethernet address of the tunnel device behind a route.
pub(super) fn route_mac(entry: &abi::RouteEntry, mode: NetworkMode) -> [u8; 6] {
    match mode {
        NetworkMode::Vxlan if entry.kind == abi::ROUTE_NODE => abi::vtep_mac(&entry.via),
        NetworkMode::Vxlan | NetworkMode::HostGw => [0; 6],
    }
}

/// `config` with what the overlay says of mode and addresses.
pub(super) fn config(config: &abi::NodeConfig, overlay: &Overlay) -> abi::NodeConfig {
    let of_family = |v4: bool| {
        overlay
            .node_addresses
            .iter()
            .find(|node| node.is_ipv4() == v4)
            .map_or(abi::NO_ADDR, |node| addr(*node))
    };
    abi::NodeConfig {
        mode: match overlay.mode {
            NetworkMode::Vxlan => abi::MODE_VXLAN,
            NetworkMode::HostGw => abi::MODE_HOST_GW,
        },
        node_ipv4: of_family(true),
        node_ipv6: of_family(false),
        flags: without_node_ports(overlay) | if overlay.direct { abi::SENDS_DIRECT } else { 0 },
        ..*config
    }
}

/// `POD_RANGE`: the first IPv6 range of the node's pods.
pub(super) fn pod_range(overlay: &Overlay) -> abi::Addr {
    let first = overlay.pod_cidrs.iter().find(|range| range.addr().is_ipv6());
    first.map_or(abi::NO_ADDR, |range| addr(range.network()))
}

/// `WITHOUT_*` of `NodeConfig::flags`.
fn without_node_ports(overlay: &Overlay) -> u16 {
    let own = overlay.node_addresses.iter().map(|addr| (abi::WITHOUT_NODE, *addr));
    let routers = overlay.router_addresses.iter().map(|addr| (abi::WITHOUT_ROUTER, *addr));
    let loopback = LOOPBACK.iter().map(|addr| (abi::WITHOUT_LOOPBACK, *addr));
    let without = own.chain(routers).chain(loopback);
    let without = without.filter(|(_, addr)| overlay.without_node_ports.contains(addr));
    without.fold(0, |bits, (bit, addr)| bits | bit << u16::from(addr.is_ipv6()))
}

/// `RuleValue::verdict` of a row that allows, or denies.
pub(super) fn verdict(allows: bool) -> u32 {
    if allows { abi::VERDICT_ALLOW } else { abi::VERDICT_DENY }
}

/// A pod's row; `set` is the number of its policy set.
pub(super) fn pod(pod: &LocalPod, link: PodLink, set: u32) -> abi::PodEntry {
    let of_family = |v4: bool| {
        let found = pod.addresses.iter().find(|key| key.addr.is_ipv4() == v4);
        found.map_or(abi::NO_ADDR, |key| addr(key.addr))
    };
    let flags = match &pod.posture {
        Posture::Closed => 0,
        Posture::Judged(policies) => {
            let judged = |direction, flag| if policies.judges(direction) { flag } else { 0 };
            abi::POD_READY
                | judged(Direction::Ingress, abi::POD_ISOLATED_INGRESS)
                | judged(Direction::Egress, abi::POD_ISOLATED_EGRESS)
        }
    };
    let flags = flags | if link.shaped { abi::POD_SHAPED } else { 0 };
    let flags = flags | if pod.asks_names { abi::POD_ASKS_NAMES } else { 0 };
    let flags = flags | if pod.audited { abi::POD_AUDITED } else { 0 };
    abi::PodEntry {
        network: pod.addresses.first().map_or(0, |key| key.network.0),
        set,
        flags,
        mtu: link.mtu,
        ipv4: of_family(true),
        ipv6: of_family(false),
        mac: link.mac.0,
        pad: [0; 2],
    }
}

pub(super) fn service_key(frontend: &Frontend) -> abi::ServiceKey {
    abi::ServiceKey {
        network: frontend.network.0,
        addr: addr(frontend.addr),
        port: frontend.port.get(),
        protocol: frontend.protocol.number(),
        scope: match frontend.scope {
            Scope::Inside => abi::SCOPE_INSIDE,
            Scope::Outside => abi::SCOPE_OUTSIDE,
            Scope::Names => abi::SCOPE_NAMES,
        },
    }
}

/// The frontend behind a key; `None` for what [`service_key`] never writes.
pub(super) fn service_key_back(key: &abi::ServiceKey) -> Option<Frontend> {
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == key.protocol)?;
    let port = Port::new(key.port).ok()?;
    let scope = match key.scope {
        abi::SCOPE_INSIDE => Scope::Inside,
        abi::SCOPE_OUTSIDE => Scope::Outside,
        abi::SCOPE_NAMES => Scope::Names,
        _ => return None,
    };
    let network = NetworkId(key.network);
    Some(Frontend { network, addr: addr_back(key.addr), protocol, port, scope })
}

/// What the row of a Service's address says.
pub(super) fn address_holder(holder: AddressHolder) -> u32 {
    match holder {
        AddressHolder::Us => abi::ADDRESS_OURS,
        AddressHolder::Others => abi::ADDRESS_ELSEWHERE,
    }
}

/// A Service's row; `service` is its number, `first_slot` where its `count` slots begin.
pub(super) fn service(
    entry: &ServiceEntry,
    service: u32,
    first_slot: u32,
    count: usize,
) -> abi::ServiceEntry {
    abi::ServiceEntry {
        service,
        first_slot,
        count: count as u32,
        affinity_seconds: entry.affinity_timeout.unwrap_or(0),
        algorithm: match entry.algorithm {
            Algorithm::Random => abi::ALGORITHM_RANDOM,
            Algorithm::RoundRobin => abi::ALGORITHM_ROUND_ROBIN,
            Algorithm::LeastConnections => abi::ALGORITHM_LEAST_CONNECTIONS,
            Algorithm::Maglev => abi::ALGORITHM_MAGLEV,
        },
        flags: match entry.reach {
            Reach::Inside => 0,
            Reach::EveryNode => abi::SERVICE_OUTSIDE,
            Reach::ThisNode => abi::SERVICE_OUTSIDE | abi::SERVICE_THIS_NODE,
            Reach::Apart => abi::SERVICE_OUTSIDE | abi::SERVICE_THIS_NODE | abi::SERVICE_APART,
        } | if entry.only_remote { abi::SERVICE_SILENT } else { 0 }
            | if entry.sources.is_some() { abi::SERVICE_RANGES } else { 0 },
        pad: [0; 2],
    }
}

/// A slot's row; `backend` is the number of its backend.
pub(super) fn slot(slot: Slot, backend: u32) -> u32 {
    u32::from(slot.weight.saturating_sub(1)) << abi::SLOT_WEIGHT_SHIFT | backend
}

/// The backend number and the weight of a slot's row.
pub(super) fn slot_back(row: u32) -> (u32, u8) {
    (row & abi::SLOT_BACKEND, ((row >> abi::SLOT_WEIGHT_SHIFT) as u8).saturating_add(1))
}

pub(super) fn backend(backend: &Backend) -> abi::BackendEntry {
    abi::BackendEntry {
        network: backend.network.0,
        addr: addr(backend.addr),
        port: backend.port.get(),
        protocol: backend.protocol.number(),
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> BlockKey {
        BlockKey::new(text.parse().expect("a block"))
    }

    #[test]
    fn keys_come_back() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "2001:db8::/48", "::/0", "fd00::1/128"] {
            assert_eq!(prefix_key_back(&prefix_key(&block(text))), Some(block(text)));
        }
        for text in ["10.1.2.3", "2001:db8::1"] {
            let key = AddrKey::new(text.parse().expect("an address"));
            assert_eq!(class_key_back(&class_key(&key)), key);
        }
    }

    #[test]
    fn shorter_prefixes_enclose() {
        let key = |text| prefix_key(&block(text));
        assert!(encloses(&key("10.0.0.0/8"), &key("10.1.0.0/16")));
        assert!(encloses(&key("0.0.0.0/0"), &key("10.1.0.0/16")));
        assert!(encloses(&key("::/0"), &key("2001:db8::/48")));
        assert!(!encloses(&key("10.1.0.0/16"), &key("10.0.0.0/8")));
        assert!(!encloses(&key("11.0.0.0/8"), &key("10.1.0.0/16")));
        assert!(!encloses(&key("10.0.0.0/8"), &key("10.0.0.0/8")));
        let other = BlockKey { network: NetworkId(7), block: "10.0.0.0/8".parse().expect("a block") };
        assert!(!encloses(&prefix_key(&other), &key("10.1.0.0/16")));
    }
}
