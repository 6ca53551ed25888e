//! The agent's command line: every flag is a key of the one configuration.

use std::path::PathBuf;

use sheetbend_shell::config::{Config, ConfigErrors, Sources};

/// `sheetbend agent`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every key of the configuration file may also be an environment variable (network.mode is \
SHEETBEND_NETWORK_MODE) or --set KEY=VALUE; flags win over the environment, the environment over the file."
)]
pub(crate) struct Args {
    /// Configuration file; /etc/sheetbend/config.yaml is read when it exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of this machine's Node object (node.name).
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Tells several agents on one machine apart (node.instance).
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Directory of Kubernetes YAML that stands for the API server (intake.objects).
    #[arg(long, value_name = "DIR")]
    objects: Option<String>,
    /// Kubeconfig of the API server; without it and --objects the pod's service account is used (intake.kubeconfig).
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Sockets (node.runDir).
    #[arg(long, value_name = "DIR")]
    run_dir: Option<String>,
    /// Leases and attachments (node.stateDir).
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// How packets reach other nodes (network.mode): vxlan or host-gw.
    #[arg(long, value_name = "MODE")]
    network_mode: Option<String>,
    /// Device that carries the node's address (node.uplink).
    #[arg(long, value_name = "DEVICE")]
    uplink: Option<String>,
    /// Any key of the configuration; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Args {
    /// The whole configuration: file, environment, flags.
    pub(crate) fn config(&self) -> Result<Config, ConfigErrors> {
        let sources = Sources::usual(self.config.as_deref(), &self.settings)
            .flag("node.name", self.node.as_deref())
            .flag("node.instance", self.instance.as_deref())
            .flag("intake.objects", self.objects.as_deref())
            .flag("intake.kubeconfig", self.kubeconfig.as_deref())
            .flag("node.runDir", self.run_dir.as_deref())
            .flag("node.stateDir", self.state_dir.as_deref())
            .flag("network.mode", self.network_mode.as_deref())
            .flag("node.uplink", self.uplink.as_deref());
        Config::load(sources)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use sheetbend_apply::netlink::{GATEWAY_IPV4, GATEWAY_IPV6};
    use sheetbend_ebpf_abi::{HAIRPIN_IPV4, HAIRPIN_IPV6};
    use sheetbend_shell::config::{Config, Sources};

    #[test]
    fn what_a_node_uses_itself_is_no_dns_address() {
        let hairpin = [HAIRPIN_IPV4, HAIRPIN_IPV6].map(|addr| Ipv6Addr::from(addr).to_canonical());
        let gateways = [IpAddr::from(GATEWAY_IPV4), IpAddr::from(GATEWAY_IPV6)];
        for addr in hairpin.into_iter().chain(gateways) {
            let sources = Sources::default().flag("dns.nodeLocal", Some(&addr.to_string()));
            let error = Config::load(sources).map_err(|errors| errors.to_string());
            assert!(error.is_err_and(|text| text.contains("used by Sheetbend itself")), "{addr}");
        }
    }
}
