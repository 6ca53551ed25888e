//! What one node's kernel shall hold ([`Dataplane`]), in symbols, and the [`Plan`] that takes it from one state to
//! the next.
//!
//! Nothing here has a number: classes, policy sets, Services and backends are named by their content. Numbers are
//! given in `apply`.

mod class;
mod dataplane;
mod diff;
mod maglev;
mod policy_set;
mod service;
mod slots;
mod wanted;
mod zone;

pub use class::{Class, Term};
pub use dataplane::{
    Condition, Dataplane, LOOPBACK, LocalPod, Origin, Overlay, Posture, Route, RuleKey, Ruling,
};
pub use diff::{Entry, EntryKey, Plan, Step, diff};
pub use maglev::{Preference, table_size};
pub use policy_set::{PolicyRef, PolicySet, TierRef};
pub use service::{AddressHolder, Backend, Frontend, HealthCheck, Reach, Scope, ServiceEntry};
pub use slots::{MOST_SLOTS, Slot};
pub use wanted::{Place, Wanted};
pub use zone::{Record, Zone, ZoneKey, dashed};
