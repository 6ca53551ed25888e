//! `cargo xtask setup`: installs and builds what is missing, and says what it could not get.

mod cnitool;
mod debian;
mod machine;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

pub(crate) use self::machine::is_root;
use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::{MISSING, process};

/// Install and build what is missing; run it as often as you like.
///
/// Debian packages come from apt-get, bpf-linker from crates.io, cnitool from the Go module proxy. What cannot be had is
/// named at the end with the way to get it by hand, and the exit code is 3. Nothing is installed that is there already.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For which command.
    #[arg(long = "for", value_enum, default_value_t = Purpose::All)]
    purpose: Purpose,
}

/// What the machine is made ready for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// The lab: root, a kernel of 6.6 or newer, iproute2.
    Demo,
    /// All tests: also the eBPF toolchain, cnitool and cargo-deny.
    Test,
    /// Benchmarks: also the peers to measure against.
    Bench,
    /// Test clusters: also Go, and what root file systems are made with.
    Kube,
    /// Everything.
    All,
}

/// One thing the machine must have.
struct Thing {
    /// What it is called.
    name: &'static str,
    /// What for, in a few words.
    why: &'static str,
    purposes: &'static [Purpose],
    /// Without it the command still does its work, and says what it left out.
    optional: bool,
    /// What is there (a version or path), or `None`.
    present: fn() -> Option<String>,
    /// Gets it; `None` when only a person can.
    get: Option<fn(&mut Step) -> Result<()>>,
    by_hand: &'static str,
}

/// Something that could not be had.
pub(crate) struct Missing {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Whether the command does without.
    pub(crate) optional: bool,
}

const EVERY: &[Purpose] = &[Purpose::Demo, Purpose::Test, Purpose::Bench, Purpose::Kube];
const TEST: &[Purpose] = &[Purpose::Test];
const BENCH: &[Purpose] = &[Purpose::Bench];
const KUBE: &[Purpose] = &[Purpose::Kube];

const THINGS: &[Thing] = &[
    Thing {
        name: "root",
        why: "network namespaces and eBPF",
        purposes: EVERY,
        optional: false,
        present: machine::root,
        get: None,
        by_hand: "run the command as root, e.g. `sudo env PATH=$PATH cargo xtask …`",
    },
    Thing {
        name: "kernel 6.6 or newer",
        why: "TCX hooks",
        purposes: EVERY,
        optional: false,
        present: machine::kernel,
        get: None,
        by_hand: "boot a newer kernel; on Debian 12: `apt-get install -t bookworm-backports linux-image-amd64`",
    },
    Thing {
        name: "kernel type information (BTF)",
        why: "loading eBPF programs",
        purposes: EVERY,
        optional: false,
        present: machine::btf,
        get: None,
        by_hand: "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (every Debian kernel is)",
    },
    Thing {
        name: "bpf and cgroup2 filesystems",
        why: "pinned maps, and a cgroup for each node of the lab",
        purposes: EVERY,
        optional: false,
        present: machine::filesystems,
        get: None,
        by_hand: "boot a kernel built with CONFIG_BPF_SYSCALL=y and CONFIG_CGROUPS=y",
    },
    Thing {
        name: "ip",
        why: "the lab enters network namespaces with it",
        purposes: EVERY,
        optional: false,
        present: || program("ip"),
        get: Some(|step| debian::install(&["iproute2"], step)),
        by_hand: "apt-get install iproute2",
    },
    Thing {
        name: "LLVM 22",
        why: "building bpf-linker",
        purposes: TEST,
        optional: false,
        present: toolchain::llvm,
        get: Some(|step| {
            debian::install(
                &["llvm-22-dev", "libpolly-22-dev", "libclang-22-dev", "zlib1g-dev", "libzstd-dev"],
                step,
            )
        }),
        by_hand: "apt-get install llvm-22-dev libpolly-22-dev libclang-22-dev zlib1g-dev libzstd-dev (from apt.llvm.org \
                  where your release lacks them)",
    },
    Thing {
        name: "a Rust compiler with its library sources",
        why: "building the eBPF programs",
        purposes: TEST,
        optional: false,
        present: toolchain::compiler,
        get: Some(toolchain::get_compiler),
        by_hand: "apt-get install rustc-web cargo-web rust-web-src, or \
                  rustup toolchain install nightly --profile minimal --component rust-src",
    },
    Thing {
        name: "bpf-linker 0.13.0",
        why: "linking the eBPF programs",
        purposes: TEST,
        optional: false,
        present: toolchain::linker,
        get: Some(toolchain::get_linker),
        by_hand: "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --no-default-features \
                  --features llvm-22",
    },
    Thing {
        name: "cnitool 1.3.0",
        why: "calling the plugin as a container runtime does",
        purposes: TEST,
        optional: false,
        present: cnitool::present,
        get: Some(cnitool::get),
        by_hand: "install Go 1.23 or newer (https://go.dev/dl), then \
                  GOBIN=~/.cache/sheetbend/bin go install github.com/containernetworking/cni/cnitool@v1.3.0",
    },
    Thing {
        name: "dig",
        why: "asking the cluster DNS as strangers do",
        purposes: TEST,
        optional: false,
        present: || program("dig"),
        get: Some(|step| debian::install(&["bind9-dnsutils"], step)),
        by_hand: "apt-get install bind9-dnsutils",
    },
    Thing {
        name: "cargo-deny",
        why: "licences, bans and sources of dependencies",
        purposes: TEST,
        optional: true,
        present: || program("cargo-deny"),
        get: Some(toolchain::get_deny),
        by_hand: "cargo install cargo-deny --locked",
    },
    Thing {
        name: "the CNI reference plugins",
        why: "the bridge plugin is the peer that benchmarks run beside",
        purposes: BENCH,
        optional: false,
        present: || exists("/usr/lib/cni/bridge"),
        get: Some(|step| debian::install(&["containernetworking-plugins"], step)),
        by_hand: "apt-get install containernetworking-plugins",
    },
    Thing {
        name: "ping",
        why: "tests send echo requests between a pod and its node",
        purposes: TEST,
        optional: false,
        present: || program("ping"),
        get: Some(|step| debian::install(&["iputils-ping"], step)),
        by_hand: "apt-get install iputils-ping",
    },
    Thing {
        name: "nft",
        why: "rules of others in tests, and the peer's Services",
        purposes: &[Purpose::Test, Purpose::Bench, Purpose::Kube],
        optional: false,
        present: || program("nft"),
        get: Some(|step| debian::install(&["nftables"], step)),
        by_hand: "apt-get install nftables",
    },
    Thing {
        name: "iptables",
        why: "the bridge plugin masquerades with it",
        purposes: KUBE,
        optional: false,
        present: || program("iptables"),
        get: Some(|step| debian::install(&["iptables"], step)),
        by_hand: "apt-get install iptables",
    },
    Thing {
        name: "overlay file system",
        why: "containers' root file systems",
        purposes: KUBE,
        optional: false,
        present: machine::overlay,
        get: None,
        by_hand: "boot a kernel built with CONFIG_OVERLAY_FS, or `modprobe overlay`",
    },
    Thing {
        name: "nsenter",
        why: "entering the cluster's machines",
        purposes: KUBE,
        optional: false,
        present: || program("nsenter"),
        get: Some(|step| debian::install(&["util-linux"], step)),
        by_hand: "apt-get install util-linux",
    },
    Thing {
        name: "Go",
        why: "building Kubernetes from its module",
        purposes: KUBE,
        optional: false,
        present: cnitool::go_version,
        get: Some(|step| debian::install(&["golang-go"], step)),
        by_hand: "install Go 1.21 or newer: https://go.dev/dl",
    },
    Thing {
        name: "mmdebstrap",
        why: "the root file system of test images",
        purposes: KUBE,
        optional: false,
        present: || program("mmdebstrap"),
        get: Some(|step| debian::install(&["mmdebstrap"], step)),
        by_hand: "apt-get install mmdebstrap",
    },
];

fn program(name: &str) -> Option<String> {
    let more = [crate::repo::cargo_home().join("bin"), "/usr/sbin".into(), "/sbin".into()];
    process::find_program(name, &more).map(|path| path.display().to_string())
}

fn exists(path: &str) -> Option<String> {
    std::path::Path::new(path).exists().then(|| path.to_owned())
}

/// Runs the subcommand.
pub(crate) fn run(_repo: &Repo, args: &Args) -> Result<ExitCode> {
    let missing = ensure(args.purpose);
    Ok(if missing.iter().any(|thing| !thing.optional) { ExitCode::from(MISSING) } else { ExitCode::SUCCESS })
}

/// Makes the machine ready for `purpose`; gives what could not be had, each already named on standard error.
pub(crate) fn ensure(purpose: Purpose) -> Vec<Missing> {
    let wanted = |thing: &&Thing| purpose == Purpose::All || thing.purposes.contains(&purpose);
    let mut missing = Vec::new();
    for thing in THINGS.iter().filter(wanted) {
        if !have(thing) {
            eprintln!("    by hand: {}", thing.by_hand);
            missing.push(Missing { name: thing.name, optional: thing.optional });
        }
    }
    missing
}

fn have(thing: &Thing) -> bool {
    if let Some(what) = (thing.present)() {
        eprintln!("{} {}: {what}", crate::progress::symbol(Mark::Done), thing.name);
        return true;
    }
    let Some(get) = thing.get else {
        let mark = if thing.optional { Mark::Skipped } else { Mark::Failed };
        eprintln!("{} {} is missing; it is for {}", crate::progress::symbol(mark), thing.name, thing.why);
        return false;
    };
    let mut step = Step::start(format!("{}, for {}", thing.name, thing.why));
    let outcome = get(&mut step);
    match (outcome, (thing.present)()) {
        (Ok(()), Some(what)) => {
            step.end(Mark::Done, &what);
            true
        }
        (Ok(()), None) => {
            step.end(Mark::Failed, "installed, but still not found");
            false
        }
        (Err(error), _) => {
            step.end(Mark::Failed, &format!("{error:#}"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_needs_no_toolchain() {
        let demo = THINGS.iter().filter(|thing| thing.purposes.contains(&Purpose::Demo));
        let installed: Vec<&str> = demo.filter(|thing| thing.get.is_some()).map(|thing| thing.name).collect();
        assert_eq!(installed, ["ip"]);
    }

    #[test]
    fn every_thing_says_how_to_get_it() {
        for thing in THINGS {
            assert!(!thing.by_hand.is_empty() && !thing.why.is_empty(), "{}", thing.name);
            assert!(!thing.purposes.is_empty(), "{} is for nothing", thing.name);
        }
    }
}
