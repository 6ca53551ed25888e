//! The plugin as a runtime starts it, against an agent that answers what the case says. `UPDATE=1` rewrites the file.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sheetbend_cni_wire::{DELETIONS, Request, Response, read, write};

/// One case: what a runtime passes and what the agent answers. Everything from `asks` on is the plugin's.
#[derive(Default)]
struct Case {
    title: String,
    env: String,
    stdin: String,
    /// The agent's answer; without one nobody listens.
    agent: Option<String>,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "==" {
            cases.push(Case { title: rest.to_owned(), ..Case::default() });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        match word {
            "env" => rest.clone_into(&mut case.env),
            "in" => rest.clone_into(&mut case.stdin),
            "agent" => case.agent = Some(rest.to_owned()),
            _ => {}
        }
    }
    cases
}

/// Takes one request and answers it; returns the request.
fn agent(socket: &Path, answer: &str) -> std::thread::JoinHandle<Request> {
    let answer: Response = serde_json::from_str(answer).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let request = read(&stream).unwrap();
        write(&stream, &answer).unwrap();
        request
    })
}

fn queued(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory.join(DELETIONS)) else { return Vec::new() };
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            format!("{} {}", entry.file_name().display(), std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

fn run(case: &Case) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let listening = case.agent.as_deref().map(|answer| agent(&directory.path().join("cni.sock"), answer));
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_sheetbend-cni"))
        .env_clear()
        .envs(case.env.split(' ').filter_map(|pair| pair.split_once('=')))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    plugin.stdin.take().unwrap().write_all(case.stdin.replace("RUN", &path).as_bytes()).unwrap();
    let output = plugin.wait_with_output().unwrap();
    let mut text = format!("== {}\nenv {}\nin {}\n", case.title, case.env, case.stdin);
    if let Some(answer) = &case.agent {
        writeln!(text, "agent {answer}").unwrap();
        if output.stdout.is_empty()
            || !String::from_utf8_lossy(&output.stdout).contains("\"code\"")
            || answer.contains("error")
        {
            let request = listening.unwrap().join().unwrap();
            writeln!(text, "asks {}", serde_json::to_string(&request).unwrap()).unwrap();
        }
    }
    for file in queued(directory.path()) {
        writeln!(text, "queued {file}").unwrap();
    }
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        writeln!(text, "out {}", line.replace(&path, "RUN")).unwrap();
    }
    writeln!(text, "exit {}", output.status.code().unwrap()).unwrap();
    text
}

#[test]
fn every_case_is_as_written() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt");
    let expected = std::fs::read_to_string(&file).unwrap();
    let found: Vec<String> = cases(&expected).iter().map(run).collect();
    let found = found.join("\n");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &found).unwrap();
    }
    for (expected, found) in expected.split("\n\n").zip(found.split("\n\n")) {
        assert_eq!(expected.trim_end(), found.trim_end());
    }
    assert!(found.matches("\n== ").count() > 40, "the file has lost its cases");
}
