//! Namespaces that are closed to others by one label, alone or together with those of their tenant.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::LabelSelector;

/// Label of a Namespace: `strict` or `tenant`.
pub const ISOLATION: &str = "sheetbend.dev/isolation";
/// Label of a Namespace: the name of its tenant.
pub const TENANT: &str = "sheetbend.dev/tenant";

/// A Tenant (sheetbend.dev/v1alpha1): Namespaces whose pods reach one another and nobody else. It is cluster-scoped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name, which the label [`TENANT`] names too.
    pub name: Arc<str>,
    /// `spec.namespaceSelector`.
    pub namespaces: LabelSelector,
}
