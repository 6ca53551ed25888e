//! Where in an object a field is.

use std::fmt;

/// A field of an object, as a chain of borrowed steps: building one allocates nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<'a> {
    /// The object itself.
    Root,
    /// A key of a mapping.
    Key(&'a Field<'a>, &'a str),
    /// An element of a list, from 0.
    Index(&'a Field<'a>, usize),
}

impl<'a> Field<'a> {
    /// The field `name` of this one.
    pub(super) fn key(&'a self, name: &'a str) -> Field<'a> {
        Field::Key(self, name)
    }

    /// Element `index` of this one.
    pub(super) fn index(&'a self, index: usize) -> Field<'a> {
        Field::Index(self, index)
    }
}

/// `spec.ports[0].port`; keys that are no plain word are quoted: `metadata.labels["app.kubernetes.io/name"]`.
impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Root => Ok(()),
            Field::Key(parent, name) => {
                let plain =
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                match (plain, parent) {
                    (true, Field::Root) => f.write_str(name),
                    (true, _) => write!(f, "{parent}.{name}"),
                    (false, _) => write!(f, "{parent}[{name:?}]"),
                }
            }
            Field::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
