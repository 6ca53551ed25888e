//! What tests are made of: random and large clusters. Only tests and benches use it.

pub mod generators;
