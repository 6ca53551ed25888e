//! Which types may cross the border to the kernel as bytes.

use std::mem::MaybeUninit;

use sheetbend_ebpf_abi as abi;

/// A type whose every byte is named and whose every bit pattern is a value.
///
/// # Safety
/// `Self` is `repr(C)` (or a primitive) without padding, and any bytes are a valid `Self`.
pub(super) unsafe trait Plain: Copy + 'static {
    /// Its bytes, in memory order.
    fn bytes(&self) -> &[u8] {
        // SAFETY: no padding, so all bytes are initialised; `u8` has no alignment.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// Its bytes, to be written.
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: no padding, and any bytes that are written are a value again.
        unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(self).cast(), size_of::<Self>()) }
    }

    /// The value that `bytes` are; they are `size_of::<Self>()` many.
    fn read(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), size_of::<Self>(), "a value of another size");
        let mut value = MaybeUninit::<Self>::uninit();
        // SAFETY: as many bytes as the value has are copied, and any bytes are a value.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast::<u8>(), bytes.len());
            value.assume_init()
        }
    }

    /// The value whose bytes are all zero.
    fn zero() -> Self {
        // SAFETY: any bytes are a value.
        unsafe { MaybeUninit::<Self>::zeroed().assume_init() }
    }
}

/// Key of a longest-prefix map (`struct bpf_lpm_trie_key`): the number of leading bits of `data` that count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lpm<K> {
    /// Bits.
    pub(super) len: u32,
    /// The key.
    pub(super) data: K,
}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)` or primitive, every byte is a named field of integers or byte arrays (the tests of the
            // ABI compare sizes).
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(
    u32,
    u64,
    [u8; 16],
    abi::NodeConfig,
    abi::PodEntry,
    abi::ClassKey,
    abi::RuleValue,
    abi::RouteEntry,
    abi::ServiceKey,
    abi::ServiceEntry,
    abi::BackendEntry,
    abi::AffinityKey,
    abi::AffinityValue,
    abi::CtKey,
    abi::CtEntry,
    abi::ServiceFlowKey,
    abi::ServiceFlowValue,
    abi::SnatKey,
    abi::SnatValue,
    abi::SymbolKey,
    abi::SocketKey,
    abi::SocketValue,
    Lpm<abi::PrefixKey>,
    Lpm<abi::RuleKey>,
    Lpm<abi::SourceKey>,
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of the fields' sizes: a padding byte would make a struct larger.
    #[test]
    fn no_padding() {
        let sizes = [
            (size_of::<abi::NodeConfig>(), 5 * 4 + 3 * 2 + 2 + 32 + 8),
            (size_of::<abi::PodEntry>(), 4 * 4 + 32 + 8),
            (size_of::<abi::ClassKey>(), 20),
            (size_of::<abi::RuleValue>(), 8),
            (size_of::<abi::RouteEntry>(), 4 + 8 + 16),
            (size_of::<abi::ServiceKey>(), 24),
            (size_of::<abi::ServiceEntry>(), 20),
            (size_of::<abi::BackendEntry>(), 24),
            (size_of::<abi::AffinityKey>(), 24),
            (size_of::<abi::AffinityValue>(), 16),
            (size_of::<abi::CtKey>(), 4 + 32 + 4 + 4),
            (size_of::<abi::CtEntry>(), 8 + 16 + 16 + 4 + 4 + 8),
            (size_of::<abi::ServiceFlowKey>(), 4 + 32 + 4 + 4),
            (size_of::<abi::ServiceFlowValue>(), 16 + 8),
            (size_of::<abi::SnatKey>(), 32 + 4 + 4),
            (size_of::<abi::SnatValue>(), 8 + 4 + 4 + 16),
            (size_of::<abi::SymbolKey>(), 8),
            (size_of::<abi::SocketKey>(), 8 + 16 + 2 + 2 + 4),
            (size_of::<abi::SocketValue>(), 16 + 8 + 2 + 6),
            (size_of::<Lpm<abi::PrefixKey>>(), 24),
            (size_of::<Lpm<abi::RuleKey>>(), 16),
            (size_of::<Lpm<abi::SourceKey>>(), 24),
        ];
        for (index, (have, want)) in sizes.into_iter().enumerate() {
            assert_eq!(have, want, "row {index}");
        }
    }
}
