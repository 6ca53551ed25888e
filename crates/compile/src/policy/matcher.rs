//! Which terms a pod matches, found by its labels instead of by trying every selector.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sheetbend_model::state::{LabelSelector, Namespace, Node, Operator, Pod, Snapshot};
use sheetbend_model::types::{DomainPattern, Labels, Protocol};

use super::terms::{NamespaceMatch, TermId, TermKey, TermTable};

const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

type Selectors = Vec<(u32, Arc<TermKey>)>;

/// Selectors and named ports, each filed under something that a matching pod must have.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    /// Label key → value → selectors that demand it.
    by_label: HashMap<Arc<str>, HashMap<Arc<str>, Selectors>>,
    /// Namespace → selectors for pods of that namespace only.
    by_namespace: HashMap<Arc<str>, Selectors>,
    rest: Selectors,
    /// Selectors of nodes.
    nodes: Vec<(u32, LabelSelector)>,
    /// Patterns of domain names.
    domains: Vec<(u32, DomainPattern)>,
    /// Port name → (protocol, term).
    named: HashMap<Arc<str>, Vec<(Protocol, u32)>>,
}

impl Matcher {
    /// A matcher of some terms only.
    pub(crate) fn of(terms: &TermTable, indices: impl Iterator<Item = u32>) -> Self {
        let mut matcher = Self::default();
        for index in indices {
            matcher.insert(terms, index);
        }
        matcher
    }

    /// Whether nothing it knows can match a pod.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_label.is_empty()
            && self.by_namespace.is_empty()
            && self.rest.is_empty()
            && self.named.is_empty()
    }

    pub(crate) fn insert(&mut self, terms: &TermTable, index: u32) {
        let Some(key) = terms.key(index) else { return };
        match &**key {
            TermKey::Block(_) | TermKey::Blocks(_) => {}
            TermKey::Nodes(selector) => self.nodes.push((index, selector.clone())),
            TermKey::Domain(pattern) => self.domains.push((index, pattern.clone())),
            TermKey::Named(name, protocol) => {
                self.named.entry(name.clone()).or_default().push((*protocol, index));
            }
            TermKey::Selector(..) => self.bucket(key).push((index, key.clone())),
        }
    }

    pub(crate) fn remove(&mut self, terms: &TermTable, index: u32) {
        let Some(key) = terms.key(index) else { return };
        match &**key {
            TermKey::Block(_) | TermKey::Blocks(_) => {}
            TermKey::Nodes(_) => self.nodes.retain(|(other, _)| *other != index),
            TermKey::Domain(_) => self.domains.retain(|(other, _)| *other != index),
            TermKey::Named(name, _) => {
                if let Some(uses) = self.named.get_mut(name) {
                    uses.retain(|(_, other)| *other != index);
                    if uses.is_empty() {
                        self.named.remove(name);
                    }
                }
            }
            TermKey::Selector(..) => {
                self.bucket(key).retain(|(other, _)| *other != index);
                self.drop_empty_bucket(key);
            }
        }
    }

    /// Whether any selector of nodes is in force.
    pub(crate) fn has_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The terms that the addresses of `node` match.
    pub(crate) fn terms_of_node(&self, node: &Node) -> impl Iterator<Item = TermId> {
        let matching = self.nodes.iter().filter(|(_, selector)| selector.matches(&node.labels));
        matching.map(|(index, _)| TermId::new(*index))
    }

    /// Whether any pattern of domain names is in force.
    pub(crate) fn has_domains(&self) -> bool {
        !self.domains.is_empty()
    }

    /// The patterns of domain names in force.
    pub(crate) fn domains(&self) -> impl Iterator<Item = &DomainPattern> {
        self.domains.iter().map(|(_, pattern)| pattern)
    }

    /// The terms that the addresses of a domain name match.
    pub(crate) fn terms_of_name(&self, name: &str) -> impl Iterator<Item = TermId> {
        let matching = self.domains.iter().filter(move |(_, pattern)| pattern.matches(name));
        matching.map(|(index, _)| TermId::new(*index))
    }

    fn bucket(&mut self, key: &TermKey) -> &mut Selectors {
        match anchor(key) {
            Anchor::Label(label, value) => {
                self.by_label.entry(label.clone()).or_default().entry(value.clone()).or_default()
            }
            Anchor::Namespace(namespace) => self.by_namespace.entry(namespace.clone()).or_default(),
            Anchor::None => &mut self.rest,
        }
    }

    fn drop_empty_bucket(&mut self, key: &TermKey) {
        match anchor(key) {
            Anchor::Label(label, value) => {
                if let Some(values) = self.by_label.get_mut(label) {
                    if values.get(value).is_some_and(Vec::is_empty) {
                        values.remove(value);
                    }
                    if values.is_empty() {
                        self.by_label.remove(label);
                    }
                }
            }
            Anchor::Namespace(namespace) => {
                if self.by_namespace.get(namespace).is_some_and(Vec::is_empty) {
                    self.by_namespace.remove(namespace);
                }
            }
            Anchor::None => {}
        }
    }

    /// The terms that `pod` matches, sorted.
    pub(crate) fn terms_of(&self, snapshot: &Snapshot, pod: &Pod) -> Vec<TermId> {
        let namespace = &pod.key.namespace;
        let labels = NamespaceLabels::of(snapshot, namespace);
        let mut found = Vec::new();
        let mut keep = |selectors: &Selectors| {
            for (index, key) in selectors {
                if matches(key, pod, &labels) {
                    found.push(TermId::new(*index));
                }
            }
        };
        keep(&self.rest);
        if let Some(selectors) = self.by_namespace.get(namespace) {
            keep(selectors);
        }
        if !self.by_label.is_empty() {
            for (label, value) in pod.labels.iter() {
                if let Some(selectors) = self.by_label.get(label).and_then(|values| values.get(value)) {
                    keep(selectors);
                }
            }
        }
        for port in pod.ports.iter() {
            let uses = port.name.as_ref().and_then(|name| self.named.get(name));
            for (protocol, index) in uses.into_iter().flatten() {
                if *protocol == port.protocol {
                    found.push(TermId::with_port(*index, port.port));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

enum Anchor<'a> {
    Label(&'a Arc<str>, &'a Arc<str>),
    Namespace(&'a Arc<str>),
    None,
}

/// Something that every pod matching a selector must have: one label, else one namespace.
fn anchor(key: &TermKey) -> Anchor<'_> {
    let TermKey::Selector(namespace, pods, _) = key else { return Anchor::None };
    if let Some((label, value)) = pods.match_labels.iter().next() {
        return Anchor::Label(label, value);
    }
    let single = pods
        .match_expressions
        .iter()
        .find(|requirement| requirement.operator == Operator::In && requirement.values.len() == 1);
    if let Some(requirement) = single
        && let Some(value) = requirement.values.first()
    {
        return Anchor::Label(&requirement.key, value);
    }
    match namespace {
        NamespaceMatch::Own(namespace) => Anchor::Namespace(namespace),
        NamespaceMatch::Labels(labels) => match labels.match_labels.get(NAMESPACE_NAME) {
            Some(namespace) => Anchor::Namespace(namespace),
            None => Anchor::None,
        },
    }
}

fn matches(key: &TermKey, pod: &Pod, labels: &NamespaceLabels<'_>) -> bool {
    let TermKey::Selector(namespace, pods, accounts) = key else { return false };
    let namespace_matches = match namespace {
        NamespaceMatch::Own(namespace) => *namespace == pod.key.namespace,
        NamespaceMatch::Labels(selector) => selector.matches(labels.get()),
    };
    let has_account = accounts.is_empty() || accounts.contains(&pod.service_account);
    namespace_matches && has_account && pods.matches(&pod.labels)
}

/// A namespace's labels. One whose object is not in the Snapshot (a directory of manifests may leave it out) has the
/// label that every Namespace has.
pub(crate) enum NamespaceLabels<'a> {
    Known(&'a Namespace),
    Implied(Labels),
}

impl<'a> NamespaceLabels<'a> {
    pub(crate) fn of(snapshot: &'a Snapshot, namespace: &Arc<str>) -> Self {
        match snapshot.namespaces.get(namespace) {
            Some(known) => Self::Known(known),
            None => Self::Implied(BTreeMap::from([(Arc::from(NAMESPACE_NAME), namespace.clone())])),
        }
    }

    pub(crate) fn get(&self) -> &Labels {
        match self {
            Self::Known(namespace) => &namespace.labels,
            Self::Implied(labels) => labels,
        }
    }
}
