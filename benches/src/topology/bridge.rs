//! The peer on one node: the reference `bridge` plugin with `host-local`.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::netns::{Netns, feed_bytes};
use crate::sandbox::SCRATCH;

/// Where Debian's `containernetworking-plugins` puts them.
const PLUGINS: &str = "/usr/lib/cni";
const CONFIG: &str = include_str!("../../peer/bridge.json");

/// A node whose pods the bridge plugin makes.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    config: String,
}

impl Node {
    /// A node without pods. IPv4 range `10.<net>.0.0/16`, IPv6 range `fd<net>::/64`.
    pub(crate) fn create(name: &str, net: u8) -> anyhow::Result<Self> {
        if !Path::new(PLUGINS).join("bridge").exists() {
            bail!("{PLUGINS}/bridge is missing; apt-get install containernetworking-plugins");
        }
        let netns = Netns::create(name)?;
        netns.forward()?;
        let mut config: Value = serde_json::from_str(CONFIG).context("peer/bridge.json")?;
        config["ipam"]["dataDir"] = json!(format!("{SCRATCH}/{name}"));
        config["ipam"]["ranges"] =
            json!([[{ "subnet": format!("10.{net}.0.0/16") }], [{ "subnet": format!("fd{net}::/64") }]]);
        Ok(Self { netns, config: config.to_string() })
    }

    /// ADD for the pod whose namespace is `pod`: its addresses.
    pub(crate) fn add(&self, pod: &Netns) -> anyhow::Result<[IpAddr; 2]> {
        let result: Value = serde_json::from_slice(&self.call("ADD", pod)?)?;
        addresses(&result)
    }

    /// DEL for the pod.
    pub(crate) fn del(&self, pod: &Netns) -> anyhow::Result<()> {
        self.call("DEL", pod).map(drop)
    }

    fn call(&self, command: &str, pod: &Netns) -> anyhow::Result<Vec<u8>> {
        let plugin = format!("{PLUGINS}/bridge");
        self.netns.enter(|| call(&plugin, PLUGINS, command, pod, &self.config))?
    }
}

/// Calls a CNI plugin as a runtime does.
pub(crate) fn call(
    plugin: &str,
    path: &str,
    command: &str,
    pod: &Netns,
    config: &str,
) -> anyhow::Result<Vec<u8>> {
    let mut process = Command::new(plugin);
    process
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", pod.name())
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={}", pod.name()))
        .env("CNI_PATH", path);
    feed_bytes(&mut process, config).with_context(|| format!("{command} for {}", pod.name()))
}

/// The addresses of a CNI result, IPv4 then IPv6.
pub(crate) fn addresses(result: &Value) -> anyhow::Result<[IpAddr; 2]> {
    let all: Vec<IpAddr> = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect();
    let v4 = all.iter().copied().find(IpAddr::is_ipv4);
    let v6 = all.iter().copied().find(IpAddr::is_ipv6);
    match (v4, v6) {
        (Some(v4), Some(v6)) => Ok([v4, v6]),
        (None, _) | (_, None) => bail!("the plugin gave no address of one family: {result}"),
    }
}
