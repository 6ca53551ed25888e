//! The kernel's border: reads back what it holds and carries out Plans. Decides nothing.

pub mod bpf;
pub mod memory;
pub mod netlink;
pub mod store;
