//! How the API server is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Where credentials lie in a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the API server is and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `intake.kubeconfig`; without it the pod's service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// `kubernetes.apiServer`: `https://HOST:PORT` that works before any Service does. It wins over the kubeconfig's
    /// server and over KUBERNETES_SERVICE_HOST.
    pub api_server: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {source}; check intake.kubeconfig")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// No kubeconfig and no service account.
    #[error(
        "no way to an API server: {reason}; run in a pod with a service account, set intake.kubeconfig, or set intake.objects to a directory of Kubernetes YAML"
    )]
    NoAccount {
        /// What is missing.
        reason: String,
    },
    /// `kubernetes.apiServer` is no URL.
    #[error("kubernetes.apiServer {url:?} is no URL: {reason}; write one like https://192.0.2.10:6443")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS.
    #[error("cannot make a client for {url}: {source}; check the certificates")]
    Client {
        /// The API server.
        url: String,
        /// What is wrong.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client of the API server. Connects when it is used.
///
/// # Errors
/// Credentials are missing or broken. That nobody answers is no error here.
pub async fn client(access: &Access) -> Result<Client, AccessError> {
    let mut config = match &access.kubeconfig {
        Some(path) => from_file(path).await?,
        None => in_cluster(access.api_server.is_some())?,
    };
    if let Some(url) = &access.api_server {
        config.cluster_url =
            url.parse().map_err(|error| AccessError::Url { url: url.clone(), reason: format!("{error}") })?;
    }
    // A watch is ended by the server after this; a dead connection is noticed no later.
    config.read_timeout = Some(Duration::from_secs(330));
    config.connect_timeout = Some(Duration::from_secs(5));
    let url = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| AccessError::Client { url, source: Box::new(source) })
}

async fn from_file(path: &Path) -> Result<Config, AccessError> {
    let wrong = |source| AccessError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)
}

fn in_cluster(has_url: bool) -> Result<Config, AccessError> {
    // With a URL of our own the environment's address does not matter, only the account's files do.
    let config = if has_url { Config::incluster_dns() } else { Config::incluster_env() };
    config.map_err(|error| AccessError::NoAccount { reason: format!("{error} ({SERVICE_ACCOUNT})") })
}
