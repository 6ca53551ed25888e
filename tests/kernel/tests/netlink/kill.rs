//! kill -9 of the agent, at every fail point and at random moments: no address leaks, none is used twice.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::AgentNode;

pub(crate) const TESTS: &[crate::Test] = &[
    ("kill::at_every_fail_point_of_add", at_every_fail_point_of_add),
    ("kill::at_every_fail_point_of_del", at_every_fail_point_of_del),
    ("kill::two_hundred_times_under_load", two_hundred_times_under_load),
    (
        "kill::a_deletion_while_the_agent_is_away_is_worked_off",
        a_deletion_while_the_agent_is_away_is_worked_off,
    ),
    ("kill::parallel_add_and_del", parallel_add_and_del),
    (
        "kill::pods_that_went_with_their_namespace_are_forgotten",
        pods_that_went_with_their_namespace_are_forgotten,
    ),
    ("kill::an_exhausted_range_names_the_pool_and_its_size", an_exhausted_range_names_the_pool_and_its_size),
];

const ADD_POINTS: [&str; 8] = [
    "file-written",
    "file-linked",
    "add-lease",
    "add-attachment",
    "add-veth",
    "add-complete",
    "add-core",
    "add-activated",
];
const DEL_POINTS: [&str; 5] = ["del-core", "del-veth", "del-attachment", "released", "del-lease"];
/// Processes that call the plugin at the same time.
const CALLERS: u32 = 4;

fn node() -> Result<AgentNode> {
    AgentNode::new(&["10.244.1.0/24", "fd00:1::/64"])
}

fn addresses(result: &Value) -> BTreeSet<String> {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |ip: &Value| {
        ip["address"].as_str().unwrap_or_default().split('/').next().unwrap_or_default().to_owned()
    };
    ips.iter().map(text).collect()
}

fn at_every_fail_point_of_add() -> Result<()> {
    let mut node = node()?;
    for point in ADD_POINTS {
        let pod = Netns::new()?;
        node.start_ready(Some(point)).context(point)?;
        let answer = node.cni("ADD", "c1", &pod.path(), &Value::Null)?;
        ensure!(!answer.ok && answer.json["code"] == 11, "{point}: the agent must have died: {answer:?}");
        ensure!(wait_for_death(&mut node)?, "{point}: the agent lives");
        node.kill()?;
        node.start_ready(None).context(point)?;
        node.consistent().context(point)?;
        // What a runtime does after a failed ADD, and then tries again.
        ensure!(node.cni("DEL", "c1", &pod.path(), &Value::Null)?.ok, "{point}: DEL");
        ensure!(node.consistent().context(point)?.is_empty(), "{point}: something is left");
        let again = node.cni("ADD", "c1", &pod.path(), &Value::Null)?;
        ensure!(again.ok, "{point}: {again:?}\n{}", node.log()?);
        let check = node.cni("CHECK", "c1", &pod.path(), &json!({ "prevResult": again.json }))?;
        ensure!(check.ok, "{point}: {check:?}");
        ensure!(node.cni("DEL", "c1", &pod.path(), &Value::Null)?.ok, "{point}: DEL");
        node.kill()?;
    }
    Ok(())
}

fn wait_for_death(node: &mut AgentNode) -> Result<bool> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        if node.has_died()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

fn at_every_fail_point_of_del() -> Result<()> {
    let mut node = node()?;
    for point in DEL_POINTS {
        let (pod, other) = (Netns::new()?, Netns::new()?);
        node.start_ready(Some(point)).context(point)?;
        let (first, kept) = (
            node.cni("ADD", "c1", &pod.path(), &Value::Null)?,
            node.cni("ADD", "c2", &other.path(), &Value::Null)?,
        );
        ensure!(first.ok && kept.ok, "{point}: {first:?} {kept:?}\n{}", node.log()?);
        let answer = node.cni("DEL", "c1", &pod.path(), &Value::Null)?;
        ensure!(answer.ok, "{point}: a DEL that nobody finishes is written down: {answer:?}");
        ensure!(wait_for_death(&mut node)?, "{point}: the agent lives");
        node.kill()?;
        node.start_ready(None).context(point)?;
        let left = node.consistent().context(point)?;
        ensure!(left.keys().eq(["c2"]), "{point}: {left:?}");
        ensure!(left["c2"] == addresses(&kept.json), "{point}: {left:?}, was {kept:?}");
        let check = node.cni("CHECK", "c2", &other.path(), &json!({ "prevResult": kept.json }))?;
        ensure!(check.ok, "{point}: the other pod has suffered: {check:?}");
        ensure!(
            std::fs::read_dir(node.path("run/cni-deletions"))?.count() == 0,
            "{point}: the deletion is still queued"
        );
        ensure!(node.cni("DEL", "c2", &other.path(), &Value::Null)?.ok);
        node.kill()?;
    }
    Ok(())
}

/// Calls ADD and DEL in turn for one container until told to stop; counts what succeeded. An ADD that failed is
/// followed by a DEL, as a runtime does.
fn caller(node: &AgentNode, number: u32, stop: &AtomicBool, added: &AtomicU32) -> Result<()> {
    let pod = Netns::new()?;
    let path: PathBuf = pod.path();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let container = format!("c{number}-{round}");
        round += 1;
        let answer = node.cni("ADD", &container, &path, &Value::Null)?;
        if answer.ok {
            added.fetch_add(1, Ordering::Relaxed);
            ensure!(addresses(&answer.json).len() == 2, "{answer:?}");
        } else {
            let code = answer.json["code"].as_u64();
            // 103: the interface of the call before is still there, its deletion is queued.
            ensure!(matches!(code, Some(11 | 103)), "{answer:?}");
        }
        ensure!(node.cni("DEL", &container, &path, &Value::Null)?.ok, "DEL always succeeds");
    }
    Ok(())
}

fn two_hundred_times_under_load() -> Result<()> {
    const KILLS: u32 = 200;
    let mut node = node()?;
    let added = AtomicU32::new(0);
    let seed = std::process::id();
    let mut random = u64::from(seed) | 1;
    for kill in 0..KILLS {
        node.start_ready(None).with_context(|| format!("after {kill} kills, seed {seed}"))?;
        let stop = AtomicBool::new(false);
        // xorshift: any spread of moments will do, and the seed is printed.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = Duration::from_micros(random % 300_000);
        let agent = std::thread::scope(|scope| -> Result<()> {
            let (shared, stop, added) = (&node, &stop, &added);
            let callers: Vec<_> =
                (0..CALLERS).map(|number| scope.spawn(move || caller(shared, number, stop, added))).collect();
            std::thread::sleep(moment);
            shared.signal_kill()?;
            stop.store(true, Ordering::Relaxed);
            callers
                .into_iter()
                .try_for_each(|caller| caller.join().map_err(|_| anyhow::anyhow!("a caller died"))?)
        });
        agent.with_context(|| format!("kill {kill}, seed {seed}"))?;
        node.kill()?;
    }
    node.start_ready(None)?;
    let left = node.consistent()?;
    ensure!(left.is_empty(), "every container got its DEL, but there is {left:?}\n{}", node.log()?);
    let added = added.into_inner();
    println!("{KILLS} kills, {added} ADDs came through, seed {seed}");
    ensure!(added >= KILLS / 4, "only {added} ADDs came through: the kills come too early to test anything");
    Ok(())
}

fn a_deletion_while_the_agent_is_away_is_worked_off() -> Result<()> {
    let mut node = node()?;
    let pod = Netns::new()?;
    node.start_ready(None)?;
    let first = node.cni("ADD", "c1", &pod.path(), &Value::Null)?;
    ensure!(first.ok, "{first:?}\n{}", node.log()?);
    node.kill()?;
    let refused = node.cni("ADD", "c2", &pod.path(), &Value::Null)?;
    ensure!(refused.json["code"] == 11, "{refused:?}");
    let status = node.cni("STATUS", "", &pod.path(), &Value::Null)?;
    ensure!(status.json["code"] == 50, "{status:?}");
    ensure!(node.cni("DEL", "c1", &pod.path(), &Value::Null)?.ok);
    ensure!(node.consistent()?.len() == 1, "nobody can have removed it yet");
    node.start_ready(None)?;
    ensure!(node.consistent()?.is_empty());
    ensure!(node.cni("STATUS", "", &pod.path(), &Value::Null)?.ok);
    // The same container may come back, and its address rests.
    let second = node.cni("ADD", "c1", &pod.path(), &Value::Null)?;
    ensure!(
        second.ok && addresses(&second.json).is_disjoint(&addresses(&first.json)),
        "{first:?} {second:?}"
    );
    let twice = node.cni("ADD", "c1", &pod.path(), &Value::Null)?;
    ensure!(twice.json["code"] == 101, "{twice:?}");
    let gc = node.cni("GC", "", &pod.path(), &json!({ "cni.dev/valid-attachments": [] }))?;
    ensure!(gc.ok && node.consistent()?.is_empty(), "{gc:?}");
    Ok(())
}

fn parallel_add_and_del() -> Result<()> {
    const PODS: usize = 40;
    let mut node = node()?;
    node.start_ready(None)?;
    let pods: Vec<Netns> = (0..PODS).map(|_| Netns::new()).collect::<Result<_>>()?;
    let all = |command: &str| -> Result<Vec<Value>> {
        std::thread::scope(|scope| {
            let calls: Vec<_> = pods
                .iter()
                .enumerate()
                .map(|(number, pod)| {
                    let (node, command) = (&node, command.to_owned());
                    scope.spawn(move || node.cni(&command, &format!("c{number}"), &pod.path(), &Value::Null))
                })
                .collect();
            calls
                .into_iter()
                .map(|call| {
                    let answer = call.join().map_err(|_| anyhow::anyhow!("a caller died"))??;
                    ensure!(answer.ok, "{command}: {answer:?}");
                    Ok(answer.json)
                })
                .collect()
        })
    };
    let given: BTreeSet<String> = all("ADD")?.iter().flat_map(addresses).collect();
    ensure!(given.len() == 2 * PODS, "addresses were given twice: {given:?}");
    ensure!(node.consistent()?.len() == PODS);
    all("DEL")?;
    ensure!(node.consistent()?.is_empty());
    Ok(())
}

fn pods_that_went_with_their_namespace_are_forgotten() -> Result<()> {
    let mut node = node()?;
    let (gone, kept) = (Netns::new()?, Netns::new()?);
    node.start_ready(None)?;
    ensure!(node.cni("ADD", "gone", &gone.path(), &Value::Null)?.ok);
    ensure!(node.cni("ADD", "kept", &kept.path(), &Value::Null)?.ok);
    node.kill()?;
    drop(gone);
    let start = Instant::now();
    // The kernel takes namespaces apart in its own time.
    while node.netns.run(|| Ok(sheetbend_apply::netlink::pod_links()?))?.len() > 1 {
        ensure!(start.elapsed() < Duration::from_secs(5), "the kernel keeps the link");
        std::thread::sleep(Duration::from_millis(10));
    }
    node.start_ready(None)?;
    ensure!(node.consistent()?.keys().eq(["kept"]));
    Ok(())
}

fn an_exhausted_range_names_the_pool_and_its_size() -> Result<()> {
    let mut node = AgentNode::new(&["10.244.1.0/30"])?;
    let pod = Netns::new()?;
    node.start_ready(None)?;
    ensure!(node.cni("ADD", "c1", &pod.path(), &Value::Null)?.ok);
    let full = node.cni("ADD", "c2", &pod.path(), &Value::Null)?;
    let told = full.json["msg"].as_str().unwrap_or_default();
    ensure!(
        full.json["code"] == 100 && told.contains("pool 10.244.1.0/30 is exhausted: all 1 addresses"),
        "{full:?}"
    );
    ensure!(node.cni("DEL", "c1", &pod.path(), &Value::Null)?.ok);
    let resting = node.cni("ADD", "c2", &pod.path(), &Value::Null)?;
    let told = resting.json["msg"].as_str().unwrap_or_default();
    ensure!(resting.json["code"] == 11 && told.contains("the next is free in"), "{resting:?}");
    Ok(())
}
