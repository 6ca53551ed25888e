#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sheetbend_model::state::{Attachment, AttachmentId};
use sheetbend_model::types::{Mac, NetworkId, ObjectKey};

use super::{Store, StoreError};

const BOOT: &str = "5c2f6b1e-2d1c-4a53-9a54-0f8b9d6d1a01";
const NOW: Duration = Duration::from_secs(1000);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(container: &str) -> AttachmentId {
    AttachmentId { container_id: container.into(), ifname: "eth0".into() }
}

fn attachment(container: &str, addresses: &[&str]) -> Arc<Attachment> {
    Arc::new(Attachment {
        id: id(container),
        pod: Some(ObjectKey::new("shop", "web-0")),
        pod_uid: None,
        netns: "/run/netns/x".into(),
        network: NetworkId::default(),
        addresses: addresses.iter().map(|addr| ip(addr)).collect(),
        host_ifname: "sb0123456789abc".into(),
        host_ifindex: 7,
        host_mac: Mac([0x0a, 0x5b, 0, 0, 0, 1]),
        pod_mac: Mac([0x0a, 0x5d, 1, 2, 3, 4]),
        mtu: 1450,
        bandwidth: Default::default(),
    })
}

fn open(directory: &Path) -> (Store, super::Recovered) {
    Store::open(directory, BOOT, NOW).unwrap()
}

#[test]
fn what_is_written_is_found_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let web = attachment("web", &["10.244.1.2", "fd00::2"]);
    let (mut store, _) = open(directory.path());
    for addr in &web.addresses {
        store.lease(*addr, &web.id).unwrap();
    }
    store.put(Arc::clone(&web)).unwrap();
    let (store, recovered) = open(directory.path());
    assert_eq!(recovered, super::Recovered::default());
    assert_eq!(store.attachments().collect::<Vec<_>>(), [&web]);
    assert_eq!(store.leases().len(), 2);
    let lease = directory.path().join(BOOT).join("leases/10.244.1.2");
    assert_eq!(
        std::fs::read_to_string(lease).unwrap(),
        "{\"attachment\":{\"container_id\":\"web\",\"ifname\":\"eth0\"}}\n"
    );
    assert!(directory.path().join(BOOT).join("attachments/web@eth0").exists());
}

#[test]
fn an_address_is_leased_once() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    store.lease(ip("10.244.1.2"), &id("web")).unwrap();
    let error = store.lease(ip("10.244.1.2"), &id("api")).unwrap_err();
    assert_eq!(error.to_string(), "address 10.244.1.2 belongs to container web, interface eth0");
    // Also when the index knows nothing of it.
    let (mut second, _) = open(directory.path());
    second.lease(ip("10.244.1.3"), &id("api")).unwrap();
    assert!(matches!(store.lease(ip("10.244.1.3"), &id("job")), Err(StoreError::Io { .. })));
}

#[test]
fn a_lease_without_attachment_is_released_and_rests() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    store.lease(ip("fd00::2"), &id("web")).unwrap();
    let (store, recovered) = open(directory.path());
    assert_eq!(recovered.orphans.into_iter().collect::<Vec<_>>(), [(ip("fd00::2"), id("web"))]);
    assert!(store.leases().is_empty());
    assert_eq!(store.resting().get(&ip("fd00::2")), Some(&NOW));
}

#[test]
fn released_addresses_rest_over_a_restart_and_are_forgotten_later() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    store.lease(ip("10.244.1.2"), &id("web")).unwrap();
    store.release(ip("10.244.1.2"), NOW).unwrap();
    store.release(ip("10.244.1.2"), NOW * 2).unwrap();
    let (mut store, _) = open(directory.path());
    assert_eq!(store.resting().get(&ip("10.244.1.2")), Some(&NOW));
    store.forget_released(NOW).unwrap();
    assert_eq!(store.resting().len(), 1);
    store.forget_released(NOW + Duration::from_millis(1)).unwrap();
    assert!(store.resting().is_empty());
    assert_eq!(std::fs::read_dir(directory.path().join(BOOT).join("released")).unwrap().count(), 0);
}

#[test]
fn another_boots_files_are_removed_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let earlier = directory.path().join("aaaaaaaa-2d1c-4a53-9a54-0f8b9d6d1a01");
    std::fs::create_dir_all(earlier.join("leases")).unwrap();
    std::fs::write(earlier.join("leases/10.244.1.2"), "{").unwrap();
    std::fs::write(directory.path().join("snapshot.json"), "{}").unwrap();
    let (store, recovered) = open(directory.path());
    assert!(store.leases().is_empty());
    assert_eq!(recovered.earlier_boots, ["aaaaaaaa-2d1c-4a53-9a54-0f8b9d6d1a01"]);
    assert!(!earlier.exists());
    assert!(directory.path().join("snapshot.json").exists());
}

#[test]
fn half_written_files_are_no_files() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let leases = directory.path().join(BOOT).join("leases");
    std::fs::write(leases.join(".new-10.244.1.2"), "{\"attach").unwrap();
    let (store, _) = open(directory.path());
    assert!(store.leases().is_empty());
    assert_eq!(std::fs::read_dir(leases).unwrap().count(), 0);
}

#[test]
fn a_foreign_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    std::fs::write(directory.path().join(BOOT).join("leases/notes.txt"), "hello").unwrap();
    let error = Store::open(directory.path(), BOOT, NOW).unwrap_err().to_string();
    assert!(error.contains("leases/notes.txt is not what an agent writes"), "{error}");
}
