//! What the machine and its kernel offer.

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_uid(&status) == Some(0)
}

fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

pub(super) fn root() -> Option<String> {
    is_root().then(|| "yes".to_owned())
}

pub(super) fn kernel() -> Option<String> {
    let release = release();
    let (major, minor) = version(&release)?;
    ((major, minor) >= (6, 6)).then_some(release)
}

/// The running kernel's release, e.g. `6.18.44`.
fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn btf() -> Option<String> {
    super::exists("/sys/kernel/btf/vmlinux")
}

pub(super) fn overlay() -> Option<String> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = known.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    has.then(|| "known to the kernel".to_owned())
}

pub(super) fn filesystems() -> Option<String> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |name: &str| known.lines().any(|line| line.split_whitespace().last() == Some(name));
    (has("bpf") && has("cgroup2")).then(|| "known to the kernel".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("6.6.0"), Some((6, 6)));
        assert!(version("6.18.1") > version("6.6.99"));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn the_effective_uid_is_the_second_number() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
    }
}
