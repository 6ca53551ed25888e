//! Names of other zones.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use sheetbend_dns::{Hosts, Responder, Routes, Transport};

use crate::world::{Upstream, answer_to, ask_all, authority, lines, query, responder};

/// An answer with one address.
fn address(query: &Message) -> Message {
    let mut answer = answer_to(query);
    let name = query.queries[0].name.clone();
    answer.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
    answer
}

fn denial(query: &Message) -> Message {
    let mut answer = answer_to(query);
    answer.metadata.response_code = ResponseCode::NXDomain;
    let zone = Name::from_ascii("example.com.").unwrap();
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 30);
    answer.authorities.push(Record::from_rdata(zone, 60, RData::SOA(soa)));
    answer
}

#[tokio::test]
async fn an_answer_is_fetched_once_and_then_remembered() {
    let upstream = Upstream::start(|query, _| vec![address(query)]).await;
    let responder = responder(vec![upstream.addr]);
    let asked = query("www.example.com.", RecordType::A);
    let first = ask_all(&responder, &asked).await;
    assert_eq!(lines(&first.answers), ["www.example.com. 60 A 192.0.2.1"]);
    assert!(!first.metadata.authoritative && first.metadata.recursion_available);
    let again = ask_all(&responder, &query("WWW.example.com.", RecordType::A)).await;
    assert_eq!(again.answers[0].data, first.answers[0].data);
    assert_eq!(again.queries[0].name.to_ascii(), "WWW.example.com.");
    assert_eq!(upstream.count(), 1);
    let seen = upstream.seen.lock().unwrap()[0].clone();
    assert!(seen.metadata.recursion_desired);
    assert_eq!(seen.edns.unwrap().max_payload(), 1232);
    assert!(responder.metrics().contains("answers_total{source=\"Cache\",rcode=\"NOERROR\"} 1"));
}

#[tokio::test]
async fn that_a_name_does_not_exist_is_remembered_too() {
    let upstream = Upstream::start(|query, _| vec![denial(query)]).await;
    let responder = responder(vec![upstream.addr]);
    for _ in 0..3 {
        let found = ask_all(&responder, &query("no.example.com.", RecordType::A)).await;
        assert_eq!(found.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(found.authorities.len(), 1);
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn who_asks_the_same_waits_for_the_same_answer() {
    let upstream = Upstream::start(|query, _| {
        std::thread::sleep(Duration::from_millis(50));
        vec![address(query)]
    })
    .await;
    let responder = responder(vec![upstream.addr]);
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let responder = Arc::clone(&responder);
            tokio::spawn(async move { ask_all(&responder, &query("www.example.com.", RecordType::A)).await })
        })
        .collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap().answers.len(), 1);
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_external_name_is_followed_out_of_the_cluster() {
    let upstream = Upstream::start(|query, _| vec![address(query)]).await;
    let responder = responder(vec![upstream.addr]);
    let found = ask_all(&responder, &query("mail.shop.svc.cluster.local.", RecordType::A)).await;
    let wanted =
        ["mail.shop.svc.cluster.local. 5 CNAME mail.example.com.", "mail.example.com. 60 A 192.0.2.1"];
    assert_eq!(lines(&found.answers), wanted);
    assert!(found.metadata.authoritative);
    let again = ask_all(&responder, &query("mail.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!((again.answers.len(), upstream.count()), (2, 1));
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_by_tcp() {
    let upstream = Upstream::start(|query, transport| {
        let mut answer = address(query);
        if transport == Transport::Udp {
            answer.answers.clear();
            answer.metadata.truncation = true;
        }
        vec![answer]
    })
    .await;
    let responder = responder(vec![upstream.addr]);
    let found = ask_all(&responder, &query("www.example.com.", RecordType::A)).await;
    assert_eq!((found.answers.len(), found.metadata.truncation), (1, false));
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_believed() {
    let upstream = Upstream::start(|query, _| {
        let mut guess = address(query);
        guess.metadata.id ^= 1;
        let mut other = address(query);
        other.queries[0].name = Name::from_ascii("evil.example.com.").unwrap();
        let mut real = address(query);
        real.answers[0].data = RData::A(A::new(192, 0, 2, 99));
        vec![guess, other, real]
    })
    .await;
    let responder = responder(vec![upstream.addr]);
    let found = ask_all(&responder, &query("www.example.com.", RecordType::A)).await;
    assert_eq!(found.answers[0].data.to_string(), "192.0.2.99");
}

#[tokio::test]
async fn another_server_is_asked_where_one_does_not_answer() {
    // A port that nobody listens on: ICMP says so at once.
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failing = Upstream::start(|query, _| {
        let mut answer = answer_to(query);
        answer.metadata.response_code = ResponseCode::ServFail;
        vec![answer]
    })
    .await;
    let well = Upstream::start(|query, _| vec![address(query)]).await;
    let responder = responder(vec![closed, failing.addr, well.addr]);
    for number in 0..6 {
        let found = ask_all(&responder, &query(&format!("{number}.example.com."), RecordType::A)).await;
        assert_eq!(found.answers.len(), 1, "{number}");
    }
    assert!(responder.metrics().contains(&format!("forward_failures_total{{upstream=\"{closed}\"}}")));
}

#[tokio::test]
async fn nobody_answers_is_servfail_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let responder = responder(vec![silent.local_addr().unwrap()]);
    let start = Instant::now();
    let found = ask_all(&responder, &query("www.example.com.", RecordType::A)).await;
    assert_eq!(found.metadata.response_code, ResponseCode::ServFail);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // RFC 9520 §3.2: not asked again at once.
    let start = Instant::now();
    ask_all(&responder, &query("www.example.com.", RecordType::A)).await;
    assert!(start.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn a_stub_domain_has_servers_of_its_own() {
    let corp = Upstream::start(|query, _| vec![address(query)]).await;
    let lab = Upstream::start(|query, _| vec![denial(query)]).await;
    let default = Upstream::start(|query, _| vec![denial(query)]).await;
    let stubs: Vec<(&str, Vec<SocketAddr>)> =
        vec![("corp.example", vec![corp.addr]), ("lab.corp.example.", vec![lab.addr])];
    let routes = Routes::new(vec![default.addr], stubs);
    let responder = Responder::new("cluster.local", Hosts::new([], 5), routes, 100).unwrap();
    responder.set_authority(authority());
    for (name, records) in
        [("db.CORP.example.", 1), ("corp.example.", 1), ("a.lab.corp.example.", 0), ("notcorp.example.", 0)]
    {
        let found = ask_all(&responder, &query(name, RecordType::A)).await;
        assert_eq!(found.answers.len(), records, "{name}");
    }
    assert_eq!((corp.count(), lab.count(), default.count()), (2, 1, 1));
}

#[tokio::test]
async fn other_routes_forget_what_the_earlier_servers_said() {
    let earlier = Upstream::start(|query, _| vec![denial(query)]).await;
    let later = Upstream::start(|query, _| vec![address(query)]).await;
    let responder = responder(vec![earlier.addr]);
    let asked = query("db.corp.example.", RecordType::A);
    assert_eq!(ask_all(&responder, &asked).await.metadata.response_code, ResponseCode::NXDomain);
    responder.set_routes(Routes::new(vec![earlier.addr], [("corp.example", vec![later.addr])]));
    for _ in 0..2 {
        assert_eq!(ask_all(&responder, &asked).await.answers.len(), 1);
    }
    responder.set_routes(Routes::new(vec![earlier.addr], []));
    assert_eq!(ask_all(&responder, &asked).await.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!((earlier.count(), later.count()), (2, 1));
}
