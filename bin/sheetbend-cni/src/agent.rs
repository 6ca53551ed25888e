//! The way to the agent, and what happens when nobody is there.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use sheetbend_cni_wire::{AttachmentRef, CniError, DELETIONS, Request, Response, code, read, write};

/// An agent that lives accepts at once; one whose queue is full is as good as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Runtimes wait longer, and a pod's policy is in place within seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) socket: PathBuf,
    pub(crate) run_dir: PathBuf,
}

/// Asks the agent. Without one, DEL is written down and succeeds, all else fails at once.
pub(crate) fn carry(request: &Request, place: &Place) -> Result<Response, CniError> {
    let away = |error: io::Error| {
        let msg = format!("the agent does not answer at {}: {error}", place.socket.display());
        CniError::new(
            if *request == Request::Status { code::NOT_AVAILABLE } else { code::TRY_AGAIN },
            msg,
            "is `sheetbend agent` running on this node? Its log says why not",
        )
    };
    let answer = ask(request, &place.socket);
    let Request::Del(attachment) = request else { return answer.map_err(away) };
    match answer {
        Ok(Response::Error(error)) if error.code == code::TRY_AGAIN => {}
        Ok(answer) => return Ok(answer),
        Err(_) => {}
    }
    let queued = queue(attachment, request, &place.run_dir)?;
    // An agent that came up in between may have looked before the file was there.
    if let Ok(Response::Done) = ask(request, &place.socket) {
        // The agent removes the file itself; it need not be there any more.
        let _ = fs::remove_file(queued);
    }
    Ok(Response::Done)
}

fn ask(request: &Request, socket: &Path) -> io::Result<Response> {
    let stream = connect(socket)?;
    stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    write(&stream, request)?;
    stream.shutdown(Shutdown::Write)?;
    read(&stream)
}

/// Connecting to a Unix socket blocks while the listener's queue is full, so it is done aside.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = socket.to_owned();
    std::thread::spawn(move || sender.send(UnixStream::connect(path)));
    receiver.recv_timeout(CONNECT_TIMEOUT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Writes a deletion down: whole or not at all, one file per attachment.
fn queue(attachment: &AttachmentRef, request: &Request, run_dir: &Path) -> Result<PathBuf, CniError> {
    let directory = run_dir.join(DELETIONS);
    let name = format!("{}@{}", attachment.container_id, attachment.ifname);
    let path = directory.join(&name);
    let unfinished = directory.join(format!(".{name}.{}", std::process::id()));
    let written = fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&unfinished, serde_json::to_vec(request)?))
        .and_then(|()| fs::rename(&unfinished, &path));
    match written {
        Ok(()) => Ok(path),
        Err(error) => {
            let msg = format!(
                "the agent is away, and the deletion cannot be written to {}: {error}",
                path.display()
            );
            Err(CniError::new(code::IO, msg, "is the directory writable?"))
        }
    }
}
