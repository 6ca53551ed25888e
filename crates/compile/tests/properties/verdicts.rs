//! The tables say what the Kubernetes objects say.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use sheetbend_compile::{compile, resolved};
use sheetbend_model::plan::{Dataplane, Origin, Posture};
use sheetbend_model::state::{
    Action, AttachmentId, ClusterPeer, ISOLATION, NetworkConfig, NetworkPolicy, Peer, Pod, PolicyRule,
    PortMatch, Snapshot, Tier,
};
use sheetbend_model::types::{Direction, Family, ObjectKey, Protocol};
use sheetbend_oracle::{Allowed, ByTier, Decision, Flow, L4, networkpolicy, pod_at};
use sheetbend_testkit::generators::cluster::{cluster, isolated_cluster, tiered_cluster, traffic_cluster};
use sheetbend_testkit::generators::packet::{Packet, PacketEnd, packet};
use sheetbend_testkit::generators::pools;

use crate::kernel::{Question, Verdict, passes, verdict};
use crate::runner;

const PACKETS: usize = 400;

#[test]
fn every_packet_is_judged_as_the_objects_say() {
    judge_packets("verdicts", 850, cluster()).assert_wide(&Coverage::POLICIES);
}

#[test]
fn every_packet_is_judged_tier_by_tier() {
    judge_packets("tiers", 1_200, tiered_cluster()).assert_wide(&Coverage::TIERS);
}

#[test]
fn every_packet_is_judged_as_the_labels_of_namespaces_say() {
    judge_packets("isolation", 1_200, isolated_cluster()).assert_wide(&Coverage::ISOLATION);
}

#[test]
fn every_packet_is_judged_as_traffic_policies_say() {
    judge_packets("traffic", 1_600, traffic_cluster()).assert_wide(&Coverage::TRAFFIC);
}

fn judge_packets(name: &str, cases: u32, clusters: impl Strategy<Value = Snapshot>) -> Coverage {
    let coverage = RefCell::new(Coverage::default());
    // So many that what is drawn least is met far more often than [`Coverage::assert_wide`] wants: clusters differ.
    runner(name, cases)
        .run(&(clusters, prop::collection::vec(packet(), PACKETS)), |(cluster, packets)| {
            let tables = compile(&cluster, &pools::node(), &NetworkConfig::default());
            check_postures(&cluster, &tables)?;
            let named = resolved(&cluster);
            for packet in &packets {
                check(&cluster, &named, &tables, packet, &mut coverage.borrow_mut())?;
            }
            Ok(())
        })
        .unwrap();
    coverage.into_inner()
}

fn check_postures(cluster: &Snapshot, tables: &Dataplane) -> Result<(), TestCaseError> {
    prop_assert_eq!(tables.pods.len(), cluster.attachments.len());
    for (id, row) in &tables.pods {
        let pod = row.pod.as_ref().and_then(|key| cluster.pods.get(key));
        let known = pod.is_some_and(|pod| pod.is_peer());
        prop_assert_eq!(known, matches!(row.posture, Posture::Judged(_)), "{:?}", id);
    }
    Ok(())
}

/// One end, looked up.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) addr: IpAddr,
    pub(crate) pod: Option<&'a ObjectKey>,
    pub(crate) attachment: Option<&'a AttachmentId>,
}

/// The packet as the oracle is asked about it.
pub(crate) fn oracle_flow<'a>(
    (source, destination): (&Found<'a>, &Found<'a>),
    (protocol, port): (Option<Protocol>, u16),
) -> Flow<'a> {
    Flow {
        source: source.addr,
        source_pod: source.pod,
        destination: destination.addr,
        destination_pod: destination.pod,
        protocol: protocol.map_or(L4::Icmp, L4::from),
        port,
    }
}

pub(crate) fn find<'a>(cluster: &'a Snapshot, end: PacketEnd, family: Family) -> Option<Found<'a>> {
    let index = match end {
        PacketEnd::Address(addr) => {
            return Some(Found { addr, pod: pod_with(cluster, addr), attachment: None });
        }
        PacketEnd::Pod(index) => index,
    };
    let pod = cluster.pods.get(&pools::pod_key(index))?;
    let attachment =
        cluster.attachments.values().find(|attachment| attachment.pod.as_ref() == Some(&pod.key));
    let attached = attachment.into_iter().flat_map(|attachment| &attachment.addresses);
    let addr = pod.addresses.iter().chain(attached.copied()).find(|addr| Family::of(*addr) == family)?;
    if !pod.is_peer() {
        return find(cluster, PacketEnd::Address(addr), family);
    }
    Some(Found { addr, pod: Some(&pod.key), attachment: attachment.map(|attachment| &attachment.id) })
}

/// Whoever has an address: CNI knows it before the pod's status does.
fn pod_with(cluster: &Snapshot, addr: IpAddr) -> Option<&ObjectKey> {
    let attached = cluster.attachments.values().filter(|attachment| attachment.addresses.contains(&addr));
    let mut attached = attached.filter_map(|attachment| cluster.pods.get(attachment.pod.as_ref()?));
    let pod = attached.find(|pod| pod.is_peer()).or_else(|| pod_at(cluster, addr))?;
    Some(&pod.key)
}

pub(crate) fn family_of(packet: &Packet) -> Option<Family> {
    match (packet.source, packet.destination) {
        (PacketEnd::Address(a), PacketEnd::Address(b)) if Family::of(a) != Family::of(b) => None,
        (PacketEnd::Address(addr), _) | (_, PacketEnd::Address(addr)) => Some(Family::of(addr)),
        _ => Some(packet.family),
    }
}

pub(crate) fn carried(
    cluster: &Snapshot,
    packet: &Packet,
    to: Option<&ObjectKey>,
) -> (Option<Protocol>, u16) {
    let ports = to.and_then(|key| cluster.pods.get(key)).map_or(&[][..], |pod| &pod.ports);
    match packet.declared {
        Some(number) if !ports.is_empty() => {
            let port = &ports[number % ports.len()];
            (Some(port.protocol), port.port.get())
        }
        _ => (packet.protocol, packet.port),
    }
}

/// `named` is `cluster` with the policies that labels stand for.
fn check(
    cluster: &Snapshot,
    named: &Snapshot,
    tables: &Dataplane,
    packet: &Packet,
    coverage: &mut Coverage,
) -> Result<(), TestCaseError> {
    let Some(family) = family_of(packet) else { return Ok(()) };
    let ends = (find(cluster, packet.source, family), find(cluster, packet.destination, family));
    let (Some(source), Some(destination)) = ends else { return Ok(()) };
    // A pod's packets to itself never leave it.
    if source.addr == destination.addr || (source.pod.is_some() && source.pod == destination.pod) {
        return Ok(());
    }
    let (protocol, port) = carried(cluster, packet, destination.pod);
    let flow = oracle_flow((&source, &destination), (protocol, port));
    let judgement = networkpolicy(cluster, &flow);
    let [egress, ingress] = judgement.audited;
    for (direction, subject, peer, decision, audited) in [
        (Direction::Egress, &source, &destination, &judgement.egress, egress),
        (Direction::Ingress, &destination, &source, &judgement.ingress, ingress),
    ] {
        let Some(attachment) = subject.attachment else { continue };
        let question = Question { direction, peer: peer.addr, protocol, port };
        let found = verdict(tables, attachment, &question);
        let agrees = match (&found, decision) {
            (Verdict::Open, Decision::NotIsolated) => true,
            (Verdict::Denied, Decision::Denied(isolating)) => {
                let Some(Posture::Judged(set)) = tables.pods.get(attachment).map(|row| &row.posture) else {
                    return Err(TestCaseError::fail("a pod without a row was judged"));
                };
                set.isolated_by(direction).cloned().collect::<Vec<_>>() == *isolating
            }
            (Verdict::Allowed(origin), Decision::Allowed(rules)) => {
                origin.direction == direction
                    && rules.contains(&Allowed { policy: origin.policy.clone(), rule: origin.rule })
            }
            (Verdict::Allowed(origin), Decision::Accepted(by))
            | (Verdict::Refused(origin), Decision::Refused(by)) => *origin == origin_of(by, direction),
            _ => false,
        };
        prop_assert!(agrees, "{question:?} of {subject:?}: tables {found:?}, objects {decision:?}");
        prop_assert_eq!(passes(tables, attachment, &question), decision.allows() || audited);
        if audited {
            coverage.hit("audited");
        }
        coverage.count(named, subject.pod.unwrap(), &question, decision, peer.pod);
    }
    Ok(())
}

pub(crate) fn origin_of(by: &ByTier, direction: Direction) -> Origin {
    Origin { policy: ObjectKey::cluster_scoped(by.policy.clone()), direction, rule: by.rule }
}

/// How often each kind of thing decided.
#[derive(Debug, Default)]
struct Coverage {
    packets: usize,
    kinds: BTreeMap<&'static str, usize>,
}

impl Coverage {
    const ISOLATION: [&'static str; 3] = ["isolation: denied", "isolation: names", "isolation: own tenant"];
    const POLICIES: [&'static str; 18] = [
        "not isolated",
        "audited",
        "denied",
        "allowed",
        "except hit",
        "block on a pod",
        "every peer",
        "own namespace",
        "namespace selector",
        "block",
        "no ports",
        "all ports",
        "number",
        "range",
        "named ingress",
        "named egress",
        "SCTP allowed",
        "ICMP allowed",
    ];
    const TIERS: [&'static str; 15] = [
        "Admin Accept",
        "Admin Deny",
        "Admin Pass, then a NetworkPolicy",
        "Admin Pass, then no NetworkPolicy",
        "Baseline Accept",
        "Baseline Deny",
        "Baseline Pass",
        "tier every protocol",
        "tier number",
        "tier range",
        "tier named port",
        "tier pods",
        "tier nodes",
        "tier network",
        "domain name",
    ];

    const TRAFFIC: [&'static str; 18] = [
        "not isolated",
        "denied",
        "allowed",
        "traffic Accept",
        "traffic Deny",
        "traffic default",
        "traffic unknown tier",
        "traffic before NetworkPolicies",
        "traffic without a tier",
        "traffic of a namespace",
        "traffic after NetworkPolicies",
        "traffic accounts",
        "traffic network",
        "traffic set",
        "traffic Service",
        "traffic closed",
        "domain name",
        "tier pods",
    ];

    fn hit(&mut self, kind: &'static str) {
        *self.kinds.entry(kind).or_default() += 1;
    }

    fn count(
        &mut self,
        cluster: &Snapshot,
        subject: &ObjectKey,
        question: &Question,
        decision: &Decision,
        peer: Option<&ObjectKey>,
    ) {
        self.packets += 1;
        let subject = &cluster.pods[subject];
        if excepted(cluster, subject, question) {
            self.hit("except hit");
        }
        self.count_pass(cluster, subject, question, decision, peer);
        match decision {
            Decision::NotJudged => {}
            Decision::NotIsolated => self.hit("not isolated"),
            Decision::Denied(isolating) => {
                self.hit("denied");
                if isolating.iter().all(|policy| &*policy.name == ISOLATION) {
                    self.hit("isolation: denied");
                }
            }
            Decision::Accepted(by) | Decision::Refused(by) => {
                self.hit(match (&by.tier, decision.allows()) {
                    (Tier::Admin, true) => "Admin Accept",
                    (Tier::Admin, false) => "Admin Deny",
                    (Tier::Baseline, true) => "Baseline Accept",
                    (Tier::Baseline, false) => "Baseline Deny",
                    (_, true) => "traffic Accept",
                    (_, false) => "traffic Deny",
                });
                self.count_tier(cluster, by, question);
            }
            Decision::Allowed(rules) => {
                self.hit("allowed");
                match question.protocol {
                    Some(Protocol::Sctp) => self.hit("SCTP allowed"),
                    None => self.hit("ICMP allowed"),
                    Some(_) => {}
                }
                for rule in rules.iter().filter(|rule| &*rule.policy.name == ISOLATION) {
                    let is_names = (question.direction, rule.rule) == (Direction::Egress, 0);
                    self.hit(if is_names { "isolation: names" } else { "isolation: own tenant" });
                }
                for rule in rules {
                    let policy = &cluster.policies[&rule.policy];
                    let rule = &rules_of(policy, question.direction)[rule.rule as usize];
                    self.count_rule(rule, question.direction, peer.is_some());
                }
            }
        }
    }

    /// Counts a rule that allowed a packet and has peers, or ports, of one kind only.
    fn count_rule(&mut self, rule: &PolicyRule, direction: Direction, to_pod: bool) {
        let peers = rule.peers.iter().map(|peer| match peer {
            Peer::Pods { namespaces: None, .. } => "own namespace",
            Peer::Pods { namespaces: Some(_), .. } => "namespace selector",
            Peer::Block(_) => "block",
        });
        if let Some(kind) = only(peers, "every peer") {
            self.hit(kind);
            if kind == "block" && to_pod {
                self.hit("block on a pod");
            }
        }
        let ports = rule.ports.iter().map(|port| match (&port.port, direction) {
            (PortMatch::All, _) => "all ports",
            (PortMatch::Range(range), _) if range.first() == range.last() => "number",
            (PortMatch::Range(_), _) => "range",
            (PortMatch::Named(_), Direction::Ingress) => "named ingress",
            (PortMatch::Named(_), Direction::Egress) => "named egress",
        });
        if let Some(kind) = only(ports, "no ports") {
            self.hit(kind);
        }
    }

    /// Counts the rule of a tier that decided, by peers and ports where they are of one kind only.
    fn count_tier(&mut self, cluster: &Snapshot, by: &ByTier, question: &Question) {
        if let Tier::Before(place) = &by.tier
            && place.name.is_empty()
        {
            self.hit("traffic unknown tier");
        }
        self.hit(match &by.tier {
            Tier::Admin | Tier::Baseline => "tier of ClusterNetworkPolicies",
            _ if by.policy.starts_with("TrafficTier/") => "traffic default",
            Tier::Before(_) => "traffic before NetworkPolicies",
            Tier::Unnamed => "traffic without a tier",
            Tier::Own => "traffic of a namespace",
            Tier::After(_) => "traffic after NetworkPolicies",
        });
        let rules = cluster.cluster_policies[&by.policy].rules(question.direction);
        let mut rules = rules.iter().filter(|rule| rule.index == by.rule);
        let (Some(rule), None) = (rules.next(), rules.next()) else {
            return self.hit("traffic Service");
        };
        if rule.fault.is_some() {
            return self.hit("traffic closed");
        }
        let peers = rule.peers.iter().flatten().map(|peer| match peer {
            ClusterPeer::Pods(pods) if !pods.accounts.is_empty() => "traffic accounts",
            ClusterPeer::Pods(_) => "tier pods",
            ClusterPeer::Nodes(_) => "tier nodes",
            ClusterPeer::Network(_) => "tier network",
            ClusterPeer::Domain(_) => "domain name",
            ClusterPeer::Block(_) => "traffic network",
            ClusterPeer::Blocks(blocks) if blocks.of.starts_with("Service ") => "traffic Service",
            ClusterPeer::Blocks(_) => "traffic set",
        });
        if let Some(kind) = only(peers, "tier every peer") {
            self.hit(kind);
        }
        let ports = rule.ports.iter().map(|port| match &port.port {
            PortMatch::All => "tier all ports",
            PortMatch::Range(range) if range.first() == range.last() => "tier number",
            PortMatch::Range(_) => "tier range",
            PortMatch::Named(_) => "tier named port",
        });
        if let Some(kind) = only(ports, "tier every protocol") {
            self.hit(kind);
        }
    }

    /// Counts a decision that would be another if no rule had the action Pass, by the tier of the first such policy.
    fn count_pass(
        &mut self,
        cluster: &Snapshot,
        subject: &Pod,
        question: &Question,
        decision: &Decision,
        peer: Option<&ObjectKey>,
    ) {
        for tier in [Tier::Admin, Tier::Baseline] {
            let mut without = cluster.clone();
            for policy in cluster.cluster_policies.values().filter(|policy| policy.tier == tier) {
                let mut policy = (**policy).clone();
                for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
                    if rule.action == Action::Pass {
                        rule.peers = Some(Vec::new());
                    }
                }
                without.cluster_policies.insert(policy.name.clone(), policy.into());
            }
            if without.cluster_policies == cluster.cluster_policies {
                continue;
            }
            let own = subject.addresses.iter().next().unwrap_or(question.peer);
            let (from, to) = match question.direction {
                Direction::Ingress => ((question.peer, peer), (own, Some(&subject.key))),
                Direction::Egress => ((own, Some(&subject.key)), (question.peer, peer)),
            };
            let flow = Flow {
                source: from.0,
                source_pod: from.1,
                destination: to.0,
                destination_pod: to.1,
                protocol: question.protocol.map_or(L4::Icmp, L4::from),
                port: question.port,
            };
            let judgement = networkpolicy(&without, &flow);
            let other = match question.direction {
                Direction::Ingress => judgement.ingress,
                Direction::Egress => judgement.egress,
            };
            if other == *decision {
                continue;
            }
            self.hit(match (&tier, decision) {
                (Tier::Baseline, _) => "Baseline Pass",
                (Tier::Admin, Decision::Denied(_) | Decision::Allowed(_)) => {
                    "Admin Pass, then a NetworkPolicy"
                }
                (_, _) => "Admin Pass, then no NetworkPolicy",
            });
        }
    }

    fn assert_wide(&self, wanted: &[&'static str]) {
        eprintln!("{} judgements: {:?}", self.packets, self.kinds);
        assert!(self.packets >= 100_000, "only {} judgements", self.packets);
        for kind in wanted {
            let hits = self.kinds.get(*kind).copied().unwrap_or_default();
            // 1 % of 100,000.
            assert!(hits >= 1_000, "{kind}: {hits} of {} judgements", self.packets);
        }
    }
}

fn only(mut kinds: impl Iterator<Item = &'static str>, none: &'static str) -> Option<&'static str> {
    let Some(first) = kinds.next() else { return Some(none) };
    kinds.all(|kind| kind == first).then_some(first)
}

fn rules_of(policy: &NetworkPolicy, direction: Direction) -> &[PolicyRule] {
    match direction {
        Direction::Ingress => policy.ingress.as_deref().unwrap_or_default(),
        Direction::Egress => policy.egress.as_deref().unwrap_or_default(),
    }
}

/// Whether the peer lies in an exception of a block that would match it.
fn excepted(cluster: &Snapshot, subject: &Pod, question: &Question) -> bool {
    cluster.policies.values().any(|policy| {
        policy.key.namespace == subject.key.namespace
            && policy.pod_selector.matches(&subject.labels)
            && rules_of(policy, question.direction).iter().flat_map(|rule| &rule.peers).any(|peer| match peer
            {
                Peer::Block(block) => block.except.iter().any(|except| except.contains(&question.peer)),
                Peer::Pods { .. } => false,
            })
    })
}
