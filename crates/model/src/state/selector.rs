//! Label selectors (meta/v1 LabelSelector).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::Labels;

/// A label selector: all of it must hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LabelSelector {
    /// `matchLabels`.
    pub match_labels: MatchLabels,
    /// `matchExpressions`, sorted; values sorted.
    pub match_expressions: Vec<Requirement>,
}

/// `matchLabels`, sorted by key. Nearly every selector has one or none, and the smallest node of a map has room for eleven.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Labels", into = "Labels")]
pub struct MatchLabels(Box<[(Arc<str>, Arc<str>)]>);

impl MatchLabels {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value demanded for `key`.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        self.iter().find(|(own, _)| &***own == key).map(|(_, value)| value)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl From<Labels> for MatchLabels {
    fn from(labels: Labels) -> Self {
        Self(labels.into_iter().collect())
    }
}

impl From<MatchLabels> for Labels {
    fn from(labels: MatchLabels) -> Self {
        labels.0.into_iter().collect()
    }
}

/// Of pairs with one key the last counts.
impl FromIterator<(Arc<str>, Arc<str>)> for MatchLabels {
    fn from_iter<T: IntoIterator<Item = (Arc<str>, Arc<str>)>>(pairs: T) -> Self {
        pairs.into_iter().collect::<Labels>().into()
    }
}

impl<const N: usize> From<[(Arc<str>, Arc<str>); N]> for MatchLabels {
    fn from(pairs: [(Arc<str>, Arc<str>); N]) -> Self {
        pairs.into_iter().collect()
    }
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label's key.
    pub key: Arc<str>,
    /// How it is compared.
    pub operator: Operator,
    /// With what; empty for Exists and DoesNotExist.
    pub values: Vec<Arc<str>>,
}

/// Operator of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The label is present with one of the values.
    In,
    /// The label is absent, or has none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl Requirement {
    /// Whether `labels` fulfil it.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl LabelSelector {
    /// Whether `labels` fulfil every part.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = || self.values.join(",");
        match self.operator {
            Operator::In => write!(f, "{} in ({})", self.key, values()),
            Operator::NotIn => write!(f, "{} notin ({})", self.key, values()),
            Operator::Exists => write!(f, "{}", self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
        }
    }
}

/// As kubectl writes selectors: `app=web,tier in (a,b),!old`; `*` when empty.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (key, value) in self.match_labels.iter() {
            write!(f, "{separator}{key}={value}")?;
            separator = ",";
        }
        for requirement in &self.match_expressions {
            write!(f, "{separator}{requirement}")?;
            separator = ",";
        }
        if separator.is_empty() { f.write_str("*") } else { Ok(()) }
    }
}
