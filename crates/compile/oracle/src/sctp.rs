//! Ports that SCTP clients use and that endpoints do not have, read literally: an SCTP packet's port cannot be rewritten
//! without its payload, which the CRC32c covers too (RFC 9260 §6.8).

use std::collections::BTreeSet;
use std::net::IpAddr;

use sheetbend_model::state::{Pod, Snapshot};
use sheetbend_model::types::{NodeName, ObjectKey, Protocol};

use crate::service::{At, owner};

/// A port of a Service, or a host port of a Pod, that has to be named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SctpFault {
    /// The Service, or the Pod.
    pub owner: ObjectKey,
    /// `port`, `node port` or `host port`.
    pub kind: &'static str,
    /// What clients use.
    pub port: u16,
    /// Nobody has it.
    pub is_whole: bool,
}

/// Everything that `node` has to name.
pub fn sctp_faults(snapshot: &Snapshot, node: &NodeName) -> BTreeSet<SctpFault> {
    let mut faults = BTreeSet::new();
    for service in snapshot.services.values() {
        let own = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.ingress_ips);
        let any = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        for addr in own.map(IpAddr::to_canonical).chain(any) {
            let numbers = service.ports.iter().flat_map(|port| [Some(port.port), port.node_port]);
            for number in numbers.flatten() {
                let at = At::ClientNode(node);
                let found = owner(snapshot, at, addr, Protocol::Sctp, number.get());
                let Some((_, port, _)) = found.filter(|(first, ..)| first.key == service.key) else {
                    continue;
                };
                let mut of_endpoints = BTreeSet::new();
                for slice in snapshot.endpoint_slices.values() {
                    if slice.key.namespace == service.key.namespace
                        && slice.service.as_ref() == Some(&service.key.name)
                    {
                        let same = slice
                            .ports
                            .iter()
                            .filter(|other| other.name == port.name && other.protocol == Protocol::Sctp);
                        of_endpoints.extend(same.filter_map(|other| other.port));
                    }
                }
                if of_endpoints.iter().any(|other| *other != number) {
                    faults.insert(SctpFault {
                        owner: service.key.clone(),
                        kind: if addr.is_unspecified() { "node port" } else { "port" },
                        port: number.get(),
                        is_whole: !of_endpoints.contains(&number),
                    });
                }
            }
        }
    }
    for pod in snapshot.pods.values().filter(|pod| is_here(pod, node)) {
        for port in pod.ports.iter().filter(|port| port.protocol == Protocol::Sctp) {
            if let Some(number) = port.host_port.filter(|number| *number != port.port) {
                let (owner, port) = (pod.key.clone(), number.get());
                faults.insert(SctpFault { owner, kind: "host port", port, is_whole: true });
            }
        }
    }
    faults
}

fn is_here(pod: &Pod, node: &NodeName) -> bool {
    !pod.host_network && !pod.phase.is_terminal() && pod.node.as_ref() == Some(node)
}
