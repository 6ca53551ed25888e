//! The server as a client sees it: bytes in, bytes out.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failed test may panic")]

mod answers;
mod forwarding;
mod hostile;
mod sockets;
mod told;
mod world;
