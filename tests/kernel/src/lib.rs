//! Tests that need a kernel and root: `cargo xtask test kernel`.

pub mod apply;
pub mod lab;
pub mod netlink;
pub mod program;
pub mod raw;
