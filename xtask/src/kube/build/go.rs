//! Programs from Go modules, each under a key of its version, the toolchain and the flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{finish_in, key, recorded};
use crate::process;
use crate::progress::Step;

/// The oldest Go that can build it, or fetch a Go that does.
pub(crate) const GO_MINOR: u32 = 21;
/// No symbol tables: a third smaller, and nothing here is debugged.
const LINK: &str = "-s -w";

/// A module of ours that only names what to build and in which versions.
pub(super) struct Module {
    /// Where it lies.
    directory: PathBuf,
    /// Of everything it requires.
    version: String,
    go: PathBuf,
    toolchain: String,
}

/// What a module requires.
pub(super) struct Requirements<'a> {
    /// The module's name in the cache.
    pub(super) name: &'a str,
    /// Module path → version, e.g. `v1.35.4`.
    pub(super) require: BTreeMap<String, String>,
    /// Module path → version of the same path.
    pub(super) replace: BTreeMap<String, String>,
    /// Packages that will be built, or that `main` imports.
    pub(super) packages: &'a [&'a str],
    /// The source of a program of ours in this module, built as package `.`.
    pub(super) main: Option<String>,
}

impl Module {
    /// Writes the module below `cache` and resolves what it requires, once.
    pub(super) fn make(
        cache: &Path,
        wanted: &Requirements<'_>,
        version: &str,
        step: &mut Step,
    ) -> Result<Self> {
        let (go, toolchain) = toolchain()?;
        let (manifest, imports) = (manifest(wanted), imports(wanted.packages));
        let main = wanted.main.as_deref().unwrap_or_default();
        let digest = key(&[manifest.as_str(), imports.as_str(), main]);
        let directory = cache.join("go").join(format!("{}-{version}-{digest}", wanted.name));
        finish_in(&directory, |directory| {
            std::fs::write(directory.join("go.mod"), &manifest)?;
            std::fs::write(directory.join("imports.go"), &imports)?;
            if !main.is_empty() {
                std::fs::write(directory.join("main.go"), main)?;
            }
            run(&go, directory, &["mod", "tidy"], step)
        })?;
        Ok(Self { directory, version: version.to_owned(), go, toolchain })
    }

    /// Copies `parts` of the module whose source is `source` below `cache`, once, with some files `changed`: path in the
    /// module → content. It is built with the versions that its own go.mod and go.sum name.
    pub(super) fn copy(
        cache: &Path,
        name: &str,
        source: &Path,
        version: &str,
        parts: &[&str],
        changed: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let (go, toolchain) = toolchain()?;
        let contents = changed.iter().flat_map(|(path, text)| [path.as_str(), text.as_str()]);
        let digest = key(&parts.iter().copied().chain(contents).collect::<Vec<_>>());
        let directory = cache.join("go").join(format!("{name}-{version}-{digest}"));
        finish_in(&directory, |directory| {
            for part in ["go.mod", "go.sum"].iter().chain(parts) {
                copy_tree(&source.join(part), &directory.join(part))?;
            }
            for (path, text) in changed {
                let path = directory.join(path);
                std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(())
        })?;
        Ok(Self { directory, version: version.to_owned(), go, toolchain })
    }

    /// A module of the repository: `directory` holds its `main.go`, and what it requires with checksums.
    pub(super) fn committed(directory: PathBuf) -> Result<Self> {
        let go = find()?;
        let toolchain =
            process::first_line(Command::new(&go).arg("version")).context("`go version` fails")?;
        let mut texts = Vec::new();
        for name in ["go.mod", "go.sum", "main.go"] {
            let path = directory.join(name);
            texts.push(
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
            );
        }
        Ok(Self { directory, version: key(&texts), go, toolchain })
    }

    /// Builds one program into the cache unless it is there; gives its path below `cache`.
    pub(super) fn program(&self, cache: &Path, build: &Program<'_>, step: &mut Step) -> Result<PathBuf> {
        let link = format!("{LINK} {}", build.link);
        // -trimpath: the key names no directory, so the output must not depend on one.
        let flags = ["-trimpath", "-v", "-ldflags", link.trim()];
        let verb: &[&str] = if build.is_test { &["test", "-c"] } else { &["build"] };
        let place = self.directory.file_name().unwrap_or_default().display().to_string();
        let digest = key(&[&self.toolchain, "CGO_ENABLED=0", &place, build.package, &flags.join(" ")]);
        let relative = PathBuf::from(format!("{}-{}-{digest}", build.name, self.version));
        let directory = cache.join(&relative);
        finish_in(&directory, |directory| {
            step.note(build.package);
            let output = directory.join(build.name).display().to_string();
            let arguments = [verb, &flags, &["-o", &output, build.package]].concat();
            run(&self.go, &self.directory, &arguments, step)
        })?;
        Ok(relative.join(build.name))
    }

    /// The source directory of a package.
    pub(super) fn source(&self, package: &str) -> Result<PathBuf> {
        let mut command = Command::new(&self.go);
        command.args(["list", "-f", "{{.Dir}}", package]).current_dir(&self.directory);
        let line = process::first_line(&mut command).filter(|line| !line.is_empty());
        line.map(PathBuf::from).with_context(|| format!("`go list {package}` finds no directory"))
    }
}

/// One program of a module.
pub(super) struct Program<'a> {
    /// Its file name.
    pub(super) name: &'a str,
    /// Its package.
    pub(super) package: &'a str,
    /// Further linker flags.
    pub(super) link: &'a str,
    /// It is a test binary.
    pub(super) is_test: bool,
}

/// Go, and what it says it is.
fn toolchain() -> Result<(PathBuf, String)> {
    let go = find()?;
    let version = process::first_line(Command::new(&go).arg("version")).context("`go version` fails")?;
    Ok((go, version))
}

/// Copies a file or a directory's contents. The copies can be written to, as files of the module cache cannot.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
        for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let name = entry?.file_name();
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    std::fs::write(to, content).with_context(|| format!("cannot write {}", to.display()))
}

/// A Go that is new enough.
pub(crate) fn find() -> Result<PathBuf> {
    let go = process::find_program("go", &["/usr/local/go/bin".into()]);
    let go = go.with_context(|| format!("Go 1.{GO_MINOR} or newer is missing; see https://go.dev/dl"))?;
    Ok(go)
}

/// Downloads a module's go.mod and gives its text.
pub(super) fn manifest_of(module: &str, version: &str, cache: &Path) -> Result<String> {
    let path = recorded(&cache.join("go"), &format!("{}-{version}.mod", module.replace('/', "-")), || {
        let path = download(module, version, "GoMod")?;
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    })?;
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Downloads a module, verified by the checksum database, and gives its source directory, which is read-only.
pub(super) fn source_of(module: &str, version: &str) -> Result<PathBuf> {
    download(module, version, "Dir")
}

/// A path of `go mod download`'s answer: `GoMod` or `Dir`.
fn download(module: &str, version: &str, path: &str) -> Result<PathBuf> {
    let mut command = Command::new(find()?);
    command.args(["mod", "download", "-json", &format!("{module}@{version}")]);
    let output = command.output().context("cannot run go")?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    answer[path].as_str().map(PathBuf::from).with_context(|| {
        let why = answer["Error"].as_str().unwrap_or_default();
        format!("cannot download {module}@{version}: {why}{}", String::from_utf8_lossy(&output.stderr))
    })
}

/// The staging modules that Kubernetes' go.mod replaces by directories of its own repository.
pub(super) fn staging(manifest: &str) -> Vec<&str> {
    let mut names: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.trim().split_once(" => ./staging/"))
        .map(|(name, _)| name.trim_start_matches("replace ").trim())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The version that a go.mod requires of a module.
pub(super) fn required<'a>(manifest: &'a str, module: &str) -> Option<&'a str> {
    manifest.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(module)).then(|| words.next()).flatten().filter(|word| word.starts_with('v'))
    })
}

fn manifest(wanted: &Requirements<'_>) -> String {
    let mut text = format!("module sheetbend.test/{}\n\ngo 1.25.0\n", wanted.name);
    for (module, version) in &wanted.require {
        text += &format!("\nrequire {module} {version}\n");
    }
    for (module, version) in &wanted.replace {
        text += &format!("\nreplace {module} => {module} {version}\n");
    }
    text
}

fn imports(packages: &[&str]) -> String {
    let mut text = "//go:build imports\n\npackage main\n\nimport (\n".to_owned();
    for package in packages {
        text += &format!("\t_ \"{package}\"\n");
    }
    text + ")\n"
}

fn run(go: &Path, directory: &Path, arguments: &[&str], step: &mut Step) -> Result<()> {
    let mut command = Command::new(go);
    command.args(arguments).current_dir(directory).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("go {} failed ({}):\n{}", arguments.join(" "), done.ending(), done.tail(15));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    const KUBERNETES: &str = "\
require (
\tgithub.com/onsi/ginkgo/v2 v2.27.2
\tk8s.io/api v0.0.0
)
replace (
\tk8s.io/api => ./staging/src/k8s.io/api
\tk8s.io/apimachinery => ./staging/src/k8s.io/apimachinery
)
";

    #[test]
    fn staging_modules_and_versions_are_read_from_a_manifest() {
        assert_eq!(staging(KUBERNETES), ["k8s.io/api", "k8s.io/apimachinery"]);
        assert_eq!(required(KUBERNETES, "github.com/onsi/ginkgo/v2"), Some("v2.27.2"));
        assert_eq!(required(KUBERNETES, "k8s.io/apimachinery"), None);
    }

    #[test]
    fn a_copied_module_has_the_changes_and_a_name_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (source, cache) = (dir.path().join("source"), dir.path().join("cache"));
        std::fs::create_dir_all(source.join("a/b")).unwrap();
        for (path, text) in [("go.mod", "m"), ("go.sum", "s"), ("a/x", "x"), ("a/b/y", "y"), ("left", "out")]
        {
            std::fs::write(source.join(path), text).unwrap();
            let mut mode = source.join(path).metadata().unwrap().permissions();
            mode.set_readonly(true);
            std::fs::set_permissions(source.join(path), mode).unwrap();
        }
        let copy = |text: &str| {
            let changed = BTreeMap::from([("a/b/y".to_owned(), text.to_owned())]);
            Module::copy(&cache, "m", &source, "v1", &["a"], &changed).unwrap().directory
        };
        let first = copy("1");
        let read = |path: &str| std::fs::read_to_string(first.join(path)).ok();
        assert_eq!(
            ["go.mod", "a/x", "a/b/y", "left"].map(read),
            [Some("m"), Some("x"), Some("1"), None].map(|text| text.map(str::to_owned))
        );
        assert_eq!(copy("1"), first);
        assert_ne!(copy("2"), first);
    }
}
