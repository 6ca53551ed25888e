//! The reference `cnitool`, built from its Go module into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::debian;
use crate::process;
use crate::progress::Step;
use crate::repo::cache;

const MODULE: &str = "github.com/containernetworking/cni/cnitool@v1.3.0";
/// The oldest Go that builds the module, or fetches a Go that does.
const GO_MINOR: u32 = 21;

/// Where cnitool is kept.
pub(crate) fn path() -> PathBuf {
    cache().join("bin/cnitool")
}

pub(super) fn present() -> Option<String> {
    let path = path();
    path.is_file().then(|| path.display().to_string())
}

pub(super) fn get(step: &mut Step) -> Result<()> {
    let go = match go() {
        Some(go) => go,
        None => {
            debian::install(&["golang-go"], step)?;
            let Some(go) = go() else { bail!("Go 1.{GO_MINOR} or newer is missing, and apt's is older") };
            go
        }
    };
    let bin = cache().join("bin");
    std::fs::create_dir_all(&bin)?;
    let mut command = Command::new(go);
    command.args(["install", MODULE]).env("GOBIN", &bin).env("CGO_ENABLED", "0").env("GOFLAGS", "");
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("go install {MODULE} failed ({}):\n{}", done.ending(), done.tail(10));
    }
    Ok(())
}

/// The version of a Go that is new enough.
pub(super) fn go_version() -> Option<String> {
    process::first_line(Command::new(go()?).arg("version"))
}

fn go() -> Option<PathBuf> {
    let go = process::find_program("go", &["/usr/local/go/bin".into()])?;
    let version = process::first_line(Command::new(&go).arg("version"))?;
    new_enough(&version).then_some(go)
}

fn new_enough(version: &str) -> bool {
    let number = version.split_whitespace().find_map(|word| word.strip_prefix("go1."));
    let minor = number.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= GO_MINOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_go_is_refused() {
        assert!(new_enough("go version go1.26.8 linux/amd64"));
        assert!(!new_enough("go version go1.19.8 linux/amd64"));
        assert!(!new_enough("nonsense"));
    }
}
