//! The reference `cnitool` (Go module github.com/containernetworking/cni/cnitool) calls our plugin.
#![allow(missing_docs, reason = "a test target")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::{AgentNode, private_mounts, program};

type Test = (&'static str, fn() -> Result<()>);

const TESTS: &[Test] = &[
    ("cnitool::add_check_del_0_3_1", || add_check_del("0.3.1")),
    ("cnitool::add_check_del_0_4_0", || add_check_del("0.4.0")),
    ("cnitool::add_check_del_1_0_0", || add_check_del("1.0.0")),
    ("cnitool::add_check_del_1_1_0", || add_check_del("1.1.0")),
    ("cnitool::status_and_gc", status_and_gc),
    ("cnitool::bandwidth_becomes_a_queue", bandwidth_becomes_a_queue),
    ("cnitool::capabilities_that_we_lack_are_refused", capabilities_that_we_lack_are_refused),
    ("cnitool::the_pod_reaches_its_node", the_pod_reaches_its_node),
];

/// A node, a pod, and the configuration by which cnitool finds our plugin.
struct Call {
    node: AgentNode,
    pod: Netns,
    tool: PathBuf,
}

struct Answer {
    ok: bool,
    out: Value,
    /// Standard output and standard error.
    text: String,
}

impl Call {
    fn new(version: &str, capabilities: &Value) -> Result<Self> {
        let mut node = AgentNode::new(&["10.244.1.0/24", "fd00:1::/64"])?;
        node.start_ready(None)?;
        let plugin =
            json!({ "type": "sheetbend-cni", "runDir": node.path("run"), "capabilities": capabilities });
        let list = json!({ "cniVersion": version, "name": "sheetbend", "plugins": [plugin] });
        fs::create_dir(node.path("net.d"))?;
        fs::write(node.path("net.d/05-sheetbend.conflist"), list.to_string())?;
        let tool =
            std::env::var_os("SHEETBEND_CNITOOL").map_or_else(|| PathBuf::from("cnitool"), PathBuf::from);
        Ok(Self { node, pod: Netns::new()?, tool })
    }

    fn run(&self, command: &str, capabilities: &str) -> Result<Answer> {
        let plugins = program("sheetbend-cni")?;
        let output = Command::new(&self.tool)
            .args([command, "sheetbend"])
            .arg(self.pod.path())
            .env("NETCONFPATH", self.node.path("net.d"))
            .env("CNI_PATH", plugins.parent().unwrap_or(Path::new("/")))
            .env("CAP_ARGS", capabilities)
            .env("CNI_ARGS", "")
            .output()
            .with_context(|| format!("cannot run {}; cargo xtask setup builds it", self.tool.display()))?;
        let out = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let text =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ok(Answer { ok: output.status.success(), out, text })
    }
}

fn add_check_del(version: &str) -> Result<()> {
    let call = Call::new(version, &json!({}))?;
    let added = call.run("add", "")?;
    ensure!(added.ok, "{version}: {}\n{}", added.text, call.node.log()?);
    ensure!(added.out["cniVersion"] == version, "{}", added.text);
    let ips = added.out["ips"].as_array().context("ips")?;
    let given: Vec<&str> = ips.iter().filter_map(|ip| ip["address"].as_str()).collect();
    ensure!(given == ["10.244.1.2/32", "fd00:1::2/128"], "{version}: {given:?}");
    let shown = call.pod.ip("-o addr show dev eth0")?;
    ensure!(given.iter().all(|addr| shown.contains(addr)), "{shown}");
    let checked = call.run("check", "")?;
    if version == "0.3.1" {
        ensure!(!checked.ok, "CHECK came with 0.4.0: {}", checked.text);
    } else {
        ensure!(checked.ok, "{version}: {}", checked.text);
        call.pod.ip("addr del 10.244.1.2/32 dev eth0")?;
        let broken = call.run("check", "")?;
        ensure!(
            !broken.ok && broken.text.contains("lost the address 10.244.1.2"),
            "{version}: {}",
            broken.text
        );
    }
    for round in ["first", "second"] {
        let removed = call.run("del", "")?;
        ensure!(removed.ok, "{version}, {round} DEL: {}", removed.text);
    }
    ensure!(!call.pod.ip("-o link")?.contains("eth0"), "eth0 is still there");
    ensure!(call.node.consistent()?.is_empty());
    Ok(())
}

fn status_and_gc() -> Result<()> {
    let mut call = Call::new("1.1.0", &json!({}))?;
    let status = call.run("status", "")?;
    ensure!(status.ok, "{}", status.text);
    ensure!(call.run("add", "")?.ok);
    // cnitool deletes what it has cached, and then sends GC without a list: that would be every pod of the node.
    let gc = call.run("gc", "")?;
    ensure!(!gc.ok && gc.text.contains("cni.dev/valid-attachments is missing"), "{}", gc.text);
    call.node.kill()?;
    let status = call.run("status", "")?;
    ensure!(!status.ok && status.text.contains("is `sheetbend agent` running"), "{}", status.text);
    let added = call.run("add", "")?;
    ensure!(!added.ok && added.text.contains("is `sheetbend agent` running"), "{}", added.text);
    let removed = call.run("del", "")?;
    ensure!(removed.ok, "DEL succeeds without an agent: {}", removed.text);
    call.node.start_ready(None)?;
    ensure!(call.node.consistent()?.is_empty());
    Ok(())
}

fn capabilities_that_we_lack_are_refused() -> Result<()> {
    let call = Call::new("1.0.0", &json!({ "portMappings": true, "bandwidth": true }))?;
    for (wanted, named) in [
        (
            r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#,
            "runtimeConfig.portMappings",
        ),
        (r#"{"bandwidth":{"ingressRat":1000000,"ingressBurst":1000000}}"#, "runtimeConfig.bandwidth"),
    ] {
        let refused = call.run("add", wanted)?;
        ensure!(!refused.ok && refused.text.contains(named), "{wanted}: {}", refused.text);
    }
    ensure!(call.node.consistent()?.is_empty());
    Ok(())
}

/// What a runtime asks for is on both ends; what it does not ask for is not.
fn bandwidth_becomes_a_queue() -> Result<()> {
    let call = Call::new("1.0.0", &json!({ "bandwidth": true }))?;
    let wanted = r#"{"bandwidth":{"ingressRate":1000000,"ingressBurst":4294967295}}"#;
    let added = call.run("add", wanted)?;
    ensure!(added.ok, "{}", added.text);
    let queues = call.node.netns.tool("tc", "qdisc show")?;
    ensure!(queues.contains("qdisc tbf 5b00: dev sb") && queues.contains("rate 1Mbit"), "{queues}");
    let inside = call.pod.tool("tc", "qdisc show")?;
    ensure!(!inside.contains("tbf"), "{inside}");
    Ok(())
}

/// Through the programs: echo to the router address and from the node to the pod, both families.
fn the_pod_reaches_its_node() -> Result<()> {
    let call = Call::new("1.1.0", &json!({}))?;
    ensure!(call.run("add", "")?.ok);
    let ping = |netns: &Netns, addr: &str| -> Result<()> {
        netns.run(|| {
            let output = Command::new("ping")
                .args(["-c", "2", "-i", "0.2", "-W", "2", addr])
                .output()
                .context("cannot run ping; cargo xtask setup installs it")?;
            ensure!(output.status.success(), "ping {addr}: {}", String::from_utf8_lossy(&output.stdout));
            Ok(())
        })
    };
    for addr in ["10.244.1.1", "fd00:1::1"] {
        ping(&call.pod, addr).with_context(|| call.node.log().unwrap_or_default())?;
    }
    for addr in ["10.244.1.2", "fd00:1::2"] {
        ping(&call.node.netns, addr)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::test(*name, move || test().map_err(|error| format!("{error:#}").into()))
    };
    let trials: Vec<Trial> = TESTS.iter().map(trial).collect();
    if !arguments.list && std::env::var_os("SHEETBEND_KERNEL_TESTS").is_none() {
        println!("{} tests need root: cargo xtask test kernel", trials.len());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = private_mounts() {
        eprintln!("{error:#}; run as root: cargo xtask test kernel");
        return ExitCode::FAILURE;
    }
    // cnitool keeps results in /var/lib/cni: a private directory takes its place.
    if let Err(error) = private_cache() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn private_cache() -> Result<()> {
    let made = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/var/lib"]).status()?;
    ensure!(made.success(), "cannot mount a private /var/lib");
    Ok(())
}
