//! The peer's Services: the real kube-proxy, on a node of the bridge plugin.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::bridge::Node;
use super::cluster_api::{ClusterApi, Load};
use super::process::tail;
use crate::contest::Way;
use crate::netns::Netns;
use crate::sandbox::SCRATCH;
use crate::traffic::Responder;

/// Pod to pod address on the peer.
pub(crate) const DIRECT: &str = "bridge plugin";
/// Through a ClusterIP on the peer.
pub(crate) const SERVICE: &str = Mode::Nftables.name();

/// How kube-proxy does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Its fastest.
    Nftables,
    /// Its default.
    Iptables,
}

impl Mode {
    /// As the tables call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "bridge plugin + kube-proxy nftables",
            Self::Iptables => "bridge plugin + kube-proxy iptables",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// A node of the peer with one client and one server. kube-proxy ends with this value; the rules that it has made stay.
pub(crate) struct Peer {
    mode: Mode,
    node: Netns,
    directory: PathBuf,
    api: ClusterApi,
    client: Netns,
    servers: [IpAddr; 2],
    process: Option<Child>,
}

impl Peer {
    /// Builds the node and fills its API server; nothing serves yet. Service 0 has all the tools' ports.
    pub(crate) fn build(name: &str, net: u8, mode: Mode, load: Load) -> anyhow::Result<Self> {
        let node = Node::create(&format!("sbb-{name}"), net)?;
        let client = Netns::create(&format!("sbb-{name}-c"))?;
        let server = Netns::create(&format!("sbb-{name}-s"))?;
        node.add(&client)?;
        let servers = node.add(&server)?;
        // Replies between pods of one bridge must pass conntrack, else the client sees the backend's address.
        node.netns.sysctl("bridge/bridge-nf-call-iptables", "1")?;
        node.netns.sysctl("bridge/bridge-nf-call-ip6tables", "1")?;
        for address in servers {
            Responder::start(&server, address)?;
        }
        let directory = Path::new(SCRATCH).join(name);
        let api = ClusterApi::start(&node.netns, &directory)?;
        // Of the block of documentation: kube-proxy wants to know its node's addresses.
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|it| json!({"type": "InternalIP", "address": it}));
        api.put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "spec": {}, "status": {"addresses": addresses},
        }));
        api.fill(load, servers);
        let cidrs = format!("10.{net}.0.0/16,fd{net}::/64");
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": mode.word(), "clusterCIDR": cidrs, "hostnameOverride": "n1",
            "clientConnection": {"kubeconfig": api.kubeconfig(), "contentType": "application/json"},
            // The table's size is one setting for the whole kernel.
            "conntrack": {"maxPerCore": 0},
        });
        fs::write(directory.join("config.yaml"), config.to_string())?;
        Ok(Self { mode, node: node.netns, directory, api, client, servers, process: None })
    }

    /// Starts kube-proxy.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let output = File::create(self.log())?;
        let program = std::env::var_os("SHEETBEND_KUBE_PROXY")
            .map_or_else(|| PathBuf::from("kube-proxy"), PathBuf::from);
        let mut command = Command::new(&program);
        command.arg("--config").arg(self.directory.join("config.yaml"));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = self.node.enter(|| command.spawn())?.with_context(|| {
            format!(
                "starting {}; `cargo xtask bench` builds it, or name it in SHEETBEND_KUBE_PROXY",
                program.display()
            )
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until Service `index` is served.
    ///
    /// # Errors
    /// It is not within `patience`, and the end of kube-proxy's log.
    pub(crate) fn wait(&self, index: u32, patience: Duration) -> anyhow::Result<()> {
        self.service(index).wait(patience).with_context(|| format!("kube-proxy: {}", tail(&self.log())))
    }

    /// What the tables call it.
    pub(crate) fn name(&self) -> &'static str {
        self.mode.name()
    }

    /// kube-proxy's process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Its API server.
    pub(crate) fn api(&self) -> &ClusterApi {
        &self.api
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// By pod address.
    pub(crate) fn direct(&self) -> Way {
        Way { name: DIRECT, client: self.client.clone(), servers: self.servers }
    }

    /// By the ClusterIP of Service `index`.
    pub(crate) fn service(&self, index: u32) -> Way {
        Way {
            name: self.name(),
            client: self.client.clone(),
            servers: [cluster_ip(false, index), cluster_ip(true, index)],
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // One that is gone already is as good.
            let _gone = process.kill();
            let _status = process.wait();
        }
    }
}

/// ClusterIP of Service `index`, out of 10.96.0.0/12 and fd96::/108.
pub(crate) fn cluster_ip(v6: bool, index: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits(0xfd96u128 << 112 | u128::from(index + 1)).into()
    } else {
        Ipv4Addr::from_bits((10 << 24 | 96 << 16) + index + 1).into()
    }
}
