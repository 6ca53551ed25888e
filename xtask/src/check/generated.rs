//! Documents made from code: they are committed, and this gate compares them.

use anyhow::{Context as _, Result, bail};
use sheetbend_ebpf_abi::{Reason, Verdict};

use super::Outcome;
use crate::progress::Step;
use crate::repo::Repo;

struct Document {
    path: &'static str,
    make: fn() -> String,
}

const DOCUMENTS: &[Document] = &[Document { path: "docs/user/reasons.md", make: reasons }];

/// The gate.
pub(super) fn check(repo: &Repo, _step: &mut Step) -> Result<Outcome> {
    for document in DOCUMENTS {
        if repo.read(document.path).unwrap_or_default() != (document.make)() {
            bail!("{} is not what the code makes; run `cargo xtask check --fix`", document.path);
        }
    }
    Ok(Outcome::Passed(DOCUMENTS.iter().map(|document| document.path).collect::<Vec<_>>().join(", ")))
}

/// Writes them all.
pub(super) fn write(repo: &Repo) -> Result<()> {
    for document in DOCUMENTS {
        let path = repo.path(document.path);
        std::fs::write(&path, (document.make)())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_row() {
        let rows = reasons().lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Reason::ALL.len());
    }
}
