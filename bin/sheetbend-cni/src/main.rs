//! `sheetbend-cni`: carries a container runtime's request to the agent and the answer back (CNI specification 1.1.0).

mod agent;
mod arguments;
mod call;
mod config;
mod environment;
mod nearest;
mod result;
mod version;

use std::io::{Read, Write};
use std::process::ExitCode;

use sheetbend_cni_wire::{CniError, Request, Response, code};

use call::Call;
use version::Version;

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut stdin);
    let (output, exit) = match read {
        Ok(_) => run(|name| std::env::var(name).ok(), &stdin),
        Err(error) => failed(
            Version::NEWEST,
            &CniError::new(code::IO, format!("cannot read standard input: {error}"), ""),
        ),
    };
    // Nobody is left to be told when standard output is gone.
    let written = std::io::stdout().lock().write_all(output.as_bytes());
    if written.is_ok() { exit } else { ExitCode::FAILURE }
}

/// One run: the environment and the configuration in, the text for standard output out.
fn run(environment: impl Fn(&str) -> Option<String>, stdin: &[u8]) -> (String, ExitCode) {
    if environment("CNI_COMMAND").as_deref() == Some("VERSION") {
        return (version::answer(stdin), ExitCode::SUCCESS);
    }
    let call = match Call::read(environment, stdin) {
        Ok(call) => call,
        Err((version, error)) => return failed(version, &error),
    };
    match agent::carry(&call.request, &call.place) {
        Ok(Response::Added(added)) => match &call.request {
            Request::Add(add) => {
                (result::text(&added, &add.netns, &call.dns, call.version), ExitCode::SUCCESS)
            }
            Request::Del(_) | Request::Check(_) | Request::Gc(_) | Request::Status => {
                (String::new(), ExitCode::SUCCESS)
            }
        },
        Ok(Response::Done) => (String::new(), ExitCode::SUCCESS),
        Ok(Response::Error(error)) | Err(error) => failed(call.version, &error),
    }
}

/// The specification's error object ("Error").
fn failed(version: Version, error: &CniError) -> (String, ExitCode) {
    let text = serde_json::json!({
        "cniVersion": version.text(),
        "code": error.code,
        "msg": error.msg,
        "details": error.details,
    });
    (format!("{text}\n"), ExitCode::FAILURE)
}
