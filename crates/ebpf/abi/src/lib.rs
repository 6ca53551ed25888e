//! Keys and values of every eBPF map, shared by the kernel programs and user space.
//!
//! All structs are `#[repr(C)]` without implicit padding: every byte is named, so that a key can be hashed as bytes.
//! Addresses are 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2). Ports are `u16` in host
//! order unless a field says otherwise. Numbers (classes, sets, Services, backends, origins) are node-local and given
//! by `apply`; 0 always means "none".
#![no_std]

mod config;
mod conntrack;
mod event;
mod maps;
mod policy;
mod reason;
mod service;

pub use config::{
    DEFAULT_NAT_PORT_COUNT, DEFAULT_NAT_PORT_FIRST, DIRECT_VNI, HAIRPIN_IPV4, HAIRPIN_IPV6, HOST_MAC,
    MARK_FORWARDED, MARK_LEARN, MARK_MASK, MARK_OURS, MODE_HOST_GW, MODE_VXLAN, NodeConfig, SENDS_DIRECT,
    TUNNEL_PORT, TUNNEL_VNI, WITHOUT_LOOPBACK, WITHOUT_NODE, WITHOUT_ROUTER, direct_macs, vtep_mac,
};
pub use conntrack::{
    CT_ANSWERED, CT_DIRECT, CT_FIN_INITIATOR, CT_FIN_RESPONDER, CT_FROM_NODE, CT_HAIRPIN, CT_IDLE_SECONDS,
    CT_INITIATOR_IS_HIGH, CT_MASQUERADED, CT_OUTSIDE, CT_REPLIED, CT_RST, CT_SERVICE, CtEntry, CtKey,
    FragmentKey, FragmentValue, GROWS_CT, GROWS_SERVICE_FLOWS, GROWS_SNAT, SERVICE_FLOW_DIRECT,
    ServiceFlowKey, ServiceFlowValue, SnatKey, SnatValue, TIME_WAIT_SECONDS, WRITES_BOTH, WRITES_NEW,
    WRITES_OLD,
};
pub use event::{Event, EventKind, FLOW_STAGE_EGRESS, FLOW_STAGE_INGRESS, Hook};
pub use maps::{LAYOUT_VERSION, SOCKET_PROGRAMS, STAGE_PROGRAMS, limits, names};
pub use policy::{
    ClassKey, DIRECTION_EGRESS, DIRECTION_INGRESS, POD_ASKS_NAMES, POD_AUDITED, POD_ISOLATED_EGRESS,
    POD_ISOLATED_INGRESS, POD_READY, POD_SHAPED, PodEntry, PrefixKey, ROUTE_LOCAL, ROUTE_NO_MASQUERADE,
    ROUTE_NODE, ROUTE_NODE_ADDRESS, ROUTE_SERVICE, ROUTE_TAKES_DIRECT, ROUTE_UNOWNED,
    ROUTE_WITHOUT_NODE_PORTS, RouteEntry, RuleKey, RuleValue, VERDICT_ALLOW, VERDICT_DENY,
};
pub use reason::{Reason, Verdict};
pub use service::{
    ADDRESS_ELSEWHERE, ADDRESS_OURS, ALGORITHM_LEAST_CONNECTIONS, ALGORITHM_MAGLEV, ALGORITHM_RANDOM,
    ALGORITHM_ROUND_ROBIN, AffinityKey, AffinityValue, BACKEND_DRAINING, BackendEntry, CounterKey,
    CounterValue, LEAST_OF, SCOPE_INSIDE, SCOPE_NAMES, SCOPE_OUTSIDE, SERVICE_APART, SERVICE_OUTSIDE,
    SERVICE_RANGES, SERVICE_SILENT, SERVICE_THIS_NODE, SLOT_BACKEND, SLOT_WEIGHT_SHIFT, SOCKET_BACKEND,
    SOCKET_COUNTED, SOCKET_FRONTEND, ServiceEntry, ServiceKey, SocketKey, SocketValue, SourceKey, SymbolKey,
    SymbolKind, flow_hash,
};

/// An address in network order, IPv4 mapped.
pub type Addr = [u8; 16];

/// `a.b.c.d` as `::ffff:a.b.c.d`.
pub const fn mapped(v4: [u8; 4]) -> Addr {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// Whether `addr` is an IPv4 address.
#[inline(always)]
pub const fn is_ipv4(addr: &Addr) -> bool {
    let mut index = 0;
    while index < 10 {
        if addr[index] != 0 {
            return false;
        }
        index += 1;
    }
    addr[10] == 0xff && addr[11] == 0xff
}

/// No address of this family.
pub const NO_ADDR: Addr = [0; 16];
