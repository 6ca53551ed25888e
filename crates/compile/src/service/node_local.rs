//! The node-local DNS addresses: frontends of the DNS Service that prefer the node's own endpoint.

use std::net::IpAddr;

use ipnet::IpNet;
use sheetbend_model::plan::{Condition, Frontend, Reach, Scope};
use sheetbend_model::state::{Node, NodeLocalDns, Service, ServicePort, Snapshot, TrafficPolicy};
use sheetbend_model::types::{Family, NetworkId, ObjectKey, Protocol};

use super::frontends::{self, Meaning};
use crate::changes::Changes;

/// Where name servers are asked (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// Which of the configured addresses are in force.
#[derive(Clone, Debug)]
pub(super) struct NodeLocal {
    dns: NodeLocalDns,
    /// Those that no Node has, itself or for its pods.
    addresses: Vec<IpAddr>,
    conditions: Vec<Condition>,
}

impl NodeLocal {
    pub(super) fn new(dns: NodeLocalDns) -> Self {
        let addresses = dns.addresses.iter().map(IpAddr::to_canonical).collect();
        Self { dns, addresses, conditions: Vec::new() }
    }

    /// What it is after `changes`; `None` where it stays.
    pub(super) fn moved(&self, next: &Snapshot, changes: &Changes<'_>) -> Option<Self> {
        if self.dns.addresses.is_empty() || changes.nodes.is_empty() {
            return None;
        }
        let mut after = Self::new(self.dns.clone());
        for node in next.nodes.values() {
            after.conditions.extend(self.dns.addresses.iter().filter_map(|addr| conflict(node, *addr)));
            after.addresses.retain(|addr| conflict(node, *addr).is_none());
        }
        (after.addresses != self.addresses || after.conditions != self.conditions).then_some(after)
    }

    /// The Service whose endpoints answer.
    pub(super) fn service(&self) -> &ObjectKey {
        &self.dns.service
    }

    /// Configured addresses that a Node has.
    pub(super) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.iter()
    }

    /// The frontends that `service` claims: its own, and of the DNS Service the node-local ones. It needs no address
    /// and no family of its own for these. Where it has a node-local address it is also what pods ask that have policies
    /// by domain names.
    pub(super) fn claimed(&self, service: &Service) -> Vec<Frontend> {
        let mut claimed = frontends::of_service(service);
        if service.key != self.dns.service {
            return claimed;
        }
        for port in &service.ports {
            for addr in &self.addresses {
                // Nobody else has the address for clients elsewhere either; `port_of` says that there is no row.
                claimed.extend([Scope::Inside, Scope::Outside].map(|scope| Frontend {
                    network: NetworkId::default(),
                    addr: *addr,
                    protocol: port.protocol,
                    port: port.port,
                    scope,
                }));
            }
            if port.port.get() == DNS_PORT && port.protocol != Protocol::Sctp {
                claimed.extend(self.families().map(|family| Frontend {
                    network: NetworkId::default(),
                    addr: frontends::any_address(family),
                    protocol: port.protocol,
                    port: port.port,
                    scope: Scope::Names,
                }));
            }
        }
        claimed
    }

    fn families(&self) -> impl Iterator<Item = Family> {
        let has = |family: &Family| self.addresses.iter().any(|addr| Family::of(*addr) == *family);
        Family::ALL.into_iter().filter(has)
    }

    /// Whether `frontend`, which the Service `owner` claims, is node-local.
    pub(super) fn is_of(&self, owner: &ObjectKey, frontend: &Frontend) -> bool {
        *owner == self.dns.service
            && (frontend.scope == Scope::Names || self.addresses.contains(&frontend.addr))
    }

    /// The port that `frontend`, a node-local one, belongs to, and what the frontend means. `None` for clients
    /// elsewhere.
    pub(super) fn port_of<'a>(
        &self,
        service: &'a Service,
        frontend: &Frontend,
    ) -> Option<(&'a ServicePort, Meaning)> {
        let mut ports = service.ports.iter().filter(|_| frontend.scope != Scope::Outside);
        let port = ports.find(|port| port.protocol == frontend.protocol && port.port == frontend.port)?;
        Some((port, Meaning { reach: Reach::Inside, policy: TrafficPolicy::Cluster, is_balanced: false }))
    }
}

/// What is wrong with `addr` where `node` or its pods have it.
fn conflict(node: &Node, addr: IpAddr) -> Option<Condition> {
    let addr = addr.to_canonical();
    let whose = if node.addresses.iter().any(|own| own.to_canonical() == addr) {
        "is an address of this Node".to_owned()
    } else {
        let range = node.pod_cidrs.iter().map(IpNet::trunc).find(|range| range.contains(&addr))?;
        format!("is within its pod range {range}")
    };
    Some(Condition {
        kind: "Node",
        object: ObjectKey::new("", node.name.0.clone()),
        reason: "NodeLocalDnsConflict",
        message: format!("dns.nodeLocal {addr} {whose} and is not served; choose one that nobody has").into(),
    })
}
