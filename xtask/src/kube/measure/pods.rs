//! Pods for measurements, and sockets inside them.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use super::super::enter;
use super::super::record::Record;

/// Everything that is measured with lives here.
pub(super) const NAMESPACE: &str = "sheetbend-measure";
/// Serves HTTP on 8080 and UDP on 8081 in both families (`netexec`).
const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.59";
/// Longest wait for pods.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running cluster, and how to talk to it.
pub(super) struct Cluster {
    pub(super) record: Record,
    pub(super) kubectl: PathBuf,
}

impl Cluster {
    /// `kubectl ARGUMENTS`; its output.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = enter::kubectl(&self.record, &self.kubectl)?;
        command.args(arguments);
        enter::output(command)
    }

    /// `kubectl ARGUMENTS -o json`.
    pub(super) fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ask(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("kubectl's answer is no JSON")
    }

    /// `kubectl apply` of an object.
    pub(super) fn apply(&self, object: &Value) -> Result<()> {
        let mut command = enter::kubectl(&self.record, &self.kubectl)?;
        command.args(["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().context("cannot start kubectl")?;
        child
            .stdin
            .take()
            .context("kubectl has a standard input")?
            .write_all(object.to_string().as_bytes())?;
        let status = child.wait()?;
        if !status.success() {
            bail!("kubectl apply: {status}: {object}");
        }
        Ok(())
    }

    pub(super) fn make_namespace(&self) -> Result<()> {
        self.remove_namespace()?;
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    }

    pub(super) fn remove_namespace(&self) -> Result<()> {
        let arguments = ["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s"];
        self.ask(&arguments).map(drop)
    }

    /// Waits for all pods of the namespace.
    pub(super) fn wait_ready(&self, what: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let arguments = ["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod", "-l", what, &timeout];
        self.ask(&arguments).map(drop)
    }

    /// The name of the agent's pod on `node`.
    pub(super) fn agent_on(&self, node: &str) -> Result<String> {
        let label = "app.kubernetes.io/name=sheetbend-agent";
        let pods = self.get(&["get", "pods", "-n", "kube-system", "-l", label])?;
        let mut all = pods["items"].as_array().into_iter().flatten();
        let own =
            all.find(|pod| pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null());
        let name = own.and_then(|pod| pod["metadata"]["name"].as_str());
        Ok(name.with_context(|| format!("no agent on {node}"))?.to_owned())
    }

    /// The addresses of a pod, IPv4 first.
    pub(super) fn addresses(&self, pod: &str) -> Result<Vec<IpAddr>> {
        let pod = self.get(&["get", "pod", "-n", NAMESPACE, pod])?;
        let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
        all.map(|one| Ok(one["ip"].as_str().context("a pod address")?.parse()?)).collect()
    }

    /// The network namespace of a pod on `node`, once the agent there has attached it.
    pub(super) fn place(&self, node: &str, pod: &str) -> Result<Place> {
        let root = enter::root_of(&self.record, node)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let directory = root.join("var/lib/sheetbend").join(boot.trim()).join("attachments");
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
                // A file may go while the directory is read.
                let Ok(bytes) = std::fs::read(entry?.path()) else { continue };
                let attachment: Value = serde_json::from_slice(&bytes)?;
                let key = &attachment["pod"];
                if key["namespace"] == NAMESPACE && key["name"] == pod {
                    let path = attachment["netns"].as_str().context("an attachment has a namespace")?;
                    let inside = path.trim_start_matches("/var").trim_start_matches('/');
                    let file = File::open(root.join(inside)).with_context(|| path.to_owned())?;
                    return Ok(Place { file });
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("no attachment of {NAMESPACE}/{pod} on {node}")
    }
}

/// A pod that serves, on `node`.
pub(super) fn server(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "server", "pod": name}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": IMAGE, "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
                "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1}}],
        },
    })
}

/// A Service in front of all servers, with both families where the cluster has them.
pub(super) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "server"},
            "ports": [
                {"name": "http", "port": 8080, "protocol": "TCP"},
                {"name": "udp", "port": 8081, "protocol": "UDP"},
            ],
        },
    })
}

/// A pod that does nothing: what it sends is sent from here.
pub(super) fn idle(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "client"}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": IMAGE, "args": ["pause"]}],
        },
    })
}

/// A pod in its node's network.
pub(super) fn host(name: &str, node: &str) -> Value {
    let mut pod = idle(name, node);
    pod["metadata"]["labels"] = json!({"app": "host"});
    pod["spec"]["hostNetwork"] = json!(true);
    pod
}

/// A pod's network namespace.
pub(super) struct Place {
    file: File,
}

impl Place {
    /// Runs `work` inside, on a thread of its own; sockets stay in the namespace.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread in the pod's namespace died"))?
        })
    }

    /// The same namespace, for another thread.
    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }
}
