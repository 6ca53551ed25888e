//! Which Rust compiler builds for the kernel: it must bring the sources of `core`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use crate::repo::cargo_home;

/// A compiler with library sources.
pub(crate) struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    /// A stable compiler needs leave to build `core`.
    bootstrap: bool,
    sysroot: PathBuf,
}

/// Debian's rustc with rust-web-src, else rustup's nightly with rust-src.
pub(crate) fn find() -> Option<Compiler> {
    debian().or_else(nightly)
}

fn debian() -> Option<Compiler> {
    let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    let sysroot = sysroot_with_sources(&rustc)?;
    cargo.is_file().then_some(Compiler { cargo, rustc, bootstrap: true, sysroot })
}

fn nightly() -> Option<Compiler> {
    let rustup = process::find_program("rustup", &[cargo_home().join("bin")])?;
    let which = |name: &str| {
        process::first_line(Command::new(&rustup).args(["which", "--toolchain", "nightly", name]))
            .map(PathBuf::from)
    };
    let (cargo, rustc) = (which("cargo")?, which("rustc")?);
    let sysroot = sysroot_with_sources(&rustc)?;
    Some(Compiler { cargo, rustc, bootstrap: false, sysroot })
}

fn sysroot_with_sources(rustc: &Path) -> Option<PathBuf> {
    let sysroot = PathBuf::from(process::first_line(Command::new(rustc).args(["--print", "sysroot"]))?);
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file().then_some(sysroot)
}

impl Compiler {
    /// Compiler and linker, e.g. `rustc 1.96.0 (…) + bpf-linker 0.13.0`.
    pub(crate) fn version(&self) -> String {
        let rustc = process::first_line(Command::new(&self.rustc).arg("--version")).unwrap_or_default();
        let linker = process::find_program("bpf-linker", &[cargo_home().join("bin")])
            .and_then(|path| process::first_line(Command::new(path).arg("--version")))
            .unwrap_or_else(|| "no bpf-linker".to_owned());
        format!("{rustc} + {linker}")
    }

    /// A cargo that uses this compiler, whatever the calling cargo's is.
    pub(super) fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER"] {
            command.env_remove(name);
        }
        // Cargo's own variables of the running xtask would only confuse the build.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                command.env_remove(name);
            }
        }
        command.env("RUSTC", &self.rustc);
        if self.bootstrap {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        let mut path = vec![cargo_home().join("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        if let Ok(joined) = std::env::join_paths(path) {
            command.env("PATH", joined);
        }
        command
    }

    /// Where the sources of `core` lie, by both names a compiler may write into the object.
    pub(super) fn library_sources(&self) -> Vec<PathBuf> {
        let link = self.sysroot.join("lib/rustlib/src/rust");
        let mut paths = vec![link.clone()];
        paths.extend(link.canonicalize().ok().filter(|real| *real != link));
        paths
    }
}
