//! Kernel settings below /proc/sys/net, of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::NetlinkError;

/// Containers see their own /proc/sys read-only. Where an installation mounts the node's here, it is used; both show
/// the settings of the calling thread's network namespace.
const MOUNTED: &str = "/host/proc/sys/net";

fn file(name: &str) -> PathBuf {
    let mounted = Path::new(MOUNTED);
    let root = if mounted.is_dir() { mounted } else { Path::new("/proc/sys/net") };
    root.join(name)
}

/// The setting `name`, as `ipv4/ip_forward`; `None` where the kernel has no such setting (IPv6 switched off).
pub(super) fn read(name: &str) -> Result<Option<String>, NetlinkError> {
    let path = file(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetlinkError::Sysctl { path, value: "?".to_owned(), source }),
    }
}

/// Sets `name` to `value`.
pub(super) fn write(name: &str, value: &str) -> Result<(), NetlinkError> {
    let path = file(name);
    // An empty value needs a byte to be written at all.
    fs::write(&path, format!("{value}\n")).map_err(|source| NetlinkError::Sysctl {
        path,
        value: value.to_owned(),
        source,
    })
}

/// Names below `directory`, as the devices in `ipv4/conf`.
pub(super) fn list(directory: &str) -> Result<Vec<String>, NetlinkError> {
    let path = file(directory);
    let error = |source| NetlinkError::Sysctl { path: path.clone(), value: "?".to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).map_err(error)? {
        names.push(entry.map_err(error)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}
