//! Where all thinking happens: a Snapshot in, a Dataplane out.
//!
//! [`compile`] does it at once; a [`Compiler`] follows a cluster and says with each Snapshot what to write. Both give
//! equal tables.
//!
//! **Invariant:** reads no clock, environment, socket or file.

mod announce;
mod changes;
mod compiler;
pub mod ipam;
pub mod names;
mod overlay;
mod parts;
mod policy;
mod route;
mod service;
mod slices;

pub use announce::{Announcement, announcements};
pub use compiler::{Compiler, Counters};
pub use overlay::router_address;
pub use policy::{
    SharedPlaces, TrafficFaults, diff, lint, resolved, unusable_blocks, unusable_networks, why,
};
pub use service::explain;

use sheetbend_model::plan::Dataplane;
use sheetbend_model::state::{NetworkConfig, Snapshot};
use sheetbend_model::types::NodeName;

/// All tables of `node`. Total: bad input becomes a fail-closed row and a Condition, never an error.
pub fn compile(cluster: &Snapshot, node: &NodeName, config: &NetworkConfig) -> Dataplane {
    let mut compiler = Compiler::new(node.clone(), config.clone());
    compiler.load(cluster);
    compiler.dataplane()
}
