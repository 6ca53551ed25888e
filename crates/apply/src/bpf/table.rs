//! A map with its key and value types.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};

use super::error::BpfError;
use super::plain::Plain;
use super::sys;

/// How many entries one batch read asks for. A bucket of a hash must fit whole.
const BATCH: u32 = 4_096;

/// A map of the kernel, `K` → `V`, opened by its pin.
pub(super) struct Table<K, V> {
    name: &'static str,
    content: &'static str,
    limit: u32,
    fd: OwnedFd,
    puts: Cell<u64>,
    deletes: Cell<u64>,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Map `name` behind `fd`, for at most `limit` entries that come from `content` (for texts).
    pub(super) fn new(name: &'static str, content: &'static str, limit: u32, fd: OwnedFd) -> Self {
        let (puts, deletes) = (Cell::new(0), Cell::new(0));
        Self { name, content, limit, fd, puts, deletes, types: PhantomData }
    }

    /// Name, writes and deletions since the last call.
    pub(super) fn take_counts(&self) -> (&'static str, u64, u64) {
        (self.name, self.puts.take(), self.deletes.take())
    }

    /// The value at `key`; in a longest-prefix map, of the longest match.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, BpfError> {
        let mut value = V::zero();
        let found = sys::lookup(self.fd.as_fd(), key.bytes(), value.bytes_mut())
            .map_err(|source| self.error("read", source))?;
        Ok(found.then_some(value))
    }

    /// Writes `value` at `key`.
    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), BpfError> {
        sys::update(self.fd.as_fd(), key.bytes(), value.bytes()).map_err(|source| {
            match source.raw_os_error() {
                // Hashes say E2BIG, longest-prefix maps ENOSPC.
                Some(libc::E2BIG | libc::ENOSPC) => {
                    BpfError::TableFull { table: self.name, limit: self.limit, content: self.content }
                }
                _ => self.error("write", source),
            }
        })?;
        self.puts.set(self.puts.get() + 1);
        Ok(())
    }

    /// Deletes what is at `key`; false when there was nothing.
    pub(super) fn delete(&self, key: &K) -> Result<bool, BpfError> {
        let found =
            sys::delete(self.fd.as_fd(), key.bytes()).map_err(|source| self.error("delete", source))?;
        self.deletes.set(self.deletes.get() + u64::from(found));
        Ok(found)
    }

    /// Calls `each` for every entry. Entries that come or go meanwhile may be missed.
    pub(super) fn for_each(&self, each: impl FnMut(K, V)) -> Result<(), BpfError> {
        self.walk(sys::Cursor::start(), usize::MAX, each)
    }

    /// Calls `each` for `most` entries from the cursor on, or a few more.
    fn walk(&self, mut cursor: sys::Cursor, most: usize, mut each: impl FnMut(K, V)) -> Result<(), BpfError> {
        let mut seen = 0;
        let (key_size, value_size) = (size_of::<K>(), size_of::<V>());
        let mut count = BATCH;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        while seen < most {
            keys.resize(key_size * count as usize, 0);
            values.resize(value_size * count as usize, 0);
            let batch =
                sys::lookup_batch(self.fd.as_fd(), &mut cursor, key_size, (&mut keys, &mut values), count);
            let (read, end) = match batch {
                Ok(batch) => batch,
                // One bucket holds more than the batch has room for: ask again from the same position.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < BATCH << 8 => {
                    count *= 2;
                    continue;
                }
                Err(source) => return Err(self.error("read all", source)),
            };
            let entries = keys.chunks_exact(key_size).zip(values.chunks_exact(value_size));
            for (key, value) in entries.take(read as usize) {
                each(K::read(key), V::read(value));
            }
            seen += read as usize;
            if end {
                break;
            }
        }
        Ok(())
    }

    /// Every entry.
    pub(super) fn all(&self) -> Result<Vec<(K, V)>, BpfError> {
        let mut entries = Vec::new();
        self.for_each(|key, value| entries.push((key, value)))?;
        Ok(entries)
    }

    fn error(&self, action: &'static str, source: std::io::Error) -> BpfError {
        BpfError::Table { table: self.name, action, source }
    }
}

impl<V: Plain> Table<u32, V> {
    /// As [`Table::for_each`] of an array, for `most` entries from `first` on.
    pub(super) fn for_range(
        &self,
        first: u32,
        most: usize,
        mut each: impl FnMut(u32, V),
    ) -> Result<(), BpfError> {
        // The kernel goes on behind the cursor's entry.
        let cursor = first.checked_sub(1).map_or_else(sys::Cursor::start, sys::Cursor::behind);
        self.walk(cursor, most, |key, value| {
            if ((key - first) as usize) < most {
                each(key, value);
            }
        })
    }
}
