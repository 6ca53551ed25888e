//! `dns.configMap`: servers for other zones that change without a restart, in the form that kube-dns has given them
//! (<https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/>).

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use sheetbend_dns::Responder;
use sheetbend_intake::kube::Client;
use sheetbend_shell::config::Config;
use tracing::{info, warn};

use super::routes::{self, Routes};

/// A ConfigMap that is watched.
pub(super) struct Followed {
    config: Config,
    configured: Routes,
    in_force: Routes,
    maps: Api<ConfigMap>,
    /// `NAMESPACE/NAME`.
    title: String,
    name: String,
    responder: Arc<Responder>,
}

impl Followed {
    /// The ConfigMap `namespace/name`; until it is known the configuration is in force.
    ///
    /// # Errors
    /// The configuration's own servers are refused.
    pub(super) fn new(
        config: &Config,
        client: Client,
        namespace: &str,
        name: &str,
        responder: &Arc<Responder>,
    ) -> anyhow::Result<Self> {
        let configured = routes::configured(config)?;
        Ok(Self {
            config: config.clone(),
            in_force: configured.clone(),
            configured,
            maps: Api::namespaced(client, namespace),
            title: format!("{namespace}/{name}"),
            name: name.to_owned(),
            responder: Arc::clone(responder),
        })
    }

    /// Follows it. While the API server is away, what was last known is in force.
    pub(super) async fn run(mut self) {
        let maps = watcher::watch_object(self.maps.clone(), &self.name).default_backoff();
        let mut maps = pin!(maps);
        let mut failing = false;
        while let Some(seen) = maps.next().await {
            match seen {
                Ok(map) => {
                    failing = false;
                    self.take(map.as_ref());
                }
                Err(error) => {
                    if !failing {
                        warn!("cannot read ConfigMap {}, trying again: {error}", self.title);
                    }
                    failing = true;
                }
            }
        }
    }

    fn take(&mut self, map: Option<&ConfigMap>) {
        let data = map.and_then(|map| map.data.clone()).unwrap_or_default();
        let routes = match self.configured.with(&data, &self.config) {
            Ok(routes) => routes,
            Err(error) => {
                warn!(
                    "ConfigMap {} is not followed, {} stays in force: {error:#}",
                    self.title, self.in_force
                );
                return;
            }
        };
        if routes != self.in_force {
            info!(%routes, "ConfigMap {}", self.title);
            self.responder.set_routes(routes.routes());
            self.in_force = routes;
        }
    }
}
