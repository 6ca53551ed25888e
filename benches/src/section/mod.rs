//! What is measured, a file per part of `docs/performance.md`.

pub(crate) mod cni;
pub(crate) mod compile;
pub(crate) mod dns;
pub(crate) mod first_packet;
pub(crate) mod memory;
pub(crate) mod programs;
pub(crate) mod tables;
pub(crate) mod traffic;
