//! Asking agents for a document at their admin sockets.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sheetbend_shell::{admin, exit};

/// Whom a command asks.
#[derive(Debug, clap::Args)]
pub(crate) struct Whom {
    /// The agent's admin socket.
    #[arg(long, value_name = "SOCKET", default_value = "/run/sheetbend/admin.sock", conflicts_with = "lab")]
    socket: PathBuf,
    /// Every node of this lab instead.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    lab: Option<String>,
}

/// Why there is nothing to print: an exit code of `docs/user/exit-codes.md` and a text.
pub(crate) type Failure = (u8, String);

/// What an agent answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer<T> {
    /// The document.
    Found(T),
    /// There is no such object; some with names like it.
    Unknown(Vec<String>),
    /// Why there is none.
    Error(String),
}

/// The answers of all agents. One that does not answer is named; when none does, that is a failure.
pub(crate) fn ask<T: DeserializeOwned>(whom: &Whom, document: &str) -> Result<Vec<Answer<T>>, Failure> {
    let sockets = match &whom.lab {
        None => vec![whom.socket.clone()],
        Some(name) => crate::lab::admin_sockets((!name.is_empty()).then_some(name.as_str()))
            .map_err(|error| (exit::NO_LAB, format!("{error:#}")))?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| (exit::INTERNAL, format!("no runtime: {error}")))?;
    let mut answers = Vec::new();
    let mut silent = Vec::new();
    for socket in sockets {
        let answer = runtime.block_on(admin::fetch(&socket, document)).map_err(anyhow::Error::from);
        match answer.and_then(|text| Ok(serde_json::from_str::<Answer<T>>(&text)?)) {
            Ok(Answer::Error(error)) => silent.push(format!("{}: {error}", socket.display())),
            Ok(answer) => answers.push(answer),
            Err(error) => silent.push(format!("no agent answers at {}: {error}", socket.display())),
        }
    }
    if answers.is_empty() {
        return Err((exit::NO_OBJECT, silent.join("\n")));
    }
    silent.iter().for_each(|error| eprintln!("note: {error}"));
    Ok(answers)
}
