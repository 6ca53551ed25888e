//! Peer classes.

use std::fmt;
use std::sync::Arc;

use crate::types::{Port, Protocol};

/// One thing in force on this node that an address can match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// A pod peer: canonical text of its namespace and pod selectors, such as `ns=shop pod=app=web`.
    Selector(Arc<str>),
    /// An ipBlock peer: canonical text, such as `10.0.0.0/8 except 10.1.0.0/16`.
    Block(Arc<str>),
    /// A named port in force that this address resolves to a number (as an egress destination).
    NamedPort(Arc<str>, Protocol, Port),
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Selector(text) => write!(f, "{{{text}}}"),
            Term::Block(text) => f.write_str(text),
            Term::NamedPort(name, protocol, port) => write!(f, "{name}={port}/{protocol}"),
        }
    }
}

/// The set of terms that an address matches, sorted and without duplicates. Addresses with equal sets are one class
/// (`design.md` §3). The empty class matches nothing in force and is stored for no exact address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(Arc<[Term]>);

impl Class {
    /// The class of `terms`, in any order.
    pub fn new(mut terms: Vec<Term>) -> Self {
        terms.sort_unstable();
        terms.dedup();
        Self(terms.into())
    }

    /// Its terms, sorted.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// Whether it matches nothing in force.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, term) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{term}")?;
        }
        f.write_str("]")
    }
}
