//! `sheetbend lab`: the cluster of a directory of manifests, stood up on one Linux machine.
//!
//! Network namespaces are the nodes and the pods; the CNI plugin, the agents and the kernel programs are the real
//! ones. A supervisor, process 1 of a PID and mount namespace of the lab's own, plays API server, controllers and
//! kubelet; when it ends, however it ends, the kernel ends everything else.

mod balancer;
mod bandwidth;
mod change;
mod children;
mod command;
mod demo;
mod down;
mod exec;
mod failure;
mod launch;
pub(crate) mod layout;
mod matrix;
mod names;
mod netns;
mod objects;
mod owner;
mod probe;
mod serve;
mod state;
mod status;
mod supervisor;
mod up;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) use command::Command;
pub(crate) use objects::service_cidr;

/// Runs one `sheetbend lab` command. The exit codes are those of `docs/user/exit-codes.md`.
pub(crate) fn run(command: Command) -> ExitCode {
    let ends_a_lab = matches!(command, Command::Demo(_) | Command::Down(_));
    let outcome = match command {
        Command::Launch(args) => return launch::run(&args.dir),
        Command::Supervise(args) => return supervisor::run(&args.dir),
        Command::Up(args) => up::run(args),
        Command::Status(args) => status::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Exec(args) => exec::run(&args),
        Command::Apply(args) => change::apply(&args),
        Command::Delete(args) => change::delete(&args),
        Command::Node(args) => down::node(args),
        Command::Down(args) => down::run(&args),
        Command::Demo(args) => demo::run(args),
    };
    if ends_a_lab {
        // A lab that was killed while this one began may have ended only now; what cannot be removed waits for the next.
        let _ = state::sweep();
    }
    outcome.unwrap_or_else(|failure| failure.report())
}

/// The event sockets of every node of the lab `name`, or of the only one.
pub(crate) fn event_sockets(name: Option<&str>) -> anyhow::Result<Vec<PathBuf>> {
    let (dir, _) = state::find(name).map_err(|failure| failure.error)?;
    Ok(sockets_of(&dir, "events.sock")?)
}

/// The admin sockets of every agent of the lab `name`, or of the only one.
pub(crate) fn admin_sockets(name: Option<&str>) -> anyhow::Result<Vec<PathBuf>> {
    let (dir, _) = state::find(name).map_err(|failure| failure.error)?;
    Ok(sockets_of(&dir, "admin.sock")?)
}

/// The sockets of this name of every node of a lab.
fn sockets_of(dir: &state::LabDir, name: &str) -> std::io::Result<Vec<PathBuf>> {
    let nodes = std::fs::read_dir(dir.join("nodes"))?.flatten();
    let mut sockets: Vec<PathBuf> = nodes.map(|entry| entry.path().join("run").join(name)).collect();
    sockets.sort();
    Ok(sockets)
}
