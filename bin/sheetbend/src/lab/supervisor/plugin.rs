//! Calls the CNI plugin as a container runtime does: CNI_* variables and a configuration on standard input
//! (CNI specification 1.1.0, "Execution protocol").

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::journal::Journal;
use crate::lab::children;
use crate::lab::netns::Netns;

/// The interface's name in the pod.
const IFNAME: &str = "eth0";
/// "Try again later".
const TRY_AGAIN: u32 = 11;
/// How long "try again later" is obeyed.
const PATIENCE: Duration = Duration::from_secs(15);

/// The plugin as installed on one node.
#[derive(Clone, Debug)]
pub(super) struct Plugin {
    /// The program.
    pub(super) path: PathBuf,
    /// The agent's run directory, where its socket is.
    pub(super) run_dir: PathBuf,
    /// Where calls are logged.
    pub(super) journal: Journal,
}

/// What a call is about.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Pod's namespace.
    pub(super) namespace: String,
    /// Pod's name.
    pub(super) name: String,
    /// Pod's uid.
    pub(super) uid: String,
    /// CNI_CONTAINERID.
    pub(super) container_id: String,
    /// CNI_NETNS.
    pub(super) netns: PathBuf,
    /// Addresses that the pod shall have; empty = any.
    pub(super) wanted: Vec<IpAddr>,
    /// `runtimeConfig.bandwidth`; empty = no limit.
    pub(super) bandwidth: Map<String, Value>,
}

#[derive(Deserialize)]
struct CniResult {
    ips: Vec<CniAddress>,
}

#[derive(Deserialize)]
struct CniAddress {
    address: ipnet::IpNet,
}

#[derive(Debug, Deserialize)]
struct CniError {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

impl Plugin {
    /// ADD: the pod's addresses.
    pub(super) fn add(&self, node: &Netns, target: &Target) -> anyhow::Result<Vec<IpAddr>> {
        let answer = self.call(node, "ADD", target)?;
        let result: CniResult =
            serde_json::from_slice(&answer).context("the plugin's result is not a CNI result")?;
        Ok(result.ips.into_iter().map(|ip| ip.address.addr()).collect())
    }

    /// DEL.
    pub(super) fn del(&self, node: &Netns, target: &Target) -> anyhow::Result<()> {
        self.call(node, "DEL", target).map(drop)
    }

    fn call(&self, node: &Netns, verb: &str, target: &Target) -> anyhow::Result<Vec<u8>> {
        let start = Instant::now();
        loop {
            let began = Instant::now();
            let called = node.run(|| self.execute(verb, target))?;
            let took = began.elapsed().as_secs_f64() * 1e3;
            let Target { namespace, name, container_id, .. } = target;
            let head = format!("cni {verb} {namespace}/{name} {container_id} {took:.1} ms");
            match called? {
                Ok(answer) => {
                    self.journal.detail(&format!(
                        "{head}: ok {}",
                        String::from_utf8_lossy(&answer).replace('\n', "")
                    ));
                    return Ok(answer);
                }
                Err(CniError { code, msg, details }) => {
                    self.journal.detail(&format!("{head}: error {code}: {msg}; {details}"));
                    if code != TRY_AGAIN || start.elapsed() > PATIENCE {
                        anyhow::bail!(
                            "CNI {verb} of pod {namespace}/{name} failed with code {code}: {msg}; {details}"
                        );
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn execute(&self, verb: &str, target: &Target) -> anyhow::Result<Result<Vec<u8>, CniError>> {
        let Target { namespace, name, uid, container_id, netns, .. } = target;
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container_id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", IFNAME)
            .env("CNI_PATH", self.path.parent().unwrap_or(Path::new("/")))
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                     K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = children::spawn(&mut command).with_context(|| {
            format!("cannot run {}; build it with `cargo build -p sheetbend-cni`", self.path.display())
        })?;
        let (status, stdout) = process.converse(&self.config(target))?;
        if status.success() {
            return Ok(Ok(stdout));
        }
        let error = serde_json::from_slice(&stdout).unwrap_or_else(|_| CniError {
            code: 999,
            msg: format!("the plugin ended with {status} and said nothing a runtime understands"),
            details: format!("{}; its standard error is in the lab's log", String::from_utf8_lossy(&stdout)),
        });
        Ok(Err(error))
    }

    fn config(&self, target: &Target) -> Vec<u8> {
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": "sheetbend",
            "type": "sheetbend-cni",
            "socket": self.run_dir.join("cni.sock"),
            "runDir": self.run_dir,
        });
        if let (Some(map), false) = (config.as_object_mut(), target.wanted.is_empty()) {
            // CNI CONVENTIONS.md, "args in network config".
            map.insert("args".to_owned(), json!({ "cni": { "ips": target.wanted } }));
        }
        if let (Some(map), false) = (config.as_object_mut(), target.bandwidth.is_empty()) {
            map.insert("runtimeConfig".to_owned(), json!({ "bandwidth": target.bandwidth }));
        }
        config.to_string().into_bytes()
    }
}
