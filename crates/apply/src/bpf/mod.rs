//! eBPF: programs on devices and the tables they read.
//!
//! [`Kernel::open`] finds or makes the pinned maps and loads this version's programs; [`Kernel::sync`] makes the tables
//! equal a whole `Dataplane`, [`Kernel::run`] carries out a `Plan`; [`Kernel::sweep`] frees what flows left behind;
//! [`Kernel::grow`] makes room for more.
//! How numbers are given: `numbers`. What lies where on bpffs: `loader`.
#![allow(unsafe_code, reason = "the border to the kernel: bpf(2), and its keys and values as bytes")]

mod connections;
mod error;
mod growth;
mod kernel;
mod loader;
mod moves;
mod names;
mod numbers;
mod object;
mod plain;
mod plan;
mod pods;
mod policy;
mod routes;
mod rows;
mod service_addresses;
mod services;
mod shut;
mod slots;
mod sockets;
mod sources;
mod sweep;
mod symbols;
mod sys;
mod table;
mod verify;

pub use connections::LiveConnections;
pub use error::BpfError;
pub use growth::{FlowTableState, Growth};
pub use kernel::{Kernel, KernelConfig};
pub use loader::Link;
pub use names::Names;
pub use plan::{Failure, Links, Report};
pub use rows::PodLink;
pub use sweep::Sweep;
pub use verify::Mismatch;
