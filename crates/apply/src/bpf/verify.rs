//! The slow, obvious twin of sync: every table read back, numbers replaced by the digests of their symbols, and
//! compared with what a Dataplane says.

use std::collections::BTreeMap;
use std::fmt;

use sheetbend_ebpf_abi as abi;
use sheetbend_ebpf_abi::{SymbolKind, names};
use sheetbend_model::plan::{Dataplane, Posture};

use super::error::BpfError;
use super::kernel::Kernel;
use super::plain::Lpm;
use super::plan::Links;
use super::rows;
use super::services::Retired;
use super::symbols::{self, Digest};

/// A row that is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The map.
    pub table: &'static str,
    /// The row, as text; symbols by their digest.
    pub row: String,
    /// What a fresh compile says; `None` = no such row.
    pub wanted: Option<String>,
    /// What the kernel holds; `None` = no such row.
    pub held: Option<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
        write!(f, "{} {}: wanted {}, held {}", self.table, self.row, text(&self.wanted), text(&self.held))
    }
}

/// (table, row) → value, as texts.
type Rows = BTreeMap<(&'static str, String), String>;

/// (kind, number) → digest, as the kernel holds them.
struct Symbols(BTreeMap<(u32, u32), Digest>);

impl Symbols {
    fn text(&self, kind: SymbolKind, number: u32) -> String {
        if number == 0 {
            return "-".into();
        }
        self.0.get(&(kind as u32, number)).map_or_else(|| format!("unnamed {number}"), hex)
    }
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Kernel {
    /// Every row of the kernel's tables that is not as `want` says. Empty when the tables, with numbers replaced by
    /// names, equal it. What is only kept for its grace period is not counted.
    pub fn verify(&self, want: &Dataplane, links: Links<'_>) -> Result<Vec<Mismatch>, BpfError> {
        let mut wanted = wanted_rows(want, links);
        let node = rows::config(&self.config, &want.overlay);
        wanted.insert((names::CONFIG, String::new()), format!("{node:?}"));
        let range = rows::pod_range(&want.overlay);
        wanted.insert((names::POD_RANGE, String::new()), format!("{range:?}"));
        let mut held = self.held_rows(&wanted)?;
        let mut mismatches = Vec::new();
        for ((table, row), value) in wanted {
            let key = (table, row);
            let other = held.remove(&key);
            if other.as_ref() != Some(&value) {
                mismatches.push(Mismatch { table, row: key.1, wanted: Some(value), held: other });
            }
        }
        let rest = held.into_iter();
        mismatches.extend(rest.map(|((table, row), value)| Mismatch {
            table,
            row,
            wanted: None,
            held: Some(value),
        }));
        Ok(mismatches)
    }

    fn held_rows(&self, wanted: &Rows) -> Result<Rows, BpfError> {
        let mut symbols = Symbols(BTreeMap::new());
        self.numbers.table().for_each(|key, digest| symbols.0.extend([((key.kind, key.number), digest)]))?;
        let mut held = Rows::new();
        let config = self.tables.config.get(&0)?.unwrap_or_default();
        held.insert((names::CONFIG, String::new()), format!("{config:?}"));
        let range = self.tables.pod_range.get(&0)?.unwrap_or_default();
        held.insert((names::POD_RANGE, String::new()), format!("{range:?}"));
        self.held_policy(&symbols, wanted, &mut held)?;
        self.held_services(&symbols, &mut held)?;
        self.tables.pods.for_each(|ifindex, row| {
            let set = symbols.text(SymbolKind::PolicySet, row.set);
            held.insert((names::PODS, ifindex.to_string()), pod_text(row, &set));
        })?;
        self.tables.local.for_each(|key, ifindex| {
            held.insert((names::LOCAL, rows::class_key_back(&key).to_string()), ifindex.to_string());
        })?;
        Ok(held)
    }

    fn held_policy(&self, symbols: &Symbols, wanted: &Rows, held: &mut Rows) -> Result<(), BpfError> {
        self.tables.routes.for_each(|key, entry| {
            let row = (names::ROUTES, format!("{key:?}"));
            let is_guard = rows::prefix_key_back(&key).is_some_and(|block| self.is_route_guard(&block));
            if !is_guard || wanted.contains_key(&row) {
                held.insert(row, format!("{entry:?}"));
            }
        })?;
        self.tables.blocks.for_each(|key, class| {
            let row = (names::BLOCKS, format!("{key:?}"));
            let is_guard = rows::prefix_key_back(&key).is_some_and(|block| self.is_block_guard(&block));
            if !is_guard || wanted.contains_key(&row) {
                held.insert(row, symbols.text(SymbolKind::Class, class));
            }
        })?;
        self.tables.classes.for_each(|key, class| {
            let class = symbols.text(SymbolKind::Class, class);
            held.insert((names::CLASSES, rows::class_key_back(&key).to_string()), class);
        })?;
        self.tables.rules.for_each(|key, value| {
            let set = symbols.text(SymbolKind::PolicySet, key.data.set);
            let class = symbols.text(SymbolKind::Class, key.data.class);
            let origin = symbols.text(SymbolKind::Origin, value.origin);
            held.insert(
                (names::RULES, rule_text(&key, &set, &class)),
                rule_value_text(value.verdict, &origin),
            );
        })
    }

    fn held_services(&self, symbols: &Symbols, held: &mut Rows) -> Result<(), BpfError> {
        let mut slots: BTreeMap<u32, u32> = self.tables.slots.all()?.into_iter().collect();
        self.tables.services.for_each(|key, row| {
            let range = row.first_slot..row.first_slot.saturating_add(row.count);
            let backends: Vec<String> = range
                .map(|slot| rows::slot_back(slots.remove(&slot).unwrap_or(0)))
                .map(|(backend, weight)| slot_text(&symbols.text(SymbolKind::Backend, backend), weight))
                .collect();
            let service = symbols.text(SymbolKind::Service, row.service);
            held.insert((names::SERVICES, format!("{key:?}")), service_text(&row, &service, &backends));
        })?;
        self.tables.sources.for_each(|key, value| {
            let service = symbols.text(SymbolKind::Service, u32::from_be_bytes(key.data.service));
            held.insert((names::SOURCES, format!("{service} {}", source_text(&key))), value.to_string());
        })?;
        let retiring: Vec<Retired> = self.services.retiring.iter().map(|(_, retired)| *retired).collect();
        for (slot, backend) in slots {
            let is_retiring = retiring.iter().any(|retired| match retired {
                Retired::Slots { first, count } => (*first..first + count).contains(&slot),
                Retired::Backend(_) => false,
            });
            if !is_retiring {
                held.insert((names::SLOTS, slot.to_string()), backend.to_string());
            }
        }
        self.tables.service_addresses.for_each(|key, holder| {
            let key = rows::class_key_back(&key).to_string();
            held.insert((names::SERVICE_ADDRESSES, key), holder.to_string());
        })?;
        self.tables.backends.for_each(|number, row| {
            let is_held = self.numbers.is_held(SymbolKind::Backend, number);
            if is_held || !retiring.contains(&Retired::Backend(number)) {
                let digest = symbols.text(SymbolKind::Backend, number);
                held.insert((names::BACKENDS, digest), format!("{row:?}"));
            }
        })
    }
}

/// What the tables shall hold, straight from the symbols.
fn wanted_rows(want: &Dataplane, links: Links<'_>) -> Rows {
    let mut rows = Rows::new();
    for (key, route) in &want.routes {
        let value = rows::route(route, want.overlay.mode);
        rows.insert((names::ROUTES, format!("{:?}", rows::prefix_key(key))), format!("{value:?}"));
    }
    for (key, class) in &want.blocks {
        rows.insert((names::BLOCKS, format!("{:?}", rows::prefix_key(key))), class_text(class));
    }
    for (key, class) in &want.classes {
        rows.insert((names::CLASSES, key.to_string()), class_text(class));
    }
    for (key, ruling) in &want.rules {
        let set = if key.set.is_empty() { "-".into() } else { hex(&symbols::policy_set(&key.set)) };
        let class = key.class.as_ref().map_or_else(|| "-".into(), class_text);
        let text = rule_text(&rows::rule_key(key, 0, 0), &set, &class);
        let by = ruling.origin.as_ref().map_or_else(|| "-".into(), |origin| hex(&symbols::origin(origin)));
        rows.insert((names::RULES, text), rule_value_text(rows::verdict(ruling.allows), &by));
    }
    wanted_services(want, &mut rows);
    for (id, pod) in &want.pods {
        let Some(link) = links(id) else { continue };
        let set = match &pod.posture {
            Posture::Judged(set) if !set.is_empty() => hex(&symbols::policy_set(set)),
            Posture::Judged(_) | Posture::Closed => "-".into(),
        };
        let text = pod_text(rows::pod(pod, link, 0), &set);
        rows.insert((names::PODS, pod.host_ifindex.to_string()), text);
        for address in &pod.addresses {
            rows.insert((names::LOCAL, address.to_string()), pod.host_ifindex.to_string());
        }
    }
    rows
}

fn wanted_services(want: &Dataplane, rows: &mut Rows) {
    let mut active = BTreeMap::new();
    for (frontend, entry) in &want.services {
        let digests: Vec<String> =
            entry.backends.iter().map(|backend| hex(&symbols::backend(backend))).collect();
        let slots = entry.slots().into_iter();
        let slots: Vec<String> =
            slots.map(|slot| slot_text(&digests[slot.backend as usize], slot.weight)).collect();
        let service = hex(&symbols::service(frontend, entry));
        for range in entry.sources.iter().flat_map(|ranges| ranges.iter()) {
            let row = format!("{service} {}", source_text(&rows::source_key(0, *range)));
            rows.insert((names::SOURCES, row), "1".into());
        }
        let text = service_text(&rows::service(entry, 0, 0, slots.len()), &service, &slots);
        rows.insert((names::SERVICES, format!("{:?}", rows::service_key(frontend))), text);
        for backend in entry.backends.iter() {
            active.insert(symbols::backend(backend), rows::backend(backend));
        }
    }
    for (key, holder) in &want.service_addresses {
        let value = rows::address_holder(*holder).to_string();
        rows.insert((names::SERVICE_ADDRESSES, key.to_string()), value);
    }
    let draining = want.services.values().flat_map(|entry| entry.draining.iter());
    for backend in draining {
        let row = abi::BackendEntry { flags: abi::BACKEND_DRAINING, ..rows::backend(backend) };
        active.entry(symbols::backend(backend)).or_insert(row);
    }
    for (digest, row) in active {
        rows.insert((names::BACKENDS, hex(&digest)), format!("{row:?}"));
    }
}

fn class_text(class: &sheetbend_model::plan::Class) -> String {
    if class.is_empty() { "-".into() } else { hex(&symbols::class(class)) }
}

fn rule_text(key: &Lpm<abi::RuleKey>, set: &str, class: &str) -> String {
    let abi::RuleKey { direction, protocol, port, .. } = key.data;
    format!(
        "set {set} class {class} direction {direction} protocol {protocol} port {port:?} bits {}",
        key.len
    )
}

fn rule_value_text(verdict: u32, origin: &str) -> String {
    format!("{verdict} by {origin}")
}

fn pod_text(row: abi::PodEntry, set: &str) -> String {
    format!("set {set} {:?}", abi::PodEntry { set: 0, ..row })
}

fn service_text(row: &abi::ServiceEntry, service: &str, slots: &[String]) -> String {
    let rest = abi::ServiceEntry { service: 0, first_slot: 0, ..*row };
    format!("service {service} {rest:?} slots {slots:?}")
}

fn slot_text(backend: &str, weight: u8) -> String {
    if weight == 1 { backend.to_owned() } else { format!("{backend}={weight}") }
}

fn source_text(key: &Lpm<abi::SourceKey>) -> String {
    format!("{} bits {}", rows::addr_back(key.data.client), key.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_symbol_are_told() {
        let symbols = Symbols(BTreeMap::from([((SymbolKind::Class as u32, 7), [0xab; 16])]));
        assert_eq!(symbols.text(SymbolKind::Class, 0), "-");
        assert_eq!(symbols.text(SymbolKind::Class, 7), "ab".repeat(16));
        assert_eq!(symbols.text(SymbolKind::Origin, 7), "unnamed 7");
    }
}
