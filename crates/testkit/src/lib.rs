//! What tests are made of: random and large clusters. Only tests and benches use it.

pub mod api_server;
pub mod generators;
pub mod manifests;
pub mod mutate;
