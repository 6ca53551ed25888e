//! The container runtime, etcd and the reference plugins: unpacked from Debian's packages, never installed, so that no
//! service of theirs starts on the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{finish_in, key};
use crate::process;
use crate::progress::Step;

/// What is unpacked.
const PACKAGES: &[&str] =
    &["containerd", "runc", "libseccomp2", "etcd-server", "containernetworking-plugins"];
/// What the root file system of test images has beside Debian's essential packages.
const IN_IMAGES: &str = "busybox-static,iproute2,iptables,curl,dnsutils,netcat-openbsd,iputils-ping,ca-certificates,\
                         iperf,iperf3,conntrack,wget";
/// What nobody reads in a test image.
const LEFT_OUT: &[&str] =
    &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// Unpacks the packages below `cache`; gives their root below it.
pub(super) fn unpack(cache: &Path, step: &mut Step) -> Result<PathBuf> {
    let mut versions = candidates(PACKAGES)?;
    if versions.len() < PACKAGES.len() {
        step.note("apt-get update");
        run(Command::new("apt-get").args(["--quiet", "update"]), step)?;
        versions = candidates(PACKAGES)?;
    }
    if versions.len() < PACKAGES.len() {
        let known: Vec<&str> = versions.iter().map(|(name, _)| name.as_str()).collect();
        let unknown: Vec<&str> = PACKAGES.iter().copied().filter(|name| !known.contains(name)).collect();
        bail!("apt knows no package {}; add a source that has it", unknown.join(", "));
    }
    let pinned: Vec<String> = versions.iter().map(|(name, version)| format!("{name}={version}")).collect();
    let relative = PathBuf::from(format!("debian-{}", key(&pinned)));
    finish_in(&cache.join(&relative), |directory| {
        let packages = directory.join("packages");
        std::fs::create_dir(&packages)?;
        let mut download = Command::new("apt-get");
        download.arg("--quiet").arg("download").args(&pinned).current_dir(&packages);
        run(&mut download, step)?;
        for entry in std::fs::read_dir(&packages)? {
            run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(directory), step)?;
        }
        std::fs::remove_dir_all(&packages).context("cannot remove the packages")
    })?;
    Ok(relative)
}

/// Where the unpacked packages keep their libraries, below `root`.
pub(super) fn libraries(cache: &Path, root: &Path) -> Result<PathBuf> {
    for inside in ["usr/lib", "lib"] {
        let directory = root.join(inside);
        let entries = std::fs::read_dir(cache.join(&directory)).into_iter().flatten().flatten();
        for entry in entries {
            if entry.path().join("libseccomp.so.2").exists() {
                return Ok(directory.join(entry.file_name()));
            }
        }
    }
    bail!("{} holds no libseccomp.so.2; remove the directory, and it is unpacked again", root.display())
}

/// A Debian root file system as a tar file, below `cache`.
pub(super) fn root_file_system(cache: &Path, step: &mut Step) -> Result<PathBuf> {
    let (suite, mirror) = (suite()?, mirror().unwrap_or_default());
    let digest = key(&[&suite, IN_IMAGES, &LEFT_OUT.join(" ")]);
    let relative = PathBuf::from(format!("rootfs-{suite}-{digest}"));
    finish_in(&cache.join(&relative), |directory| {
        let mut command = Command::new("mmdebstrap");
        command.args(["--mode=root", "--variant=essential", &format!("--include={IN_IMAGES}")]);
        command.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
        command.arg(&suite).arg(directory.join("rootfs.tar"));
        if !mirror.is_empty() {
            command.arg(format!("deb {mirror} {suite} main"));
        }
        run(&mut command, step)
    })?;
    Ok(relative.join("rootfs.tar"))
}

/// The version of each package that apt would install; unknown ones are left out.
fn candidates(packages: &[&str]) -> Result<Vec<(String, String)>> {
    let mut command = Command::new("apt-cache");
    command.arg("policy").args(packages).env("LC_ALL", "C");
    let output =
        command.output().context("this system has no apt-cache; test clusters need Debian or a relative")?;
    Ok(read_policy(&String::from_utf8_lossy(&output.stdout)))
}

fn read_policy(text: &str) -> Vec<(String, String)> {
    let (mut found, mut name) = (Vec::new(), "");
    for line in text.lines() {
        if !line.starts_with(' ') {
            name = line.trim_end_matches(':');
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            found.push((name.to_owned(), version.to_owned()));
        }
    }
    found
}

fn suite() -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map(|name| name.trim_matches('"').to_owned()).context("/etc/os-release has no VERSION_CODENAME")
}

/// The mirror that apt uses; `None` leaves the choice to mmdebstrap.
fn mirror() -> Option<String> {
    let directory = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = directory.map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    let text =
        files.iter().filter(|path| is_source(path)).filter_map(|path| std::fs::read_to_string(path).ok());
    text.collect::<Vec<_>>().join("\n").lines().find_map(read_mirror)
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "list" || extension == "sources")
}

fn read_mirror(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let address = match words.next()? {
        "URIs:" => words.next()?,
        "deb" => words.find(|word| word.contains("://"))?,
        _ => return None,
    };
    address.trim_end_matches('/').ends_with("/debian").then(|| address.to_owned())
}

fn run(command: &mut Command, step: &mut Step) -> Result<()> {
    let program = command.get_program().display().to_string();
    let done = process::capture(command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("{program} failed ({}):\n{}", done.ending(), done.tail(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_names_what_can_be_had() {
        let text = "runc:\n  Installed: (none)\n  Candidate: 1.1.5\netcd:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(read_policy(text), [("runc".to_owned(), "1.1.5".to_owned())]);
    }

    #[test]
    fn only_debian_mirrors_count() {
        let mirror = |line| read_mirror(line);
        assert_eq!(mirror("URIs: http://m/debian"), Some("http://m/debian".to_owned()));
        assert_eq!(
            mirror("deb [signed-by=/k] http://m/debian/ trixie main"),
            Some("http://m/debian/".to_owned())
        );
        assert_eq!(mirror("URIs: http://m/debian-security"), None);
        assert_eq!(mirror("# deb http://m/debian trixie main"), None);
    }
}
