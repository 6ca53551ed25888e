//! YAML 1.2 with source lines: text → [`tree`] → any `Deserialize` type, strictly, with every error placed.

pub(super) mod de;
pub(super) mod scalar;
pub(super) mod tree;
