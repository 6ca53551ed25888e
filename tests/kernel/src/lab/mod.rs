//! Tests of `sheetbend lab` as a user runs it: the built binary, real namespaces.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

/// A lab with a name of its own, removed when dropped.
#[derive(Debug)]
pub struct Lab {
    program: PathBuf,
    name: String,
}

impl Lab {
    /// No lab runs yet.
    ///
    /// # Errors
    /// `sheetbend` is not built.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let target = own.parent().and_then(Path::parent).context("the test has no target directory")?;
        let program = target.join("sheetbend");
        ensure!(
            program.exists() && target.join("sheetbend-cni").exists(),
            "{} or sheetbend-cni is missing; cargo build -p sheetbend -p sheetbend-cni",
            program.display()
        );
        Ok(Self { program, name: format!("{name}-{}", std::process::id()) })
    }

    /// Runs `sheetbend lab ARGUMENTS --name NAME`.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn run(&self, command: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut process = Command::new(&self.program);
        process.args(["lab", command, "--name", &self.name]).args(arguments);
        Ok(process.output()?)
    }

    /// The same, which must end with exit code `code`; returns standard output and standard error.
    ///
    /// # Errors
    /// It ends with another one.
    pub fn expect(&self, code: i32, command: &str, arguments: &[&str]) -> anyhow::Result<(String, String)> {
        ended(&format!("lab {command}"), self.run(command, arguments)?, code)
    }

    /// Runs `sheetbend GROUP ARGUMENTS --lab NAME`, which must end with exit code `code`.
    ///
    /// # Errors
    /// It cannot be run, or ends with another one.
    pub fn ask(&self, group: &str, code: i32, arguments: &[&str]) -> anyhow::Result<(String, String)> {
        let mut process = Command::new(&self.program);
        process.arg(group).args(arguments).args(["--lab", &self.name]);
        ended(&format!("{group} {}", arguments.join(" ")), process.output()?, code)
    }

    /// Begins `sheetbend lab exec ARGUMENTS --name NAME` and goes on.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn begin(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        let mut process = Command::new(&self.program);
        process.args(["lab", "exec", "--name", &self.name]).args(arguments).stdout(Stdio::piped());
        Ok(process.spawn()?)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// It is none, or the command failed.
    pub fn json(&self, command: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let (out, _) = self.expect(0, command, arguments)?;
        serde_json::from_str(&out).with_context(|| format!("lab {command} prints no JSON: {out}"))
    }

    /// The lab's directory.
    pub fn dir(&self) -> PathBuf {
        Path::new("/run/sheetbend/lab").join(&self.name)
    }

    /// Process id of the supervisor.
    ///
    /// # Errors
    /// There is no lab.
    pub fn supervisor(&self) -> anyhow::Result<i32> {
        let file: Value = serde_json::from_slice(&std::fs::read(self.dir().join("lab.json"))?)?;
        Ok(i32::try_from(file["supervisor"]["pid"].as_i64().context("no pid")?)?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test that has taken it down already gets exit code 5, which is fine.
        let _ = self.run("down", &[]);
    }
}

/// Standard output and standard error of what ended with `code`.
fn ended(what: &str, output: Output, code: i32) -> anyhow::Result<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.code() == Some(code), "{what}: {}, not {code}\n{out}\n{err}", output.status);
    Ok((out, err))
}
