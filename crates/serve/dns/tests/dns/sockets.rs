//! Real sockets on loopback.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use sheetbend_dns::{Handle, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime;

use crate::world::{query, responder};

fn start(addresses: &[&str], workers: usize) -> (Vec<SocketAddr>, Handle) {
    let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let server = Server::bind(&addresses, workers).unwrap();
    let bound = server.addresses();
    (bound, server.start(&responder(Vec::new()), &runtime::Handle::current()).unwrap())
}

fn client(server: SocketAddr) -> UdpSocket {
    let any: SocketAddr =
        if server.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { ([0, 0, 0, 0, 0, 0, 0, 1], 0).into() };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn exchange(socket: &UdpSocket, id: u16) -> std::io::Result<Message> {
    let mut asked = query("web.shop.svc.cluster.local.", RecordType::A);
    asked.metadata.id = id;
    socket.send(&asked.to_vec().unwrap())?;
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer)?;
    Ok(Message::from_vec(&buffer[..len]).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_families_answer_by_udp_and_tcp() {
    let (addresses, handle) = start(&["127.0.0.1:0", "[::1]:0"], 2);
    for addr in addresses {
        for id in 0..20 {
            let answer = exchange(&client(addr), id).unwrap();
            assert_eq!((answer.metadata.id, answer.answers.len()), (id, 1), "{addr}");
        }
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // RFC 7766 §6.2.1: several queries on one connection, sent at once.
        for name in ["web.shop.svc.cluster.local.", "big.shop.svc.cluster.local."] {
            let bytes = query(name, RecordType::A).to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
        for answers in [1, 200] {
            let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), answers);
        }
    }
    tokio::task::spawn_blocking(|| handle.stop()).await.unwrap();
}

/// A resolver drops what comes from another address than it asked: a connected socket does, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_comes_from_the_address_that_was_asked() {
    let (addresses, handle) = start(&["0.0.0.0:0", "[::]:0"], 1);
    for (addr, ports) in [("127.0.0.1", addresses[0]), ("127.7.7.7", addresses[0]), ("::1", addresses[1])] {
        let server = SocketAddr::new(addr.parse().unwrap(), ports.port());
        assert_eq!(exchange(&client(server), 1).unwrap().answers.len(), 1, "{server}");
    }
    tokio::task::spawn_blocking(|| handle.stop()).await.unwrap();
}

/// An upgrade: the new process joins, the old one leaves, and no query of those that come all the while is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_takes_over_without_losing_a_query() {
    let (addresses, mut handle) = start(&["127.0.0.1:0"], 2);
    let server = addresses[0];
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                let mut answered = 0u32;
                while !done.load(Ordering::Relaxed) {
                    // A new port each time, so that the kernel chooses among the sockets anew.
                    let socket = client(server);
                    match exchange(&socket, answered as u16) {
                        Ok(_) => answered += 1,
                        Err(error) => panic!("query {answered} was lost: {error}"),
                    }
                }
                answered
            })
        })
        .collect();
    for _ in 0..8 {
        let next = Server::bind(&[server], 2).unwrap();
        let next = next.start(&responder(Vec::new()), &runtime::Handle::current()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let old = std::mem::replace(&mut handle, next);
        let start = Instant::now();
        tokio::task::spawn_blocking(|| old.stop()).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "leaving takes {:?}", start.elapsed());
    }
    done.store(true, Ordering::Relaxed);
    let answered: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answered > 200, "{answered}");
    tokio::task::spawn_blocking(|| handle.stop()).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    // Without SO_REUSEPORT nobody else may bind.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    assert!(!Server::is_free(&[addr]));
    let error = Server::bind(&[addr], 1).unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("dns.listen"), "{error}");
}
