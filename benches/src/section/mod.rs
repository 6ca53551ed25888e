//! What is measured, a file per part of `docs/performance.md`.

pub(crate) mod programs;
pub(crate) mod tables;
pub(crate) mod traffic;
