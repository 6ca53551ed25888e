//! CNI requests (CNI specification 1.1.0): the agent's end of the socket that `sheetbend-cni` calls.

mod server;
#[cfg(test)]
mod tests;

pub use server::{Handler, ServeError, Server};
pub use sheetbend_cni_wire as wire;
