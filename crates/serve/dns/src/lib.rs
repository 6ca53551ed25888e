//! The cluster DNS: authoritative for the cluster's zone, a forwarder with a cache for everything else.
//!
//! A [`Responder`] decides what a query is answered with; it owns no socket and reads no clock. [`Server`] gives it
//! sockets, [`Forwarder`] upstream servers.

mod answer;
mod authority;
mod cache;
mod hosts;
mod metrics;
mod resolv;
mod responder;
mod server;
mod upstream;
mod wire;
mod witness;

pub use authority::Authority;
pub use hosts::Hosts;
pub use metrics::{Answered, Metrics, Source, Transport};
pub use resolv::nameservers;
pub use responder::{Forward, Reply, Responder, Withheld};
pub use server::{BindError, Handle, Server};
pub use upstream::{Forwarder, Group, Routes};
pub use witness::Told;
