//! Agents are deleted while pods come and go: nothing may be left over.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::pods::{Cluster, NAMESPACE, server};
use super::report::Row;
use crate::progress::Step;

const SECTION: &str = "Agents deleted while pods come and go";
const ROUNDS: usize = 6;
/// Pods of a round, over all nodes.
const PODS: usize = 16;

/// Scales a workload up and down while agents are deleted, then looks for leaks on every node.
pub(super) fn measure(cluster: &Cluster, step: &mut Step) -> Result<Vec<Row>> {
    let mut template = server("pod", "");
    template["spec"].as_object_mut().context("a pod has a spec")?.remove("nodeName");
    let pod = json!({"metadata": {"labels": {"app": "server"}}, "spec": template["spec"]});
    cluster.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "crowd", "namespace": NAMESPACE},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "server"}}, "template": pod},
    }))?;
    let (mut pods, mut slowest) = (0, Duration::ZERO);
    for round in 1..=ROUNDS {
        step.note(&format!("round {round} of {ROUNDS}"));
        scale(cluster, PODS)?;
        // Somewhere in the middle of the ADDs, then in the middle of the DELs.
        std::thread::sleep(Duration::from_millis(400 * round as u64));
        delete_agents(cluster)?;
        let began = Instant::now();
        cluster.ask(&["rollout", "status", "-n", NAMESPACE, "deployment/crowd", "--timeout=180s"])?;
        slowest = slowest.max(began.elapsed());
        pods += PODS;
        scale(cluster, 0)?;
        std::thread::sleep(Duration::from_millis(200 * round as u64));
        delete_agents(cluster)?;
    }
    cluster.ask(&[
        "delete",
        "deployment",
        "-n",
        NAMESPACE,
        "crowd",
        "--cascade=foreground",
        "--timeout=120s",
    ])?;
    cluster.ask(&["wait", "-n", NAMESPACE, "--for=delete", "pod", "-l", "app=server", "--timeout=120s"])?;
    let wait = ["rollout", "status", "-n", "kube-system", "daemonset/sheetbend-agent", "--timeout=120s"];
    cluster.ask(&wait)?;
    step.note("looking for leaks");
    let found = leaks(cluster)?;
    let note = format!(
        "{pods} pods made and removed, {} agents deleted meanwhile, longest wait for all pods {:.1} s{}",
        2 * ROUNDS * cluster.record.settings.node_names().len(),
        slowest.as_secs_f64(),
        found.first().map(|first| format!("; first: {first}")).unwrap_or_default()
    );
    Ok(vec![Row::new(SECTION, "leaks", found.len().to_string(), note).kept(found.is_empty(), "0")])
}

fn scale(cluster: &Cluster, replicas: usize) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    cluster.ask(&["scale", "-n", NAMESPACE, "deployment/crowd", &replicas]).map(drop)
}

fn agents(cluster: &Cluster) -> Result<Vec<String>> {
    let label = "app.kubernetes.io/name=sheetbend-agent";
    let text = cluster.ask(&["get", "pods", "-n", "kube-system", "-l", label, "-o", "name"])?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

fn delete_agents(cluster: &Cluster) -> Result<()> {
    let agents = agents(cluster)?;
    let mut arguments = vec!["delete", "-n", "kube-system", "--wait=false", "--ignore-not-found"];
    arguments.extend(agents.iter().map(String::as_str));
    cluster.ask(&arguments).map(drop)
}

/// What `sheetbend debug leaks` lists on every node.
fn leaks(cluster: &Cluster) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for agent in agents(cluster)? {
        let command = ["exec", "-n", "kube-system", &agent, "--", "/bin/sheetbend", "debug", "leaks"];
        // A list ends with 1: kubectl says so as an error, and the list is on standard output.
        let command = [&command[..], &["--wait", "60", "-o", "json"]].concat();
        let mut process = super::super::enter::kubectl(&cluster.record, &cluster.kubectl)?;
        let output = process.args(command).output()?;
        let answer: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{agent}: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
        all.extend(answer["leaks"].as_array().into_iter().flatten().map(|leak| format!("{agent}: {leak}")));
    }
    Ok(all)
}
