//! Why a Service has no address, in words for its owner.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::types::Family;

/// Why a Service lacks an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No pool selects it that has addresses of the family.
    NoPool {
        /// The family.
        family: Family,
    },
    /// Every pool that selects it is used up.
    Exhausted {
        /// The family.
        family: Family,
        /// Each such pool with the number of its addresses of the family.
        pools: Vec<(Arc<str>, u128)>,
    },
    /// A requested address that no pool has for it.
    InNoPool {
        /// The address.
        addr: IpAddr,
    },
    /// A requested address that somebody has.
    Taken {
        /// The address.
        addr: IpAddr,
        /// `Service NAMESPACE/NAME` or `Node NAME`.
        owner: String,
        /// Both have the same sharing key, and something else stands in the way.
        same_key: bool,
    },
    /// A requested address of a family that the Service does not have.
    OtherFamily {
        /// The address.
        addr: IpAddr,
    },
    /// Two requested addresses of one family.
    SecondRequest {
        /// The second.
        addr: IpAddr,
    },
    /// The request is no list of addresses.
    Malformed {
        /// As written.
        text: Arc<str>,
    },
}

impl Fault {
    /// CamelCase, as conditions and Events have it.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::NoPool { .. } => "NoPool",
            Fault::Exhausted { .. } => "PoolExhausted",
            Fault::InNoPool { .. } => "AddressInNoPool",
            Fault::Taken { .. } => "AddressTaken",
            Fault::OtherFamily { .. } | Fault::SecondRequest { .. } | Fault::Malformed { .. } => {
                "InvalidRequest"
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoPool { family } => write!(
                f,
                "no LoadBalancerPool with {family} addresses selects this Service; make one, or compare the labels of the Service and its namespace with the selectors of the pools (a pool in conflict or disabled gives nothing new)"
            ),
            Fault::Exhausted { family, pools } => {
                let list: Vec<String> = pools.iter().map(|(name, size)| format!("{name} ({size})")).collect();
                write!(
                    f,
                    "all {family} addresses are in use of LoadBalancerPool {}; add a block, or remove Services",
                    list.join(", ")
                )
            }
            Fault::InNoPool { addr } => write!(
                f,
                "the requested address {addr} is in no LoadBalancerPool that selects this Service and gives out addresses; request another, or add it to a pool"
            ),
            Fault::Taken { addr, owner, same_key: false } => write!(
                f,
                "the requested address {addr} is {owner}'s; request another, or give both Services of one namespace the same sheetbend.dev/sharing-key"
            ),
            Fault::Taken { addr, owner, same_key: true } => write!(
                f,
                "the requested address {addr} is {owner}'s and cannot be shared with it; Services that share are in one namespace, have no port in common, and have externalTrafficPolicy Cluster or the same selector"
            ),
            Fault::OtherFamily { addr } => write!(
                f,
                "the requested address {addr} is of a family that the Service does not have; request one of its spec.ipFamilies"
            ),
            Fault::SecondRequest { addr } => {
                write!(f, "{addr} is the second requested address of its family; request one per family")
            }
            Fault::Malformed { text } => write!(
                f,
                "the requested addresses {text:?} are no list of IP addresses; write them as in 192.0.2.10,2001:db8::10"
            ),
        }
    }
}
