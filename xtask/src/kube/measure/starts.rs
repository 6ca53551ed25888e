//! How long a pod takes from its node's name to readiness, beside a cluster with other plugins.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::super::enter;
use super::pods::{Cluster, NAMESPACE, server};
use super::report::{Row, percentiles};
use crate::progress::Step;

const SECTION: &str = "A pod from scheduled to ready";
/// Pods of one cluster, one after the other.
const PODS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts pods in turn here and on `peer`, where there is one.
pub(super) fn measure(cluster: &Cluster, peer: Option<&Cluster>, step: &mut Step) -> Result<Vec<Row>> {
    let watches = [Some(cluster), peer].map(|cluster| cluster.map(Watch::start).transpose());
    let [own, other] = watches;
    let (own, other) = (own?.context("a cluster")?, other?);
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..PODS {
        step.note(&format!("pod {} of {PODS}", number + 1));
        for (watch, times) in [Some(&own), other.as_ref()].into_iter().zip(&mut times) {
            if let Some(watch) = watch {
                times.push(watch.time_of(&format!("start-{number}"))?);
            }
        }
    }
    let [own_times, other_times] = times;
    let of = |times: Vec<Duration>| {
        let at = percentiles(times);
        (at(0.5), at(0.95))
    };
    let (own, beside) = (of(own_times), of(other_times));
    let note = match peer {
        Some(_) => format!("{PODS} pods each, in turn; p95 {:.0} and {:.0} ms", own.1, beside.1),
        None => format!("{PODS} pods; p95 {:.0} ms", own.1),
    };
    let row = Row::new(
        SECTION,
        "watch event with the node → watch event Ready, p50",
        format!("{:.0} ms", own.0),
        note,
    );
    Ok(match peer {
        Some(_) => {
            let what = "the same beside: bridge plugin, static routes, kube-proxy, p50";
            vec![row, Row::new(SECTION, what, format!("{:.0} ms", beside.0), String::new())]
        }
        None => vec![row],
    })
}

/// Events of the pods of a cluster, as they arrive here.
struct Watch<'a> {
    cluster: &'a Cluster,
    child: Child,
    events: Receiver<(Instant, Value)>,
}

impl<'a> Watch<'a> {
    fn start(cluster: &'a Cluster) -> Result<Self> {
        let mut command = enter::kubectl(&cluster.record, &cluster.kubectl)?;
        command.args(["get", "pods", "-n", NAMESPACE, "--watch", "-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start kubectl")?;
        let output = child.stdout.take().context("kubectl has a standard output")?;
        let (sender, events) = channel();
        std::thread::spawn(move || {
            let pods = serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>();
            for pod in pods.map_while(std::result::Result::ok) {
                if sender.send((Instant::now(), pod)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { cluster, child, events })
    }

    /// Makes a pod on the last node and waits for it.
    fn time_of(&self, name: &str) -> Result<Duration> {
        let nodes = self.cluster.record.settings.node_names();
        let mut pod = server(name, nodes.last().context("a node")?);
        let spec = pod["spec"].as_object_mut().context("a pod has a spec")?;
        if let Some(node) = spec.remove("nodeName") {
            let selector = BTreeMap::from([("kubernetes.io/hostname", node)]);
            spec.insert("nodeSelector".to_owned(), serde_json::to_value(selector)?);
        }
        self.cluster.apply(&pod)?;
        let end = Instant::now() + PATIENCE;
        let mut scheduled = None;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((at, event)) = self.events.recv_timeout(left) else {
                bail!("{name} is not ready after {PATIENCE:?}")
            };
            if event["metadata"]["name"] != name {
                continue;
            }
            if !event["spec"]["nodeName"].is_null() {
                scheduled.get_or_insert(at);
            }
            let mut conditions = event["status"]["conditions"].as_array().into_iter().flatten();
            let is_ready = conditions.any(|one| one["type"] == "Ready" && one["status"] == "True");
            if let Some(scheduled) = scheduled.filter(|_| is_ready) {
                return Ok(at.saturating_duration_since(scheduled));
            }
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // It ends with its output's reader anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
