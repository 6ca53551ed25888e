//! Ours and CoreDNS, each in a namespace of its own on 127.0.0.1:53, with the same Services.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::load;
use crate::cli::say;
use crate::netns::Netns;
use crate::sandbox::SCRATCH;

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

const COREFILE: &str = include_str!("../../peer/Corefile");

/// A name server that answers. Killed with this value.
pub(crate) struct Server {
    /// Who it is, as the tables call it.
    pub(crate) name: &'static str,
    /// Where it answers.
    pub(crate) netns: Netns,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The next size's server has the name too.
        if let Err(error) = self.netns.clone().remove() {
            say(&format!("the next server may find the name taken: {error:#}"));
        }
    }
}

/// Label of Service number `index` of `bench.svc.cluster.local`.
pub(crate) fn label(index: u32) -> String {
    format!("service-{index:05}")
}

/// Its cluster address.
pub(crate) fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + index)
}

/// `sheetbend dns` with `services` Services.
pub(crate) fn ours(binaries: &Path, services: u32) -> anyhow::Result<Server> {
    let directory = Path::new(SCRATCH).join("dns-ours");
    fs::create_dir_all(&directory)?;
    let mut objects = String::from("{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[");
    for index in 0..services {
        let comma = if index > 0 { "," } else { "" };
        objects += &format!(
            "{comma}{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"{}\",\"namespace\":\"bench\"}},\
             \"spec\":{{\"clusterIP\":\"{}\",\"ports\":[{{\"name\":\"http\",\"port\":80}}]}}}}",
            label(index),
            address(index)
        );
    }
    objects += "]}";
    fs::write(directory.join("services.json"), objects)?;
    let mut command = Command::new(binaries.join("sheetbend"));
    command.args(["dns", "--listen", "127.0.0.1", "--upstreams", "none", "--objects"]).arg(directory);
    start("Sheetbend", "sbb-dns-ours", command)
}

/// CoreDNS with the same records in a zone file.
pub(crate) fn coredns(services: u32) -> anyhow::Result<Server> {
    let directory = Path::new(SCRATCH).join("dns-peer");
    fs::create_dir_all(&directory)?;
    let mut zone = String::from(
        "$ORIGIN cluster.local.\n$TTL 5\n@ IN SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ IN NS ns.dns\n\
         ns.dns IN A 10.96.0.10\n",
    );
    for index in 0..services {
        let name = format!("{}.bench.svc", label(index));
        zone += &format!("{name} IN A {}\n_http._tcp.{name} IN SRV 0 100 80 {name}\n", address(index));
    }
    let file = directory.join("zone");
    fs::write(&file, zone)?;
    let corefile = directory.join("Corefile");
    fs::write(&corefile, COREFILE.replace("@ZONE@", &file.display().to_string()))?;
    let mut command = Command::new(program());
    command.arg("-conf").arg(corefile);
    start("CoreDNS", "sbb-dns-peer", command)
}

fn program() -> PathBuf {
    std::env::var_os("SHEETBEND_COREDNS").map_or_else(|| PathBuf::from("coredns"), PathBuf::from)
}

fn start(name: &'static str, netns: &str, mut command: Command) -> anyhow::Result<Server> {
    let netns = Netns::create(netns)?;
    let log = Path::new(SCRATCH).join(format!("{}.log", netns.name()));
    let output = fs::File::create(&log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let child = netns.enter(|| command.spawn())?.with_context(|| {
        format!("starting {name} ({:?}); cargo xtask setup --for bench", command.get_program())
    })?;
    let mut server = Server { name, netns, child };
    let begin = Instant::now();
    while !load::answers(&server.netns)? {
        if let Some(status) = server.child.try_wait()? {
            bail!("{name} ended ({status}): {}", fs::read_to_string(&log).unwrap_or_default());
        }
        if begin.elapsed() > PATIENCE {
            bail!("{name} does not answer: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(server)
}

impl Server {
    /// Resident memory, MiB.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}
