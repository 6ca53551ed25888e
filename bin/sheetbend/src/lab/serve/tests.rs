#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};

use super::*;

/// Serves on loopback, in the namespace that the test runs in: no rights needed.
fn served(protocol: Protocol, port: u16) -> (tokio::runtime::Runtime, Serving) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let identity = Identity { pod: "shop/web-0".into(), node: "node-1".into() };
    let mut serving = Serving { tasks: Vec::new() };
    for bound in bind_all(&[(protocol, port)]).unwrap() {
        let _context = runtime.enter();
        serving.tasks.push(match bound {
            Bound::Tcp(listener) => runtime
                .spawn(tcp::accept(tokio::net::TcpListener::from_std(listener).unwrap(), identity.clone())),
            Bound::Udp(socket) => {
                runtime.spawn(udp::answer(tokio::net::UdpSocket::from_std(socket).unwrap(), identity.clone()))
            }
        });
    }
    (runtime, serving)
}

/// A port nobody has now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn tcp_answers_lines_and_http_on_both_families() {
    let port = free_port();
    let _served = served(Protocol::Tcp, port);
    for host in ["127.0.0.1", "::1"] {
        let mut stream = TcpStream::connect((host, port)).unwrap();
        let client = stream.local_addr().unwrap();
        stream.write_all(b"hello\nagain\n").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        for _ in 0..2 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let answer: Answer = serde_json::from_str(&line).unwrap();
            assert_eq!((answer.pod.as_str(), answer.node.as_str()), ("shop/web-0", "node-1"));
            assert_eq!((answer.client, answer.client_port), (client.ip(), client.port()));
            assert_eq!(answer.local.to_string(), stream.peer_addr().unwrap().to_string());
        }
        let mut http = TcpStream::connect((host, port)).unwrap();
        http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        http.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let body = text.split("\r\n\r\n").nth(1).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(body).unwrap().protocol, "TCP");
    }
}

#[test]
fn udp_answers_from_the_address_that_was_asked() {
    let port = free_port();
    let _served = served(Protocol::Udp, port);
    for (own, host) in [("127.0.0.1", "127.0.0.77"), ("::1", "::1")] {
        let socket = UdpSocket::bind((own, 0)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        socket.connect((host, port)).unwrap();
        socket.send(b"x").unwrap();
        let mut buffer = [0; 1024];
        // A connected socket takes answers of that address only.
        let length = socket.recv(&mut buffer).unwrap();
        let answer: Answer = serde_json::from_slice(&buffer[..length]).unwrap();
        assert_eq!(answer.local.ip().to_string(), host);
        assert_eq!(answer.client_port, socket.local_addr().unwrap().port());
        assert_eq!(answer.protocol, "UDP");
    }
}
