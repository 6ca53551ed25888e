//! cargo-deny: licences, bans and sources; advisories only where a database is present.

use anyhow::Result;

use super::{Outcome, succeed};
use crate::process;
use crate::progress::Step;
use crate::repo::{Repo, cargo_home};

/// The gate.
pub(super) fn check(repo: &Repo, step: &mut Step) -> Result<Outcome> {
    if process::find_program("cargo-deny", &[cargo_home().join("bin")]).is_none() {
        return Ok(Outcome::Skipped("not installed; `cargo install cargo-deny --locked`".to_owned()));
    }
    let database = has_advisories();
    let mut command = repo.cargo();
    command.args([
        "deny",
        "--offline",
        "--workspace",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    if database {
        command.arg("advisories");
    }
    succeed(&mut command, step)?;
    let advisories =
        if database { "advisories too" } else { "no advisories: `cargo deny fetch` gets their database" };
    Ok(Outcome::Passed(advisories.to_owned()))
}

fn has_advisories() -> bool {
    ["advisory-dbs", "advisory-db"].iter().any(|name| {
        std::fs::read_dir(cargo_home().join(name)).is_ok_and(|mut entries| entries.next().is_some())
    })
}
