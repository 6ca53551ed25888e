//! Our kernel programs under `BPF_PROG_TEST_RUN`, and the tables they read.

pub(crate) mod bare;
pub(crate) mod cluster;
pub(crate) mod flows;
pub(crate) mod packet;
pub(crate) mod program;
pub(crate) mod world;
