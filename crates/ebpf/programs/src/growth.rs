//! Tables of flows that grow: a larger one beside an older one, until user space has moved every entry.
//!
//! `table` is the newer one and `old` the older; entries move in that direction only. `apply/bpf/growth` says which step
//! follows which, and waits for every packet under way between two of them.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    maps::LruHashMap,
};
use sheetbend_ebpf_abi::{WRITES_BOTH, WRITES_NEW, WRITES_OLD};

use crate::maps::GROWTH;

/// Which tables have an old one beside them: `GROWS_*`. The loader writes it before the verifier reads it, so that
/// programs for tables that do not grow have no instruction of this module left.
#[unsafe(no_mangle)]
static GROWING: u32 = 0;

/// Whether the table has an old one beside it. Asked only where an entry was not found, or is made.
#[inline(always)]
fn is_growing(grows: u32) -> bool {
    // SAFETY: a whole, aligned word. The compiler shall not take it for the 0 above.
    unsafe { ptr::read_volatile(&raw const GROWING) & grows != 0 }
}

/// `WRITES_*`.
#[inline(always)]
fn writes() -> u32 {
    GROWTH.get(0).copied().unwrap_or(WRITES_OLD)
}

/// The value at `key`, in either table.
#[inline(always)]
pub fn find<K, V>(grows: u32, table: &LruHashMap<K, V>, old: &LruHashMap<K, V>, key: &K) -> Option<*mut V> {
    if let Some(value) = table.get_ptr_mut(key) {
        return Some(value);
    }
    if !is_growing(grows) {
        return None;
    }
    if let Some(value) = old.get_ptr_mut(key) {
        return Some(value);
    }
    // It may have moved between the two looks.
    table.get_ptr_mut(key)
}

/// Writes `value` at `key`. `Err`: there is no room.
#[inline(always)]
pub fn put<K, V>(
    grows: u32,
    table: &LruHashMap<K, V>,
    old: &LruHashMap<K, V>,
    key: &K,
    value: &V,
) -> Result<(), i32> {
    if is_growing(grows) && writes() != WRITES_NEW {
        return old.insert(key, value, BPF_ANY as u64);
    }
    table.insert(key, value, BPF_ANY as u64)
}

/// Takes `key`, which was in neither table, so that no other packet takes it too. Between [`WRITES_OLD`] and
/// [`WRITES_NEW`], each of which excludes others by one table, [`WRITES_BOTH`] excludes them by both.
#[inline(always)]
pub fn claim<K, V>(grows: u32, table: &LruHashMap<K, V>, old: &LruHashMap<K, V>, key: &K, value: &V) -> bool {
    if is_growing(grows) {
        let writes = writes();
        if writes != WRITES_NEW {
            if old.insert(key, value, BPF_NOEXIST as u64).is_err() {
                return false;
            }
            if writes != WRITES_BOTH {
                return true;
            }
            if table.insert(key, value, BPF_NOEXIST as u64).is_ok() {
                return true;
            }
            let _ = old.remove(key);
            return false;
        }
    }
    table.insert(key, value, BPF_NOEXIST as u64).is_ok()
}

/// Removes `key` from either table.
#[inline(always)]
pub fn remove<K, V>(grows: u32, table: &LruHashMap<K, V>, old: &LruHashMap<K, V>, key: &K) {
    let _ = table.remove(key);
    if is_growing(grows) {
        let _ = old.remove(key);
    }
}
