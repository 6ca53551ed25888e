//! What no client should send.

use std::time::Instant;

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use sheetbend_dns::{Reply, Transport};

use crate::world::{ask, query, responder};

#[test]
fn answers_and_scraps_are_not_answered() {
    let responder = responder(Vec::new());
    let silent =
        |bytes: &[u8]| matches!(responder.respond(bytes, Transport::Udp, Instant::now()), Reply::Nothing);
    let mut answer = query("web.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    assert!(!silent(&answer));
    answer[2] |= 0x80;
    assert!(silent(&answer), "two servers would send each other answers for ever");
    for len in 0..12 {
        assert!(silent(&vec![0; len]), "{len} bytes");
    }
    assert!(responder.metrics().contains("sheetbend_dns_dropped_total{reason=\"no_query\"} 13"));
}

#[test]
fn a_wrong_query_is_told_so() {
    let responder = responder(Vec::new());
    let code = |message: &Message| ask(&responder, message, Transport::Udp).metadata.response_code;
    let mut update = query("cluster.local.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut newer = query("web.shop.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    // 16 is BADSIG too, where a message is signed.
    assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
    let mut two = query("web.shop.svc.cluster.local.", RecordType::A);
    two.queries.push(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    two.queries.clear();
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut garbage = query("web.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    garbage.truncate(20);
    let Reply::Now(bytes) = responder.respond(&garbage, Transport::Udp, Instant::now()) else { panic!() };
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (4711, ResponseCode::FormErr));
}

/// Every prefix of a query, and every query with one byte changed, is answered or ignored; never a panic.
#[test]
fn broken_queries_do_no_harm() {
    let responder = responder(Vec::new());
    let whole =
        crate::world::with_payload(query("_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV), 1232);
    let whole = whole.to_vec().unwrap();
    for len in 0..whole.len() {
        drop(responder.respond(&whole[..len], Transport::Udp, Instant::now()));
    }
    for place in 0..whole.len() {
        for value in [0x00, 0x01, 0x3f, 0x40, 0xc0, 0xff] {
            let mut bytes = whole.clone();
            bytes[place] = value;
            if let Reply::Now(answer) = responder.respond(&bytes, Transport::Udp, Instant::now()) {
                assert!(answer.len() <= 1232 && answer[2] & 0x80 != 0, "byte {place} = {value}");
            }
        }
    }
}
