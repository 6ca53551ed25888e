//! The cluster's names, as the Kubernetes DNS specification 1.1.0 and the RFCs want them.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use sheetbend_dns::{Authority, Transport};
use sheetbend_model::plan::Zone;

use crate::world::{ask, lines, query, responder, with_payload};

fn answer(name: &str, query_type: RecordType) -> Message {
    ask(&responder(Vec::new()), &query(name, query_type), Transport::Udp)
}

#[test]
fn a_service_has_addresses_ports_and_a_name_for_its_address() {
    let found = answer("web.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(lines(&found.answers), ["web.shop.svc.cluster.local. 5 A 10.96.0.1"]);
    assert!(found.metadata.authoritative && found.metadata.recursion_available);
    let found = answer("web.shop.svc.cluster.local.", RecordType::AAAA);
    assert_eq!(lines(&found.answers), ["web.shop.svc.cluster.local. 5 AAAA fd00:96::1"]);
    let found = answer("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV);
    let srv = "_http._tcp.web.shop.svc.cluster.local. 5 SRV 0 100 80 web.shop.svc.cluster.local.";
    assert_eq!(lines(&found.answers), [srv]);
    assert_eq!(found.additionals.len(), 2, "the host's addresses come along");
    let found = answer("1.0.96.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(lines(&found.answers), ["1.0.96.10.in-addr.arpa. 5 PTR web.shop.svc.cluster.local."]);
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(answer(v6, RecordType::PTR).answers[0].data.to_string(), "web.shop.svc.cluster.local.");
}

#[test]
fn a_headless_service_has_its_hosts() {
    let found = answer("db.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(found.answers.len(), 2);
    let found = answer("db-1.db.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(lines(&found.answers), ["db-1.db.shop.svc.cluster.local. 5 A 10.244.1.2"]);
    let found = answer("_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV);
    let mut targets: Vec<String> = found.answers.iter().map(|record| record.data.to_string()).collect();
    targets.sort();
    let wanted = ["0 100 5432 db-0.db.shop.svc.cluster.local.", "0 100 5432 db-1.db.shop.svc.cluster.local."];
    assert_eq!(targets, wanted);
}

#[test]
fn equal_addresses_take_turns() {
    let responder = responder(Vec::new());
    let mut firsts: Vec<String> = (0..4u16)
        .map(|id| {
            let mut query = query("db.shop.svc.cluster.local.", RecordType::A);
            query.metadata.id = id;
            ask(&responder, &query, Transport::Udp).answers[0].data.to_string()
        })
        .collect();
    firsts.dedup();
    assert_eq!(firsts, ["10.244.0.2", "10.244.1.2", "10.244.0.2", "10.244.1.2"]);
}

#[test]
fn the_schema_has_a_version() {
    let found = answer("dns-version.cluster.local.", RecordType::TXT);
    assert_eq!(lines(&found.answers), ["dns-version.cluster.local. 5 TXT 1.1.0"]);
}

#[test]
fn a_name_is_spelled_as_it_was_asked() {
    let found = answer("WEB.Shop.SVC.cluster.LOCAL.", RecordType::A);
    assert_eq!(found.answers[0].name.to_ascii(), "WEB.Shop.SVC.cluster.LOCAL.");
    assert_eq!(found.queries[0].name.to_ascii(), "WEB.Shop.SVC.cluster.LOCAL.");
}

#[test]
fn no_such_name_and_no_such_record_are_different() {
    for (name, code) in [
        ("no.shop.svc.cluster.local.", ResponseCode::NXDomain),
        ("web.shop.cluster.local.", ResponseCode::NXDomain),
        ("example.com.svc.cluster.local.", ResponseCode::NXDomain),
        ("shop.svc.cluster.local.", ResponseCode::NoError),
        ("_tcp.web.shop.svc.cluster.local.", ResponseCode::NoError),
        ("svc.cluster.local.", ResponseCode::NoError),
        ("cluster.local.", ResponseCode::NoError),
        ("db-0.db.shop.svc.cluster.local.", ResponseCode::NoError),
    ] {
        let found = answer(name, RecordType::AAAA);
        assert_eq!((found.metadata.response_code, found.answers.len()), (code, 0), "{name}");
        // RFC 2308 §3: how long that may be remembered.
        let soa = lines(&found.authorities);
        assert_eq!(soa.len(), 1, "{name}");
        assert!(
            soa[0].starts_with("cluster.local. 5 SOA kube-dns.kube-system.svc.cluster.local. "),
            "{soa:?}"
        );
        assert!(soa[0].ends_with(" 7 7200 1800 86400 5"), "{soa:?}");
    }
}

#[test]
fn the_zone_names_its_server() {
    let found = answer("cluster.local.", RecordType::NS);
    assert_eq!(lines(&found.answers), ["cluster.local. 5 NS kube-dns.kube-system.svc.cluster.local."]);
    assert_eq!(lines(&found.additionals), ["kube-dns.kube-system.svc.cluster.local. 5 A 10.96.0.10"]);
    assert_eq!(answer("cluster.local.", RecordType::SOA).answers.len(), 1);
    // RFC 8482 §4.1: one RRset is enough.
    assert_eq!(answer("web.shop.svc.cluster.local.", RecordType::ANY).answers.len(), 1);
}

#[test]
fn an_alias_within_the_zone_is_followed_and_a_loop_ends() {
    let found = answer("alias.shop.svc.cluster.local.", RecordType::A);
    let wanted = [
        "alias.shop.svc.cluster.local. 5 CNAME web.shop.svc.cluster.local.",
        "web.shop.svc.cluster.local. 5 A 10.96.0.1",
    ];
    assert_eq!(lines(&found.answers), wanted);
    let found = answer("mail.shop.svc.cluster.local.", RecordType::CNAME);
    assert_eq!(lines(&found.answers), ["mail.shop.svc.cluster.local. 5 CNAME mail.example.com."]);
    let found = answer("loop.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(found.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn fixed_entries_win() {
    let found = answer("fixed.example.com.", RecordType::A);
    assert_eq!(lines(&found.answers), ["fixed.example.com. 5 A 192.0.2.7"]);
    assert_eq!(lines(&answer("localhost.", RecordType::A).answers), ["localhost. 5 A 127.0.0.1"]);
}

#[test]
fn before_the_cluster_is_known_its_names_are_not_denied() {
    let hosts = sheetbend_dns::Hosts::new([], 5);
    let responder =
        sheetbend_dns::Responder::new("cluster.local", hosts, sheetbend_dns::Routes::new(Vec::new(), []), 0)
            .unwrap();
    let asked = query("web.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(ask(&responder, &asked, Transport::Udp).metadata.response_code, ResponseCode::ServFail);
    responder.set_authority(Authority::new("cluster.local", Zone::default(), 5, 1).unwrap());
    assert_eq!(ask(&responder, &asked, Transport::Udp).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn an_answer_fits_what_the_client_takes() {
    let responder = responder(Vec::new());
    let asked = query("big.shop.svc.cluster.local.", RecordType::A);
    let size = |message: &Message| message.to_vec().unwrap().len();
    for (asked, least, most) in [
        (asked.clone(), 400, 512),
        (with_payload(asked.clone(), 100), 400, 512),
        (with_payload(asked.clone(), 800), 700, 800),
        (with_payload(asked.clone(), 4096), 1100, 1232),
    ] {
        let found = ask(&responder, &asked, Transport::Udp);
        assert!(found.metadata.truncation, "TC: the rest comes by TCP");
        assert!((least..=most).contains(&size(&found)), "{}", size(&found));
        assert!(found.answers.len() > 20 && found.answers.len() < 200, "{}", found.answers.len());
        assert_eq!(found.edns.is_some(), asked.edns.is_some());
    }
    let whole = ask(&responder, &asked, Transport::Tcp);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
}

#[test]
fn what_is_left_out_of_the_additional_section_is_no_truncation() {
    let responder = responder(Vec::new());
    let mut zone = crate::world::zone();
    let target = |number: usize| format!("a-rather-long-host-name-{number}.many.shop.svc.cluster.local");
    let mut services = Vec::new();
    for number in 0..8 {
        let record = sheetbend_model::plan::Record::address(format!("10.9.0.{number}").parse().unwrap());
        let name = format!("a-rather-long-host-name-{number}.many.shop.svc");
        zone.set(sheetbend_model::plan::ZoneKey::of(&name).unwrap(), vec![record]);
        let port = sheetbend_model::types::Port::new(80).unwrap();
        services.push(sheetbend_model::plan::Record::Srv { port, target: target(number).into() });
    }
    zone.set(sheetbend_model::plan::ZoneKey::of("_x._tcp.many.shop.svc").unwrap(), services);
    responder.set_authority(Authority::new("cluster.local", zone, 5, 8).unwrap());
    let asked = with_payload(query("_x._tcp.many.shop.svc.cluster.local.", RecordType::SRV), 1232);
    let whole = ask(&responder, &asked, Transport::Tcp);
    assert_eq!((whole.answers.len(), whole.additionals.len()), (8, 8));
    let one_less = whole.to_vec().unwrap().len() as u16 - 1;
    let found = ask(&responder, &with_payload(asked, one_less), Transport::Udp);
    assert_eq!((found.answers.len(), found.additionals.len(), found.metadata.truncation), (8, 0, false));
}

#[test]
fn what_is_not_served_is_refused() {
    let responder = responder(Vec::new());
    let code = |query: &Message| ask(&responder, query, Transport::Tcp).metadata.response_code;
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(code(&chaos), ResponseCode::Refused);
    assert_eq!(code(&query("cluster.local.", RecordType::AXFR)), ResponseCode::Refused);
    let mut iterative = query("example.com.", RecordType::A);
    iterative.metadata.recursion_desired = false;
    assert_eq!(code(&iterative), ResponseCode::Refused, "it is no iterative server of other zones");
    assert!(responder.metrics().contains("answers_total{source=\"Refused\",rcode=\"REFUSED\"} 3"));
}
