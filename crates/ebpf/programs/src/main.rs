//! Kernel programs of Sheetbend: one classifier per hook, and the stages they call.
#![no_std]
#![no_main]

mod conntrack;
mod deliver;
mod event;
mod forward;
mod fragment;
mod hook;
mod icmp;
mod link;
mod maps;
mod next_hop;
mod node;
mod packet;
mod parse;
mod policy;
mod refuse;
mod rewrite;
mod service;
mod snat;
mod stage;
mod uplink;

use aya_ebpf::{macros::classifier, programs::TcContext};
use sheetbend_ebpf_abi::{Hook, Reason};

use crate::packet::{DROP, PASS, Packet};

/// Runs one hook on a packet that has just arrived.
#[inline(always)]
fn enter(
    ctx: &TcContext,
    hook: Hook,
    run: impl FnOnce(&TcContext, &mut Packet) -> Result<i32, Reason>,
) -> i32 {
    let Some(packet) = packet::arrived(ctx, hook) else { return DROP };
    let outcome = run(ctx, packet);
    event::conclude(ctx, packet, outcome)
}

/// Runs one stage on the packet under way.
#[inline(always)]
fn go_on(ctx: &TcContext, run: impl FnOnce(&TcContext, &mut Packet) -> Result<i32, Reason>) -> i32 {
    let Some(packet) = packet::current() else { return DROP };
    let outcome = run(ctx, packet);
    event::conclude(ctx, packet, outcome)
}

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    enter(&ctx, Hook::FromPod, hook::from_pod)
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    if packet::is_ours(&ctx) {
        return PASS;
    }
    enter(&ctx, Hook::ToPod, hook::to_pod)
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    enter(&ctx, Hook::FromUplink, uplink::from_uplink)
}

#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    if packet::is_ours(&ctx) {
        return PASS;
    }
    enter(&ctx, Hook::ToUplink, uplink::to_uplink)
}

#[classifier]
pub fn from_tunnel(ctx: TcContext) -> i32 {
    enter(&ctx, Hook::FromTunnel, hook::from_tunnel)
}

#[classifier]
pub fn to_tunnel(ctx: TcContext) -> i32 {
    if packet::is_ours(&ctx) {
        return PASS;
    }
    enter(&ctx, Hook::ToTunnel, hook::to_tunnel)
}

#[classifier]
pub fn stage_service(ctx: TcContext) -> i32 {
    go_on(&ctx, service::service)
}

#[classifier]
pub fn stage_flow(ctx: TcContext) -> i32 {
    go_on(&ctx, forward::forward)
}

#[classifier]
pub fn stage_deliver(ctx: TcContext) -> i32 {
    go_on(&ctx, hook::receive)
}

#[classifier]
pub fn stage_refuse(ctx: TcContext) -> i32 {
    go_on(&ctx, refuse::refuse)
}

#[classifier]
pub fn stage_snat(ctx: TcContext) -> i32 {
    go_on(&ctx, snat::masquerade)
}

#[classifier]
pub fn stage_world(ctx: TcContext) -> i32 {
    go_on(&ctx, uplink::receive)
}

#[classifier]
pub fn stage_fragment(ctx: TcContext) -> i32 {
    go_on(&ctx, fragment::fragment)
}

#[classifier]
pub fn stage_icmp_error(ctx: TcContext) -> i32 {
    go_on(&ctx, icmp::error)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
