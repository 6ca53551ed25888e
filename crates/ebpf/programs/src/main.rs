//! Kernel programs of Sheetbend: one classifier per hook, and the stages they call.
#![no_std]
#![no_main]

mod maps;
mod packet;

use aya_ebpf::{macros::classifier, programs::TcContext};

macro_rules! programs { ($($name:ident)*) => { $(
    #[classifier]
    pub fn $name(_ctx: TcContext) -> i32 { -1 }
)* } }
programs! { from_pod to_pod from_uplink to_uplink from_tunnel to_tunnel
stage_service stage_flow stage_deliver stage_icmp_error stage_refuse stage_snat stage_world stage_fragment }

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
