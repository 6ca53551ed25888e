//! What comes in: directories of Kubernetes YAML, and CNI requests. Both end in one immutable Snapshot.

pub mod cni;
pub mod file;
