//! Rules, blocks and classes. What does not fit denies: a missing rule by itself, a missing exception because every
//! block around it then matches nothing. Rows of sets with tiers may deny, so that a missing one would open; pods with
//! such a set are shut as long as anything that may be theirs is missing ([`super::shut`]).

use ipnet::IpNet;
use sheetbend_ebpf_abi as abi;
use sheetbend_ebpf_abi::SymbolKind;
use sheetbend_model::plan::{Class, RuleKey, Ruling};
use sheetbend_model::types::{AddrKey, BlockKey};

use super::error::BpfError;
use super::kernel::{BlockRow, Kernel, rule_bytes};
use super::plain::{Lpm, Plain};
use super::rows;
use super::symbols;

impl Kernel {
    /// The row shall say `ruling`.
    pub(super) fn put_rule(&mut self, rule: &RuleKey, ruling: &Ruling) -> Result<[u8; 16], BpfError> {
        let written = self.write_rule(rule, ruling);
        self.rule_is_in_place(rule, written.is_ok())?;
        written
    }

    fn write_rule(&mut self, rule: &RuleKey, ruling: &Ruling) -> Result<[u8; 16], BpfError> {
        let set = self.set_number(&rule.set)?;
        let class = rule.class.as_ref().map_or(Ok(0), |class| self.class_number(class))?;
        let key = rows::rule_key(rule, set, class);
        let value = abi::RuleValue {
            verdict: rows::verdict(ruling.allows),
            origin: ruling.origin.as_ref().map_or(Ok(0), |origin| self.origin_number(origin))?,
        };
        let bytes = rule_bytes(&key);
        let old = self.rules.get(&bytes).copied();
        if old == Some(value) {
            return Ok(bytes);
        }
        self.tables.rules.put(&key, &value)?;
        self.verdicts_changed |= old.is_none_or(|old| old.verdict != value.verdict);
        self.hold_rule(&key, &value);
        if let Some(old) = old {
            self.let_go_rule(&key, &old);
        }
        self.rules.insert(bytes, value);
        Ok(bytes)
    }

    /// The rule shall not be.
    pub(super) fn delete_rule(&mut self, rule: &RuleKey) -> Result<(), BpfError> {
        self.rule_is_in_place(rule, true)?;
        let set = match rule.set.is_empty() {
            true => Some(0),
            false => self.numbers.find(SymbolKind::PolicySet, &symbols::policy_set(&rule.set)),
        };
        let class = match &rule.class {
            Some(class) if !class.is_empty() => self.numbers.find(SymbolKind::Class, &symbols::class(class)),
            Some(_) | None => Some(0),
        };
        match (set, class) {
            (Some(set), Some(class)) => self.delete_rule_row(&rows::rule_key(rule, set, class)),
            // What has no number is in no row.
            _ => Ok(()),
        }
    }

    pub(super) fn delete_rule_row(&mut self, key: &Lpm<abi::RuleKey>) -> Result<(), BpfError> {
        let bytes = rule_bytes(key);
        let Some(value) = self.rules.get(&bytes).copied() else { return Ok(()) };
        self.tables.rules.delete(key)?;
        self.verdicts_changed = true;
        self.rules.remove(&bytes);
        self.let_go_rule(key, &value);
        Ok(())
    }

    pub(super) fn hold_rule(&mut self, key: &Lpm<abi::RuleKey>, value: &abi::RuleValue) {
        self.numbers.hold(SymbolKind::PolicySet, key.data.set);
        self.numbers.hold(SymbolKind::Class, key.data.class);
        self.numbers.hold(SymbolKind::Origin, value.origin);
    }

    fn let_go_rule(&mut self, key: &Lpm<abi::RuleKey>, value: &abi::RuleValue) {
        self.numbers.let_go(SymbolKind::PolicySet, key.data.set);
        self.numbers.let_go(SymbolKind::Class, key.data.class);
        self.numbers.let_go(SymbolKind::Origin, value.origin);
    }

    /// The address shall have this class.
    pub(super) fn put_class(&mut self, key: &AddrKey, class: &Class) -> Result<(), BpfError> {
        let number = self.class_number(class);
        let shown = *number.as_ref().unwrap_or(&0);
        let written = self.write_class(key, shown);
        self.met(host_block(key), written.is_ok())?;
        let result = written.and(number.map(drop));
        self.class_is_in_place(host_block(key), result.is_ok())?;
        result
    }

    fn write_class(&mut self, key: &AddrKey, class: u32) -> Result<(), BpfError> {
        let row = rows::class_key(key);
        let old = self.tables.classes.get(&row)?;
        if old == Some(class) {
            return Ok(());
        }
        self.tables.classes.put(&row, &class)?;
        self.verdicts_changed = true;
        self.numbers.hold(SymbolKind::Class, class);
        self.numbers.let_go(SymbolKind::Class, old.unwrap_or(0));
        Ok(())
    }

    /// The address shall have no class of its own.
    pub(super) fn delete_class(&mut self, key: &AddrKey) -> Result<(), BpfError> {
        let row = rows::class_key(key);
        if let Some(old) = self.tables.classes.get(&row)? {
            self.tables.classes.delete(&row)?;
            self.verdicts_changed = true;
            self.numbers.let_go(SymbolKind::Class, old);
        }
        self.class_is_in_place(host_block(key), true)?;
        self.met(host_block(key), true)
    }

    /// The block shall have this class.
    pub(super) fn put_block(&mut self, key: &BlockKey, class: &Class) -> Result<(), BpfError> {
        let result = self.write_block_of(key, class);
        self.class_is_in_place(*key, result.is_ok())?;
        result
    }

    fn write_block_of(&mut self, key: &BlockKey, class: &Class) -> Result<(), BpfError> {
        let guard = ipv4_guard(key);
        if surrounds(key, &guard) && !self.blocks.contains_key(&guard) {
            self.write_block(&guard, 0)?;
        }
        let number = self.class_number(class);
        let written = self.write_block(key, *number.as_ref().unwrap_or(&0));
        self.met(*key, written.is_ok())?;
        written.and(number.map(drop))
    }

    /// The block shall have no class of its own.
    pub(super) fn delete_block(&mut self, key: &BlockKey) -> Result<(), BpfError> {
        self.class_is_in_place(*key, true)?;
        let guard = ipv4_guard(key);
        if *key == guard && self.blocks.keys().any(|block| surrounds(block, &guard)) {
            self.write_block(&guard, 0)?;
            return self.met(*key, true);
        }
        if let Some(old) = self.blocks.get(key).copied() {
            self.tables.blocks.delete(&rows::prefix_key(key))?;
            self.verdicts_changed = true;
            self.blocks.remove(key);
            self.numbers.let_go(SymbolKind::Class, old.class);
        }
        self.met(*key, true)?;
        let is_last = surrounds(key, &guard) && !self.blocks.keys().any(|block| surrounds(block, &guard));
        match self.blocks.get(&guard) {
            Some(row) if is_last && row.class == 0 => self.delete_block(&guard),
            Some(_) | None => Ok(()),
        }
    }

    fn write_block(&mut self, key: &BlockKey, class: u32) -> Result<(), BpfError> {
        let row = rows::prefix_key(key);
        let closed = self.unmet.iter().any(|unmet| rows::encloses(&row, &rows::prefix_key(unmet)));
        let shown = if closed { 0 } else { class };
        let old = self.blocks.get(key).copied();
        if old.map(|old| old.shown) != Some(shown) {
            self.tables.blocks.put(&row, &shown)?;
            self.verdicts_changed = true;
        }
        self.numbers.hold(SymbolKind::Class, class);
        self.numbers.let_go(SymbolKind::Class, old.map_or(0, |old| old.class));
        self.blocks.insert(*key, BlockRow { class, shown });
        Ok(())
    }

    /// Keeps the blocks around an exception closed until the exception is in place.
    fn met(&mut self, key: BlockKey, is_met: bool) -> Result<(), BpfError> {
        let changed = if is_met { self.unmet.remove(&key) } else { self.unmet.insert(key) };
        if !changed {
            return Ok(());
        }
        let inner = rows::prefix_key(&key);
        let around: Vec<(BlockKey, u32)> = self
            .blocks
            .iter()
            .filter(|(block, _)| rows::encloses(&rows::prefix_key(block), &inner))
            .map(|(block, row)| (*block, row.class))
            .collect();
        around.into_iter().try_for_each(|(block, class)| self.write_block(&block, class))
    }

    /// Whether `key` is the row that keeps a short IPv6 block from matching IPv4 addresses: those are mapped into IPv6,
    /// so that `::/0` would match them too.
    pub(super) fn is_block_guard(&self, key: &BlockKey) -> bool {
        *key == ipv4_guard(key)
            && self.blocks.get(key).is_some_and(|row| row.class == 0)
            && self.blocks.keys().any(|block| surrounds(block, key))
    }
}

/// Whether `outer` is a shorter prefix around `inner`.
pub(super) fn surrounds(outer: &BlockKey, inner: &BlockKey) -> bool {
    rows::encloses(&rows::prefix_key(outer), &rows::prefix_key(inner))
}

/// The block of all IPv4 addresses, in the network of `key`.
pub(super) fn ipv4_guard(key: &BlockKey) -> BlockKey {
    BlockKey { network: key.network, block: IpNet::V4(ipnet::Ipv4Net::default()) }
}

/// The block of just this address.
fn host_block(key: &AddrKey) -> BlockKey {
    BlockKey { network: key.network, block: IpNet::from(key.addr) }
}

/// A rule's key from its bytes.
pub(super) fn rule_key_of(bytes: &[u8; 16]) -> Lpm<abi::RuleKey> {
    Lpm::read(bytes)
}
