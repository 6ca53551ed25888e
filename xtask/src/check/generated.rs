//! Documents made from code: they are committed, and this gate compares them.

use anyhow::{Context as _, Result, bail};
use sheetbend_ebpf_abi::{Reason, Verdict};

use super::Outcome;
use crate::progress::Step;
use crate::repo::Repo;

struct Document {
    path: &'static str,
    make: fn(&Repo) -> Result<String>,
}

const DOCUMENTS: &[Document] = &[
    Document { path: "docs/user/reasons.md", make: |_| Ok(reasons()) },
    Document { path: "docs/user/configuration.md", make: configuration },
];

/// Where the table of configuration keys stands.
const KEYS: &str = "crates/shell/src/config/mod.rs";

/// The gate.
pub(super) fn check(repo: &Repo, _step: &mut Step) -> Result<Outcome> {
    for document in DOCUMENTS {
        if repo.read(document.path).unwrap_or_default() != (document.make)(repo)? {
            bail!("{} is not what the code makes; run `cargo xtask check --fix`", document.path);
        }
    }
    Ok(Outcome::Passed(DOCUMENTS.iter().map(|document| document.path).collect::<Vec<_>>().join(", ")))
}

/// Writes them all.
pub(super) fn write(repo: &Repo) -> Result<()> {
    for document in DOCUMENTS {
        let path = repo.path(document.path);
        std::fs::write(&path, (document.make)(repo)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn reasons() -> String {
    let mut text = String::from(
        "<!-- Made from crates/ebpf/abi/src/reason.rs by `cargo xtask check --fix`. -->\n\
         # Reasons\n\n\
         Why a packet was forwarded, dropped or refused. The name is the same in counters, events, `sheetbend monitor` and\n\
         the lab's matrix; names and numbers do not change.\n\n\
         - **forward**: it goes on.\n\
         - **drop**: it ends here, silently.\n\
         - **refuse**: it ends here, and the sender is told by RST or ICMP.\n\n\
         | reason | number | verdict | what it means |\n|---|--:|---|---|\n",
    );
    for reason in Reason::ALL {
        let verdict = match reason.verdict() {
            Verdict::Forward => "forward",
            Verdict::Drop => "drop",
            Verdict::Refuse => "refuse",
        };
        text += &format!("| `{}` | {} | {verdict} | {} |\n", reason.name(), *reason as u16, reason.text());
    }
    text
}

/// Reads the table as text: the crate itself would bring a whole runtime into every `cargo xtask`.
fn configuration(repo: &Repo) -> Result<String> {
    let source = repo.read(KEYS)?;
    let keys = keys(&source);
    if keys.is_empty() {
        bail!("{KEYS} has no table `KEYS` of `Key {{ name, default, help }}`");
    }
    let mut text = String::from(
        "<!-- Made from crates/shell/src/config/mod.rs by `cargo xtask check --fix`. -->\n\
         # Configuration\n\n\
         One schema for the file, the environment and the command line; a later one in this list wins:\n\n\
         1. the file `/etc/sheetbend/config.yaml`, or the one given with `--config`: `network: { mode: vxlan }`\n\
         2. the environment: `SHEETBEND_NETWORK_MODE=vxlan`\n\
         3. the command line: `--set network.mode=vxlan`\n\n\
         An unknown key is an error that names the nearest known one; all errors are reported at once, with exit code 64.\n\n\
         | key | default | meaning |\n|---|---|---|\n",
    );
    for Key { name, default, help } in keys {
        text += &format!("| `{name}` | {default} | {help} |\n");
    }
    Ok(text)
}

struct Key {
    name: String,
    default: String,
    help: String,
}

/// The entries `Key { name: "…", default: "…", help: "…" }`.
fn keys(source: &str) -> Vec<Key> {
    let table =
        source.split("KEYS: &[Key] = &[").nth(1).and_then(|rest| rest.split("];").next()).unwrap_or_default();
    let entry = |text: &str| {
        let field =
            |name: &str| Some(text.split(&format!("{name}: \"")).nth(1)?.split('"').next()?.to_owned());
        Some(Key { name: field("name")?, default: field("default")?, help: field("help")? })
    };
    table.split("Key {").filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_over_line_breaks() {
        let source = "pub const KEYS: &[Key] = &[\n Key { name: \"a.b\", default: \"1\", help: \"A.\" },\n Key {\n name: \"c\",\n \
                      default: \"[]\",\n help: \"C.\",\n },\n];";
        let read: Vec<String> =
            keys(source).into_iter().map(|key| key.name + &key.default + &key.help).collect();
        assert_eq!(read, ["a.b1A.", "c[]C."]);
    }

    #[test]
    fn every_reason_has_a_row() {
        let rows = reasons().lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Reason::ALL.len());
    }
}
