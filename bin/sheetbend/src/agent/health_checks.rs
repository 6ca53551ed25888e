//! Health check node ports: load balancers ask each node whether it has endpoints of a Service with external traffic
//! policy Local. Status, header and body are those of kube-proxy's server, which balancers know.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;
use sheetbend_model::plan::HealthCheck;
use sheetbend_model::types::Port;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::view::View;

/// Between two tries to get a port that somebody else holds.
const RETRY: Duration = Duration::from_secs(10);

/// Whether this node's kernel is up to date, and what is asked there.
type Answer = (bool, HealthCheck);

struct Server {
    answer: watch::Sender<Answer>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the ports of the newest view until its sender is gone.
pub(super) async fn serve(mut views: watch::Receiver<Arc<View>>) {
    let mut servers: BTreeMap<Port, Server> = BTreeMap::new();
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        let mut failed = false;
        servers.retain(|port, _| view.health_checks.contains_key(port));
        for (port, check) in &view.health_checks {
            let answer = (view.synced, check.clone());
            match servers.get(port).filter(|server| !server.task.is_finished()) {
                Some(server) => drop(server.answer.send_replace(answer)),
                None => match open(*port, answer).await {
                    Ok(server) => drop(servers.insert(*port, server)),
                    Err(error) => {
                        failed = true;
                        warn!(
                            "healthCheckNodePort {port} of Service {} cannot be served, load balancers will leave \
                             this node out: {error}",
                            check.service
                        );
                    }
                },
            }
        }
        let changed = async { views.changed().await.is_ok() };
        // Whoever holds the port may let it go.
        let again = async {
            if failed {
                tokio::time::sleep(RETRY).await
            } else {
                std::future::pending().await
            }
            true
        };
        let goes_on = tokio::select! { goes_on = changed => goes_on, goes_on = again => goes_on };
        if !goes_on {
            return;
        }
    }
}

async fn open(port: Port, answer: Answer) -> std::io::Result<Server> {
    // Both families: the kernel takes IPv4 on it too.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port.get())).await?;
    info!("serving healthCheckNodePort {port} of Service {}", answer.1.service);
    let (answer, answers) = watch::channel(answer);
    let app = Router::new().fallback(move || {
        let answer = answers.borrow().clone();
        async move { respond(&answer) }
    });
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            warn!("healthCheckNodePort {port}: {error}");
        }
    });
    Ok(Server { answer, task: task.abort_handle() })
}

fn respond((synced, check): &Answer) -> Response {
    let healthy = *synced && check.endpoints > 0;
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": { "namespace": &*check.service.namespace, "name": &*check.service.name },
        "localEndpoints": check.endpoints,
        "serviceProxyHealthy": synced,
    });
    let headers = [
        ("X-Content-Type-Options", "nosniff".to_owned()),
        ("X-Load-Balancing-Endpoint-Weight", check.endpoints.to_string()),
    ];
    (status, headers, Json(body)).into_response()
}
