//! Addresses that only Services can have, asked for what no Service serves: there is no endpoint to judge.

use std::net::IpAddr;

use ipnet::IpNet;
use sheetbend_model::state::{ServiceType, Snapshot};

/// What becomes of a packet that policies let go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unserved {
    /// A Service has the address, and not this port; nor, for clients outside the cluster, any.
    Refused,
    /// No Service has it, though it lies in a range of theirs.
    Dropped,
}

impl Unserved {
    /// Of `addr`, at a port and protocol that no Service has there. `None`: it is no Service's address, or somebody else
    /// serves it, or it is a node's or in a range of pods.
    pub(super) fn of(snapshot: &Snapshot, ranges: &[IpNet], addr: IpAddr) -> Option<Self> {
        let has = |own: &IpAddr| own.to_canonical() == addr;
        let is_place = snapshot.nodes.values().any(|node| {
            node.addresses.iter().any(has) || node.pod_cidrs.iter().any(|range| range.contains(&addr))
        });
        if is_place || addr.is_unspecified() {
            return None;
        }
        let holders = snapshot.services.values();
        let mut holders = holders
            .filter(|service| service.service_type != ServiceType::ExternalName)
            .filter(|service| service.cluster_ips.iter().any(has))
            .peekable();
        if holders.peek().is_none() {
            return ranges.iter().any(|range| range.contains(&addr)).then_some(Self::Dropped);
        }
        (!holders.any(|service| service.proxied_elsewhere)).then_some(Self::Refused)
    }

    /// The verdict on what policies let go.
    pub(super) fn verdict(self) -> &'static str {
        match self {
            Self::Refused => "refuse",
            Self::Dropped => "deny",
        }
    }

    /// In words, with the reason that drops and events have.
    pub(super) fn note(self, addr: IpAddr) -> String {
        match self {
            Self::Refused => format!(
                "a Service has {addr}, and does not serve this there: what policies let go is refused (no_service_port)"
            ),
            Self::Dropped => format!(
                "{addr} is in a range of Service addresses, and no Service has it: what policies let go is dropped \
                 (no_such_service)"
            ),
        }
    }
}
