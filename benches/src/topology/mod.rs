//! Networks to measure: the peers' ways to join two pods, and ours.

pub(crate) mod agent;
pub(crate) mod bridge;
pub(crate) mod cluster_api;
pub(crate) mod fabric;
pub(crate) mod kube_proxy;
pub(crate) mod ours;
pub(crate) mod process;
pub(crate) mod routed;
pub(crate) mod wire;
