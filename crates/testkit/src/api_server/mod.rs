//! An API server that holds any objects: list, watch (streaming lists and bookmarks too), get, create, replace, patch,
//! delete over HTTP on the loopback. It can go away, forget (410), and lose watches.

mod answer;
mod patch;
mod path;
mod state;
mod stream;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use serde_json::Value;
use tokio::runtime::Runtime;

use state::State;
pub use state::Streaming;

/// How long an address may still be taken by the server that was stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server, as long as it is kept. Objects outlive [`ApiServer::stop`].
pub struct ApiServer {
    state: Arc<State>,
    address: SocketAddr,
    /// `None` while stopped.
    runtime: Option<Runtime>,
}

impl ApiServer {
    /// Serves on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// Serves on a free port of `address`, which the calling thread's network namespace has.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start_at(address: Ipv4Addr) -> Self {
        let mut server =
            Self { state: Arc::default(), address: SocketAddr::from((address, 0)), runtime: None };
        server.resume();
        server
    }

    /// `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Goes away with every connection.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Comes back at the same address.
    ///
    /// # Panics
    /// When it cannot.
    pub fn resume(&mut self) {
        let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
        {
            Ok(runtime) => runtime,
            Err(error) => panic!("no runtime: {error}"),
        };
        let listener = bind(self.address).unwrap_or_else(|error| panic!("{}: {error}", self.address));
        self.address = listener.local_addr().unwrap_or(self.address);
        drop(listener.set_nonblocking(true));
        let app = Router::new().fallback(answer::answer).with_state(Arc::clone(&self.state));
        runtime.spawn(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => drop(axum::serve(listener, app).await),
                Err(error) => panic!("{error}"),
            }
        });
        self.runtime = Some(runtime);
    }

    /// Creates or replaces an object, as a controller would: `("pods", {metadata: {namespace, name}, …})`.
    pub fn put(&self, resource: &str, object: Value) {
        self.state.put(resource, object);
    }

    /// Deletes an object; the namespace is empty for kinds outside namespaces.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        self.state.delete(&(resource.to_owned(), namespace.to_owned(), name.to_owned()));
    }

    /// Takes an object away without telling any watch, as when an event is lost.
    pub fn lose(&self, resource: &str, namespace: &str, name: &str) {
        self.state.lose(&(resource.to_owned(), namespace.to_owned(), name.to_owned()));
    }

    /// The object as it is now.
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a resource, by namespace and name.
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        self.state.list(resource, "").0
    }

    /// Forgets all history: a watch that resumes from before gets 410.
    pub fn forget(&self) {
        self.state.forget();
    }

    /// Ends every watch.
    pub fn break_watches(&self) {
        self.state.break_watches();
    }

    /// How requests for streaming lists are answered from now on.
    pub fn set_streaming(&self, streaming: Streaming) {
        self.state.set_streaming(streaming);
    }

    /// Serves a resource, as `loadbalancerpools`, or answers 404 for it, as where nobody installed its definition.
    pub fn set_served(&self, resource: &str, served: bool) {
        self.state.set_served(resource, served);
    }

    /// Whether requests for a resource are answered with 403, as where the ClusterRole does not name it.
    pub fn set_forbidden(&self, resource: &str, forbidden: bool) {
        self.state.set_forbidden(resource, forbidden);
    }

    /// What was asked so far, as `GET /api/v1/pods?watch=true`.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A listener at `address`, which the server that was there gives up in the background.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}
