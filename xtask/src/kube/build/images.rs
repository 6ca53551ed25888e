//! The images that clusters and their tests use, in one archive: there is no registry to pull them from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::super::images::PAUSE;
use super::go::{self, Module};
use super::{COREDNS_VERSION, finish_in, key};
use crate::image::archive::{self, Entry, Image};
use crate::process;
use crate::progress::Step;

/// The registry's folder of test images, and the tags that Kubernetes' `test/utils/image/manifest.go` and the conformance
/// suite of network-policy-api (2.45) name.
const E2E: &str = "registry.k8s.io/e2e-test-images";
const AGNHOST: &[&str] = &["agnhost:2.59", "agnhost:2.55", "agnhost:2.45", "jessie-dnsutils:1.7"];
const BUSYBOX: &[&str] = &["busybox:1.37.0-1"];
const REGRESSION: &[&str] = &["regression-issue-74839:1.4"];
const IPTABLES: &str = "registry.k8s.io/build-image/distroless-iptables:v0.8.9";

/// Commands of busybox that tests call and Debian's essential packages lack.
const APPLETS: &[&str] = &["wget", "nslookup", "httpd", "telnet", "traceroute", "vi", "killall", "pidof"];
/// The pause container: waits for a signal, and reaps where Pods share their process namespace.
const PAUSE_SOURCE: &str = include_str!("pause.go");

/// Writes the archive; gives its path below `cache`.
pub(super) fn all(
    cache: &Path,
    rootfs: &Path,
    programs: &BTreeMap<String, PathBuf>,
    kubernetes: &Module,
    step: &mut Step,
) -> Result<PathBuf> {
    let program = |name: &str| programs.get(name).with_context(|| format!("{name} was not built"));
    let (agnhost, coredns) = (program("agnhost")?.as_path(), program("coredns")?.as_path());
    let regression = program("regression-issue-74839")?.as_path();
    let paths = [rootfs, agnhost, regression, coredns].map(|path| path.display().to_string());
    let tags = [AGNHOST, BUSYBOX, REGRESSION].concat().join(" ");
    let digest = key(&[paths.join(" ").as_str(), &tags, &APPLETS.join(" "), PAUSE_SOURCE, "1"]);
    let relative = PathBuf::from(format!("images-{digest}"));
    finish_in(&cache.join(&relative), |directory| {
        step.note("packing");
        let certificates = kubernetes.source("k8s.io/kubernetes/test/images/agnhost")?.join("porter");
        let layers = Layers {
            directory,
            rootfs: cache.join(rootfs),
            agnhost: cache.join(agnhost),
            regression: cache.join(regression),
            coredns: cache.join(coredns),
            certificates,
        };
        let images = layers.images()?;
        archive::write(&directory.join("images.tar"), &images)?;
        layers.clean(&images)
    })?;
    Ok(relative.join("images.tar"))
}

/// Where layers come from and where they are made.
struct Layers<'a> {
    directory: &'a Path,
    rootfs: PathBuf,
    agnhost: PathBuf,
    regression: PathBuf,
    coredns: PathBuf,
    certificates: PathBuf,
}

impl Layers<'_> {
    fn images(&self) -> Result<Vec<Image>> {
        let file = |path: &Path| Entry::File(path.to_owned(), true);
        let data = |name: &str| Entry::File(self.certificates.join(name), false);
        let pause = self.layer("pause", &[("pause", file(&pause(self.directory)?))])?;
        // The certificates are for the "Proxy version v1" test; the files are what agnhost's own image has.
        let agnhost = self.layer(
            "agnhost",
            &[
                ("agnhost", file(&self.agnhost)),
                ("agnhost-2", Entry::Link("agnhost".to_owned())),
                ("coredns", file(&self.coredns)),
                ("localhost.crt", data("localhost.crt")),
                ("localhost.key", data("localhost.key")),
                ("uploads", Entry::Directory(0o755)),
            ],
        )?;
        let applets: Vec<String> = APPLETS.iter().map(|name| format!("usr/local/bin/{name}")).collect();
        let links: Vec<(&str, Entry)> =
            applets.iter().map(|name| (name.as_str(), Entry::Link("/bin/busybox".to_owned()))).collect();
        let busybox = self.layer("busybox", &links)?;
        let coredns = self.layer("coredns", &[("coredns", file(&self.coredns))])?;
        let regression = self.layer("regression", &[("regression-issue-74839", file(&self.regression))])?;
        let e2e = |names: &[&str]| names.iter().map(|name| format!("{E2E}/{name}")).collect::<Vec<_>>();
        let root = self.rootfs.clone();
        let pauses = vec![PAUSE.to_owned(), "registry.k8s.io/pause:3.10".to_owned()];
        let dns = vec![format!("registry.k8s.io/coredns/coredns:v{COREDNS_VERSION}")];
        Ok(vec![
            image(pauses, &["/pause"], &[], vec![pause]),
            image(e2e(AGNHOST), &["/agnhost"], &["pause"], vec![root.clone(), agnhost]),
            image(e2e(BUSYBOX), &[], &["sh"], vec![root.clone(), busybox]),
            image(vec![IPTABLES.to_owned()], &[], &["sh"], vec![root]),
            image(e2e(REGRESSION), &["/regression-issue-74839"], &[], vec![regression]),
            image(dns, &["/coredns"], &[], vec![coredns]),
        ])
    }

    fn layer(&self, name: &str, entries: &[(&str, Entry)]) -> Result<PathBuf> {
        let path = self.directory.join(format!("{name}.tar"));
        archive::write_layer(&path, entries)?;
        Ok(path)
    }

    /// Removes the layers, which the archive holds now.
    fn clean(&self, images: &[Image]) -> Result<()> {
        for layer in images.iter().flat_map(|image| &image.layers) {
            if layer.starts_with(self.directory) && layer.exists() {
                std::fs::remove_file(layer).with_context(|| format!("cannot remove {}", layer.display()))?;
            }
        }
        Ok(())
    }
}

fn image(tags: Vec<String>, entrypoint: &[&str], command: &[&str], layers: Vec<PathBuf>) -> Image {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Image { tags, entrypoint: owned(entrypoint), command: owned(command), layers }
}

fn pause(directory: &Path) -> Result<PathBuf> {
    let (source, program) = (directory.join("pause.go"), directory.join("pause"));
    std::fs::write(&source, PAUSE_SOURCE)?;
    let mut command = Command::new(go::find()?);
    command.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&program).arg(&source);
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GO111MODULE", "off");
    let done = process::capture(&mut command, &mut |_| {})?;
    if !done.ok() {
        bail!("the pause program does not build:\n{}", done.tail(10));
    }
    Ok(program)
}
