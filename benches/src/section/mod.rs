//! What is measured, a file per part of `docs/performance.md`.

mod candidate;
pub(crate) mod cni;
pub(crate) mod compile;
pub(crate) mod dns;
pub(crate) mod endurance;
mod enforcement;
mod example;
pub(crate) mod memory;
mod new_connections;
pub(crate) mod policy;
pub(crate) mod programs;
pub(crate) mod services;
pub(crate) mod tables;
pub(crate) mod traffic;
