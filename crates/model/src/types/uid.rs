//! What tells an object from another that had its name before.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `metadata.uid` of an object; empty where a file gave none. API servers give UUIDs (RFC 9562): those take 16 bytes, of
/// which a cluster has one for each pod and endpoint.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Uid(Content);

#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Content {
    #[default]
    Empty,
    /// Written in lower case with hyphens.
    Uuid([u8; 16]),
    /// Written otherwise.
    Text(Arc<str>),
}

impl Uid {
    /// Whether nobody gave one.
    pub fn is_empty(&self) -> bool {
        self.0 == Content::Empty
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        if text.is_empty() {
            return Self(Content::Empty);
        }
        let mut buffer = Uuid::encode_buffer();
        let uuid = Uuid::try_parse(text).ok();
        match uuid.filter(|uuid| *uuid.hyphenated().encode_lower(&mut buffer) == *text) {
            Some(uuid) => Self(Content::Uuid(uuid.into_bytes())),
            None => Self(Content::Text(text.into())),
        }
    }
}

impl From<String> for Uid {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> Self {
        uid.to_string()
    }
}

/// As it was written.
impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Content::Empty => Ok(()),
            Content::Uuid(bytes) => Uuid::from_bytes(*bytes).fmt(f),
            Content::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, Uid};

    #[test]
    fn every_text_comes_back_and_only_what_is_written_as_uuids_are_is_one() {
        let uuid = "2f7e0a3c-91f0-4c4e-8f0e-0123456789ab";
        let others = ["u", &uuid.to_uppercase(), &uuid.replace('-', ""), &format!("urn:uuid:{uuid}")];
        for text in others.into_iter().chain(["", uuid]) {
            assert_eq!(Uid::from(text).to_string(), text);
            assert_eq!(Uid::from(text).is_empty(), text.is_empty());
            assert_eq!(matches!(Uid::from(text).0, Content::Uuid(_)), text == uuid, "{text}");
        }
        assert_eq!(size_of::<Uid>(), 24);
    }

    #[test]
    fn uuids_sort_as_their_texts() {
        let mut texts =
            ["ff", "0a", "9f", "a0"].map(|head| format!("{head}000000-0000-4000-8000-000000000000"));
        let mut uids = texts.each_ref().map(|text| Uid::from(text.as_str()));
        texts.sort();
        uids.sort();
        assert_eq!(uids.map(|uid| uid.to_string()), texts);
    }
}
