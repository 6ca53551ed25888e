//! Kernel settings that were changed, with what they were, so that `sheetbend uninstall` can put them back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sheetbend_apply::netlink::node::Setting;
use tracing::warn;

/// `<state directory>/settings.json`.
#[derive(Clone, Debug)]
pub(crate) struct SettingsFile(PathBuf);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Changed {
    before: String,
    after: String,
}

impl SettingsFile {
    /// The file below `state_dir`; it need not be there.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("settings.json"))
    }

    /// Notes what was changed. What a setting was at first is kept, however often it is changed.
    pub(crate) fn add(&self, settings: &[Setting]) {
        if settings.is_empty() {
            return;
        }
        if let Err(error) = self.write(settings) {
            warn!("uninstalling will not put kernel settings back: {error:#}");
        }
    }

    /// Every changed setting.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<Setting>> {
        let changed = self.load()?.into_iter();
        Ok(changed.map(|(name, Changed { before, after })| Setting { name, before, after }).collect())
    }

    fn load(&self) -> anyhow::Result<BTreeMap<String, Changed>> {
        match std::fs::read(&self.0) {
            Ok(text) => {
                serde_json::from_slice(&text).with_context(|| format!("{} is damaged", self.0.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.0.display())),
        }
    }

    fn write(&self, settings: &[Setting]) -> anyhow::Result<()> {
        let mut all = self.load()?;
        for Setting { name, before, after } in settings {
            let first = all
                .entry(name.clone())
                .or_insert_with(|| Changed { before: before.clone(), ..Changed::default() });
            first.after.clone_from(after);
        }
        let fresh = self.0.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec_pretty(&all)?)
            .and_then(|()| std::fs::rename(&fresh, &self.0))
            .with_context(|| format!("writing {}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn what_was_at_first_is_kept() {
        let dir = std::env::temp_dir().join(format!("sheetbend-settings-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = SettingsFile::new(&dir);
        let setting = |before: &str, after: &str| Setting {
            name: "ipv4/ip_forward".into(),
            before: before.into(),
            after: after.into(),
        };
        file.add(&[setting("0", "1")]);
        file.add(&[setting("2", "3")]);
        assert_eq!(file.read().unwrap(), [setting("0", "3")]);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
