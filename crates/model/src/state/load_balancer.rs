//! Addresses that clients outside the cluster use: where they come from, which Services ask for them, which nodes
//! answer for them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::LabelSelector;
use crate::types::{Family, Labels};

/// `spec.loadBalancerClass` of Services that are ours by name.
pub const LOAD_BALANCER_CLASS: &str = "sheetbend.dev/load-balancer";

/// Addresses from the first to the last, both included, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "(IpAddr, IpAddr)", try_from = "(IpAddr, IpAddr)")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Two addresses are no range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} to {1} is no range; write two addresses of one family, the lower one first")]
pub struct AddressRangeError(IpAddr, IpAddr);

impl AddressRange {
    /// # Errors
    /// The two are of different families, or the last is below the first.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, AddressRangeError> {
        if Family::of(first) == Family::of(last) && first <= last {
            Ok(Self { first, last })
        } else {
            Err(AddressRangeError(first, last))
        }
    }

    /// The lowest address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> IpAddr {
        self.last
    }

    /// The family of all its addresses.
    pub fn family(self) -> Family {
        Family::of(self.first)
    }

    /// Whether `addr` is one of its addresses.
    pub fn contains(self, addr: IpAddr) -> bool {
        Family::of(addr) == self.family() && self.first <= addr && addr <= self.last
    }

    /// Whether an address is in both.
    pub fn overlaps(self, other: AddressRange) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses it has; `u128::MAX` for one more than that.
    pub fn size(self) -> u128 {
        let span = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                u128::from(last.to_bits().saturating_sub(first.to_bits()))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => last.to_bits().saturating_sub(first.to_bits()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
        };
        span.saturating_add(1)
    }
}

impl From<AddressRange> for (IpAddr, IpAddr) {
    fn from(range: AddressRange) -> Self {
        (range.first, range.last)
    }
}

impl TryFrom<(IpAddr, IpAddr)> for AddressRange {
    type Error = AddressRangeError;

    fn try_from((first, last): (IpAddr, IpAddr)) -> Result<Self, AddressRangeError> {
        Self::new(first, last)
    }
}

/// `192.0.2.1-192.0.2.9`.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A LoadBalancerPool (sheetbend.dev/v1alpha1): addresses for Services of type LoadBalancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerPool {
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.creationTimestamp` (RFC 3339, UTC, so that texts sort as times); empty where a file gave none.
    pub created: Arc<str>,
    /// `spec.blocks`, without the addresses that are not given out.
    pub ranges: Vec<AddressRange>,
    /// `spec.serviceSelector`: the labels of Services that may have its addresses.
    pub service_selector: LabelSelector,
    /// `spec.namespaceSelector`: the labels of their namespaces.
    pub namespace_selector: LabelSelector,
    /// `spec.disabled`: no new addresses; those given stay.
    pub disabled: bool,
}

/// An L2Announcement (sheetbend.dev/v1alpha1): for which addresses nodes answer ARP and neighbour discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct L2Announcement {
    /// Its name.
    pub name: Arc<str>,
    /// `spec.serviceSelector`: the labels of Services whose addresses are announced.
    pub service_selector: LabelSelector,
    /// `spec.nodeSelector`: the labels of nodes that may announce.
    pub node_selector: LabelSelector,
    /// `spec.interfaces`: where; empty for the node's uplinks.
    pub interfaces: Vec<Arc<str>>,
    /// `spec.loadBalancerIPs`: announce `status.loadBalancer.ingress`.
    pub load_balancer_ips: bool,
    /// `spec.externalIPs`: announce `spec.externalIPs`.
    pub external_ips: bool,
}

/// What else is known of a Service that clients outside the cluster reach by addresses of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// `metadata.creationTimestamp`, as in [`LoadBalancerPool::created`].
    pub created: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.loadBalancerClass`.
    pub class: Option<Arc<str>>,
    /// `spec.ipFamilies`, in order.
    pub families: Vec<Family>,
    /// `spec.ipFamilyPolicy: PreferDualStack`: the second family is welcome and not needed.
    pub second_is_optional: bool,
    /// `sheetbend.dev/load-balancer-ips`, or `spec.loadBalancerIP` where that is absent.
    pub requested: Vec<IpAddr>,
    /// What is written there and is no list of addresses.
    pub malformed_request: Option<Arc<str>>,
    /// `sheetbend.dev/sharing-key`; never empty.
    pub sharing_key: Option<Arc<str>>,
    /// `status.loadBalancer.ingress[].ip`, whatever its ipMode.
    pub given: Vec<IpAddr>,
    /// `status.loadBalancer.ingress` has an entry without an address.
    pub has_host_names: bool,
    /// The condition that our controller writes when it gives addresses is there.
    pub is_managed: bool,
}
