//! `sheetbend dns` in a network namespace of its own, on port 53 of loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::program;
use sheetbend_testkit::api_server::ApiServer;

/// The addresses of both families that it answers on.
pub(crate) const ADDRESSES: [&str; 2] = ["127.0.0.1", "::1"];

/// A namespace, the cluster's objects, and the processes that answer there. All ends with this value.
pub(crate) struct World {
    pub(crate) netns: Arc<Netns>,
    directory: tempfile::TempDir,
    /// Whether the objects come from an API server.
    kubernetes: bool,
    servers: Vec<Child>,
}

impl World {
    /// The cluster of `testdata/dns`, and nobody who answers yet.
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let objects = directory.path().join("objects");
        fs::create_dir(&objects)?;
        fs::copy(testdata("cluster.yaml"), objects.join("cluster.yaml"))?;
        Ok(Self { netns: Arc::new(Netns::new()?), directory, kubernetes: false, servers: Vec::new() })
    }

    /// Names come from an API server inside the namespace, which has no objects yet.
    pub(crate) fn with_api_server(&mut self) -> Result<ApiServer> {
        let server = self.netns.run(|| Ok(ApiServer::start()))?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server.url()}}],
            "users": [{"name": "u", "user": {}}],
        });
        fs::write(self.directory.path().join("kubeconfig"), config.to_string())?;
        self.kubernetes = true;
        Ok(server)
    }

    /// Writes a file among the objects, in one step.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let aside = self.directory.path().join("aside");
        fs::write(&aside, text)?;
        Ok(fs::rename(aside, self.directory.path().join("objects").join(name))?)
    }

    /// Starts a process, waits until it says that it answers, and gives its number.
    pub(crate) fn start(&mut self, settings: &[&str]) -> Result<usize> {
        let number = self.servers.len();
        let log = self.directory.path().join(format!("{number}.log"));
        let mut command = Command::new(program("sheetbend")?);
        command.args(["dns", "--listen", &ADDRESSES.join(","), "--zone", "cluster.local"]);
        let (source, file) =
            if self.kubernetes { ("--kubeconfig", "kubeconfig") } else { ("--objects", "objects") };
        command.arg(source).arg(self.directory.path().join(file));
        command.arg(format!("--set=node.stateDir={}", self.directory.path().join("state").display()));
        command.args(["--set", "dns.hosts=192.0.2.7 fixed.example.com", "--set", "dns.upstreams=none"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stderr(fs::File::create(&log)?);
        let child = self.netns.run(|| command.spawn().context("cannot start sheetbend dns"))?;
        self.servers.push(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let said = fs::read_to_string(&log)?;
            if said.contains("answering addresses") {
                return Ok(number);
            }
            if let Some(status) = self.servers[number].try_wait()? {
                bail!("sheetbend dns ended ({status}):\n{said}");
            }
            ensure!(Instant::now() < deadline, "sheetbend dns does not answer:\n{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9; returns when the process and its sockets are gone.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        self.servers[number].kill()?;
        self.servers[number].wait()?;
        Ok(())
    }

    /// SIGTERM; returns when the process has ended well.
    pub(crate) fn end(&mut self, number: usize) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.servers[number].id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let status = self.servers[number].wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// What `dig` prints.
    pub(crate) fn dig(&self, arguments: &[&str]) -> Result<String> {
        self.netns.run(|| {
            let output = Command::new("dig")
                .args(["+tries=1", "+timeout=5", "+noall", "+comments", "+answer", "+nocookie"])
                .args(arguments)
                .output()
                .context("cannot run dig; cargo xtask setup installs it")?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // Ended already is as good.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

pub(crate) fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dns").join(name)
}
