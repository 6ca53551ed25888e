//! Domain names as policies write them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Labels of a name are at most so long, and it whole at most [`MAX_NAME`] (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;

/// Which domain names a peer is for: one name, or with `*.` in front every name below it, however many labels deeper, and
/// not the name itself (network-policy-api v0.2.0, `DomainName`). Lower case, no dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DomainPattern(Arc<str>);

impl DomainPattern {
    /// `text` as a pattern; `None` where it is none: a name of at least two labels of letters, digits, `-` and `_`, which
    /// begin and end with a letter or digit; `*.` may stand in front and a dot at the end.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_name = name.len() <= MAX_NAME && name.contains('.') && name.split('.').all(is_label);
        is_name.then(|| Self(text.to_ascii_lowercase().into()))
    }

    /// Whether `name`, in lower case and without a dot at its end, is one of them.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(below) => name.len() > below.len() && name.ends_with(below),
            None => *self.0 == *name,
        }
    }

    /// As it was written, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let bytes = label.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= MAX_LABEL
        && bytes.iter().all(|byte| inner(*byte))
        && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    /// The examples of the API's `DomainName`.
    #[test]
    fn a_star_stands_for_one_or_more_labels() {
        let matches = |pattern: &str, name: &str| DomainPattern::new(pattern).unwrap().matches(name);
        assert!(matches("kubernetes.io", "kubernetes.io"));
        for other in ["www.kubernetes.io", "blog.kubernetes.io", "my-kubernetes.io", "wikipedia.org"] {
            assert!(!matches("kubernetes.io", other), "{other}");
        }
        for below in ["www.kubernetes.io", "blog.kubernetes.io", "latest.blog.kubernetes.io"] {
            assert!(matches("*.kubernetes.io", below), "{below}");
        }
        for other in ["kubernetes.io", "my-kubernetes.io", "wikipedia.org"] {
            assert!(!matches("*.kubernetes.io", other), "{other}");
        }
    }

    #[test]
    fn names_have_no_case_and_no_last_dot() {
        assert_eq!(DomainPattern::new("*.Example.COM.").unwrap().as_str(), "*.example.com");
        assert!(DomainPattern::new("a_b-c.example.com").is_some());
    }

    #[test]
    fn what_is_no_name_is_no_pattern() {
        let long = format!("{}.com", "a".repeat(64));
        for bad in [
            "", "com", "*", "*.com", "a.*.com", "**.a.com", "a..com", "-a.com", "a-.com", ".a.com", "a b.com",
        ] {
            assert_eq!(DomainPattern::new(bad), None, "{bad}");
        }
        assert_eq!(DomainPattern::new(&long), None);
    }
}
