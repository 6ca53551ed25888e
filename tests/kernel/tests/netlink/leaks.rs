//! `sheetbend debug leaks` finds one of each kind, and nothing on a node where all is well.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use serde_json::{Value, json};
use sheetbend_apply::store::boot_id;
use sheetbend_ebpf_abi::{LAYOUT_VERSION, PodEntry, RuleKey, RuleValue, names};
use sheetbend_kernel_tests::netlink::Netns;

use crate::kubernetes::cluster;

pub(crate) const TESTS: &[crate::Test] = &[("leaks::one_of_each_kind_is_found", one_of_each_kind_is_found)];

/// A pod of no device, and a rule of no policy set.
fn plant_rows(pins: &Path) -> Result<()> {
    let map = |name: &str| MapData::from_pin(pins.join(name)).with_context(|| name.to_owned());
    let mut pods = HashMap::<_, u32, [u8; size_of::<PodEntry>()]>::try_from(Map::HashMap(map(names::PODS)?))?;
    pods.insert(0xfffe, [0; size_of::<PodEntry>()], 0)?;
    let rules = Map::LpmTrie(map(names::RULES)?);
    let mut rules = LpmTrie::<_, [u8; size_of::<RuleKey>()], [u8; size_of::<RuleValue>()]>::try_from(rules)?;
    let bits = 8 * size_of::<RuleKey>() as u32;
    rules.insert(&Key::new(bits, [0xfe; size_of::<RuleKey>()]), [0; size_of::<RuleValue>()], 0)?;
    Ok(())
}

fn first(directory: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    Ok(entries.next().with_context(|| format!("{} is empty", directory.display()))??.path())
}

fn one_of_each_kind_is_found() -> Result<()> {
    let (mut node, server) = cluster()?;
    node.start_ready(None)?;
    let netns = Netns::new()?;
    ensure!(node.cni_pod("ADD", "shop/web", &netns.path())?.ok, "{}", node.log()?);
    ensure!(node.leaks()?.is_empty(), "all is well: {:?}", node.leaks()?);

    let state = node.path("state").join(boot_id()?);
    let of_nobody = json!({"attachment": {"container_id": "nobody", "ifname": "eth0"}});
    fs::write(state.join("leases/10.244.1.99"), of_nobody.to_string())?;
    let attachments = state.join("attachments");
    let own = first(&attachments)?;
    let mut copy: Value = serde_json::from_slice(&fs::read(own)?)?;
    copy["id"]["container_id"] = json!("linkless");
    copy["host_ifname"] = json!("sb0123456789abc");
    fs::write(attachments.join("linkless@eth0"), copy.to_string())?;
    node.netns.ip("link add sb00000000000ff type veth peer name stranger")?;
    let pins = node.path("bpf/sheetbend/test").join(format!("v{LAYOUT_VERSION}"));
    plant_rows(&pins)?;
    let links = node.path("bpf/sheetbend/test/links");
    let link: FdLink = PinnedLink::from_pin(first(&links)?)?.into();
    let stray = link.pin(links.join("9999-from_pod"))?;
    server.delete("pods", "shop", "web");

    let found = node.leaks()?;
    let expected = [
        ("address", "10.244.1.99"),
        ("attachment", "linkless"),
        ("attachment", "shop/web"),
        ("link", "sb00000000000ff"),
        ("program", "9999-from_pod"),
        ("entry", names::PODS),
        ("entry", names::RULES),
    ];
    for (kind, object) in expected {
        let is = |leak: &&Value| {
            leak["kind"] == kind && leak["object"].as_str().is_some_and(|text| text.contains(object))
        };
        ensure!(found.iter().any(|leak| is(&leak)), "no {kind} {object} among {found:#?}");
    }
    drop(stray);
    Ok(())
}
