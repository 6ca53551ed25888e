//! A small cluster, a client and an upstream server.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use sheetbend_dns::{Authority, Hosts, Reply, Responder, Routes, Transport};
use sheetbend_model::plan::{Record, Zone, ZoneKey};
use sheetbend_model::types::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// The cluster `cluster.local`: Service `web.shop` with a named port, headless `db.shop` with two hosts, aliases.
pub(crate) fn zone() -> Zone {
    let mut zone = Zone::default();
    let mut set = |name: &str, records: Vec<Record>| zone.set(ZoneKey::of(name).unwrap(), records);
    let addr = |text: &str| Record::address(text.parse().unwrap());
    let srv = |port: u16, target: &str| Record::Srv { port: Port::new(port).unwrap(), target: target.into() };
    set("web.shop.svc", vec![addr("10.96.0.1"), addr("fd00:96::1")]);
    set("_http._tcp.web.shop.svc", vec![srv(80, "web.shop.svc.cluster.local")]);
    set("db.shop.svc", vec![addr("10.244.0.2"), addr("10.244.1.2")]);
    set("db-0.db.shop.svc", vec![addr("10.244.0.2")]);
    set("db-1.db.shop.svc", vec![addr("10.244.1.2")]);
    let hosts = ["db-0.db.shop.svc.cluster.local", "db-1.db.shop.svc.cluster.local"];
    set("_sql._tcp.db.shop.svc", hosts.iter().map(|host| srv(5432, host)).collect());
    set("big.shop.svc", (1..=200).map(|number| addr(&format!("10.244.9.{number}"))).collect());
    set("mail.shop.svc", vec![Record::Cname("mail.example.com".into())]);
    set("alias.shop.svc", vec![Record::Cname("web.shop.svc.cluster.local".into())]);
    set("loop.shop.svc", vec![Record::Cname("loop.shop.svc.cluster.local".into())]);
    set("dns-version", vec![Record::Txt("1.1.0".into())]);
    set("kube-dns.kube-system.svc", vec![addr("10.96.0.10")]);
    zone.add_pointer("10.96.0.1".parse().unwrap(), "web.shop.svc.cluster.local".into());
    zone.add_pointer("fd00:96::1".parse().unwrap(), "web.shop.svc.cluster.local".into());
    zone
}

pub(crate) fn authority() -> Authority {
    Authority::new("cluster.local", zone(), 5, 7).unwrap()
}

/// A responder that knows the cluster and asks `upstreams` for the rest.
pub(crate) fn responder(upstreams: Vec<SocketAddr>) -> Arc<Responder> {
    let hosts: Vec<(IpAddr, &str)> = vec![("192.0.2.7".parse().unwrap(), "fixed.example.com")];
    let responder = Responder::new("cluster.local", Hosts::new(hosts, 5), Routes::new(upstreams, []), 100);
    let responder = responder.unwrap();
    responder.set_authority(authority());
    Arc::new(responder)
}

pub(crate) fn query(name: &str, query_type: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), query_type));
    message
}

pub(crate) fn with_payload(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.edns = Some(edns);
    message
}

/// What is known at once.
pub(crate) fn ask(responder: &Responder, query: &Message, transport: Transport) -> Message {
    let reply = responder.respond(&query.to_vec().unwrap(), transport, Instant::now());
    let Reply::Now(bytes) = reply else { panic!("{reply:?}") };
    Message::from_vec(&bytes).unwrap()
}

/// What is known in the end.
pub(crate) async fn ask_all(responder: &Responder, query: &Message) -> Message {
    match responder.respond(&query.to_vec().unwrap(), Transport::Udp, Instant::now()) {
        Reply::Now(bytes) => Message::from_vec(&bytes).unwrap(),
        Reply::Later(forward) => Message::from_vec(&responder.finish(*forward).await.unwrap()).unwrap(),
        Reply::Withheld(withheld) => Message::from_vec(&withheld.release().await).unwrap(),
        Reply::Nothing => panic!("no answer"),
    }
}

/// `NAME TTL TYPE DATA`, a line for each record.
pub(crate) fn lines(records: &[hickory_proto::rr::Record]) -> Vec<String> {
    let line = |record: &hickory_proto::rr::Record| {
        format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data)
    };
    records.iter().map(line).collect()
}

/// An upstream server on loopback that answers as told, and counts.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) queries: Arc<AtomicUsize>,
    pub(crate) seen: Arc<Mutex<Vec<Message>>>,
}

impl Upstream {
    /// `answer` makes what is sent by UDP (none, one or several messages) and, where `tcp`, by TCP.
    pub(crate) async fn start(
        answer: impl Fn(&Message, Transport) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        let (queries, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let answer = Arc::new(answer);
        let upstream = Self { addr, queries: Arc::clone(&queries), seen: Arc::clone(&seen) };
        let by_udp = Arc::clone(&answer);
        let udp = Arc::new(udp);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((len, client)) = udp.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..len]).unwrap();
                queries.fetch_add(1, Ordering::SeqCst);
                seen.lock().unwrap().push(query.clone());
                for message in by_udp(&query, Transport::Udp) {
                    udp.send_to(&message.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let len = stream.read_u16().await.unwrap();
                let mut bytes = vec![0; len.into()];
                stream.read_exact(&mut bytes).await.unwrap();
                for message in answer(&Message::from_vec(&bytes).unwrap(), Transport::Tcp) {
                    let bytes = message.to_vec().unwrap();
                    stream.write_u16(bytes.len() as u16).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        });
        upstream
    }

    pub(crate) fn count(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }
}

/// An answer to `query` without records.
pub(crate) fn answer_to(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.queries.clone_from(&query.queries);
    answer
}
