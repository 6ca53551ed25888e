//! `services.healthAddress`: whether this node forwards for Services. Load balancers of clouds ask every node; paths, status and
//! what they mean are kube-proxy's (KEP-3836).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use sheetbend_model::types::NodeName;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

use super::view::View;

/// Between two tries to get an address that somebody else holds.
const RETRY: Duration = Duration::from_secs(10);

/// Answers at `address` of the newest view.
pub(super) async fn serve(address: SocketAddr, node: NodeName, views: watch::Receiver<Arc<View>>) {
    let (live, eligible) = (views.clone(), views);
    let app = Router::new()
        .route("/livez", get(move || async move { respond(&live.borrow(), None) }))
        .route("/healthz", get(move || async move { respond(&eligible.borrow(), Some(&node)) }));
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!("load balancers may ask at {address} whether this node forwards for Services");
                if let Err(error) = axum::serve(listener, app.clone()).await {
                    warn!("services.healthAddress {address}: {error}");
                }
            }
            Err(error) => warn!(
                "services.healthAddress {address} cannot be served, trying again: {error}. Is another proxy running? \
                 Load balancers that ask there hear of it instead of this node's Services"
            ),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Without `node` whether the kernel has what is wanted; with it, whether that node stays, too.
fn respond(view: &View, node: Option<&NodeName>) -> Response {
    let stays = node.map(|node| view.snapshot.nodes.get(node).is_none_or(|node| !node.leaving));
    let status =
        if view.synced && stays != Some(false) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = match stays {
        Some(stays) => json!({ "serviceProxyHealthy": view.synced, "nodeEligible": stays }),
        None => json!({ "serviceProxyHealthy": view.synced }),
    };
    (status, [("X-Content-Type-Options", "nosniff")], Json(body)).into_response()
}
