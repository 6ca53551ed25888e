//! Tables that are too small: what does not fit is named, denies, and is tried again.

use anyhow::{Context, ensure};
use sheetbend_apply::bpf::{BpfError, Kernel, KernelConfig, Report};
use sheetbend_model::plan::{
    Backend, Class, Dataplane, Frontend, LocalPod, Origin, PolicyRef, PolicySet, Posture, Reach, RuleKey,
    Ruling, Scope, ServiceEntry, Term, TierRef, diff,
};
use sheetbend_model::state::{Algorithm, AttachmentId, Priority, Tier};
use sheetbend_model::types::{
    AddrKey, BlockKey, Direction, NetworkId, ObjectKey, Port, PortPrefix, Protocol,
};

use super::{Place, links};

fn with_limit(place: &Place, instance: &str, table: &str, limit: u32) -> anyhow::Result<Kernel> {
    let mut config: KernelConfig = place.config(instance);
    config.limits.insert(table.to_owned(), limit);
    Ok(Kernel::open(config)?)
}

fn ensure_full(report: &Report, table: &'static str, limit: u32, count: usize) -> anyhow::Result<()> {
    ensure!(report.failed.len() == count, "{:?}", report.failed);
    for failure in &report.failed {
        let is_full = matches!(&failure.error, BpfError::TableFull { table: t, limit: l, .. } if *t == table && *l == limit);
        ensure!(is_full, "{failure:?}");
        let text = failure.error.to_string();
        ensure!(
            text.contains(table) && text.contains(&limit.to_string()) && text.contains("raise limits."),
            "{text}"
        );
    }
    Ok(())
}

pub(super) fn a_full_rule_table_denies_and_says_so(place: &Place) -> anyhow::Result<()> {
    let policy = ObjectKey::new("a", "policy");
    let set = PolicySet {
        policies: vec![PolicyRef { policy: policy.clone(), digest: 1, ingress: true, egress: false }].into(),
        ..PolicySet::default()
    };
    let mut want = Dataplane::default();
    for number in 1..=6 {
        let ports = PortPrefix { value: number, len: 16 };
        let direction = Direction::Ingress;
        let key = RuleKey { set: set.clone(), direction, class: None, protocol: Some(Protocol::Tcp), ports };
        want.rules.insert(key, Ruling::allow(Origin { policy: policy.clone(), direction, rule: 0 }));
    }
    let mut kernel = with_limit(place, "rules", "RULES", 4)?;
    let report = kernel.sync(&want, &links)?;
    ensure_full(&report, "RULES", 4, 2)?;
    ensure!(kernel.verify(&want, &links)?.len() == 2, "what fits is written");

    // Room comes, and what waited is written without being asked for again.
    let mut fewer = want.clone();
    let first: Vec<RuleKey> = want.rules.keys().take(2).cloned().collect();
    first.iter().for_each(|key| drop(fewer.rules.remove(key)));
    kernel.run(&diff(&want, &fewer), &links)?;
    let report = kernel.run(&diff(&fewer, &fewer), &links)?;
    ensure!(report.is_done() && kernel.verify(&fewer, &links)?.is_empty(), "{report}");
    Ok(())
}

/// What is missing of a set with tiers may be what denies: its pods are shut until all of it is there.
pub(super) fn a_pod_whose_tiers_do_not_fit_is_shut(place: &Place) -> anyhow::Result<()> {
    let tier = TierRef {
        tier: Tier::Admin,
        priority: Priority::default(),
        name: "guard".into(),
        digest: 1,
        ingress: true,
        egress: false,
        names: false,
    };
    let set = PolicySet { tiers: vec![tier].into(), ..PolicySet::default() };
    let (direction, class) = (Direction::Ingress, Class::new(vec![Term::Block("10.0.0.0/8".into())]));
    let row = |class: Option<&Class>, value| RuleKey {
        set: set.clone(),
        direction,
        class: class.cloned(),
        protocol: Some(Protocol::Tcp),
        ports: PortPrefix { value, len: 16 },
    };
    let guard = Origin { policy: ObjectKey::cluster_scoped("guard"), direction, rule: 0 };
    let id = AttachmentId { container_id: "guarded".into(), ifname: "eth0".into() };
    let pod = LocalPod {
        pod: Some(ObjectKey::new("a", "guarded")),
        addresses: vec![AddrKey::new([10, 244, 0, 9].into())],
        host_ifindex: 4_000,
        posture: Posture::Judged(set.clone()),
        asks_names: false,
        audited: false,
    };
    let mut want = Dataplane::default();
    want.pods.insert(id, pod);
    want.rules.insert(row(None, 80), Ruling::default(true));
    want.rules.insert(row(Some(&class), 80), Ruling::deny(guard.clone()));
    let mut kernel = with_limit(place, "tiers", "RULES", 3)?;
    let report = kernel.sync(&want, &links)?;
    ensure!(report.is_done() && kernel.verify(&want, &links)?.is_empty(), "{report}");

    let mut more = want.clone();
    more.rules.insert(row(Some(&class), 443), Ruling::deny(guard.clone()));
    more.rules.insert(row(Some(&class), 444), Ruling::deny(guard));
    let report = kernel.run(&diff(&want, &more), &links)?;
    let named = report
        .failed
        .iter()
        .any(|failure| matches!(&failure.error, BpfError::PodShut { pod } if pod == "a/guarded"));
    ensure!(named && report.epoch_raised, "{:?}", report.failed);
    let is_shut = |kernel: &Kernel| -> anyhow::Result<bool> {
        Ok(kernel.verify(&more, &links)?.iter().any(|row| row.table == "PODS"))
    };
    ensure!(is_shut(&kernel)?, "the pod is open without a rule that denies");
    drop(kernel);
    let mut kernel = with_limit(place, "tiers", "RULES", 3)?;
    ensure!(!kernel.sync(&more, &links)?.is_done() && is_shut(&kernel)?, "a new agent opened it");

    kernel.run(&diff(&more, &want), &links)?;
    let report = kernel.run(&diff(&want, &want), &links)?;
    ensure!(report.is_done() && kernel.verify(&want, &links)?.is_empty(), "it stays shut: {report}");
    Ok(())
}

pub(super) fn a_missing_exception_closes_the_block(place: &Place) -> anyhow::Result<()> {
    let key = |text: &str| -> anyhow::Result<AddrKey> { Ok(AddrKey::new(text.parse()?)) };
    let block = BlockKey::new("10.0.0.0/8".parse()?);
    let other = BlockKey::new("11.0.0.0/8".parse()?);
    let class = Class::new(vec![Term::Block("10.0.0.0/8 except 10.1.0.0/16".into())]);
    let mut want = Dataplane::default();
    want.blocks.extend([(block, class.clone()), (other, class)]);
    // These pods' addresses match less than their block.
    want.classes.insert(key("10.1.0.1")?, Class::default());
    want.classes.insert(key("10.1.0.2")?, Class::default());
    let mut kernel = with_limit(place, "exceptions", "CLASSES", 1)?;
    let report = kernel.sync(&want, &links)?;
    ensure_full(&report, "CLASSES", 1, 1)?;
    let mismatches = kernel.verify(&want, &links)?;
    let closed = mismatches.iter().find(|row| row.table == "BLOCKS").context("the block is open")?;
    ensure!(closed.held.as_deref() == Some("-"), "{closed}");
    ensure!(mismatches.len() == 2, "the other block is closed too: {mismatches:?}");
    ensure!(report.epoch_raised, "flows are not judged anew");

    let mut fewer = want.clone();
    fewer.classes.remove(&key("10.1.0.1")?);
    kernel.run(&diff(&want, &fewer), &links)?;
    kernel.run(&diff(&fewer, &fewer), &links)?;
    ensure!(kernel.verify(&fewer, &links)?.is_empty(), "the block stays closed");
    Ok(())
}

pub(super) fn a_full_slot_table_keeps_the_old_backends(place: &Place) -> anyhow::Result<()> {
    let port = Port::new(80)?;
    let addr = "10.96.0.1".parse()?;
    let frontend =
        Frontend { network: NetworkId::default(), addr, protocol: Protocol::Tcp, port, scope: Scope::Inside };
    let entry = |count: u8| ServiceEntry {
        service: ObjectKey::new("a", "web"),
        port_name: "".into(),
        reach: Reach::Inside,
        only_remote: false,
        sources: None,
        algorithm: Algorithm::Random,
        affinity_timeout: None,
        backends: (1..=count)
            .map(|last| Backend {
                network: NetworkId::default(),
                addr: [10, 0, 0, last].into(),
                protocol: Protocol::Tcp,
                port,
                pod_uid: "".into(),
            })
            .collect(),
        weights: [].into(),
        draining: [].into(),
    };
    let mut want = Dataplane::default();
    want.services.insert(frontend, entry(2));
    let mut kernel = with_limit(place, "slots", "SLOTS", 4)?;
    ensure!(kernel.sync(&want, &links)?.is_done(), "two fit");
    let mut more = want.clone();
    more.services.insert(frontend, entry(3));
    let report = kernel.run(&diff(&want, &more), &links)?;
    ensure_full(&report, "SLOTS", 4, 1)?;
    while let Some(due) = kernel.tick()? {
        std::thread::sleep(due);
    }
    let mismatches = kernel.verify(&want, &links)?;
    ensure!(mismatches.is_empty(), "the Service lost its backends: {mismatches:?}");
    Ok(())
}
