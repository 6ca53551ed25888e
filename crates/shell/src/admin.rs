//! The admin server: HTTP on a Unix socket, for probes and for `sheetbend status`.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::drain::Drain;
use crate::ready::Ready;

/// What OpenMetrics 1.0 says that a scraper shall be told.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Makes the document of `/status`.
pub type StatusFn = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Makes a document that takes some time, whenever somebody asks for it; given the query of the request's URL.
pub type DocumentFn =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = serde_json::Value> + Send>> + Send + Sync>;

/// Serves `/livez`, `/readyz`, `/status` and `more` (path → document) at `path` until drained.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn serve(
    path: &Path,
    ready: Ready,
    status: StatusFn,
    more: Vec<(&'static str, DocumentFn)>,
    drain: Drain,
) -> io::Result<()> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let mut app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(move || async move { Json(status()) }));
    for (name, document) in more {
        let answer = move |RawQuery(query): RawQuery| async move {
            written(document(query.unwrap_or_default()).await).await
        };
        app = app.route(name, get(answer));
    }
    let app = app.with_state(ready);
    axum::serve(listener, app).with_graceful_shutdown(async move { drain.requested().await }).await
}

/// A document as text. It may be large, and other requests shall not wait for it.
async fn written(document: serde_json::Value) -> Response {
    match tokio::task::spawn_blocking(move || document.to_string()).await {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Makes the document of `/metrics`, in the OpenMetrics text format.
pub type MetricsFn = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves `/livez`, `/readyz` and `/metrics` over TCP until dropped: for kubelet probes and Prometheus, which shall see
/// that the process is ending.
///
/// # Errors
/// When the listener fails.
pub async fn serve_tcp(listener: TcpListener, ready: Ready, metrics: MetricsFn) -> io::Result<()> {
    let metrics = move || async move { ([(CONTENT_TYPE, OPEN_METRICS)], metrics()) };
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(ready);
    axum::serve(listener, app).await
}

async fn readyz(State(ready): State<Ready>) -> (StatusCode, String) {
    let waiting = ready.waiting_for();
    if waiting.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", waiting.join(", ")))
    }
}

/// Removes the socket file that a killed process left.
///
/// # Errors
/// When there is a file that cannot be removed.
pub fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Fetches a document of a running admin server.
///
/// # Errors
/// When nobody serves at `path`, or the answer is no HTTP 200.
pub async fn fetch(path: &Path, document: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(path).await?;
    let request = format!("GET {document} HTTP/1.1\r\nHost: sheetbend\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    if head.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        let line = head.lines().next().unwrap_or("nothing");
        Err(io::Error::other(format!("{document} at {} answered {line}: {}", path.display(), body.trim())))
    }
}
