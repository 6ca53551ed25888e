//! DNS messages of clients and of upstream servers, and the host's `resolv.conf`.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Instant;

use sheetbend_compile::names;
use sheetbend_dns::{Authority, Forward, Hosts, Reply, Responder, Routes, Transport, nameservers};
use sheetbend_testkit::generators::large;

/// Of every answer by UDP, bytes.
const UDP_PAYLOAD: usize = 1_232;

/// Answers for a small cluster, and sends nothing anywhere.
static RESPONDER: LazyLock<Responder> = LazyLock::new(|| {
    let responder = fresh();
    let zone = names::zone(&large::services(4, 2), "cluster.local");
    let authority = Authority::new("cluster.local", zone, 30, 1);
    responder.set_authority(authority.unwrap_or_else(|| panic!("cluster.local is a name")));
    responder
});

fn fresh() -> Responder {
    let upstream: SocketAddr = ([192, 0, 2, 53], 53).into();
    let hosts = Hosts::new([([192, 0, 2, 1].into(), "host.test")], 30);
    let responder = Responder::new("cluster.local", hosts, Routes::new(vec![upstream], []), 64);
    responder.unwrap_or_else(|| panic!("cluster.local is a name"))
}

fn asked(responder: &Responder, query: &[u8], transport: Transport) -> Option<Forward> {
    match responder.respond(query, transport, Instant::now()) {
        Reply::Now(answer) => {
            check(query, &answer, transport);
            None
        }
        Reply::Later(forward) => Some(*forward),
        Reply::Withheld(_) | Reply::Nothing => None,
    }
}

/// An answer has the query's number, says that it is one, and fits.
fn check(query: &[u8], answer: &[u8], transport: Transport) {
    assert_eq!(answer.get(..2), query.get(..2), "{query:?} → {answer:?}");
    assert!(answer.get(2).is_some_and(|flags| flags & 0x80 != 0), "{query:?} → {answer:?}");
    assert!(transport == Transport::Tcp || answer.len() <= UDP_PAYLOAD, "{query:?} → {answer:?}");
}

/// What a client sends.
pub(crate) fn query(input: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        drop(asked(&RESPONDER, input, transport));
    }
}

/// What an upstream server answers to a query for `example.test`. The input is the message behind its number.
pub(crate) fn answer(input: &[u8]) {
    let question = b"\x07example\x04test\x00\x00\x01\x00\x01";
    let query = [&b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"[..], question].concat();
    let message = [&7_u16.to_be_bytes()[..], input].concat();
    for transport in [Transport::Udp, Transport::Tcp] {
        let responder = fresh();
        let forward = asked(&responder, &query, transport);
        let forward = forward.unwrap_or_else(|| panic!("an upstream server has to be asked"));
        if let Reply::Now(answer) = responder.finish_with(forward, 7, &message) {
            check(&query, &answer, transport);
            // Now from the cache, if it may be there.
            drop(asked(&responder, &query, transport));
        }
    }
}

/// What the host's file says.
pub(crate) fn resolv_conf(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        drop(nameservers(text));
    }
}
