//! The nouns of Sheetbend: what a cluster is ([`state`]), what a node's kernel shall hold ([`plan`]), and what
//! happened ([`events`]), in the small types of [`types`].
//!
//! **Invariant:** no I/O, no async, no clock. Everything here is data, ordered, and equal when its content is equal.

pub mod events;
pub mod plan;
pub mod state;
pub mod types;
