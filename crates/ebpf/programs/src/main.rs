//! Kernel programs of Sheetbend: one classifier per hook, the stages they call, and one program per kind of call on
//! sockets.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod balance;
mod conntrack;
mod deliver;
mod direct;
mod event;
mod forward;
mod fragment;
mod growth;
mod hook;
mod icmp;
mod link;
mod maps;
mod next_hop;
mod node;
mod outside;
mod packet;
mod parse;
mod policy;
mod refuse;
mod rewrite;
mod service;
mod snat;
mod socket;
mod stage;
mod tunnel;
mod unserved;
mod uplink;

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr, classifier},
    programs::{SockAddrContext, SockContext, TcContext},
};
use sheetbend_ebpf_abi::Hook;

use crate::packet::{DROP, PASS};

/// Programs of hooks: each runs on a packet that has just arrived, `but` some let pass what is ours already.
// Not a function that takes one: what is passed on is not always inlined, and only a whole program may tail-call.
macro_rules! hooks {
    ($($name:ident = $hook:ident, $run:path $(, but $passes:path)?;)*) => {$(
        #[classifier]
        #[inline(always)]
        pub fn $name(ctx: TcContext) -> i32 {
            $(if $passes(&ctx) {
                return PASS;
            })?
            let Some(packet) = packet::arrived(&ctx, Hook::$hook) else { return DROP };
            let outcome = $run(&ctx, packet);
            event::conclude(&ctx, packet, outcome)
        }
    )*};
}

/// Programs of stages: each goes on with the packet under way.
macro_rules! stages {
    ($($name:ident = $run:path;)*) => {$(
        #[classifier]
        #[inline(always)]
        pub fn $name(ctx: TcContext) -> i32 {
            let Some(packet) = packet::current() else { return DROP };
            let outcome = $run(&ctx, packet);
            event::conclude(&ctx, packet, outcome)
        }
    )*};
}

hooks! {
    from_pod = FromPod, hook::from_pod;
    to_pod = ToPod, hook::to_pod, but packet::is_ours;
    from_uplink = FromUplink, uplink::from_uplink;
    to_uplink = ToUplink, uplink::to_uplink, but packet::is_settled;
    from_tunnel = FromTunnel, hook::from_tunnel;
    to_tunnel = ToTunnel, hook::to_tunnel, but packet::is_ours;
}

stages! {
    stage_service = service::service;
    stage_flow = forward::forward;
    stage_deliver = hook::receive;
    stage_refuse = refuse::refuse;
    stage_snat = snat::masquerade;
    stage_world = uplink::receive;
    stage_fragment = fragment::fragment;
    stage_outside = outside::outside;
    stage_answer = outside::answer;
    stage_arrive = outside::arrive;
    stage_depart = outside::depart;
    stage_icmp_error = icmp::error;
    stage_icmp_flow = icmp::tracked;
    stage_learn = tunnel::learn;
    stage_unwrap = tunnel::arrive;
    stage_too_big = refuse::too_big;
    stage_send_direct = direct::send;
    stage_take_direct = direct::take;
    stage_serve_direct = direct::serve;
}

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    socket::connect(&ctx, false)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    socket::connect(&ctx, true)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::send(&ctx, false)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::send(&ctx, true)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::peer(&ctx, false)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::peer(&ctx, true)
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    socket::peer(&ctx, false)
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    socket::peer(&ctx, true)
}

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    socket::release(&ctx)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
