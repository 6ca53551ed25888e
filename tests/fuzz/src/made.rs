//! Inputs that this version of ours would write itself, of random clusters that are always the same.

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use sheetbend_intake::last_good as file;
use sheetbend_model::state::Snapshot;
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::manifests;

/// How many clusters.
const CLUSTERS: usize = 4;
/// Pods and policies of each, at most: small inputs are read often.
const MOST: usize = 4;

fn clusters() -> Vec<Snapshot> {
    let mut runner = TestRunner::deterministic();
    let mut one = || cluster().new_tree(&mut runner).unwrap_or_else(|error| panic!("{error}")).current();
    let mut clusters: Vec<Snapshot> = (0..CLUSTERS).map(|_| one()).collect();
    for cluster in &mut clusters {
        let keys: Vec<_> = cluster.pods.keys().skip(MOST).cloned().collect();
        keys.iter().for_each(|key| drop(cluster.pods.remove(key)));
        let keys: Vec<_> = cluster.policies.keys().skip(MOST).cloned().collect();
        keys.iter().for_each(|key| drop(cluster.policies.remove(key)));
    }
    clusters
}

/// Namespaces, pods and policies as an API server sends them.
pub(crate) fn objects() -> Vec<Vec<u8>> {
    let all = |cluster: &Snapshot| {
        [manifests::namespaces(cluster), manifests::pods(cluster), manifests::policies(cluster)].concat()
    };
    clusters().iter().map(|cluster| json(&all(cluster))).collect()
}

/// Files of attachments.
pub(crate) fn attachments() -> Vec<Vec<u8>> {
    clusters().iter().flat_map(|cluster| cluster.attachments.values()).map(|one| json(&**one)).collect()
}

/// Last good Snapshots, without the digest.
pub(crate) fn last_good() -> Vec<Vec<u8>> {
    let text = |cluster: &Snapshot| {
        let text = file::text(cluster).unwrap_or_else(|error| panic!("{error}"));
        let lines = text.lines().filter(|line| !line.starts_with("sha256 "));
        lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes()
    };
    clusters().iter().map(text).collect()
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| panic!("{error}"))
}
