//! How long ADD takes through plugin and agent. `cargo xtask bench` measures it properly; this finds a step that waits.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::AgentNode;

pub(crate) const TESTS: &[crate::Test] = &[("speed::no_step_of_add_waits", no_step_of_add_waits)];

/// Generous: a debug build beside other tests. The core's timers are a second and more, so a step that waits for one
/// takes longer. Attaching two TCX programs alone is two RCU grace periods of the kernel, 10 ms each.
const MEDIAN: Duration = Duration::from_millis(400);

fn no_step_of_add_waits() -> Result<()> {
    const PODS: usize = 60;
    let mut node = AgentNode::new(&["10.244.1.0/24", "fd00:1::/64"])?;
    node.start_ready(None)?;
    let pods: Vec<Netns> = (0..PODS).map(|_| Netns::new()).collect::<Result<_>>()?;
    let mut times = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        let start = Instant::now();
        let answer = node.cni("ADD", &format!("c{number}"), &pod.path(), &Value::Null)?;
        times.push(start.elapsed());
        ensure!(answer.ok, "{answer:?}\n{}", node.log()?);
    }
    let first = times[0];
    times.sort_unstable();
    let (median, most) = (times[PODS / 2], times[PODS * 99 / 100]);
    println!("ADD: first {first:?}, median {median:?}, p99 {most:?}");
    ensure!(median < MEDIAN, "ADD takes {median:?} in the middle, {most:?} at most");
    Ok(())
}
