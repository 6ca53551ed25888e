//! Who asks about names hears of their addresses before the answer leaves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use sheetbend_dns::{Reply, Responder, Transport};
use sheetbend_model::types::DomainPattern;

use crate::world::{ask, lines, query, responder};

fn asking(patterns: &[&str]) -> Arc<Responder> {
    let responder = responder(Vec::new());
    responder.tell_of(patterns.iter().map(|text| DomainPattern::new(text).unwrap()).collect());
    responder
}

fn respond(responder: &Responder, name: &str, query_type: RecordType) -> Reply {
    let bytes = query(name, query_type).to_vec().unwrap();
    responder.respond(&bytes, Transport::Udp, Instant::now())
}

#[tokio::test]
async fn an_answer_waits_until_it_is_heard() {
    let responder = asking(&["*.example.com"]);
    let mut told = responder.told().unwrap();
    assert!(responder.told().is_none(), "one hears");
    let Reply::Withheld(withheld) = respond(&responder, "Fixed.example.com.", RecordType::A) else {
        panic!()
    };
    let waiting = tokio::spawn(withheld.release());
    let heard = told.recv().await.unwrap();
    assert_eq!((heard.names, heard.ttl), (vec!["fixed.example.com".to_owned()], 5));
    assert_eq!(heard.addresses, BTreeSet::from(["192.0.2.7".parse().unwrap()]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "it left before it was heard");
    heard.heard.send(()).unwrap();
    let message = Message::from_vec(&waiting.await.unwrap()).unwrap();
    assert_eq!(lines(&message.answers), ["Fixed.example.com. 5 A 192.0.2.7"]);
}

#[tokio::test]
async fn an_answer_that_nobody_hears_leaves() {
    let responder = asking(&["alias.shop.svc.cluster.local"]);
    let mut told = responder.told().unwrap();
    let name = "alias.shop.svc.cluster.local.";
    let Reply::Withheld(withheld) = respond(&responder, name, RecordType::A) else { panic!() };
    // Whoever hears has gone.
    let heard = told.recv().await.unwrap();
    assert_eq!(heard.names, ["alias.shop.svc.cluster.local", "web.shop.svc.cluster.local"]);
    drop(heard);
    assert!(!withheld.release().await.is_empty());
}

#[test]
fn other_answers_wait_for_nothing() {
    let responder = asking(&["*.example.com"]);
    ask(&responder, &query("web.shop.svc.cluster.local.", RecordType::A), Transport::Udp);
    // A name without an address.
    ask(&responder, &query("fixed.example.com.", RecordType::AAAA), Transport::Udp);
    responder.tell_of(BTreeSet::new());
    ask(&responder, &query("fixed.example.com.", RecordType::A), Transport::Udp);
}
