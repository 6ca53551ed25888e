//! Objects, and what happened to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

/// (resource, namespace, name).
pub(super) type Key = (String, String, String);

/// ADDED, MODIFIED or DELETED.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) what: &'static str,
    pub(super) object: Value,
}

/// When watches look again: the newest version, and how often all watches were ended.
pub(super) type Tick = (u64, u64);

pub(super) struct State {
    inner: Mutex<Inner>,
    ticks: watch::Sender<Tick>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Value>,
    happened: Vec<Happened>,
    /// Newest version that is forgotten.
    forgotten: u64,
    requests: Vec<String>,
    streaming: Streaming,
    /// Resources that are not there.
    absent: BTreeSet<String>,
    /// Resources that may not be read or written.
    forbidden: BTreeSet<String>,
}

/// What becomes of a request for a streaming list (KEP-3157).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// It is served.
    #[default]
    Served,
    /// 422, as of a server that does not have it.
    Refused,
    /// An ERROR event with 500 in the stream, as of a server whose etcd cannot tell its progress.
    Broken,
}

impl Default for State {
    fn default() -> Self {
        Self { inner: Mutex::default(), ticks: watch::Sender::new((1, 0)) }
    }
}

fn key_of(resource: &str, object: &Value) -> Key {
    let word = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (resource.to_owned(), word("namespace"), word("name"))
}

impl State {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ticks(&self) -> watch::Receiver<Tick> {
        self.ticks.subscribe()
    }

    pub(super) fn version(&self) -> u64 {
        self.ticks.borrow().0
    }

    /// Returns what is stored.
    pub(super) fn put(&self, resource: &str, mut object: Value) -> Value {
        let mut inner = self.inner();
        let version = self.version() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = key_of(resource, &object);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}-{version}", key.2));
        }
        let what = if inner.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        inner.objects.insert(key.clone(), object.clone());
        inner.happened.push(Happened { version, key, what, object: object.clone() });
        drop(inner);
        self.ticks.send_modify(|tick| tick.0 = version);
        object
    }

    pub(super) fn delete(&self, key: &Key) -> Option<Value> {
        let mut inner = self.inner();
        let mut object = inner.objects.remove(key)?;
        let version = self.version() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        inner.happened.push(Happened { version, key: key.clone(), what: "DELETED", object: object.clone() });
        drop(inner);
        self.ticks.send_modify(|tick| tick.0 = version);
        Some(object)
    }

    pub(super) fn lose(&self, key: &Key) {
        self.inner().objects.remove(key);
    }

    pub(super) fn get(&self, key: &Key) -> Option<Value> {
        self.inner().objects.get(key).cloned()
    }

    /// The objects and the version they are of.
    pub(super) fn list(&self, resource: &str, namespace: &str) -> (Vec<Value>, u64) {
        let inner = self.inner();
        let wanted = |key: &Key| key.0 == resource && (namespace.is_empty() || key.1 == namespace);
        let found = inner.objects.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| object.clone());
        (found.collect(), self.version())
    }

    /// What happened after `version`; `None` when that is forgotten.
    pub(super) fn since(&self, version: u64, resource: &str, namespace: &str) -> Option<Vec<Happened>> {
        let inner = self.inner();
        if version < inner.forgotten {
            return None;
        }
        let wanted = |one: &&Happened| {
            one.version > version && one.key.0 == resource && (namespace.is_empty() || one.key.1 == namespace)
        };
        Some(inner.happened.iter().filter(wanted).cloned().collect())
    }

    pub(super) fn forget(&self) {
        let mut inner = self.inner();
        inner.happened.clear();
        let version = self.version() + 1;
        inner.forgotten = version;
        drop(inner);
        self.ticks.send_modify(|tick| tick.0 = version);
    }

    pub(super) fn break_watches(&self) {
        self.ticks.send_modify(|tick| tick.1 += 1);
    }

    pub(super) fn set_streaming(&self, streaming: Streaming) {
        self.inner().streaming = streaming;
    }

    pub(super) fn set_served(&self, resource: &str, served: bool) {
        let absent = &mut self.inner().absent;
        if served {
            absent.remove(resource)
        } else {
            absent.insert(resource.to_owned())
        };
    }

    pub(super) fn is_served(&self, resource: &str) -> bool {
        !self.inner().absent.contains(resource)
    }

    pub(super) fn set_forbidden(&self, resource: &str, is_forbidden: bool) {
        let forbidden = &mut self.inner().forbidden;
        if is_forbidden {
            forbidden.insert(resource.to_owned())
        } else {
            forbidden.remove(resource)
        };
    }

    pub(super) fn is_forbidden(&self, resource: &str) -> bool {
        self.inner().forbidden.contains(resource)
    }

    pub(super) fn streaming(&self) -> Streaming {
        self.inner().streaming
    }

    pub(super) fn note(&self, request: String) {
        self.inner().requests.push(request);
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.inner().requests.clone()
    }
}
