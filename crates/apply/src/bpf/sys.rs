//! The bpf(2) calls that aya has no wrapper for, or none with batches, on pinned objects and typed tables.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::bpf_cmd;

/// `BPF_TCX_INGRESS` of `enum bpf_attach_type` (linux/bpf.h).
pub(super) const TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS` of `enum bpf_attach_type` (linux/bpf.h).
pub(super) const TCX_EGRESS: u32 = 47;

/// `union bpf_attr` for element calls.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for batch calls.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` for pins.
#[repr(C)]
#[derive(Default)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `union bpf_attr` for `BPF_LINK_CREATE` of a TCX link.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// `union bpf_attr` for `BPF_LINK_UPDATE`.
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `struct bpf_link_info`, as far as a TCX link fills it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    /// `BPF_LINK_TYPE_*`.
    pub(super) kind: u32,
    /// The link's id, stable while it lives.
    pub(super) id: u32,
    /// Which program it runs.
    pub(super) prog_id: u32,
    pad: u32,
    /// Where; 0 when the device is gone.
    pub(super) ifindex: u32,
    /// `TCX_*`.
    pub(super) attach_type: u32,
    rest: [u64; 8],
}

impl LinkInfo {
    /// The directory of a link on a cgroup: its inode number.
    pub(super) fn cgroup_id(&self) -> u64 {
        // The union's first member of this type is 64 bits wide.
        let [a, b, c, d] = self.ifindex.to_ne_bytes();
        let [e, f, g, h] = self.attach_type.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Where a batch read goes on: the kernel's opaque position, at most a whole key.
pub(super) struct Cursor(Option<Vec<u8>>);

impl Cursor {
    /// Before the first entry.
    pub(super) fn start() -> Self {
        Self(None)
    }

    /// Behind this entry of an array.
    pub(super) fn behind(entry: u32) -> Self {
        Self(Some(entry.to_ne_bytes().to_vec()))
    }

    /// Before a bucket of a hash: there the kernel's position is its number.
    pub(super) fn at_bucket(bucket: u32, key_size: usize) -> Self {
        let mut position = vec![0; key_size.max(4)];
        position[..4].copy_from_slice(&bucket.to_ne_bytes());
        Self(Some(position))
    }
}

/// `MEMBARRIER_CMD_GLOBAL` (linux/membarrier.h).
const MEMBARRIER_GLOBAL: libc::c_int = 1;

/// Returns when every program that ran at the time of the call has ended: they run inside RCU read sections.
pub(super) fn wait_for_programs() {
    // SAFETY: plain values.
    let failed = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if failed != 0 {
        // Kernels with nohz_full CPUs do not offer it. No packet takes a program so long.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn bpf<T>(command: bpf_cmd, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is one of the `repr(C)` prefixes of `union bpf_attr` above; the kernel reads `size_of::<T>()`
    // bytes and takes the rest as zero. Pointers inside point to buffers that the callers borrow until we return.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attr),
            size_of::<T>() as libc::c_uint,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_fd(result: i64) -> OwnedFd {
    // SAFETY: a successful call that makes an object returns a descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object { pathname: path.as_ptr() as u64, ..Object::default() };
    bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(new_fd)
}

/// Pins `fd` at `path`; the directory exists and lies on a bpffs.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object { pathname: path.as_ptr() as u64, bpf_fd: raw(fd), file_flags: 0 };
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Makes a link of `program`: TCX on the device `target` of the caller's network namespace, behind what is there already,
/// or on the cgroup that the descriptor `target` names.
pub(super) fn link_create(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr =
        LinkCreate { prog_fd: raw(program), target_ifindex: target, attach_type, ..LinkCreate::default() };
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(new_fd)
}

/// `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// `BPF_F_QUERY_EFFECTIVE`: those of the directories above too.
const QUERY_EFFECTIVE: u32 = 1;

/// Ids of the programs that run for the processes of a cgroup, at most 64.
pub(super) fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    let mut attr = Query {
        target_fd: raw(cgroup),
        attach_type,
        query_flags: QUERY_EFFECTIVE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// `SO_NETNS_COOKIE` (asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of a socket's network namespace.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` has the length that is named, and lives until the call returns.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Replaces the program of a link; each packet sees the old one or the new one.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link_fd: raw(link), new_prog_fd: raw(program), ..LinkUpdate::default() };
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// What the kernel says of a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = Info {
        bpf_fd: raw(link),
        info_len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Reads one value; `Ok(false)` when there is none.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = Element {
        map_fd: raw(map),
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..Element::default()
    };
    found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))
}

/// Writes one value, whether or not there was one.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    // A map that is not preallocated refills its memory caches from an interrupt: a burst of writes may overtake it.
    let mut attempts = 0;
    loop {
        let mut attr = Element {
            map_fd: raw(map),
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            ..Element::default()
        };
        match bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && attempts < 100 => {
                attempts += 1;
                std::thread::yield_now();
            }
            result => return result.map(drop),
        }
    }
}

/// Writes one value where there is none; `Ok(false)` when there is one.
pub(super) fn insert(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<bool> {
    const NOEXIST: u64 = 1;
    let mut attr = Element {
        map_fd: raw(map),
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: NOEXIST,
        ..Element::default()
    };
    match bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes one entry; `Ok(false)` when there is none.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = Element { map_fd: raw(map), key: key.as_ptr() as u64, ..Element::default() };
    found(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr))
}

/// Reads the next entries into `keys` and `values`, which have room for `count`. Returns how many were read; with
/// fewer than `count` read, `cursor` has come to the end.
pub(super) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    key_size: usize,
    (keys, values): (&mut [u8], &mut [u8]),
    count: u32,
) -> io::Result<(u32, bool)> {
    let mut next = vec![0u8; key_size.max(4)];
    let mut attr = Batch {
        in_batch: cursor.0.as_ref().map_or(0, |position| position.as_ptr() as u64),
        out_batch: next.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: raw(map),
        ..Batch::default()
    };
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => {
            cursor.0 = Some(next);
            Ok((attr.count, false))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count, true)),
        Err(error) => Err(error),
    }
}

fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
