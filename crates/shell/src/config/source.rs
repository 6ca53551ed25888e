//! Where values come from, and what is wrong with them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::{KEYS, yaml};

/// One fault of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// File, environment variable or flag.
    pub place: String,
    /// What is wrong and how to fix it.
    pub message: String,
}

/// Every fault of the configuration. Nothing was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {}", error.place, error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[derive(Clone, Debug)]
struct Value {
    place: String,
    items: Vec<String>,
}

/// Values gathered by key; a later source replaces an earlier one's value.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    values: BTreeMap<&'static str, Value>,
    errors: Vec<ConfigError>,
}

/// Read where no file is named and this one exists.
const DEFAULT_FILE: &str = "/etc/sheetbend/config.yaml";

impl Sources {
    /// What every daemon begins with: the file, by default `/etc/sheetbend/config.yaml` where it exists; over it the
    /// environment; over that `settings`, each `KEY=VALUE`.
    pub fn usual(file: Option<&Path>, settings: &[String]) -> Self {
        let default = Path::new(DEFAULT_FILE);
        let mut sources = Self::default();
        if let Some(file) = file.or_else(|| default.exists().then_some(default)) {
            sources = sources.file(file);
        }
        sources = sources.environment(std::env::vars());
        for setting in settings {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            sources = sources.flag(key, Some(value));
        }
        sources
    }

    /// Adds a YAML file.
    pub fn file(mut self, path: &Path) -> Self {
        let place = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => self.yaml(place, &text),
            Err(error) => {
                self.fault(place, format!("cannot be read: {error}"));
                self
            }
        }
    }

    /// Adds a YAML text. `place`: what errors call it.
    pub fn yaml(mut self, place: String, text: &str) -> Self {
        match yaml::leaves(text) {
            Ok(leaves) => {
                for (key, items) in leaves {
                    self.put(&key, place.clone(), items);
                }
            }
            Err(message) => self.fault(place, message),
        }
        self
    }

    /// Adds `SHEETBEND_<KEY>` variables, as `SHEETBEND_NETWORK_MODE` for `network.mode`.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables: BTreeMap<String, String> = variables.into_iter().collect();
        for key in KEYS {
            let name = environment_name(key.name);
            if let Some(text) = variables.get(&name) {
                self.put(key.name, name, split(text));
            }
        }
        self
    }

    /// Adds one flag's value; `None` adds nothing.
    pub fn flag(mut self, key: &str, text: Option<&str>) -> Self {
        if let Some(text) = text {
            self.put(key, format!("--set {key}"), split(text));
        }
        self
    }

    fn put(&mut self, key: &str, place: String, items: Vec<String>) {
        match KEYS.iter().find(|known| known.name == key) {
            Some(known) => drop(self.values.insert(known.name, Value { place, items })),
            None => {
                let nearest = KEYS.iter().map(|known| known.name).min_by_key(|known| distance(known, key));
                let hint = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                self.fault(place, format!("there is no key {key}{hint}"));
            }
        }
    }

    /// Takes a single value.
    pub(super) fn text<T, E: fmt::Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.values.remove(key)?;
        match value.items.as_slice() {
            [text] => match parse(text) {
                Ok(parsed) => Some(parsed),
                Err(error) => {
                    self.fault(value.place, format!("{key}: {error}"));
                    None
                }
            },
            items => {
                self.fault(value.place, format!("{key}: takes one value, got {}", items.len()));
                None
            }
        }
    }

    /// Takes a list.
    pub(super) fn list<T, E: fmt::Display>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let Some(value) = self.values.remove(key) else { return Vec::new() };
        let mut parsed = Vec::new();
        for text in &value.items {
            match parse(text) {
                Ok(item) => parsed.push(item),
                Err(error) => self.fault(value.place.clone(), format!("{key}: {error}")),
            }
        }
        parsed
    }

    /// Notes a fault that shows only between keys.
    pub(super) fn wrong(&mut self, key: &str, message: String) {
        self.fault(key.to_owned(), message);
    }

    pub(super) fn finish<T>(self, config: T) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(self.errors)) }
    }

    fn fault(&mut self, place: String, message: String) {
        self.errors.push(ConfigError { place, message });
    }
}

/// `network.podCIDRs` → `SHEETBEND_NETWORK_POD_CIDRS`.
fn environment_name(key: &str) -> String {
    let mut name = String::from("SHEETBEND_");
    let mut previous_lower = false;
    for c in key.chars() {
        if c.is_ascii_uppercase() && previous_lower {
            name.push('_');
        }
        previous_lower = c.is_ascii_lowercase();
        name.push(if c == '.' { '_' } else { c.to_ascii_uppercase() });
    }
    name
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).collect()
}

/// Levenshtein distance: how many letters differ.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
