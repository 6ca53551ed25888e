//! Changes of policy in a cluster of any size: one pod, one policy, one namespace's label.

use std::sync::Arc;
use std::time::Instant;

use sheetbend_compile::Compiler;
use sheetbend_model::state::{NetworkConfig, Snapshot};
use sheetbend_testkit::generators::large::{self, Size};

use crate::report::{ms, report, report_count, resident_kib};

/// Changes of each kind.
const CHANGES: usize = 300;
/// A step that visits all pods and policies of any of the sizes: prime.
const STEP: usize = 7_919;
/// What a change may take for each address that it touches, beside what it may take at all; ms.
const PER_ADDRESS: f64 = 0.005;

/// All of it.
pub(crate) fn run(size: Size) {
    let title = format!("{} policies x {} pods", size.policies, size.pods);
    let cluster = large::policies(size);
    let objects = resident_kib();
    let mut compiler = Compiler::new(large::node(), NetworkConfig::default());
    let start = Instant::now();
    drop(compiler.update(&cluster));
    report(&format!("one node from nothing, {title}"), &mut [ms(start)], "ms");
    report_count(&format!("resident for the objects, {title}"), objects);
    report_count(&format!("resident for the tables, {title}"), resident_kib().saturating_sub(objects));
    entries(&title, &compiler);
    drop(cluster);
    changes(&format!("one pod's labels, {title}"), &mut compiler, |next, round| {
        let pod = large::pod(&size, round * STEP % size.pods, round + 1);
        next.pods.insert(pod.key.clone(), Arc::new(pod));
    });
    changes(&format!("one policy, {title}"), &mut compiler, |next, round| {
        let mut policy = large::policy(&size, (round + 1) * STEP % size.policies);
        policy.key = large::policy(&size, round * STEP % size.policies).key;
        next.policies.insert(policy.key.clone(), Arc::new(policy));
    });
    changes(&format!("one namespace's label, {title}"), &mut compiler, |next, round| {
        let namespaces: Vec<_> = next.namespaces.values().cloned().collect();
        let mut namespace = (*namespaces[round * STEP % namespaces.len()]).clone();
        namespace.labels.insert("team".into(), format!("team-{}", round % 10).into());
        next.namespaces.insert(namespace.name.clone(), Arc::new(namespace));
    });
}

/// How much the kernel would hold.
fn entries(title: &str, compiler: &Compiler) {
    let tables = compiler.dataplane();
    let pods = tables.pods.len().max(1);
    report_count(&format!("rules in the kernel per pod of the node, {title}"), tables.rules.len() / pods);
    let addresses = tables.classes.len() + tables.blocks.len();
    report_count(&format!("addresses and blocks in the kernel, {title}"), addresses);
}

/// Takes `change` time and again, and measures what following it takes.
fn changes(name: &str, compiler: &mut Compiler, change: impl Fn(&mut Snapshot, usize)) {
    let mut next = compiler.snapshot().clone();
    let (mut times, mut rest, mut touched) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..CHANGES {
        change(&mut next, round);
        let before = compiler.counters().addresses;
        let start = Instant::now();
        drop(compiler.update(&next));
        let time = ms(start);
        let addresses = (compiler.counters().addresses - before) as f64;
        times.push(time);
        rest.push((time - PER_ADDRESS * addresses).max(0.0));
        touched.push(addresses);
    }
    report(name, &mut times, "ms");
    report(&format!("{name}, addresses touched"), &mut touched, "1");
    report(&format!("{name}, less 5 µs per address touched"), &mut rest, "ms");
}
