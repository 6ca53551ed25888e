//! Tests that need a kernel and root: `cargo xtask test kernel`.

pub mod netlink;
pub mod apply;
