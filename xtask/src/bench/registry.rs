//! Benchmarks by file: `benches/<name>.json`.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::repo::Repo;

/// One benchmark, as its file says.
pub(super) struct Bench {
    /// The file's name without `.json`; tables are kept by it.
    pub(super) name: String,
    /// Heading over the table.
    pub(super) title: String,
    /// What is measured and how, in a sentence or two.
    pub(super) about: String,
    /// Package of the program.
    pub(super) package: String,
    /// Name of the example or binary.
    pub(super) target: String,
    /// Whether it is an example; else a binary.
    pub(super) is_example: bool,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// After this many seconds it is ended; default 1,800.
    pub(super) limit_seconds: u64,
    /// The columns, in order: key in the rows, heading.
    pub(super) columns: Vec<(String, String)>,
}

/// The file: `{"title", "about", "package", "example" | "bin", "arguments"?, "limit_seconds"?, "columns": [[key, heading]…]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    about: String,
    package: String,
    example: Option<String>,
    bin: Option<String>,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default = "half_an_hour")]
    limit_seconds: u64,
    columns: Vec<(String, String)>,
}

fn half_an_hour() -> u64 {
    1800
}

impl Bench {
    /// `--example` or `--bin`.
    pub(super) fn target_flag(&self) -> &'static str {
        if self.is_example { "--example" } else { "--bin" }
    }
}

/// All benchmarks, by name.
pub(super) fn read(repo: &Repo) -> Result<Vec<Bench>> {
    let paths = repo.files("benches", ".json")?;
    let registered = paths.iter().filter(|path| path.matches('/').count() == 1);
    registered.map(|path| one(path, &repo.read(path)?)).collect()
}

fn one(path: &str, text: &str) -> Result<Bench> {
    let file: File = serde_json::from_str(text).with_context(|| format!("{path} is no benchmark"))?;
    let name = path.trim_start_matches("benches/").trim_end_matches(".json").to_owned();
    let (target, is_example) = match (file.example, file.bin) {
        (Some(example), None) => (example, true),
        (None, Some(bin)) => (bin, false),
        _ => bail!("{path} must name either an example or a bin"),
    };
    Ok(Bench {
        name,
        title: file.title,
        about: file.about,
        package: file.package,
        target,
        is_example,
        arguments: file.arguments,
        limit_seconds: file.limit_seconds,
        columns: file.columns,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn a_file_names_a_program_and_its_columns() {
        let text = r#"{"title":"T","about":"A","package":"p","example":"e","columns":[["pods","Pods"]]}"#;
        let bench = one("benches/scale.json", text).unwrap();
        assert_eq!(
            (bench.name.as_str(), bench.target_flag(), bench.limit_seconds),
            ("scale", "--example", 1800)
        );
        assert!(one("benches/x.json", r#"{"title":"T","about":"A","package":"p","columns":[]}"#).is_err());
        assert!(one("benches/x.json", &text.replace("about", "abuot")).is_err());
    }
}
