//! Small types that make an illegal value impossible to build.

mod addr;
mod domain;
mod name;
mod pod_ips;
mod port;
mod uid;

pub use addr::{AddrKey, BlockKey, Family, Mac, MacError, NetworkId};
pub use domain::DomainPattern;
pub use name::{Labels, NodeName, ObjectKey};
pub use pod_ips::PodIps;
pub use port::{Direction, Port, PortError, PortPrefix, PortRange, Protocol};
pub use uid::Uid;
