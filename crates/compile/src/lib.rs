//! Where all thinking happens: a Snapshot in, a Dataplane out.
//!
//! **Invariant:** reads no clock, environment, socket or file.

pub mod ipam;
