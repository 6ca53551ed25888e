//! The sockets of one process.

mod socket;
mod tcp;
mod udp;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::runtime;
use tokio::sync::watch;

use crate::responder::Responder;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {addr} ({transport}): {source}; ports below 1024 need CAP_NET_BIND_SERVICE, and who else listens there \
     must have the same user and SO_REUSEPORT (`ss -lnup`); dns.listen names other addresses"
)]
pub struct BindError {
    addr: SocketAddr,
    transport: &'static str,
    #[source]
    source: io::Error,
}

/// Sockets that are bound and not yet read.
#[derive(Debug)]
pub struct Server {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// A server that answers.
#[derive(Debug)]
pub struct Handle {
    stopping: Arc<AtomicBool>,
    stop_tcp: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Binds each address: `workers` UDP sockets and a TCP listener. Port 0 takes a free port.
    ///
    /// # Errors
    /// An address that is taken, or a missing right.
    pub fn bind(addresses: &[SocketAddr], workers: usize) -> Result<Self, BindError> {
        let mut server = Self { udp: Vec::new(), tcp: Vec::new() };
        for addr in addresses {
            let wrong = |transport| move |source| BindError { addr: *addr, transport, source };
            let first = socket::udp(*addr, udp::PATIENCE).map_err(wrong("UDP"))?;
            let bound = first.local_addr().map_err(wrong("UDP"))?;
            server.udp.push(first);
            for _ in 1..workers.max(1) {
                server.udp.push(socket::udp(bound, udp::PATIENCE).map_err(wrong("UDP"))?);
            }
            server.tcp.push(socket::tcp(bound).map_err(wrong("TCP"))?);
        }
        Ok(server)
    }

    /// Whether nobody answers on any of the addresses: then they can be bound without sharing them.
    pub fn is_free(addresses: &[SocketAddr]) -> bool {
        addresses.iter().all(|addr| UdpSocket::bind(addr).is_ok())
    }

    /// The addresses, with the ports that were taken.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Begins to answer: a thread for each UDP socket, a task for each listener on `runtime`, where queries to
    /// upstream servers run too.
    ///
    /// # Errors
    /// No thread.
    pub fn start(self, responder: &Arc<Responder>, runtime: &runtime::Handle) -> io::Result<Handle> {
        let (stop_tcp, stopping_tcp) = watch::channel(false);
        let stopping = Arc::new(AtomicBool::new(false));
        let _context = runtime.enter();
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            runtime.spawn(tcp::serve(listener, Arc::clone(responder), stopping_tcp.clone()));
        }
        let mut workers = Vec::new();
        for (number, socket) in self.udp.into_iter().enumerate() {
            let (responder, runtime, stopping) =
                (Arc::clone(responder), runtime.clone(), Arc::clone(&stopping));
            let worker = std::thread::Builder::new()
                .name(format!("dns-udp-{number}"))
                .spawn(move || udp::work(socket, &responder, &runtime, &stopping))?;
            workers.push(worker);
        }
        Ok(Handle { stopping, stop_tcp, workers })
    }
}

impl Handle {
    /// Leaves new queries to the other processes on the same addresses, answers those that have arrived, and ends.
    /// Blocks for a fraction of a second.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stop_tcp.send_replace(true);
        for worker in self.workers {
            // A worker that panicked has said so.
            let _ = worker.join();
        }
    }
}
