//! A map with its key and value types.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::BpfError;
use super::plain::Plain;
use super::sys;

/// How many entries one batch read asks for. A bucket of a hash must fit whole.
const BATCH: u32 = 4_096;

/// How much of a hash is read to know how full it is: one bucket in so many, but no fewer than [`SAMPLE`].
const SAMPLED: u32 = 64;
const SAMPLE: u32 = 4_096;

/// A map of the kernel, `K` → `V`, opened by its pin. While it grows it is two, and every call but those that say so
/// means both.
pub(super) struct Table<K, V> {
    name: &'static str,
    content: &'static str,
    limit: u32,
    fd: OwnedFd,
    /// The older map of one that grows.
    old: Option<(OwnedFd, u32)>,
    puts: Cell<u64>,
    deletes: Cell<u64>,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Map `name` behind `fd`, for at most `limit` entries that come from `content` (for texts).
    pub(super) fn new(name: &'static str, content: &'static str, limit: u32, fd: OwnedFd) -> Self {
        let (puts, deletes) = (Cell::new(0), Cell::new(0));
        Self { name, content, limit, fd, old: None, puts, deletes, types: PhantomData }
    }

    /// The map.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The same map, for another thread.
    pub(super) fn another(&self) -> Result<Self, BpfError> {
        let fd = self.fd.try_clone().map_err(|source| self.error("open", source))?;
        Ok(Self::new(self.name, self.content, self.limit, fd))
    }

    /// Name, writes and deletions since the last call.
    pub(super) fn take_counts(&self) -> (&'static str, u64, u64) {
        (self.name, self.puts.take(), self.deletes.take())
    }

    /// The value at `key`; in a longest-prefix map, of the longest match.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, BpfError> {
        match self.get_in(self.fd.as_fd(), key)? {
            None if self.old.is_some() => self.get_old(key),
            found => Ok(found),
        }
    }

    fn get_in(&self, map: BorrowedFd<'_>, key: &K) -> Result<Option<V>, BpfError> {
        let mut value = V::zero();
        let found =
            sys::lookup(map, key.bytes(), value.bytes_mut()).map_err(|source| self.error("read", source))?;
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
        let found = self.delete_in(self.fd.as_fd(), key)? | self.delete_old(key)?;
        self.deletes.set(self.deletes.get() + u64::from(found));
        Ok(found)
    }

    fn delete_in(&self, map: BorrowedFd<'_>, key: &K) -> Result<bool, BpfError> {
        sys::delete(map, key.bytes()).map_err(|source| self.error("delete", source))
    }

    /// Calls `each` for every entry. Entries that come or go meanwhile may be missed.
    pub(super) fn for_each(&self, mut each: impl FnMut(K, V)) -> Result<(), BpfError> {
        // The older one first: entries move away from it.
        if let Some((old, _)) = &self.old {
            self.walk(old.as_fd(), sys::Cursor::start(), usize::MAX, &mut each)?;
        }
        self.walk(self.fd.as_fd(), sys::Cursor::start(), usize::MAX, &mut each)
    }

    /// Calls `each` for the entries from `cursor` on, at most for `most` or a few more.
    fn walk(
        &self,
        map: BorrowedFd<'_>,
        mut cursor: sys::Cursor,
        most: usize,
        each: &mut impl FnMut(K, V),
    ) -> Result<(), BpfError> {
        let mut seen = 0;
        let (key_size, value_size) = (size_of::<K>(), size_of::<V>());
        let mut count = u32::try_from(most).map_or(BATCH, |most| most.clamp(1, BATCH));
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        while seen < most {
            keys.resize(key_size * count as usize, 0);
            values.resize(value_size * count as usize, 0);
            let batch = sys::lookup_batch(map, &mut cursor, key_size, (&mut keys, &mut values), count);
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

    /// How many entries it has room for.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// About how many entries this hash has: the last buckets are counted, and stand for the others.
    pub(super) fn estimate(&self) -> Result<u64, BpfError> {
        let old = self.old.as_ref().map(|(old, limit)| (old.as_fd(), *limit));
        let maps = old.into_iter().chain([(self.fd.as_fd(), self.limit)]);
        maps.map(|(map, limit)| self.estimate_in(map, limit)).sum()
    }

    fn estimate_in(&self, map: BorrowedFd<'_>, limit: u32) -> Result<u64, BpfError> {
        let buckets = limit.next_power_of_two();
        let sampled = (buckets / SAMPLED).max(SAMPLE).min(buckets);
        let cursor = sys::Cursor::at_bucket(buckets - sampled, size_of::<K>());
        let mut met = 0;
        self.walk(map, cursor, usize::MAX, &mut |_, _| met += 1)?;
        Ok(met * u64::from(buckets) / u64::from(sampled))
    }

    /// The map behind `fd`, for `limit` entries, is the newer one from now on.
    pub(super) fn grow(&mut self, fd: OwnedFd, limit: u32) {
        let old = std::mem::replace(&mut self.fd, fd);
        self.old = Some((old, std::mem::replace(&mut self.limit, limit)));
    }

    /// Whether there are two maps.
    pub(super) fn is_growing(&self) -> bool {
        self.old.is_some()
    }

    /// Forgets the older map.
    pub(super) fn forget_old(&mut self) {
        self.old = None;
    }

    /// The keys of about `count` entries of the older map.
    pub(super) fn some_old(&self, count: u32) -> Result<Vec<K>, BpfError> {
        let mut keys = Vec::new();
        if let Some((old, _)) = &self.old {
            self.walk(old.as_fd(), sys::Cursor::start(), count as usize, &mut |key, _| keys.push(key))?;
        }
        Ok(keys)
    }

    /// The value at `key` of the older map.
    pub(super) fn get_old(&self, key: &K) -> Result<Option<V>, BpfError> {
        self.old.as_ref().map_or(Ok(None), |(old, _)| self.get_in(old.as_fd(), key))
    }

    /// Deletes what is at `key` of the older map.
    pub(super) fn delete_old(&self, key: &K) -> Result<bool, BpfError> {
        self.old.as_ref().map_or(Ok(false), |(old, _)| self.delete_in(old.as_fd(), key))
    }

    /// Writes `value` at `key` of the newer map; `false` when that has one.
    pub(super) fn add(&self, key: &K, value: &V) -> Result<bool, BpfError> {
        sys::insert(self.fd.as_fd(), key.bytes(), value.bytes()).map_err(|source| self.error("write", source))
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
        self.walk(self.fd.as_fd(), cursor, most, &mut |key: u32, value| {
            if ((key - first) as usize) < most {
                each(key, value);
            }
        })
    }
}
