//! Tail calls: slots of `STAGES`, in the order of `sheetbend_ebpf_abi::STAGE_PROGRAMS`.

use aya_ebpf::programs::TcContext;

use crate::maps::STAGES;

pub const SERVICE: u32 = 0;
pub const FLOW: u32 = 1;
pub const DELIVER: u32 = 2;
pub const ICMP_ERROR: u32 = 3;
pub const REFUSE: u32 = 4;
pub const SNAT: u32 = 5;
pub const WORLD: u32 = 6;
pub const FRAGMENT: u32 = 7;
pub const OUTSIDE: u32 = 8;
pub const ANSWER: u32 = 9;
pub const ARRIVE: u32 = 10;
pub const DEPART: u32 = 11;
pub const ICMP_FLOW: u32 = 12;
pub const LEARN: u32 = 13;
pub const UNWRAP: u32 = 14;
pub const TOO_BIG: u32 = 15;
pub const SEND_DIRECT: u32 = 16;
pub const TAKE_DIRECT: u32 = 17;
pub const SERVE_DIRECT: u32 = 18;

/// Goes on in another stage; returns only when that stage is missing, and then the packet must be dropped.
#[inline(always)]
pub fn call(ctx: &TcContext, slot: u32) {
    // SAFETY: all that the stage needs is in the scratch space.
    unsafe { STAGES.tail_call(ctx, slot) }
}
