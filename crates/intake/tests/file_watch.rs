//! A watched directory: changes arrive, broken states do not.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sheetbend_intake::file::{Object, Watched, watch, write_object};
use sheetbend_model::state::Snapshot;

/// Long enough for a busy machine, far below the periodic reading.
const SOON: Duration = Duration::from_secs(10);

fn namespace(name: &str) -> Object {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    Namespace { metadata, ..Namespace::default() }.into()
}

async fn until(watched: &mut Watched, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let seen =
        watched.readings.wait_for(|reading| reading.as_ref().is_some_and(|last| wanted(&last.snapshot)));
    let reading = tokio::time::timeout(SOON, seen).await.unwrap().unwrap().clone();
    reading.unwrap().snapshot
}

fn swap(link: &Path, target: &str) {
    let new = link.with_extension("new");
    std::os::unix::fs::symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[tokio::test]
async fn edits_swaps_and_broken_files() {
    let top = tempfile::tempdir().unwrap();
    let link = top.path().join("cluster");
    let mut watched = watch(&link).unwrap();
    assert!(watched.readings.borrow().is_none(), "no directory yet");

    let one = top.path().join("cluster.1");
    fs::create_dir(&one).unwrap();
    write_object(&one, &namespace("a")).unwrap();
    swap(&link, "cluster.1");
    until(&mut watched, |snapshot| snapshot.namespaces.contains_key("a")).await;
    assert!(watched.errors.borrow().is_empty());

    // In place.
    write_object(&one, &namespace("b")).unwrap();
    until(&mut watched, |snapshot| snapshot.namespaces.len() == 2).await;

    // Whole, by rename; the old one goes.
    let two = top.path().join("cluster.2");
    fs::create_dir(&two).unwrap();
    fs::hard_link(one.join("namespace.b.json"), two.join("namespace.b.json")).unwrap();
    write_object(&two, &namespace("c")).unwrap();
    swap(&link, "cluster.2");
    fs::remove_dir_all(&one).unwrap();
    let good = until(&mut watched, |snapshot| snapshot.namespaces.contains_key("c")).await;
    assert_eq!(good.namespaces.len(), 2);
    let directory = watched.readings.borrow().as_ref().unwrap().directory.clone();
    assert_eq!(directory, fs::canonicalize(&two).unwrap(), "which reading this is");

    // Broken: said, and the last good state stays.
    fs::write(two.join("namespace.d.json"), "{\"kind\":").unwrap();
    fs::remove_file(two.join("namespace.b.json")).unwrap();
    let said = watched.errors.wait_for(|errors| !errors.is_empty());
    let said = tokio::time::timeout(SOON, said).await.unwrap().unwrap()[0].to_string();
    assert!(said.contains("cluster.2/namespace.d.json:2: broken YAML"), "{said}");
    assert!(Arc::ptr_eq(&good, &watched.readings.borrow().as_ref().unwrap().snapshot));

    // Repaired: all of it at once. In the second directory news arrive too.
    write_object(&two, &namespace("d")).unwrap();
    let last = until(&mut watched, |snapshot| snapshot.namespaces.contains_key("d")).await;
    assert_eq!(last.namespaces.keys().map(|name| &**name).collect::<Vec<_>>(), ["c", "d"]);
    let healed = watched.errors.wait_for(|errors| errors.is_empty());
    tokio::time::timeout(SOON, healed).await.unwrap().unwrap();
}
