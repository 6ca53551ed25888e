//! What the container runtime needs: the plugin in its directory, and a configuration that names it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use tracing::warn;

/// Sorts before what other plugins write: the runtime takes the first.
const CONFIG: &str = "05-sheetbend.conflist";
const PLUGIN: &str = "sheetbend-cni";

/// Where to, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Install {
    /// `cni.configDir`.
    pub(crate) config_dir: PathBuf,
    /// `cni.pluginDir`.
    pub(crate) plugin_dir: PathBuf,
    /// Where the agent's socket is.
    pub(crate) run_dir: PathBuf,
    /// Of the configuration.
    pub(crate) version: String,
}

/// The highest CNI version that a runtime reads and we speak. `runtime` is a Node's
/// `status.nodeInfo.containerRuntimeVersion`, as `containerd://1.6.20`.
pub(crate) fn cni_version(runtime: &str) -> &'static str {
    let (name, version) = runtime.split_once("://").unwrap_or((runtime, ""));
    let mut numbers =
        version.trim_start_matches('v').split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0_u32));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // libcni 1.2, the first with CNI 1.1.0, is in containerd from 2.0 and in CRI-O from 1.32.
    match name {
        "containerd" if version >= (2, 0) => "1.1.0",
        "cri-o" if version >= (1, 32) => "1.1.0",
        _ => "1.0.0",
    }
}

impl Install {
    /// Writes what is not there or differs; each file appears whole. The plugin first: the configuration names it.
    pub(crate) fn carry_out(&self) -> anyhow::Result<Vec<String>> {
        let own = std::env::current_exe().context("finding this program's own file")?;
        let plugin = own.with_file_name(PLUGIN);
        let bytes = fs::read(&plugin)
            .with_context(|| format!("the plugin is not beside the agent: {}", plugin.display()))?;
        let mut steps = Vec::new();
        steps.extend(put(&self.plugin_dir, PLUGIN, &bytes, 0o755)?);
        let config = json!({
            "cniVersion": self.version,
            "name": "sheetbend",
            "plugins": [{
                "type": PLUGIN,
                "runDir": self.run_dir,
                "capabilities": {"bandwidth": true},
            }],
        });
        let text = format!("{config:#}\n");
        steps.extend(put(&self.config_dir, CONFIG, text.as_bytes(), 0o644)?);
        self.warn_of_others();
        Ok(steps)
    }

    /// Removes both files.
    pub(crate) fn undo(&self) -> anyhow::Result<Vec<String>> {
        let mut steps = Vec::new();
        for path in [self.config_dir.join(CONFIG), self.plugin_dir.join(PLUGIN)] {
            match fs::remove_file(&path) {
                Ok(()) => steps.push(format!("remove {}", path.display())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("removing {}", path.display())),
            }
        }
        Ok(steps)
    }

    fn warn_of_others(&self) {
        let names = fs::read_dir(&self.config_dir).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| {
            let read = [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
            read && name.as_str() < CONFIG
        });
        if !names.is_empty() {
            warn!(
                "the runtime takes {} before {CONFIG}, so pods are not ours; move it away from {}",
                names.join(", "),
                self.config_dir.display()
            );
        }
    }
}

/// Writes `name` whole, by rename; `None` where it is just so.
fn put(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> anyhow::Result<Option<String>> {
    let path = directory.join(name);
    let same_mode =
        |file: &Path| fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o777 == mode);
    if fs::read(&path).is_ok_and(|found| found == bytes) && same_mode(&path) {
        return Ok(None);
    }
    let fresh = directory.join(format!(".{name}.new"));
    let written = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&fresh, &path)
    };
    written().with_context(|| format!("writing {}; mount it into the agent's container", path.display()))?;
    Ok(Some(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn the_highest_version_that_the_runtime_reads() {
        let cases = [
            ("containerd://1.6.20", "1.0.0"),
            ("containerd://1.7.27-k3s1", "1.0.0"),
            ("containerd://2.0.0", "1.1.0"),
            ("containerd://v2.1.4", "1.1.0"),
            ("cri-o://1.30.2", "1.0.0"),
            ("cri-o://1.34.0", "1.1.0"),
            ("", "1.0.0"),
        ];
        for (runtime, version) in cases {
            assert_eq!(cni_version(runtime), version, "{runtime}");
        }
    }

    #[test]
    fn a_file_is_written_whole_and_once() {
        let dir = std::env::temp_dir().join(format!("sheetbend-install-{}", std::process::id()));
        let first = put(&dir, "plugin", b"one", 0o755).unwrap();
        assert!(first.is_some());
        assert_eq!(put(&dir, "plugin", b"one", 0o755).unwrap(), None, "just so");
        assert!(put(&dir, "plugin", b"two", 0o755).unwrap().is_some());
        assert_eq!(fs::read(dir.join("plugin")).unwrap(), b"two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing half written is left");
        fs::remove_dir_all(&dir).unwrap();
    }
}
