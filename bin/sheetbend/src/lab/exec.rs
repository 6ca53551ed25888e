//! `sheetbend lab exec`: a command inside a pod's network namespace.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use anyhow::Context;
use nix::sched::{CloneFlags, setns, unshare};

use super::command::Exec;
use super::failure::{Failure, MISSING, NO_OBJECT, Outcome};
use super::names::{resolv_conf, use_resolv_conf};
use super::netns::{Netns, outside_path};
use super::wire::{Request, ask};
use super::{layout, state};

/// Runs the command; its exit code is ours.
pub(crate) fn run(args: &Exec) -> Outcome<ExitCode> {
    let (dir, file) = state::find(args.which.name.as_deref())?;
    let status = ask(&dir, &Request::Status, |_| ())?;
    let pod = status.pods.iter().find(|pod| pod.pod == args.pod).map(|pod| pod.netns.clone());
    let node = status.nodes.iter().map(|node| node.name.as_str()).chain(["world", "fabric"]);
    let node =
        node.into_iter().find(|node| *node == args.pod).map(|node| layout::node_netns(&status.name, node));
    let Some(netns) = pod.or(node) else {
        let known: Vec<&str> = status.pods.iter().map(|pod| pod.pod.as_str()).collect();
        let text = format!("no pod {:?}; pods are NAMESPACE/NAME: {}", args.pod, known.join(", "));
        return Err(Failure::new(NO_OBJECT, text));
    };
    let pid = file.supervisor.pid;
    // A hostNetwork pod uses its node's names, as with `dnsPolicy: ClusterFirst`.
    let is_node = status.nodes.iter().any(|node| node.netns == netns);
    let namespace = args.pod.split_once('/').map(|(namespace, _)| namespace).filter(|_| !is_node);
    let names = namespace.map_or(Ok(None), |namespace| resolv_conf(&dir, namespace))?;
    let netns = Netns::open(&outside_path(pid, &netns))?;
    let Some((program, arguments)) = args.command.split_first() else { return Ok(ExitCode::SUCCESS) };
    let ended = netns.run(|| -> anyhow::Result<_> {
        // The command shall end with the lab, and see the lab's own /run and /proc.
        let directory = std::env::current_dir();
        let (mounts, pids) =
            (File::open(format!("/proc/{pid}/ns/mnt"))?, File::open(format!("/proc/{pid}/ns/pid"))?);
        unshare(CloneFlags::CLONE_FS)?;
        setns(pids, CloneFlags::CLONE_NEWPID)?;
        setns(mounts, CloneFlags::CLONE_NEWNS).context("cannot enter the lab's mounts")?;
        if let Some(names) = &names {
            use_resolv_conf(names)?;
        }
        let mut command = Command::new(program);
        command.args(arguments);
        if let Ok(directory) = directory {
            command.current_dir(directory);
        }
        Ok(command.status())
    })??;
    let status =
        ended.map_err(|error| Failure::new(MISSING, format!("cannot run {}: {error}", program.display())))?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
