//! What comes out: kernel events as plain structs, with the names users know, streamed to whoever listens.
//!
//! **Invariant:** changes nothing, and never holds the agent up: a slow listener loses events and is told how many.

mod client;
mod counters;
mod decode;
mod hub;
mod ring;

pub use client::{Subscription, subscribe};
pub use counters::{Count, by_reason};
pub use decode::{EVENT_BYTES, Lookup, decode, parse};
pub use hub::Hub;
pub use ring::{FlowRecord, FlowRing, recorded_flows};
