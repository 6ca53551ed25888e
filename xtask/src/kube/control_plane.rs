//! The control plane's services. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::pki::{self, Authority, Pair};
use super::plan::{Endpoint, Service};
use super::settings::{CONTROL_PLANE, Settings};

const PKI: &str = "/etc/kubernetes/pki";
const ETCD: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);
/// Stable and beta APIs, as most clusters have them, and no alpha ones.
const APIS: &str = "api/all=false,api/ga=true,api/beta=true";

/// Certificates and kubeconfig files of the control plane: path → content.
pub(super) fn files(settings: &Settings, authority: &Authority) -> Result<BTreeMap<String, String>> {
    let url = settings.api_url();
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        CONTROL_PLANE,
    ];
    let mut addresses = [settings.addresses(0), settings.kubernetes_service()].concat();
    addresses.push(Ipv4Addr::LOCALHOST.into());
    let server = authority.sign("kube-apiserver", None, &names, &addresses)?;
    let to_kubelets = authority.sign("kube-apiserver-kubelet-client", Some("system:masters"), &[], &[])?;
    let front_proxy = authority.sign("front-proxy-client", None, &[], &[])?;
    let (service_account, service_account_public) = pki::service_account_keys()?;
    let masters = Some("system:masters");
    let mut files = BTreeMap::from([
        (format!("{PKI}/service-account.key"), service_account),
        (format!("{PKI}/service-account.pub"), service_account_public),
        (
            "/etc/kubernetes/controller-manager.conf".to_owned(),
            authority.kubeconfig(&url, "system:kube-controller-manager", masters)?,
        ),
        (
            "/etc/kubernetes/scheduler.conf".to_owned(),
            authority.kubeconfig(&url, "system:kube-scheduler", masters)?,
        ),
    ]);
    add(&mut files, "ca", &authority.pair);
    add(&mut files, "apiserver", &server);
    add(&mut files, "kubelet-client", &to_kubelets);
    add(&mut files, "front-proxy", &front_proxy);
    Ok(files)
}

fn add(files: &mut BTreeMap<String, String>, name: &str, pair: &Pair) {
    files.insert(format!("{PKI}/{name}.crt"), pair.certificate.clone());
    files.insert(format!("{PKI}/{name}.key"), pair.key.clone());
}

/// etcd, kube-apiserver, kube-controller-manager, kube-scheduler.
pub(super) fn services(settings: &Settings) -> Vec<Service> {
    vec![etcd(), api_server(settings), controller_manager(settings), scheduler(settings)]
}

fn etcd() -> Service {
    let url = format!("http://{}", SocketAddr::from(ETCD));
    let flags = [
        ("data-dir", "/var/lib/etcd"),
        ("listen-client-urls", &url),
        ("advertise-client-urls", &url),
        // The cluster does not outlive the machine: its data need not either.
        ("unsafe-no-fsync", "true"),
    ];
    Service::new("etcd", &flags, None)
}

fn api_server(settings: &Settings) -> Service {
    let etcd = format!("http://{}", SocketAddr::from(ETCD));
    let address = settings.api_server();
    let any = if address.is_ipv4() && settings.addresses(0).len() == 1 { "0.0.0.0" } else { "::" };
    let file = |name: &str| format!("{PKI}/{name}");
    let flags = [
        ("etcd-servers", etcd.as_str()),
        ("bind-address", any),
        ("advertise-address", &address.to_string()),
        ("service-cluster-ip-range", &settings.service_cidrs()),
        ("allow-privileged", "true"),
        ("authorization-mode", "Node,RBAC"),
        // Node names resolve nowhere but on the machines themselves.
        ("kubelet-preferred-address-types", "InternalIP"),
        ("runtime-config", APIS),
        ("client-ca-file", &file("ca.crt")),
        ("tls-cert-file", &file("apiserver.crt")),
        ("tls-private-key-file", &file("apiserver.key")),
        ("kubelet-client-certificate", &file("kubelet-client.crt")),
        ("kubelet-client-key", &file("kubelet-client.key")),
        ("service-account-key-file", &file("service-account.pub")),
        ("service-account-signing-key-file", &file("service-account.key")),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        ("requestheader-client-ca-file", &file("ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client"),
        ("requestheader-username-headers", "X-Remote-User"),
        ("requestheader-group-headers", "X-Remote-Group"),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        ("proxy-client-cert-file", &file("front-proxy.crt")),
        ("proxy-client-key-file", &file("front-proxy.key")),
        ("profiling", "false"),
    ];
    Service::new("kube-apiserver", &flags, Some(Endpoint::Tcp(ETCD.into())))
}

fn controller_manager(settings: &Settings) -> Service {
    let file = |name: &str| format!("{PKI}/{name}");
    let flags = [
        ("kubeconfig", "/etc/kubernetes/controller-manager.conf"),
        ("service-account-private-key-file", &file("service-account.key")),
        ("root-ca-file", &file("ca.crt")),
        ("cluster-signing-cert-file", &file("ca.crt")),
        ("cluster-signing-key-file", &file("ca.key")),
        ("use-service-account-credentials", "true"),
        ("allocate-node-cidrs", "true"),
        ("cluster-cidr", &settings.pod_cidrs()),
        ("service-cluster-ip-range", &settings.service_cidrs()),
        ("leader-elect", "false"),
        ("node-monitor-grace-period", "20s"),
    ];
    Service::new("kube-controller-manager", &flags, Some(api(settings)))
}

fn scheduler(settings: &Settings) -> Service {
    let flags = [("kubeconfig", "/etc/kubernetes/scheduler.conf"), ("leader-elect", "false")];
    Service::new("kube-scheduler", &flags, Some(api(settings)))
}

fn api(settings: &Settings) -> Endpoint {
    Endpoint::Tcp((settings.api_server(), 6443).into())
}
