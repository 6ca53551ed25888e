//! SCTP: a packet's address can be translated, its port cannot. The CRC32c of the common header covers ports and payload,
//! but no address (RFC 9260 §6.8, §3.1): only endpoints with the port that clients use can be behind a frontend.

use std::collections::BTreeSet;
use std::fmt;

use sheetbend_model::plan::{Condition, Frontend};
use sheetbend_model::state::{ContainerPort, EndpointSlice, Pod, Service, ServicePort, TargetPort};
use sheetbend_model::types::{NodeName, Port, Protocol};

use super::endpoints;

/// Reason of Conditions about a port that would have to be translated.
pub(super) const REASON: &str = "SctpPortTranslation";

/// Most numbers of endpoints that a message names.
const NAMED: usize = 5;

/// The port that endpoints behind `frontend` must have; `None` where any will do.
pub(super) fn fixed_port(frontend: &Frontend) -> Option<Port> {
    (frontend.protocol == Protocol::Sctp).then_some(frontend.port)
}

/// A port of a Service that SCTP clients use, and endpoints that have another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    is_node_port: bool,
    /// What clients use.
    port: Port,
    /// The Service port.
    service_port: Port,
    /// No endpoint has it: nobody is served.
    is_whole: bool,
    /// What endpoints have instead.
    others: BTreeSet<Port>,
}

impl Fault {
    /// What is wrong with `frontend`, one of `port` of `service`. Before there are endpoints, `targetPort` tells what they
    /// will have, where it is a number and a selector says that somebody follows it.
    pub(super) fn of<'a>(
        service: &Service,
        port: &ServicePort,
        frontend: &Frontend,
        slices: impl Iterator<Item = &'a EndpointSlice>,
    ) -> Option<Self> {
        let mut numbers: BTreeSet<Port> =
            slices.flat_map(|slice| endpoints::numbers(slice, port, None).collect::<Vec<_>>()).collect();
        if let TargetPort::Number(number) = port.target
            && numbers.is_empty()
            && !service.selector.is_empty()
        {
            numbers.insert(number);
        }
        let is_whole = !numbers.remove(&frontend.port);
        (!numbers.is_empty()).then(|| Self {
            is_node_port: frontend.addr.is_unspecified(),
            port: frontend.port,
            service_port: port.port,
            is_whole,
            others: numbers,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_node_port, port, service_port, is_whole, others } = self;
        let kind = if *is_node_port { "node port" } else { "port" };
        let named: Vec<String> = others.iter().take(NAMED).map(ToString::to_string).collect();
        let named = named.join(", ");
        let more = if others.len() > NAMED { ", ..." } else { "" };
        let cannot = "an SCTP packet's port cannot be translated, for its checksum covers the payload";
        if *is_whole {
            write!(
                f,
                "{kind} {port}/SCTP is not served: its endpoints have port {named}{more}, and {cannot}"
            )?;
        } else {
            write!(f, "{kind} {port}/SCTP leaves out endpoints with port {named}{more}: {cannot}")?;
        }
        if *is_node_port {
            write!(
                f,
                "; give targetPort and nodePort one number, or let clients use an address of the Service at \
                 port {service_port}"
            )
        } else {
            write!(f, "; set targetPort to {port}")
        }
    }
}

/// Whether a host port would have to be translated. It is not served, and the number stays the node's own.
pub(super) fn has_other_number(port: &ContainerPort) -> bool {
    port.protocol == Protocol::Sctp && port.host_port.is_some_and(|number| number != port.port)
}

/// Names the host ports of `pod`, where it is one of `node`, that are not served.
pub(super) fn of_pod(pod: &Pod, node: &NodeName) -> Vec<Condition> {
    let is_here = pod.is_peer() && pod.node.as_ref() == Some(node);
    let faults = pod.ports.iter().filter(|port| is_here && has_other_number(port));
    let faults = faults.filter_map(|port| {
        let number = port.host_port?;
        let message = format!(
            "host port {number}/SCTP is not served: the container has port {}, and an SCTP packet's port cannot be \
             translated, for its checksum covers the payload; give both one number",
            port.port
        );
        Some(Condition { kind: "Pod", object: pod.key.clone(), reason: REASON, message: message.into() })
    });
    faults.collect()
}
