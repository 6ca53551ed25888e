//! Everything a cluster runs, built once and kept in the cache.

mod debian;
mod go;
mod images;
mod network_policy_api;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use self::go::{Module, Program, Requirements};
pub(super) use self::network_policy_api::NetworkPolicyApi;
use super::settings::KUBERNETES;
use crate::progress::{Mark, Step};
use crate::repo::Repo;

const KUBERNETES_MODULE: &str = "k8s.io/kubernetes";
const GINKGO: &str = "github.com/onsi/ginkgo/v2";
const COREDNS: &str = "github.com/coredns/coredns";
/// Without the `v`; the peer's DNS server.
pub(super) const COREDNS_VERSION: &str = "1.12.4";

/// What the peer's configuration and Kubernetes' tests use; all plugins would bring every cloud's library.
const COREDNS_PLUGINS: &[&str] = &[
    "cache",
    "debug",
    "errors",
    "file",
    "forward",
    "health",
    "hosts",
    "kubernetes",
    "loadbalance",
    "log",
    "loop",
    "metrics",
    "ready",
    "reload",
    "rewrite",
    "template",
    "whoami",
];

/// What a server of one zone file needs, and what lets it use every CPU.
const COREDNS_BENCH_PLUGINS: &[&str] = &["bind", "bufsize", "errors", "file", "multisocket"];

/// Programs of the Kubernetes module: package path below `k8s.io/kubernetes/`.
const PROGRAMS: &[&str] = &[
    "cmd/kubectl",
    "cmd/kube-apiserver",
    "cmd/kube-controller-manager",
    "cmd/kube-scheduler",
    "cmd/kubelet",
    "cmd/kube-proxy",
    "test/images/agnhost",
    "test/images/regression-issue-74839",
];
const E2E: &str = "k8s.io/kubernetes/test/e2e";
const GINKGO_COMMAND: &str = "github.com/onsi/ginkgo/v2/ginkgo";

/// What was built; paths are relative to `cache`.
pub(super) struct Components {
    /// `$SHEETBEND_CACHE/kube`.
    pub(super) cache: PathBuf,
    /// Program → path.
    pub(super) programs: BTreeMap<String, PathBuf>,
    /// The reference CNI plugins' directory.
    pub(super) plugins: PathBuf,
    /// Where runc finds libseccomp.
    pub(super) libraries: PathBuf,
    /// The archive with all images.
    pub(super) images: PathBuf,
}

impl Components {
    /// A program's absolute path.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.get(name).with_context(|| format!("{name} was not built"))?;
        Ok(self.cache.join(path))
    }
}

/// The programs that run tests.
pub(super) struct TestPrograms {
    /// Kubernetes' end-to-end tests.
    pub(super) e2e: PathBuf,
    /// Runs them in parallel.
    pub(super) ginkgo: PathBuf,
}

fn cache() -> PathBuf {
    crate::repo::cache().join("kube")
}

/// Builds what is missing, with a line a component.
pub(super) fn components() -> Result<Components> {
    let cache = cache();
    let _lock = lock(&cache)?;
    let debian = shown("containerd, runc, etcd and CNI plugins", |step| debian::unpack(&cache, step))?;
    let rootfs = shown("root file system of test images", |step| debian::root_file_system(&cache, step))?;
    let kubernetes = shown("Kubernetes' modules", |step| kubernetes(&cache, step))?;
    let mut programs = BTreeMap::new();
    for package in PROGRAMS {
        let (name, path) = shown(package, |step| kubernetes_program(&kubernetes, &cache, package, step))?;
        programs.insert(name, path);
    }
    let coredns = shown("CoreDNS", |step| coredns(&cache, "coredns", COREDNS_PLUGINS, step))?;
    let images = shown("test images", |step| {
        programs.insert("coredns".to_owned(), coredns);
        images::all(&cache, &rootfs, &programs, &kubernetes, step)
    })?;
    for name in ["containerd", "containerd-shim-runc-v2", "ctr", "etcd", "runc"] {
        let place = ["usr/bin", "usr/sbin"].map(|place| debian.join(place).join(name));
        let path = place.into_iter().find(|path| cache.join(path).exists());
        programs.insert(name.to_owned(), path.with_context(|| format!("Debian's packages hold no {name}"))?);
    }
    Ok(Components {
        plugins: debian.join("usr/lib/cni"),
        libraries: debian::libraries(&cache, &debian)?,
        images,
        programs,
        cache,
    })
}

/// kubectl alone, for commands that need nothing else.
pub(super) fn kubectl() -> Result<PathBuf> {
    let cache = cache();
    let _lock = lock(&cache)?;
    let mut step = Step::quiet("kubectl");
    let module = kubernetes(&cache, &mut step)?;
    Ok(cache.join(kubernetes_program(&module, &cache, "cmd/kubectl", &mut step)?.1))
}

/// `ctr` alone, which is there once a cluster has been up.
pub(super) fn ctr() -> Result<PathBuf> {
    let cache = cache();
    let root = debian::unpack(&cache, &mut Step::quiet("ctr"))?;
    Ok(cache.join(root).join("usr/bin/ctr"))
}

/// CoreDNS as benchmarks measure it.
pub(crate) fn coredns_for_bench() -> Result<PathBuf> {
    let cache = cache();
    let _lock = lock(&cache)?;
    let build = |step: &mut Step| coredns(&cache, "coredns-bench", COREDNS_BENCH_PLUGINS, step);
    Ok(cache.join(shown("CoreDNS", build)?))
}

/// kube-proxy, which benchmarks measure beside ours.
pub(crate) fn kube_proxy_for_bench() -> Result<PathBuf> {
    let cache = cache();
    let _lock = lock(&cache)?;
    let module = shown("Kubernetes' modules", |step| kubernetes(&cache, step))?;
    let build = |step: &mut Step| kubernetes_program(&module, &cache, "cmd/kube-proxy", step);
    Ok(cache.join(shown("kube-proxy", build)?.1))
}

/// cyclonus with our questions: what `tests/interop/tests/networkpolicy` compares with.
pub(crate) fn cyclonus(repo: &Repo) -> Result<PathBuf> {
    let cache = cache();
    let _lock = lock(&cache)?;
    let program = Program { name: "verdicts", package: ".", link: "", is_test: false };
    let module = Module::committed(repo.path("tests/interop/cyclonus"))?;
    Ok(cache.join(shown("cyclonus", |step| module.program(&cache, &program, step))?))
}

/// The programs that run tests; e2e.test takes three minutes the first time.
pub(super) fn test_programs() -> Result<TestPrograms> {
    let cache = cache();
    let _lock = lock(&cache)?;
    let module = shown("Kubernetes' modules", |step| kubernetes(&cache, step))?;
    let ginkgo = Program { name: "ginkgo", package: GINKGO_COMMAND, link: "", is_test: false };
    let link = version_flags();
    let e2e = Program { name: "e2e.test", package: E2E, link: &link, is_test: true };
    let build = |program: &Program<'_>| {
        shown(program.name, |step| Ok(cache.join(module.program(&cache, program, step)?)))
    };
    Ok(TestPrograms { e2e: build(&e2e)?, ginkgo: build(&ginkgo)? })
}

/// The conformance suite of ClusterNetworkPolicy, without what needs SCTP sockets; two minutes the first time.
pub(super) fn network_policy_api() -> Result<NetworkPolicyApi> {
    let cache = cache();
    let _lock = lock(&cache)?;
    shown("network-policy-api", |step| network_policy_api::build(&cache, step))
}

fn kubernetes(cache: &Path, step: &mut Step) -> Result<Module> {
    let version = format!("v{KUBERNETES}");
    let upstream = go::manifest_of(KUBERNETES_MODULE, &version, cache)?;
    // Staging modules are published with the same minor and patch version, but major version 0.
    let staged = format!("v0.{}", KUBERNETES.split_once('.').map_or("", |(_, rest)| rest));
    let ginkgo =
        go::required(&upstream, GINKGO).with_context(|| format!("Kubernetes requires no {GINKGO}"))?;
    let packages: Vec<String> =
        PROGRAMS.iter().map(|package| format!("{KUBERNETES_MODULE}/{package}")).collect();
    let mut packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    packages.extend([E2E, GINKGO_COMMAND]);
    let wanted = Requirements {
        name: "kubernetes",
        require: BTreeMap::from([
            (KUBERNETES_MODULE.to_owned(), version.clone()),
            (GINKGO.to_owned(), ginkgo.to_owned()),
        ]),
        replace: go::staging(&upstream).into_iter().map(|name| (name.to_owned(), staged.clone())).collect(),
        packages: &packages,
        main: None,
    };
    Module::make(cache, &wanted, &version, step)
}

fn kubernetes_program(
    module: &Module,
    cache: &Path,
    package: &str,
    step: &mut Step,
) -> Result<(String, PathBuf)> {
    let name = package.rsplit('/').next().unwrap_or(package);
    let (package, link) = (format!("{KUBERNETES_MODULE}/{package}"), version_flags());
    let program = Program { name, package: &package, link: &link, is_test: false };
    Ok((name.to_owned(), module.program(cache, &program, step)?))
}

/// What `kubectl version` and the API server say, and what tests compare.
fn version_flags() -> String {
    let (major, rest) = KUBERNETES.split_once('.').unwrap_or((KUBERNETES, ""));
    let minor = rest.split('.').next().unwrap_or_default();
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    [set("gitVersion", &format!("v{KUBERNETES}")), set("gitMajor", major), set("gitMinor", minor)].join(" ")
}

fn coredns(cache: &Path, name: &'static str, plugins: &[&str], step: &mut Step) -> Result<PathBuf> {
    let version = format!("v{COREDNS_VERSION}");
    let packages = plugins.iter().map(|plugin| format!("{COREDNS}/plugin/{plugin}"));
    let packages: Vec<String> = packages.chain([format!("{COREDNS}/coremain")]).collect();
    let imports: String = packages.iter().map(|package| format!("\t_ \"{package}\"\n")).collect();
    let main = format!(
        "package main\n\nimport (\n{imports}\t\"{COREDNS}/coremain\"\n)\n\nfunc main() {{ coremain.Run() }}\n"
    );
    let wanted = Requirements {
        name,
        require: BTreeMap::from([(COREDNS.to_owned(), version.clone())]),
        replace: BTreeMap::new(),
        packages: &packages.iter().map(String::as_str).collect::<Vec<_>>(),
        main: Some(main),
    };
    let module = Module::make(cache, &wanted, &version, step)?;
    module.program(cache, &Program { name, package: ".", link: "", is_test: false }, step)
}

fn shown<T>(name: &str, work: impl FnOnce(&mut Step) -> Result<T>) -> Result<T> {
    let mut step = Step::quiet(name);
    match work(&mut step) {
        Ok(value) => {
            step.end_if_shown(Mark::Done, "");
            Ok(value)
        }
        Err(error) => {
            step.end(Mark::Failed, "");
            Err(error)
        }
    }
}

/// Only one process builds at a time.
fn lock(cache: &Path) -> Result<File> {
    std::fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("    waiting for another build into {}", cache.display());
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Makes `directory` with `work`, whole or not at all; does nothing if it is there.
fn finish_in(directory: &Path, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = directory.with_file_name(name);
    drop(std::fs::remove_dir_all(&part));
    std::fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    work(&part)?;
    std::fs::rename(&part, directory).with_context(|| format!("cannot rename to {}", directory.display()))
}

/// A file in `directory` whose text is asked for once.
fn recorded(directory: &Path, name: &str, text: impl FnOnce() -> Result<String>) -> Result<PathBuf> {
    let path = directory.join(name);
    if !path.is_file() {
        let text = text()?;
        std::fs::create_dir_all(directory)?;
        let part = directory.join(format!("{name}.part"));
        std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path))?;
    }
    Ok(path)
}

/// Twelve hexadecimal digits that stand for all of `parts`.
fn key<T: AsRef<str>>(parts: &[T]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_ref());
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn keys_tell_parts_apart() {
        assert_ne!(key(&["a", "bc"]), key(&["ab", "c"]));
        assert_eq!(key(&["a"]).len(), 12);
    }

    #[test]
    fn a_failed_build_leaves_no_result() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        assert!(finish_in(&target, |_| anyhow::bail!("no")).is_err());
        assert!(!target.exists());
        finish_in(&target, |path| Ok(std::fs::write(path.join("f"), "")?)).unwrap();
        assert!(target.join("f").exists());
        finish_in(&target, |_| anyhow::bail!("not called")).unwrap();
    }
}
