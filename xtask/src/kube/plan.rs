//! What each machine of a cluster holds and runs, decided before anything is created. Pure data.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::internet::Internet;

/// Where a machine finds its programs, its logs and the cache.
pub(super) const OWN: &str = "/run/sheetbend-kube";
/// Programs, as links into the cache; first in every service's `PATH`.
pub(super) const PROGRAMS: &str = "/run/sheetbend-kube/bin";

/// A whole cluster, as the supervisor reads it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The cluster's name.
    pub(super) cluster: String,
    /// Where the cluster keeps its files.
    pub(super) directory: PathBuf,
    /// What joins the machines.
    pub(super) router: Router,
    /// Control plane first.
    pub(super) machines: Vec<Machine>,
}

/// The router of the link on which all machines are; it is also the world, and where tests run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Router {
    /// The block of all machines, IPv4 first.
    pub(super) underlay: Vec<String>,
    /// Its addresses on the underlay, IPv4 first.
    pub(super) gateways: Vec<IpAddr>,
    /// Its addresses out there, under which it speaks to machines; IPv4 first.
    pub(super) world: Vec<IpAddr>,
    /// What it answers as a stand-in for the Internet.
    pub(super) internet: Internet,
}

/// One machine: a PID, mount, network, UTS, IPC and cgroup namespace of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Host name.
    pub(super) name: String,
    /// Its private `/var` and `/tmp` are here.
    pub(super) directory: PathBuf,
    /// Where its services' output goes.
    pub(super) logs: PathBuf,
    /// The cache with every component, seen read-only.
    pub(super) cache: PathBuf,
    /// Addresses of `eth0`, IPv4 first; prefix lengths are 24 and 64.
    pub(super) addresses: Vec<IpAddr>,
    /// Program → its path below the cache.
    pub(super) programs: BTreeMap<String, PathBuf>,
    /// Directory below the cache whose files become `/opt/cni/bin`.
    pub(super) plugins: Option<PathBuf>,
    /// Path in the machine → content.
    pub(super) files: BTreeMap<String, String>,
    /// Path below `/proc/sys` → value, in the machine's network namespace.
    pub(super) sysctls: BTreeMap<String, String>,
    /// What runs.
    pub(super) services: Vec<Service>,
}

/// A program that runs as long as its machine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Service {
    /// Its name, also that of its log.
    pub(super) name: String,
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Variables beside `PATH` and `HOME`.
    pub(super) environment: BTreeMap<String, String>,
    /// It starts when this answers.
    pub(super) after: Option<Endpoint>,
}

/// Something that accepts connections.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A path in the machine.
    Unix(PathBuf),
}

impl Service {
    /// A service with flags `--name=value`, in the order given.
    pub(super) fn new(name: &str, flags: &[(&str, &str)], after: Option<Endpoint>) -> Self {
        let flags = flags.iter().map(|(flag, value)| format!("--{flag}={value}"));
        let command = std::iter::once(name.to_owned()).chain(flags).collect();
        Self { name: name.to_owned(), command, environment: BTreeMap::new(), after }
    }
}

impl Machine {
    /// The log of one of its services, seen from the host.
    pub(super) fn log(&self, service: &str) -> PathBuf {
        self.logs.join(self.log_name(service))
    }

    /// The same log, seen from the machine itself.
    pub(super) fn own_log(&self, service: &str) -> PathBuf {
        Path::new(OWN).join("logs").join(self.log_name(service))
    }

    fn log_name(&self, service: &str) -> String {
        format!("{}.{service}.log", self.name)
    }
}
