#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use super::*;

fn file(text: &str) -> Sources {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    Sources::default().file(&path)
}

#[test]
fn later_sources_win() {
    let config = Config::load(
        file("network:\n  mode: vxlan\n  podCIDRs: [10.244.0.0/16, fd00::/48]\nnode: {instance: a}\n")
            .environment([("SHEETBEND_NETWORK_MODE".to_owned(), "host-gw".to_owned())])
            .flag("node.instance", Some("b")),
    )
    .unwrap();
    assert_eq!(config.network.mode, NetworkMode::HostGw);
    assert_eq!(config.network.pod_cidrs.len(), 2);
    assert_eq!(config.node.instance, "b");
}

#[test]
fn lists_have_environment_names_too() {
    let variables = [("SHEETBEND_NETWORK_POD_CIDRS".to_owned(), "10.0.0.0/8, fd00::/8".to_owned())];
    let config = Config::load(Sources::default().environment(variables)).unwrap();
    assert_eq!(config.network.pod_cidrs.len(), 2);
}

#[test]
fn every_fault_is_reported_at_once() {
    let errors = Config::load(
        file("network:\n  mod: vxlan\n  podCIDRs: [10.244.0.1/16]\nnat: {ports: 1-2}\n")
            .flag("network.mode", Some("bgp")),
    )
    .unwrap_err();
    let text = errors.to_string();
    assert_eq!(errors.0.len(), 4, "{text}");
    assert!(text.contains("there is no key network.mod; did you mean network.mode?"), "{text}");
    assert!(text.contains("write 10.244.0.0/16"), "{text}");
    assert!(text.contains("\"bgp\" is not built yet; use vxlan or host-gw"), "{text}");
    assert!(text.contains("nat.ports"), "{text}");
}

#[test]
fn a_pool_is_cut_into_a_sensible_number_of_ranges() {
    let config = Config::load(file(
        "ipam: {clusterPool: [10.244.0.0/16, fd00:10:244::/56]}\nkubernetes: {apiServer: 'https://[2001:db8::1]:6443'}\n",
    ))
    .unwrap();
    assert_eq!(config.cluster_pool.blocks.len(), 2);
    assert_eq!(config.kubernetes.api_server.as_deref(), Some("https://[2001:db8::1]:6443"));
    let errors = Config::load(file(
        "ipam: {clusterPool: [10.244.0.0/25, fd00::/8], nodeMaskSizeIPv4: 31}\nkubernetes: {apiServer: 192.0.2.1}\ncni: {version: 2.0.0}\n",
    ))
    .unwrap_err();
    let text = errors.to_string();
    assert_eq!(errors.0.len(), 5, "{text}");
    assert!(text.contains("10.244.0.0/25 cannot be cut into /24"), "{text}");
    assert!(text.contains("write one like https://192.0.2.10:6443"), "{text}");
}

#[test]
fn a_file_that_is_no_mapping_is_refused() {
    assert!(Config::load(file("- a\n")).is_err());
    assert!(Config::load(file("a: [\n")).is_err());
    assert_eq!(Config::load(file("")).unwrap(), Config::default());
}

#[test]
fn flow_tables_have_a_range_and_never_shrink() {
    let sizes = |text: &str| Config::load(file(text)).map(|config| config.conntrack);
    let of = |entries, max_entries| ConntrackConfig { entries, max_entries };
    assert_eq!(sizes("log: {level: info}\n").unwrap(), of(262_144, 1_048_576));
    assert_eq!(sizes("conntrack: {entries: 1024, maxEntries: 1024}\n").unwrap(), of(1_024, 1_024));
    assert_eq!(sizes("conntrack: {entries: 2097152}\n").unwrap(), of(2_097_152, 2_097_152));
    for (text, told) in [
        ("conntrack: {entries: 1023}\n", "1024 to 16777216"),
        ("conntrack: {maxEntries: 16777217}\n", "1024 to 16777216"),
        ("conntrack: {entries: 4096, maxEntries: 2048}\n", "less than conntrack.entries (4096)"),
    ] {
        let error = sizes(text).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn the_manifests_configuration_is_right() {
    for mode in [NetworkMode::Vxlan, NetworkMode::HostGw] {
        let overlays = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/kubernetes/overlays");
        let path = PathBuf::from(format!("{overlays}/{mode}/config.yaml"));
        let config = Config::load(Sources::default().file(&path)).unwrap();
        assert_eq!(config.network.mode, mode);
        assert_eq!(config.network.node_local_dns.addresses.len(), 2);
    }
}
