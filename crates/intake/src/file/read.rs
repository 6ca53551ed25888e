//! Files → documents → objects, strictly: either all of them are right, or the whole list of what is wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::check::{self, Check};
use super::error::{ManifestError, Notice, Place, Problem, nearest};
use super::manifests::{Manifest, Manifests, Skipped};
use super::object::{Kind, Object, ObjectId};
use super::yaml::tree::{self, Node, SyntaxError, Value};

/// A file's name and bytes.
#[derive(Clone, Debug)]
pub struct Source {
    /// As messages shall name it.
    pub name: Arc<Path>,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// Reads files and directories (their `*.yaml`, `*.yml` and `*.json`, sorted, without subdirectories, as
/// `kubectl apply -f` does).
///
/// # Errors
/// Everything that is wrong, by place. Nothing is returned in part.
pub fn read(paths: &[PathBuf]) -> Result<Manifests, Vec<ManifestError>> {
    let (mut sources, mut errors, mut notices) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        match list(path, &mut notices) {
            Ok(files) => {
                for file in files {
                    match fs::read(&file) {
                        Ok(bytes) => sources.push(Source { name: file.into(), bytes }),
                        Err(error) => errors.push(whole_file(&file, unreadable(&error))),
                    }
                }
            }
            Err(problem) => errors.push(whole_file(path, problem)),
        }
    }
    match parse(&sources) {
        Ok(mut manifests) if errors.is_empty() => {
            manifests.notices.extend(notices);
            Ok(manifests)
        }
        Ok(_) => Err(errors),
        Err(more) => {
            errors.extend(more);
            Err(errors)
        }
    }
}

/// Reads sources that are in memory already. Errors as [`read`].
pub fn parse(sources: &[Source]) -> Result<Manifests, Vec<ManifestError>> {
    let mut reader = Reader::default();
    for source in sources {
        reader.source(source);
    }
    reader.finish()
}

pub(super) fn unreadable(error: &std::io::Error) -> Problem {
    Problem::Unreadable(error.to_string())
}

pub(super) fn whole_file(path: &Path, problem: Problem) -> ManifestError {
    ManifestError { place: Place { file: path.into(), line: 0 }, object: String::new(), problem }
}

/// The manifest files that `path` stands for.
fn list(path: &Path, notices: &mut Vec<Notice>) -> Result<Vec<PathBuf>, Problem> {
    if !fs::metadata(path).map_err(|error| unreadable(&error))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| unreadable(&error))? {
        let file = entry.map_err(|error| unreadable(&error))?.path();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let place = || Some(Place { file: file.as_path().into(), line: 0 });
        if name.starts_with('.') {
            continue;
        } else if file.is_dir() {
            notices
                .push(Notice { place: place(), text: "subdirectories are not read; name it too".to_owned() });
        } else if matches!(name.as_str(), "kustomization.yaml" | "kustomization.yml") {
            let text = "not read; give the output of `kubectl kustomize` instead".to_owned();
            notices.push(Notice { place: place(), text });
        } else if is_manifest(&file) {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Problem::NoManifests);
    }
    files.sort_unstable();
    notices.sort_unstable_by(|a, b| a.place.cmp(&b.place));
    Ok(files)
}

pub(super) fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

/// Collects objects and problems over all sources.
#[derive(Default)]
pub(super) struct Reader {
    objects: BTreeMap<ObjectId, Manifest>,
    skipped: Vec<Skipped>,
    notices: Vec<Notice>,
    errors: Vec<ManifestError>,
}

impl Reader {
    pub(super) fn source(&mut self, source: &Source) {
        let file = Place { file: Arc::clone(&source.name), line: 0 };
        let text = match std::str::from_utf8(&source.bytes) {
            Ok(text) => text,
            Err(error) => {
                let good = source.bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
                return self.error(&file, line, String::new(), Problem::NotUtf8(error.valid_up_to()));
            }
        };
        let (documents, broken) = tree::parse(text);
        for document in documents.iter().filter(|document| !document.is_null()) {
            self.document(&file, document, None);
        }
        if let Some(error) = broken {
            self.error(&file, error.line, String::new(), syntax(error, text));
        }
    }

    pub(super) fn finish(mut self) -> Result<Manifests, Vec<ManifestError>> {
        self.errors.extend(super::clash::cluster_ips(&self.objects));
        if self.errors.is_empty() {
            return Ok(Manifests { objects: self.objects, skipped: self.skipped, notices: self.notices });
        }
        self.errors.sort_by(|a, b| a.place.cmp(&b.place));
        Err(self.errors)
    }

    fn error(&mut self, file: &Place, line: usize, object: String, problem: Problem) {
        let place = Place { file: Arc::clone(&file.file), line };
        self.errors.push(ManifestError { place, object, problem });
    }

    /// One object or List. `assumed` is what the items of a typed list (PodList) leave out.
    fn document(&mut self, file: &Place, node: &Rc<Node>, assumed: Option<(&str, &str)>) {
        if !matches!(node.value, Value::Map(_)) {
            let what = "a document that is no mapping".to_owned();
            let fix = "a Kubernetes object begins with apiVersion: and kind:".to_owned();
            return self.error(file, node.line, String::new(), Problem::NotAnObject { what, fix });
        }
        let word = |key: &str| node.get(key).and_then(|node| node.text());
        let version = word("apiVersion").or(assumed.map(|(version, _)| version));
        let kind = word("kind").or(assumed.map(|(_, kind)| kind));
        let (Some(version), Some(kind)) = (version, kind) else {
            let absent = if version.is_none() { "apiVersion" } else { "kind" };
            let fix =
                "write the object's apiVersion and kind, such as apiVersion: v1 and kind: Pod".to_owned();
            let problem = Problem::Missing { field: absent.to_owned(), fix };
            return self.error(file, node.line, describe(kind.unwrap_or_default(), node), problem);
        };
        if let (Some(stem), Some(items)) = (kind.strip_suffix("List"), node.get("items")) {
            return self.list(file, version, stem, items);
        }
        match known(version, kind) {
            Known::Read(kind) => self.object(file, node, kind),
            Known::Outdated(kind) => {
                let (object, current) = (describe(kind.name(), node), kind.api_version());
                let (kind, found) = (kind.name().to_owned(), version.to_owned());
                self.error(file, node.line, object, Problem::ApiVersion { kind, found, current });
            }
            Known::No => {
                let near = nearest(kind, Kind::ALL.iter().map(|kind| kind.name()));
                self.skipped.push(Skipped {
                    place: Place { file: Arc::clone(&file.file), line: node.line },
                    api_version: version.to_owned(),
                    kind: kind.to_owned(),
                    name: object_name(node),
                    near: near.filter(|near| *near != kind),
                });
            }
        }
    }

    fn list(&mut self, file: &Place, version: &str, stem: &str, items: &Rc<Node>) {
        let Value::List(items) = &items.value else {
            let problem = Problem::WrongType {
                field: "items".to_owned(),
                found: "is no list".to_owned(),
                wanted: "a list of objects".to_owned(),
                fix: "write each object as an element of the list".to_owned(),
            };
            return self.error(file, items.line, format!("{stem}List"), problem);
        };
        let assumed = (!stem.is_empty()).then_some((version, stem));
        for item in items {
            self.document(file, item, assumed);
        }
    }

    fn object(&mut self, file: &Place, node: &Rc<Node>, kind: Kind) {
        let (object, found) = Object::read(kind, node);
        let clean = found.is_empty();
        for (line, problem) in found {
            self.error(file, line, describe(kind.name(), node), problem);
        }
        let Some(mut object) = object else { return };
        if !kind.is_namespaced() {
            object.metadata_mut().namespace = None;
        }
        let id = object.id();
        let name = if id.name.is_empty() { kind.name().to_owned() } else { id.to_string() };
        let mut check =
            Check { tree: Some(node), file, object: name, errors: Vec::new(), notices: Vec::new() };
        if clean {
            check::object(&mut check, &object);
        }
        let Check { errors, notices, object: name, .. } = check;
        self.errors.extend(errors);
        self.notices.extend(notices);
        if id.name.is_empty() {
            return;
        }
        let place = Place { file: Arc::clone(&file.file), line: node.line };
        if let Some(first) = self.objects.get(&id) {
            let first = first.place.clone();
            return self.error(file, node.line, name, Problem::DuplicateObject { first });
        }
        object.metadata_mut().namespace = kind.is_namespaced().then(|| id.namespace.as_ref().to_owned());
        let cluster_ip_line = node.line_of(&super::field::Field::Root.key("spec").key("clusterIP"));
        self.objects.insert(id, Manifest { object: Arc::new(object), place, cluster_ip_line });
    }
}

/// `Kind namespace/name` of an object that may not even have a name.
fn describe(kind: &str, node: &Node) -> String {
    let Some(name) = object_name(node) else { return kind.to_owned() };
    match Kind::named(kind) {
        Some(known) if known.is_namespaced() && !name.contains('/') => format!("{kind} default/{name}"),
        Some(_) | None => format!("{kind} {name}").trim_start().to_owned(),
    }
}

fn object_name(node: &Node) -> Option<String> {
    let metadata = node.get("metadata")?;
    let word = |key: &str| metadata.get(key).and_then(|node| node.text()).filter(|text| !text.is_empty());
    let name = word("name")?;
    Some(word("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}")))
}

enum Known {
    Read(Kind),
    /// One of ours in a group or version that is not served any more.
    Outdated(Kind),
    No,
}

fn known(version: &str, kind: &str) -> Known {
    let Some(kind) = Kind::named(kind) else { return Known::No };
    if kind.api_version() == version {
        return Known::Read(kind);
    }
    let group = |version: &str| version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    let built_in = [
        "",
        "apps",
        "batch",
        "extensions",
        "networking.k8s.io",
        "discovery.k8s.io",
        "policy.networking.k8s.io",
        "sheetbend.dev",
    ];
    if built_in.contains(&group(version).as_str()) { Known::Outdated(kind) } else { Known::No }
}

fn syntax(error: SyntaxError, text: &str) -> Problem {
    let line = text.lines().nth(error.line.saturating_sub(1)).unwrap_or_default();
    let indentation = line.len() - line.trim_start().len();
    let fix = if line.get(..indentation).is_some_and(|spaces| spaces.contains('\t')) {
        "indent with spaces, not tabs"
    } else if line.contains("{{") {
        "this is a template; give the output of `helm template` instead"
    } else {
        "check indentation, quotes and brackets in and above this line"
    };
    Problem::Syntax { detail: error.detail, fix: fix.to_owned() }
}
