//! One heap for all threads of the agent.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tracing::warn;

/// How many heaps glibc may make (mallopt(3)). It reads the variable before `main`.
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// Starts this program anew, in the same process, so that its threads share one heap; a user's own setting stays. What
/// a thread frees in a heap of its own serves no other thread: after a large Snapshot that is a sixth of the agent.
pub(super) fn share() {
    if env::var_os(ARENAS).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            return warn!("each thread has a heap of its own, since this program has no path: {error}");
        }
    };
    let mut command = Command::new(&program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).env(ARENAS, "1").exec();
    warn!("each thread has a heap of its own, since {} cannot be started anew: {error}", program.display());
}
