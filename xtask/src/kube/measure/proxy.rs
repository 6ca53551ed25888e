//! `kubectl proxy` on a Unix socket: requests to the API server without a process each.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::super::{enter, record};
use super::pods::Cluster;

/// A running proxy; ends with its value.
pub(super) struct Proxy {
    child: Child,
    socket: PathBuf,
}

impl Proxy {
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let socket =
            record::directory(&cluster.record.settings.name).join(format!("proxy-{}", std::process::id()));
        let mut command = enter::kubectl(&cluster.record, &cluster.kubectl)?;
        command.arg("proxy").arg(format!("--unix-socket={}", socket.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let proxy = Self { child: command.spawn().context("cannot start kubectl proxy")?, socket };
        let end = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&proxy.socket).is_err() {
            if Instant::now() > end {
                bail!("kubectl proxy does not serve");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(proxy)
    }

    /// A merge patch (RFC 7396).
    pub(super) fn patch(&self, path: &str, patch: &Value) -> Result<()> {
        let body = patch.to_string();
        let mut stream = UnixStream::connect(&self.socket)?;
        write!(
            stream,
            "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/merge-patch+json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("PATCH {path}: {}", answer.lines().next().unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It ends with the cluster at the latest.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
