//! The process's own memory, as the kernel sees it.
#![allow(unsafe_code, reason = "the C library is asked to call madvise(2) and brk(2)")]

/// Gives memory that is free in this process back to the kernel. The C library keeps what was freed below what is in use:
/// after a large Snapshot that is a third of an agent. Takes about 1 ms for each 10 MiB.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim(3) takes no pointers, may be called from any thread at any time, and touches free memory only.
        // Its result says whether there was any.
        let _was_any = unsafe { libc::malloc_trim(0) };
    }
}
