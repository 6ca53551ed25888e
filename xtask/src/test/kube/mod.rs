//! Tests of test clusters: they come up beside one another, answer, and leave nothing, killed or not.

mod traces;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::traces::Traces;
use super::Tally;
use crate::process::{self, Finished};
use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::setup;

/// Longer than any command takes, the image included, once Kubernetes is built.
const LIMIT: Duration = Duration::from_secs(1200);

/// A test gets a name for its clusters that nobody else uses.
type Test = fn(&str) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("two_at_once", two_at_once),
    ("killed_at_once", |name| killed(name, "containerd on node1", "KILL")),
    ("killed_while_the_api_server_starts", |name| killed(name, "API server", "KILL")),
    ("killed_while_nodes_register", |name| killed(name, "node1 registered", "KILL")),
    ("interrupted", |name| killed(name, "API server", "INT")),
    (SMOKE, smoke),
];

/// The one that continuous integration runs too.
const SMOKE: &str = "smoke";

/// What continuous integration runs: [`SMOKE`], where Kubernetes itself can be built and run.
pub(super) fn in_ci(repo: &Repo) -> Result<Tally> {
    let without_us = || -> Result<()> {
        crate::kube::prepare()?;
        let name = format!("t{}-none", std::process::id());
        let up = succeed(&["up", "--name", &name, "--nodes", "1"]);
        drop(kube(&["down", "--name", &name]));
        up.map(drop)
    };
    if let Err(error) = without_us() {
        let text = format!("Kubernetes itself does not run on this machine: {error:#}");
        Step::start("kube: smoke").end(Mark::Skipped, &text);
        return Ok(Tally { skipped: 1, ..Tally::default() });
    }
    run(repo, Some(SMOKE))
}

/// Runs the tests whose name contains `filter`.
pub(super) fn run(_repo: &Repo, filter: Option<&str>) -> Result<Tally> {
    let mut tally = Tally::default();
    if !setup::is_root() {
        let text = "test clusters need root: sudo env \"PATH=$PATH\" cargo xtask test kube";
        return Ok(Tally::failure(text.to_owned()));
    }
    for (number, (name, test)) in TESTS.iter().enumerate() {
        if !filter.is_none_or(|filter| name.contains(filter)) {
            continue;
        }
        let cluster = format!("t{}-{number}", std::process::id());
        let step = Step::start(format!("kube: {name}"));
        let outcome = test(&cluster);
        for left in [cluster.clone(), format!("{cluster}b")] {
            drop(kube(&["down", "--name", &left]));
        }
        match outcome {
            Ok(()) => {
                tally.passed += 1;
                step.end(Mark::Done, "");
            }
            Err(error) => {
                step.end(Mark::Failed, &format!("{error:#}"));
                tally.fail(format!("kube: {name}"));
            }
        }
    }
    Ok(tally)
}

/// This program's `kube` command.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("kube").args(arguments);
    // Minutes of optimising the image's binaries would show nothing more here.
    for (name, value) in [("LTO", "off"), ("OPT_LEVEL", "1"), ("CODEGEN_UNITS", "16")] {
        command.env(format!("CARGO_PROFILE_IMAGE_{name}"), value);
    }
    command
}

fn kube(arguments: &[&str]) -> Result<Finished> {
    process::capture_within(&mut command(arguments), Some(LIMIT), &mut |_| {})
}

fn succeed(arguments: &[&str]) -> Result<String> {
    let done = kube(arguments)?;
    if !done.ok() {
        bail!("kube {}: {}\n{}", arguments.join(" "), done.ending(), done.tail(40));
    }
    Ok(done.output)
}

/// Sheetbend, installed with kubectl, carries pods, Services and policy, and its agent is replaced under load.
fn smoke(name: &str) -> Result<()> {
    let before = Traces::now(name)?;
    succeed(&["up", "--name", name, "--network", "sheetbend"])?;
    crate::kube::measure::smoke(name)?;
    succeed(&["down", "--name", name])?;
    before.assert_unchanged(name)
}

/// Two clusters have the same addresses and do not meet; the end of one does not touch the other.
fn two_at_once(name: &str) -> Result<()> {
    let other = format!("{name}b");
    let before = Traces::now(name)?;
    succeed(&["up", "--name", name, "--nodes", "1"])?;
    succeed(&["up", "--name", &other, "--nodes", "2", "--family", "ipv6"])?;
    nodes_are(name, &["node1"])?;
    nodes_are(&other, &["node1", "node2"])?;
    if kube(&["up", "--name", name])?.ok() {
        bail!("a second cluster named {name} came up over the first");
    }
    succeed(&["down", "--name", name])?;
    nodes_are(&other, &["node1", "node2"])?;
    succeed(&["down", "--name", &other])?;
    before.assert_unchanged(name)
}

fn nodes_are(name: &str, expected: &[&str]) -> Result<()> {
    let arguments = ["kubectl", "--name", name, "--", "get", "nodes", "-o", "name"];
    let output = succeed(&arguments)?;
    let found: Vec<&str> = output.lines().filter_map(|line| line.trim().strip_prefix("node/")).collect();
    if found != expected {
        bail!("{name} has nodes {found:?} and not {expected:?}");
    }
    Ok(())
}

/// Ends `up` by a signal when it prints `marker`; then `down` of whatever is there must leave nothing.
fn killed(name: &str, marker: &str, signal: &str) -> Result<()> {
    let before = Traces::now(name)?;
    let mut up = command(&["up", "--name", name, "--nodes", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `up`")?;
    let pid = up.id().to_string();
    let stderr = up.stderr.take().context("`up` has a standard error")?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let is_it = |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| line.contains(marker));
    let hit = lines.by_ref().any(|line| is_it(&line));
    if !hit || !Command::new("kill").args([&format!("-{signal}"), &pid]).status()?.success() {
        drop(up.wait());
        bail!("`up` ended before it printed {marker:?}");
    }
    up.wait()?;
    // The cluster's first process notices the end of `up` and takes everything with it.
    let deadline = Instant::now() + Duration::from_secs(30);
    while Traces::now(name)?.processes() > 0 {
        if Instant::now() > deadline {
            bail!("processes of the cluster still run 30 s after the end of `up`");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // 5: there is nothing left to end.
    let down = kube(&["down", "--name", name])?;
    if !matches!(down.code, Some(0 | 5)) {
        bail!("down: {}\n{}", down.ending(), down.tail(20));
    }
    before.assert_unchanged(name)
}
