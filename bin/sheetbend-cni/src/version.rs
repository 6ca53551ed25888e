//! Versions of the specification.

use serde_json::{Value, json};

/// A version that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    pub(crate) const NEWEST: Version = Version::V1_1_0;

    pub(crate) fn text(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.text() == text)
    }
}

/// The answer to VERSION: the version of the request, and all that we speak (CNI 1.1.0, "VERSION").
pub(crate) fn answer(stdin: &[u8]) -> String {
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|config| config.get("cniVersion")?.as_str()).and_then(Version::parse);
    let supported = Version::ALL.map(Version::text);
    let text =
        json!({ "cniVersion": asked.unwrap_or(Version::NEWEST).text(), "supportedVersions": supported });
    format!("{text}\n")
}
