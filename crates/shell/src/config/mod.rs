//! One configuration schema, used by the file, the environment and flags alike; later sources win.
//!
//! Every key has one name: `network.mode` in the file (nested), `SHEETBEND_NETWORK_MODE` in the environment,
//! `--set network.mode=…` (or a flag of its own) on the command line.

mod conntrack;
pub mod dns;
mod flows;
mod kubernetes;
mod node_local;
mod node_ports;
mod policy;
mod service_mode;
mod source;
mod yaml;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;
use sheetbend_model::state::{NetworkConfig, NetworkMode};

use crate::log::LogFormat;
pub use conntrack::ConntrackConfig;
pub use dns::DnsConfig;
pub use flows::FlowsConfig;
pub use kubernetes::{ClusterPoolConfig, CniConfig, KubernetesConfig};
pub use policy::{LoggedVerdicts, PolicyConfig};
pub use source::{ConfigError, ConfigErrors, Sources, distance};

/// A key of the schema: its name and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name.
    pub name: &'static str,
    /// The default, as one writes it.
    pub default: &'static str,
    /// What it means, with unit and range.
    pub help: &'static str,
}

/// Every key there is, in the order of `docs/user/configuration.md`.
pub const KEYS: &[Key] = &[
    Key { name: "network.mode", default: "vxlan", help: "How packets reach other nodes: vxlan or host-gw." },
    Key { name: "network.podCIDRs", default: "[]", help: "Pod ranges on top of the Nodes' podCIDRs." },
    Key {
        name: "network.nonMasqueradeCIDRs",
        default: "[]",
        help: "Destinations outside the cluster that see pod addresses unchanged.",
    },
    Key {
        name: "network.serviceCIDRs",
        default: "[]",
        help: "Ranges of cluster addresses, on top of the cluster's ServiceCIDRs: what no Service has there is dropped.",
    },
    Key { name: "node.name", default: "the host name", help: "Name of this machine's Node object." },
    Key {
        name: "node.instance",
        default: "default",
        help: "Tells several agents on one machine apart: pins lie below it.",
    },
    Key { name: "node.uplink", default: "found", help: "Device that carries the node's address." },
    Key { name: "node.runDir", default: "/run/sheetbend", help: "Sockets; gone after a reboot." },
    Key { name: "node.stateDir", default: "/var/lib/sheetbend", help: "Leases and attachments." },
    Key { name: "node.bpffs", default: "/sys/fs/bpf", help: "Where the BPF file system is mounted." },
    Key {
        name: "node.cgroup",
        default: "none",
        help: "cgroup v2 directory of all processes of this node, as /sys/fs/cgroup: they reach Services.",
    },
    Key {
        name: "intake.objects",
        default: "none",
        help: "Directory of Kubernetes YAML that stands for the API server.",
    },
    Key {
        name: "intake.kubeconfig",
        default: "the pod's service account",
        help: "Credentials for the API server.",
    },
    Key {
        name: "kubernetes.apiServer",
        default: "KUBERNETES_SERVICE_HOST",
        help: "URL of the API server that works before any Service does, as https://192.0.2.10:6443.",
    },
    Key {
        name: "cni.version",
        default: "found",
        help: "CNI version of the configuration; found: the highest that the node's runtime reads.",
    },
    Key {
        name: "cni.configDir",
        default: "/etc/cni/net.d",
        help: "Where the container runtime looks for network configurations.",
    },
    Key {
        name: "cni.pluginDir",
        default: "/opt/cni/bin",
        help: "Where the container runtime looks for plugins.",
    },
    Key {
        name: "conntrack.entries",
        default: "262144",
        help: "Flows that a node has room for from the start, and flows to Services; of masqueraded flows half as many. 1024 to 16777216. About 400 bytes of kernel memory each, in all.",
    },
    Key {
        name: "conntrack.maxEntries",
        default: "1048576, or conntrack.entries where that is more",
        help: "What these tables may grow to while they are used: at 70 % they double. conntrack.entries to 16777216.",
    },
    Key {
        name: "flows.ring",
        default: "100000",
        help: "The newest flows that a node remembers for `sheetbend policy diff`: addresses, port, verdict, time, no payload; 64 bytes each in the state directory. 0 to 10000000, 0 remembers none.",
    },
    Key {
        name: "policy.audit",
        default: "false",
        help: "Whether all pods are in audit: what policies deny passes, is counted and told. A Namespace may ask for it alone, by annotation.",
    },
    Key {
        name: "policy.log",
        default: "none",
        help: "Which verdicts of policies are in the agent's log: none, denied (and what passes by audit alone), or all, that is each new flow that a policy judged.",
    },
    Key {
        name: "policy.logRate",
        default: "10",
        help: "Lines a second of that log and of rules with log: true, 1 to 10000; ten seconds' worth may come at once. How many were left out is said.",
    },
    Key { name: "nat.ports", default: "40000-59999", help: "Source ports for masquerade." },
    Key { name: "ipam.reuseDelay", default: "30", help: "Seconds that a released address rests." },
    Key {
        name: "ipam.clusterPool",
        default: "[]",
        help: "Blocks from which the controller gives Nodes without podCIDRs theirs, one of each family.",
    },
    Key {
        name: "ipam.nodeMaskSizeIPv4",
        default: "24",
        help: "Prefix length of a Node's part of an IPv4 pool, 1 to 30, at most 16 longer than the pool's.",
    },
    Key {
        name: "ipam.nodeMaskSizeIPv6",
        default: "64",
        help: "Prefix length of a Node's part of an IPv6 pool, 1 to 126, at most 16 longer than the pool's.",
    },
    Key {
        name: "dns.zone",
        default: "cluster.local",
        help: "The cluster's DNS zone, at most 57 characters.",
    },
    Key {
        name: "dns.listen",
        default: "[0.0.0.0, ::]",
        help: "Addresses on which `sheetbend dns` answers, with a port where it is not 53.",
    },
    Key {
        name: "dns.ttl",
        default: "5",
        help: "Seconds for which clients may keep the cluster's names, and that a name does not exist.",
    },
    Key {
        name: "dns.upstreams",
        default: "those of /etc/resolv.conf",
        help: "Servers for the names of other zones, or none.",
    },
    Key {
        name: "dns.stubDomains",
        default: "[]",
        help: "Servers for the names of one domain: DOMAIN=SERVER; a domain may be given several times.",
    },
    Key {
        name: "dns.configMap",
        default: "none",
        help: "A ConfigMap whose keys upstreamNameservers and stubDomains win over the two above while it exists, without a restart: NAMESPACE/NAME.",
    },
    Key {
        name: "dns.hosts",
        default: "[]",
        help: "Fixed entries, as in a hosts file: ADDRESS NAME..., which win over every zone.",
    },
    Key {
        name: "dns.cacheEntries",
        default: "10000",
        help: "Answers of other servers that are remembered, at most; 0 remembers none.",
    },
    Key {
        name: "dns.workers",
        default: "one per CPU, at most 4",
        help: "Threads that answer by UDP on each address.",
    },
    Key {
        name: "dns.drain",
        default: "5",
        help: "Seconds for which a process that ends still answers, while others learn of its end.",
    },
    Key {
        name: "dns.admin",
        default: "none",
        help: "Address and port for /livez, /readyz and /metrics of `sheetbend dns` over HTTP.",
    },
    Key {
        name: "dns.nodeLocal",
        default: "[]",
        help: "Addresses at which pods and processes ask their own node's DNS server, or while it is not ready another: at most one of each family, which nobody has.",
    },
    Key {
        name: "dns.service",
        default: "kube-system/kube-dns",
        help: "The Service whose endpoints are those servers: NAMESPACE/NAME.",
    },
    Key {
        name: "loadBalancer.default",
        default: "true",
        help: "Whether Services of type LoadBalancer without a spec.loadBalancerClass get addresses from LoadBalancerPools.",
    },
    Key {
        name: "services.nodePortAddresses",
        default: "[]",
        help: "Addresses of nodes that lead to node ports: blocks, or primary for each Node's first InternalIPs. A family without a block has all; without any, so have both.",
    },
    Key {
        name: "services.mode",
        default: "snat",
        help: "How clients outside of the cluster reach endpoints on another node than the one they asked: snat, under that node's address; or dsr, under their own, and answers go past that node (network.mode vxlan only).",
    },
    Key {
        name: "services.healthAddress",
        default: "[::]:10256",
        help: "Where load balancers ask whether this node forwards for Services (/healthz, /livez), kube-proxy's port; or none.",
    },
    Key { name: "log.level", default: "info", help: "Filter, such as info or sheetbend_apply=debug,info." },
    Key { name: "log.format", default: "text", help: "text or json." },
];

/// Of kube-proxy's `healthzBindAddress`, which load balancers of clouds ask.
const HEALTH_PORT: u16 = 10_256;

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// `network.*`.
    pub network: NetworkConfig,
    /// `node.*`.
    pub node: NodeConfig,
    /// `intake.objects`.
    pub objects: Option<PathBuf>,
    /// `kubernetes.*` and `intake.kubeconfig`: used without `intake.objects`.
    pub kubernetes: KubernetesConfig,
    /// `cni.*`.
    pub cni: CniConfig,
    /// `ipam.clusterPool` and its mask sizes.
    pub cluster_pool: ClusterPoolConfig,
    /// `conntrack.*`.
    pub conntrack: ConntrackConfig,
    /// `flows.*`.
    pub flows: FlowsConfig,
    /// `policy.*`.
    pub policy: PolicyConfig,
    /// `nat.ports`.
    pub nat_ports: PortSpan,
    /// `ipam.reuseDelay`, seconds.
    pub reuse_delay: u64,
    /// `dns.*`.
    pub dns: DnsConfig,
    /// `loadBalancer.default`: Services of type LoadBalancer without a class are ours.
    pub load_balancer_default: bool,
    /// `services.healthAddress`.
    pub health_address: Option<SocketAddr>,
    /// `log.level`.
    pub log_level: String,
    /// `log.format`.
    pub log_format: LogFormat,
}

/// `node.*`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfig {
    /// `node.name`.
    pub name: Option<String>,
    /// `node.instance`.
    pub instance: String,
    /// `node.uplink`.
    pub uplink: Option<String>,
    /// `node.runDir`.
    pub run_dir: PathBuf,
    /// `node.stateDir`.
    pub state_dir: PathBuf,
    /// `node.bpffs`.
    pub bpffs: PathBuf,
    /// `node.cgroup`; without it the node's processes do not reach Services.
    pub cgroup: Option<PathBuf>,
}

/// An inclusive span of ports, 1024..=65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PortSpan {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl PortSpan {
    /// How many ports it has, at least 1.
    pub fn count(self) -> u16 {
        self.last - self.first + 1
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no span of ports; write FIRST-LAST within 1024-65535, as in 40000-59999");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first: u16 = first.trim().parse().map_err(|_| wrong())?;
        let last: u16 = last.trim().parse().map_err(|_| wrong())?;
        if first < 1024 || last < first { Err(wrong()) } else { Ok(Self { first, last }) }
    }
}

impl Config {
    /// Reads and checks everything, and reports every fault at once.
    ///
    /// # Errors
    /// Unknown keys (with the nearest known one), wrong values, an unreadable file.
    pub fn load(mut sources: Sources) -> Result<Self, ConfigErrors> {
        let defaults = Self::default();
        let pod_cidrs = sources.list("network.podCIDRs", parse_cidr);
        let cluster_pool = ClusterPoolConfig::load(&mut sources);
        let pods: Vec<IpNet> = pod_cidrs.iter().chain(&cluster_pool.blocks).copied().collect();
        let config = Self {
            network: NetworkConfig {
                mode: sources.text("network.mode", str::parse::<NetworkMode>).unwrap_or_default(),
                pod_cidrs,
                non_masquerade_cidrs: sources.list("network.nonMasqueradeCIDRs", parse_cidr),
                service_cidrs: sources.list("network.serviceCIDRs", parse_cidr),
                node_port_addresses: node_ports::load(&mut sources),
                service_mode: service_mode::load(&mut sources),
                node_local_dns: node_local::load(&mut sources, &pods),
            },
            node: NodeConfig {
                name: sources.text("node.name", non_empty),
                instance: sources.text("node.instance", instance_name).unwrap_or(defaults.node.instance),
                uplink: sources.text("node.uplink", non_empty),
                run_dir: sources.text("node.runDir", absolute_path).unwrap_or(defaults.node.run_dir),
                state_dir: sources.text("node.stateDir", absolute_path).unwrap_or(defaults.node.state_dir),
                bpffs: sources.text("node.bpffs", absolute_path).unwrap_or(defaults.node.bpffs),
                cgroup: sources.text("node.cgroup", absolute_path),
            },
            objects: sources.text("intake.objects", absolute_path),
            kubernetes: KubernetesConfig::load(&mut sources),
            cni: CniConfig::load(&mut sources),
            cluster_pool,
            conntrack: ConntrackConfig::load(&mut sources),
            flows: FlowsConfig::load(&mut sources),
            policy: PolicyConfig::load(&mut sources),
            nat_ports: sources.text("nat.ports", PortSpan::parse).unwrap_or(defaults.nat_ports),
            reuse_delay: sources.text("ipam.reuseDelay", str::parse::<u64>).unwrap_or(defaults.reuse_delay),
            dns: DnsConfig::load(&mut sources),
            load_balancer_default: sources
                .text("loadBalancer.default", yes_or_no)
                .unwrap_or(defaults.load_balancer_default),
            health_address: sources
                .text("services.healthAddress", dns::address_or_none)
                .unwrap_or(defaults.health_address),
            log_level: sources.text("log.level", non_empty).unwrap_or(defaults.log_level),
            log_format: sources.text("log.format", log_format).unwrap_or_default(),
        };
        service_mode::check(&mut sources, &config.network);
        sources.finish(config)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: NetworkConfig::default(),
            node: NodeConfig {
                name: None,
                instance: "default".to_owned(),
                uplink: None,
                run_dir: "/run/sheetbend".into(),
                state_dir: "/var/lib/sheetbend".into(),
                bpffs: "/sys/fs/bpf".into(),
                cgroup: None,
            },
            objects: None,
            kubernetes: KubernetesConfig::default(),
            cni: CniConfig::default(),
            cluster_pool: ClusterPoolConfig::default(),
            conntrack: ConntrackConfig::default(),
            flows: FlowsConfig::default(),
            policy: PolicyConfig::default(),
            nat_ports: PortSpan { first: 40_000, last: 59_999 },
            reuse_delay: 30,
            dns: DnsConfig::default(),
            load_balancer_default: true,
            health_address: Some((Ipv6Addr::UNSPECIFIED, HEALTH_PORT).into()),
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(cidr) if cidr == cidr.trunc() => Ok(cidr),
        Ok(cidr) => Err(format!("{text:?} has host bits set; write {}", cidr.trunc())),
        Err(_) => Err(format!("{text:?} is no CIDR block; write one like 10.244.0.0/16 or fd00:10::/48")),
    }
}

fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("is empty; give a value or leave the key out".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

fn instance_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.len() <= 128 && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} cannot name an instance; use up to 128 letters, digits, - and _"))
    }
}

fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} is not absolute; begin it with /")) }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is no log format; use text or json")),
    }
}

#[cfg(test)]
mod tests;
