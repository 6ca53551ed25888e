//! Clusters for tests: random ones from small pools, in which objects meet each other, and large ones that are always
//! the same.

pub mod cluster;
pub mod large;
pub mod objects;
pub mod packet;
pub mod pools;
pub mod services;
pub mod tiers;
pub mod traffic;
