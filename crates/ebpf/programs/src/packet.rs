//! What the stages of one packet tell one another.

/// Per-CPU scratch space of the packet under way.
#[repr(C)]
pub struct Packet {
    /// Network number.
    pub network: u32,
}
