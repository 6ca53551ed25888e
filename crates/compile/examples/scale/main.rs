//! How long compile takes at the sizes of `docs/performance.md`. Prints a JSON object a line: name, p50, p99, unit.
//!
//! `cargo run --release -p sheetbend-compile --example scale`, and with two numbers behind `--`, one of 1,000 or 10,000
//! policies and one of 10,000 or 50,000 pods, the changes of policy at that size.

#![allow(clippy::disallowed_macros, clippy::disallowed_methods, reason = "it measures time, and prints it")]

mod policy;
mod report;

use std::sync::Arc;
use std::time::Instant;

use sheetbend_compile::{Compiler, compile};
use sheetbend_model::state::{
    IpBlock, LabelSelector, NetworkConfig, NetworkPolicy, Peer, PolicyRule, Snapshot,
};
use sheetbend_model::types::ObjectKey;
use sheetbend_testkit::generators::large::{self, Size};

use crate::report::{ms, report, report_count, resident_kib};

/// 44,000 Services with 250,000 endpoints.
const SERVICES: (usize, usize) = (44_000, 250_000);

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|number| number.parse().ok()).collect();
    if let [policies, pods] = numbers[..] {
        return policy::run(Size { policies, pods, ..Size::POLICIES });
    }
    let size = Size::POLICIES;
    let cluster = large::policies(size);
    full("compile 1000 policies x 10000 pods", &cluster);
    let mut compiler = Compiler::new(large::node(), NetworkConfig::default());
    let start = Instant::now();
    let plan = compiler.update(&cluster);
    report("first update 1000 policies x 10000 pods", &mut [ms(start)], "ms");
    report_count("steps of it", plan.len());
    drop(plan);
    report_count("resident after it", resident_kib());
    pod_changes(&size, &mut compiler);
    selector(&mut compiler);
    block(&mut compiler);
    drop((compiler, cluster));
    services();
}

fn full(name: &str, cluster: &Snapshot) {
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let tables = compile(cluster, &large::node(), &NetworkConfig::default());
            let time = ms(start);
            assert!(!tables.routes.is_empty());
            time
        })
        .collect();
    report(name, &mut times, "ms");
}

/// One pod gets other labels, 1,000 times.
fn pod_changes(size: &Size, compiler: &mut Compiler) {
    let mut next = compiler.snapshot().clone();
    let mut times = Vec::new();
    for round in 0..1_000usize {
        // A prime step visits pods of all nodes, this one's among them.
        let pod = large::pod(size, round * 7_919 % size.pods, round + 1);
        next.pods.insert(pod.key.clone(), Arc::new(pod));
        let start = Instant::now();
        let plan = compiler.update(&next);
        times.push(ms(start));
        drop(plan);
    }
    report("one pod changes, 1000 policies x 10000 pods", &mut times, "ms");
}

/// A policy whose selector matches every pod comes into force, and goes.
fn selector(compiler: &mut Compiler) {
    let everyone = Peer::Pods { namespaces: Some(LabelSelector::default()), pods: None };
    one_policy("one selector, per address touched", compiler, everyone);
}

/// A policy whose block covers every IPv4 pod comes into force, and goes.
fn block(compiler: &mut Compiler) {
    let Ok(cidr) = "10.0.0.0/8".parse() else { return };
    one_policy("one block, per address touched", compiler, Peer::Block(IpBlock { cidr, except: Vec::new() }));
}

fn one_policy(name: &str, compiler: &mut Compiler, peer: Peer) {
    let base = compiler.snapshot().clone();
    let policy = NetworkPolicy {
        key: ObjectKey::new("ns-000", "one-more"),
        pod_selector: LabelSelector::default(),
        ingress: Some(vec![PolicyRule { peers: vec![peer], ports: Vec::new() }]),
        egress: None,
    };
    let mut with = base.clone();
    with.policies.insert(policy.key.clone(), Arc::new(policy));
    let (mut times, mut each) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        for state in [&with, &base] {
            let addresses = compiler.counters().addresses;
            let start = Instant::now();
            drop(compiler.update(state));
            let time = ms(start);
            let touched = (compiler.counters().addresses - addresses).max(1);
            times.push(time);
            // The target is 5 ms + 5 µs for each address.
            each.push((time - 5.0).max(0.0) * 1_000.0 / touched as f64);
        }
    }
    report(&format!("{name}, all of it"), &mut times, "ms");
    report(&format!("{name}, beyond 5 ms"), &mut each, "us/address");
}

fn services() {
    let (count, endpoints) = SERVICES;
    let cluster = large::services(count, endpoints);
    full("compile 44000 services / 250000 endpoints", &cluster);
    let mut compiler = Compiler::new(large::node(), NetworkConfig::default());
    let start = Instant::now();
    drop(compiler.update(&cluster));
    report("first update 44000 services / 250000 endpoints", &mut [ms(start)], "ms");
    let mut next = cluster;
    let mut times = Vec::new();
    for round in 0..1_000usize {
        let service = round * 7_919 % count;
        let slice = large::endpoint_slice(service, endpoints + round..endpoints + round + 5);
        next.endpoint_slices.insert(slice.key.clone(), Arc::new(slice));
        let start = Instant::now();
        let plan = compiler.update(&next);
        times.push(ms(start));
        assert_eq!(plan.len(), 1, "one slice changes one frontend");
    }
    report("one slice changes, 44000 services / 250000 endpoints", &mut times, "ms");
}
