//! The maps: names, types and limits of `sheetbend-ebpf-abi`.
//!
//! Tables of configuration are not preallocated, so that they cost what they hold. Tables of flows are LRU, which the
//! kernel always preallocates; while one grows, its older one is `*_OLD`. All but those, `STAGES`, `UPLINK` and the
//! scratch space are pinned by name.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, PerCpuHashMap, ProgramArray,
        RingBuf,
    },
};
use sheetbend_ebpf_abi::{
    AffinityKey, AffinityValue, BackendEntry, ClassKey, CounterKey, CounterValue, CtEntry, CtKey,
    FragmentKey, FragmentValue, NodeConfig, PodEntry, PrefixKey, RouteEntry, RuleKey, RuleValue,
    STAGE_PROGRAMS, ServiceEntry, ServiceFlowKey, ServiceFlowValue, ServiceKey, SnatKey, SnatValue,
    SocketKey, SocketValue, SourceKey, SymbolKey, limits,
};

use crate::packet::{Ip, Mac, Packet};

#[map]
pub static CONFIG: Array<NodeConfig> = Array::pinned(1, 0);
#[map]
pub static POD_RANGE: Array<Ip> = Array::pinned(1, 0);
#[map]
pub static POLICY_EPOCH: Array<u32> = Array::pinned(1, 0);
#[map]
pub static PODS: HashMap<u32, PodEntry> = HashMap::pinned(limits::PODS, BPF_F_NO_PREALLOC);
#[map]
pub static LOCAL: HashMap<ClassKey, u32> = HashMap::pinned(2 * limits::PODS, BPF_F_NO_PREALLOC);
#[map]
pub static CLASSES: HashMap<ClassKey, u32> = HashMap::pinned(limits::CLASSES, BPF_F_NO_PREALLOC);
#[map]
pub static BLOCKS: LpmTrie<PrefixKey, u32> = LpmTrie::pinned(limits::BLOCKS, BPF_F_NO_PREALLOC);
#[map]
pub static RULES: LpmTrie<RuleKey, RuleValue> = LpmTrie::pinned(limits::RULES, BPF_F_NO_PREALLOC);
#[map]
pub static ROUTES: LpmTrie<PrefixKey, RouteEntry> = LpmTrie::pinned(limits::ROUTES, BPF_F_NO_PREALLOC);
#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceEntry> = HashMap::pinned(limits::SERVICES, BPF_F_NO_PREALLOC);
#[map]
pub static SERVICE_ADDRESSES: HashMap<ClassKey, u32> =
    HashMap::pinned(limits::SERVICE_ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
pub static SOURCES: LpmTrie<SourceKey, u32> = LpmTrie::pinned(limits::SOURCES, BPF_F_NO_PREALLOC);
#[map]
pub static SLOTS: HashMap<u32, u32> = HashMap::pinned(limits::SLOTS, BPF_F_NO_PREALLOC);
#[map]
pub static BACKENDS: HashMap<u32, BackendEntry> = HashMap::pinned(limits::BACKENDS, BPF_F_NO_PREALLOC);
#[map]
pub static CONNECTIONS: Array<u64> = Array::pinned(limits::BACKENDS, 0);
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityValue> = LruHashMap::pinned(limits::AFFINITY, 0);
#[map]
pub static SOCKETS: LruHashMap<SocketKey, SocketValue> = LruHashMap::pinned(limits::SOCKETS, 0);
#[map]
pub static ROUND_ROBIN: LruPerCpuHashMap<u32, u32> = LruPerCpuHashMap::pinned(limits::ROUND_ROBIN, 0);
#[map]
pub static CT: LruHashMap<CtKey, CtEntry> = LruHashMap::pinned(limits::CT, 0);
#[map]
pub static CT_OLD: LruHashMap<CtKey, CtEntry> = LruHashMap::with_max_entries(1, 0);
#[map]
pub static CT_NEW: LruHashMap<CtKey, CtEntry> = LruHashMap::pinned(limits::CT_NEW, 0);
#[map]
pub static SERVICE_FLOWS: LruHashMap<ServiceFlowKey, ServiceFlowValue> =
    LruHashMap::pinned(limits::SERVICE_FLOWS, 0);
#[map]
pub static SERVICE_FLOWS_OLD: LruHashMap<ServiceFlowKey, ServiceFlowValue> =
    LruHashMap::with_max_entries(1, 0);
#[map]
pub static SNAT: LruHashMap<SnatKey, SnatValue> = LruHashMap::pinned(limits::SNAT, 0);
#[map]
pub static SNAT_OLD: LruHashMap<SnatKey, SnatValue> = LruHashMap::with_max_entries(1, 0);
#[map]
pub static GROWTH: Array<u32> = Array::pinned(1, 0);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::pinned(limits::FRAGMENTS, 0);
#[map]
pub static COUNTERS: PerCpuHashMap<CounterKey, CounterValue> =
    PerCpuHashMap::pinned(limits::COUNTERS, BPF_F_NO_PREALLOC);
#[map]
pub static EVENTS: RingBuf = RingBuf::pinned(limits::EVENTS_BYTES, 0);
#[map]
pub static SYMBOLS: HashMap<SymbolKey, [u8; 16]> = HashMap::pinned(limits::SYMBOLS, BPF_F_NO_PREALLOC);
#[map]
pub static STAGES: ProgramArray = ProgramArray::with_max_entries(STAGE_PROGRAMS.len() as u32, 0);
#[map]
pub static UPLINK: Array<Mac> = Array::with_max_entries(1, 0);
#[map]
pub static SCRATCH: PerCpuArray<Packet> = PerCpuArray::with_max_entries(1, 0);
