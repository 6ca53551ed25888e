//! NetworkPolicy as another project reads it: cyclonus (Go module github.com/mattfenwick/cyclonus) judges random packets
//! of random clusters, read from the same Kubernetes objects.
//!
//! `SHEETBEND_SEED=n` draws others.
#![allow(missing_docs, reason = "a test target")]

mod cyclonus;
mod packets;
mod readings;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::{Arguments, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use sheetbend_compile::why::{self, Explainer};
use sheetbend_intake::file::{self, Source};
use sheetbend_model::state::{ISOLATION, Namespace, Snapshot, TENANT};
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::generators::packet::packet;
use sheetbend_testkit::manifests;

use crate::cyclonus::{Cyclonus, Verdict};
use crate::packets::{End, Packet, as_held};
use crate::readings::Reading;

type Test = (&'static str, fn() -> Result<()>);

const TESTS: &[Test] = &[
    ("networkpolicy::cyclonus_judges_as_we_do", cyclonus_judges_as_we_do),
    ("networkpolicy::a_policy_that_is_overlooked_is_noticed", a_policy_that_is_overlooked_is_noticed),
];

const CLUSTERS: u32 = 400;
/// Of each cluster.
const PACKETS: usize = 60;
const CASES: usize = 5_000;
const SEED: u64 = 20_260_101;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::test(*name, move || test().map_err(|error| format!("{error:#}").into()))
    };
    let trials: Vec<Trial> = TESTS.iter().map(trial).collect();
    if !arguments.list && std::env::var_os("SHEETBEND_KERNEL_TESTS").is_none() {
        println!("{} tests need cyclonus: cargo xtask test interop", trials.len());
        return ExitCode::SUCCESS;
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// `cluster` without the labels, Tenants, TrafficPolicies and audits that only we know.
fn without_isolation(mut cluster: Snapshot) -> Snapshot {
    cluster.tenants.clear();
    cluster.traffic_policies.clear();
    let namespaces = std::mem::take(&mut cluster.namespaces).into_iter().map(|(name, namespace)| {
        let mut namespace = Namespace::clone(&namespace);
        namespace.labels.retain(|key, _| ![ISOLATION, TENANT].contains(&&**key));
        namespace.audit = false;
        (name, Arc::new(namespace))
    });
    cluster.namespaces = namespaces.collect();
    cluster
}

/// Calls `check` with random clusters, packets of them, and what cyclonus says of each.
fn each(check: impl Fn(&Snapshot, &[(Packet, Verdict)]) -> Result<(), TestCaseError>) -> Result<()> {
    let seed = match std::env::var("SHEETBEND_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => SEED,
    };
    println!("SHEETBEND_SEED={seed}");
    let cyclonus = RefCell::new(Cyclonus::start()?);
    let mut runner = TestRunner::new(Config {
        cases: CLUSTERS,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    });
    let drawn = (
        cluster().prop_map(|cluster| as_held(&without_isolation(cluster))),
        prop::collection::vec(packet(), PACKETS),
    );
    let outcome = runner.run(&drawn, |(cluster, drawn)| {
        let packets: Vec<Packet> = drawn.iter().filter_map(|drawn| Packet::of(&cluster, drawn)).collect();
        let verdicts = cyclonus.borrow_mut().judge(&cluster, &packets);
        let verdicts = verdicts.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        check(&cluster, &packets.into_iter().zip(verdicts).collect::<Vec<_>>())
    });
    outcome.map_err(|error| anyhow!("{error}"))
}

fn cyclonus_judges_as_we_do() -> Result<()> {
    let (allowed, denied) = (Cell::new(0), Cell::new(0));
    let explained = RefCell::new(BTreeMap::<&[Reading], usize>::new());
    each(|cluster, cases| {
        // Both are asked about the same: our intake reads from the objects what was drawn.
        prop_assert_eq!(&read_back(cluster)?, cluster);
        let explainer = Explainer::new(cluster, cluster.pods.keys());
        for (packet, theirs) in cases {
            let ours = packet.judge(cluster);
            prop_assert_eq!(compiled(&explainer, packet), ours, "tables and objects: {:?}", packet);
            let count = if ours.egress && ours.ingress { &allowed } else { &denied };
            count.set(count.get() + 1);
            if ours == *theirs {
                continue;
            }
            let Some(readings) = readings::explain(cluster, packet, *theirs) else {
                return Err(TestCaseError::fail(format!(
                    "we: {ours:?}, cyclonus: {theirs:?}, of {packet:?}"
                )));
            };
            *explained.borrow_mut().entry(readings).or_default() += 1;
        }
        Ok(())
    })?;
    let (allowed, denied) = (allowed.get(), denied.get());
    let cases = allowed + denied;
    println!("{cases} cases: {allowed} allowed, {denied} denied; other readings: {:?}", explained.borrow());
    ensure!(cases >= CASES, "only {cases} cases");
    ensure!(
        allowed * 10 >= cases && denied * 10 >= cases,
        "{allowed} allowed and {denied} denied are too few"
    );
    let explained: usize = explained.borrow().values().sum();
    ensure!(explained * 100 <= cases * 15, "{explained} of {cases} are read otherwise: too many to agree");
    Ok(())
}

/// The same comparison without one of the policies on our side: most of what that changes has to show.
fn a_policy_that_is_overlooked_is_noticed() -> Result<()> {
    let (changed, noticed) = (Cell::new(0), Cell::new(0));
    each(|cluster, cases| {
        let Some(first) = cluster.policies.keys().next() else { return Ok(()) };
        let mut without = cluster.clone();
        without.policies.remove(first);
        for (packet, theirs) in cases {
            let wrong = packet.judge(&without);
            if wrong == packet.judge(cluster) {
                continue;
            }
            changed.set(changed.get() + 1);
            let passes = wrong == *theirs || readings::explain(&without, packet, *theirs).is_some();
            noticed.set(noticed.get() + usize::from(!passes));
        }
        Ok(())
    })?;
    let (changed, noticed) = (changed.get(), noticed.get());
    println!("{changed} verdicts changed, {noticed} noticed");
    ensure!(
        changed >= 100 && noticed * 10 >= changed * 9,
        "{noticed} of {changed} wrong verdicts are noticed"
    );
    Ok(())
}

/// What our intake makes of the objects that cyclonus is given.
fn read_back(cluster: &Snapshot) -> Result<Snapshot, TestCaseError> {
    let objects = [manifests::namespaces(cluster), manifests::pods(cluster), manifests::policies(cluster)];
    let documents: Vec<String> = objects.concat().iter().map(ToString::to_string).collect();
    let source = Source { name: Path::new("cluster.yaml").into(), bytes: documents.join("\n---\n").into() };
    let manifests = file::parse(&[source]).map_err(|errors| TestCaseError::fail(format!("{errors:?}")))?;
    Ok(file::snapshot(manifests.objects.values().map(|manifest| &*manifest.object)))
}

/// What the tables say that the kernel is given.
fn compiled(explainer: &Explainer, packet: &Packet) -> Verdict {
    let end = |end: &'_ End| why::End { addr: end.addr, pod: None, node: None };
    let (source, destination) = (&packet.ends.source, &packet.ends.destination);
    let flow = why::Flow {
        source: why::End { pod: source.pod.as_ref(), ..end(source) },
        destination: why::End { pod: destination.pod.as_ref(), ..end(destination) },
        protocol: packet.protocol,
        port: packet.port,
    };
    let found = explainer.explain(&flow);
    Verdict { egress: found.egress.outcome.allows(), ingress: found.ingress.outcome.allows() }
}
