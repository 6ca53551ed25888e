//! Policies that are staged are apart from those that are enforced.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use sheetbend_intake::file::{Kind, Manifests, Object, ObjectId, Source, applied, deleted, parse, snapshot};
use sheetbend_model::state::Snapshot;

/// One policy of each kind.
const POLICIES: [&str; 4] = [
    "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: own, namespace: shop, annotations: {sheetbend.dev/enforcement: WORD}}
spec: {podSelector: {}}
",
    "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: platform, annotations: {sheetbend.dev/enforcement: WORD}}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
",
    "
apiVersion: sheetbend.dev/v1alpha1
kind: ClusterTrafficPolicy
metadata: {name: platform, annotations: {sheetbend.dev/enforcement: WORD}}
spec: {egress: [{action: Deny, to: [{pods: {}}]}]}
",
    "
apiVersion: sheetbend.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: own, namespace: shop, annotations: {sheetbend.dev/enforcement: WORD}}
spec: {egress: [{action: Deny, to: [{pods: {}}]}]}
",
];

/// Each policy with the word in the same place.
fn manifests(words: [&str; 4]) -> Manifests {
    let written = POLICIES.iter().zip(words).map(|(policy, word)| policy.replace("WORD", word));
    let bytes = written.collect::<Vec<_>>().join("---").into_bytes();
    parse(&[Source { name: Path::new("policies.yaml").into(), bytes }]).unwrap()
}

fn objects(manifests: &Manifests) -> Vec<&Object> {
    manifests.objects.values().map(|manifest| &*manifest.object).collect()
}

fn without_staged(cluster: &Snapshot) -> Snapshot {
    Snapshot { staged: Default::default(), ..cluster.clone() }
}

#[test]
fn the_enforced_set_is_the_one_without_them() {
    let all = snapshot(objects(&manifests(["enforced"; 4])));
    assert!(all.staged.is_empty());
    // Each choice of what is staged.
    for choice in 0..16u8 {
        let is_staged = |index: usize| choice & (1 << index) != 0;
        let words = [0, 1, 2, 3].map(|index| if is_staged(index) { "staged" } else { "enforced" });
        let manifests = manifests(words);
        let whole = snapshot(objects(&manifests));
        let says_staged = |object: &&Object| {
            object.metadata().annotations.as_ref().unwrap()["sheetbend.dev/enforcement"] == "staged"
        };
        let enforced = objects(&manifests).into_iter().filter(|object| !says_staged(object));
        assert_eq!(without_staged(&whole), snapshot(enforced), "{words:?}");
        assert_eq!(whole.staged.len(), usize::try_from(choice.count_ones()).unwrap());
        assert_eq!(whole.staged.keys().count(), whole.staged.len());
        assert_eq!(whole.with_staged(), all, "{words:?}");
    }
}

#[test]
fn a_policy_is_staged_or_enforced_and_never_both() {
    let all = snapshot(objects(&manifests(["enforced"; 4])));
    let none = snapshot(objects(&manifests(["staged"; 4])));
    assert_eq!((none.staged.len(), without_staged(&none)), (4, Snapshot::default()));
    assert_eq!(applied(&all, objects(&manifests(["staged"; 4]))), none);
    assert_eq!(applied(&none, objects(&manifests(["enforced"; 4]))), all);
    let id = ObjectId::new(Kind::NetworkPolicy, "shop", "own");
    assert_eq!(deleted(&none, &id).unwrap().staged.len(), 3);
    assert!(deleted(&all, &id).unwrap().policies.is_empty());
}

#[test]
fn a_namespace_is_in_audit_where_its_annotation_says_so() {
    for (word, audit, named) in
        [("audit", true, 0), ("enforced", false, 0), ("staged", false, 1), ("Audit", false, 1)]
    {
        let text = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, annotations: {{sheetbend.dev/enforcement: {word}}}}}}}"
        );
        let source = Source { name: Path::new("namespace.yaml").into(), bytes: text.into_bytes() };
        let manifests = parse(&[source]).unwrap();
        let cluster = snapshot(objects(&manifests));
        assert_eq!((cluster.audits("shop"), cluster.audits("elsewhere")), (audit, false), "{word}");
        let notices: Vec<String> = manifests.notices.iter().map(ToString::to_string).collect();
        assert_eq!(notices.len(), named, "{notices:?}");
        let all = Snapshot { audit: true, ..cluster };
        assert!(all.audits("shop") && all.audits("elsewhere"));
    }
}

#[test]
fn what_is_not_understood_is_enforced_and_named() {
    let manifests = manifests(["stagd"; 4]);
    assert_eq!(snapshot(objects(&manifests)), snapshot(objects(&self::manifests(["enforced"; 4]))));
    let notices: Vec<String> = manifests.notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 4, "{notices:?}");
    assert!(
        notices
            .iter()
            .all(|text| text.contains("\"stagd\" is none of staged, enforced; the policy is enforced"))
    );
}
