//! What comes in: Kubernetes API servers, directories of Kubernetes YAML, and CNI requests. All end in one immutable
//! Snapshot.

pub mod cni;
mod convert;
pub mod file;
pub mod kube;
pub mod last_good;
pub mod resources;
