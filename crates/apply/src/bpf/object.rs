//! The eBPF object: which bytes, and what its maps look like.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use aya_obj::Object;
use sha2::{Digest as _, Sha256};
use sheetbend_ebpf_abi::names;

use super::error::BpfError;

/// The object of this build, made by `cargo xtask ebpf` and kept in the repository, so that a build needs no LLVM.
/// Aligned, since it is parsed as ELF.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../ebpf/object/sheetbend.o"));

/// Maps that are pinned once per layout version: (name, what its entries come from).
pub(super) const PINNED: [(&str, &str); 27] = [
    (names::CONFIG, "the node"),
    (names::POD_RANGE, "the node"),
    (names::POLICY_EPOCH, "the node"),
    (names::PODS, "pods of this node"),
    (names::LOCAL, "addresses of pods of this node"),
    (names::CLASSES, "pod addresses that policies of this node select"),
    (names::BLOCKS, "ipBlocks in policies of this node"),
    (names::RULES, "rules of policies of this node"),
    (names::ROUTES, "pod ranges and addresses of nodes"),
    (names::SERVICES, "Service ports"),
    (names::SERVICE_ADDRESSES, "addresses of Services"),
    (names::SOURCES, "loadBalancerSourceRanges of Services"),
    (names::SLOTS, "ready endpoints of Services"),
    (names::BACKENDS, "endpoints of Services"),
    (names::CONNECTIONS, "endpoints of Services"),
    (names::AFFINITY, "clients with session affinity"),
    (names::SOCKETS, "sockets of processes that use Services"),
    (names::ROUND_ROBIN, "round-robin Services"),
    (names::CT, "flows"),
    (names::CT_NEW, "half-open flows"),
    (names::SERVICE_FLOWS, "flows to Services"),
    (names::SNAT, "masqueraded flows"),
    (names::GROWTH, "the node"),
    (names::FRAGMENTS, "fragmented datagrams"),
    (names::COUNTERS, "pods and reasons"),
    (names::EVENTS, "events"),
    (names::SYMBOLS, "policies, Services and endpoints"),
];

/// What the kernel is told when it makes a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapLayout {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// The object to load.
pub(super) struct ProgramObject {
    bytes: Cow<'static, [u8]>,
    /// Names the directory of this version's programs.
    pub(super) digest: String,
    /// Map name → layout.
    pub(super) maps: BTreeMap<String, MapLayout>,
    /// Names of its programs.
    pub(super) programs: Vec<String>,
}

impl ProgramObject {
    /// Reads the object at `path`, or the built-in one, with other `limits` (map name → max entries).
    pub(super) fn open(path: Option<&Path>, limits: &BTreeMap<String, u32>) -> Result<Self, BpfError> {
        let bytes = match path {
            Some(path) => Cow::Owned(
                std::fs::read(path)
                    .map_err(|source| BpfError::ObjectFile { path: path.to_owned(), source })?,
            ),
            None => Cow::Borrowed(&EMBEDDED.0),
        };
        let object = Object::parse(&bytes).map_err(|error| BpfError::Object { reason: error.to_string() })?;
        let maps = object.maps.iter().map(|(name, map)| {
            let layout = MapLayout {
                kind: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: limits.get(name).copied().unwrap_or_else(|| map.max_entries()),
                flags: map.map_flags(),
            };
            (name.clone(), layout)
        });
        let maps: BTreeMap<String, MapLayout> = maps.collect();
        if let Some((name, _)) = PINNED.iter().find(|(name, _)| !maps.contains_key(*name)) {
            return Err(BpfError::Object { reason: format!("it has no map {name}") });
        }
        if let Some(name) = limits.keys().find(|name| !maps.contains_key(*name)) {
            return Err(BpfError::Object { reason: format!("limits.{name}: there is no such table") });
        }
        let digest = Sha256::digest(&bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut programs: Vec<String> = object.programs.keys().cloned().collect();
        programs.sort_unstable();
        Ok(Self { digest, maps, programs, bytes })
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sheetbend_ebpf_abi as abi;

    use super::ProgramObject;
    use crate::bpf::plain::Lpm;

    #[test]
    fn the_committed_object_has_the_layout_of_the_abi() {
        let object = ProgramObject::open(None, &BTreeMap::new()).expect("the committed object");
        let sizes = |name: &str| (object.maps[name].key_size as usize, object.maps[name].value_size as usize);
        assert_eq!(sizes(abi::names::CONFIG), (4, size_of::<abi::NodeConfig>()));
        assert_eq!(sizes(abi::names::PODS), (4, size_of::<abi::PodEntry>()));
        assert_eq!(sizes(abi::names::LOCAL), (size_of::<abi::ClassKey>(), 4));
        assert_eq!(sizes(abi::names::CLASSES), (size_of::<abi::ClassKey>(), 4));
        assert_eq!(sizes(abi::names::SERVICE_ADDRESSES), (size_of::<abi::ClassKey>(), 4));
        assert_eq!(sizes(abi::names::BLOCKS), (size_of::<Lpm<abi::PrefixKey>>(), 4));
        assert_eq!(
            sizes(abi::names::ROUTES),
            (size_of::<Lpm<abi::PrefixKey>>(), size_of::<abi::RouteEntry>())
        );
        assert_eq!(sizes(abi::names::RULES), (size_of::<Lpm<abi::RuleKey>>(), size_of::<abi::RuleValue>()));
        assert_eq!(
            sizes(abi::names::SERVICES),
            (size_of::<abi::ServiceKey>(), size_of::<abi::ServiceEntry>())
        );
        assert_eq!(sizes(abi::names::BACKENDS), (4, size_of::<abi::BackendEntry>()));
        assert_eq!(sizes(abi::names::SLOTS), (4, 4));
        assert_eq!(sizes(abi::names::CONNECTIONS), (4, 8));
        assert_eq!(sizes(abi::names::CT), (size_of::<abi::CtKey>(), size_of::<abi::CtEntry>()));
        assert_eq!(sizes(abi::names::SYMBOLS), (size_of::<abi::SymbolKey>(), 16));
        let sockets = abi::SOCKET_PROGRAMS.map(|(name, _)| name);
        for name in abi::Hook::ALL.map(abi::Hook::name).iter().chain(&abi::STAGE_PROGRAMS).chain(&sockets) {
            assert!(object.programs.iter().any(|program| program == name), "program {name}");
        }
    }
}
