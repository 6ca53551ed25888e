#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use std::time::Duration;

use sheetbend_model::events::{EventEnd, PacketVerdict};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use super::*;

fn limits() -> Limits {
    Limits { patience: Duration::from_millis(300), grace: Duration::from_millis(20), ..Limits::default() }
}

fn drop_of(from: SocketAddr, to: SocketAddr) -> PacketEvent {
    let end = |at: SocketAddr| EventEnd { address: at.ip(), port: at.port(), name: None };
    PacketEvent {
        time: 1,
        node: "node-1".into(),
        verdict: PacketVerdict::Dropped,
        reason: "policy_denied".into(),
        hook: "from_pod".into(),
        source: end(from),
        destination: end(to),
        frontend: None,
        protocol: "UDP".into(),
        decided_by: None,
        length: 60,
    }
}

fn probe(to: SocketAddr, speech: Speech) -> Probe {
    Probe { from: "127.0.0.1".parse().unwrap(), to, behind: Vec::new(), speech }
}

fn one(probe: Probe, watch: &DropWatch) -> Observation {
    let jobs = vec![Job { netns: None, probes: vec![(0, probe)] }];
    run(jobs, watch, limits(), &|| ()).unwrap().remove(0).unwrap()
}

/// An address where a datagram arrives and nobody answers.
fn mute() -> std::net::UdpSocket {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap()
}

#[test]
fn nothing_and_no_event_is_silence() {
    let mute = mute();
    let seen = one(probe(mute.local_addr().unwrap(), Speech::Udp), &DropWatch::default());
    assert_eq!(seen, Observation { seen: Seen::Nothing, event: None });
}

#[test]
fn a_closed_port_is_a_refusal() {
    let to = mute().local_addr().unwrap();
    for speech in [Speech::Udp, Speech::Tcp] {
        let seen = one(probe(to, speech), &DropWatch::default()).seen;
        assert!(matches!(seen, Seen::Refused(_)), "{speech:?}: {seen:?}");
    }
}

#[test]
fn an_event_counts_only_for_its_own_flow() {
    let mute = mute();
    let to = mute.local_addr().unwrap();
    let other = SocketAddr::new(to.ip(), to.port() ^ 1);
    for (reported, counts) in [(to, true), (other, false)] {
        let watch = DropWatch::default();
        let reporter = watch.clone();
        mute.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let observation = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (_, from) = mute.recv_from(&mut [0; 64]).unwrap();
                reporter.dispatch(drop_of(from, reported));
            });
            one(probe(to, Speech::Udp), &watch)
        });
        assert_eq!(observation.seen, Seen::Nothing);
        assert_eq!(observation.event.is_some(), counts);
        assert!(watch.is_idle());
    }
}

#[test]
fn a_line_that_is_no_answer_is_not_taken_for_one() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let to = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut line = String::new();
        tokio::io::BufReader::new(&mut stream).read_line(&mut line).await.unwrap();
        stream.write_all(b"I am nobody's pod\n").await.unwrap();
    });
    let seen = one(probe(to, Speech::Tcp), &DropWatch::default()).seen;
    assert!(matches!(&seen, Seen::Failed(text) if text.contains("something else")), "{seen:?}");
}
