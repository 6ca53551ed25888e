//! Small types that make an illegal value impossible to build.

mod addr;
mod name;
mod port;

pub use addr::{AddrKey, BlockKey, Family, Mac, MacError, NetworkId};
pub use name::{Labels, NodeName, ObjectKey};
pub use port::{Direction, Port, PortError, PortPrefix, PortRange, Protocol};
