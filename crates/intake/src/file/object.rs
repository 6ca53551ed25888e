//! The kinds of objects we read, and how they are named and written.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sheetbend_model::types::ObjectKey;

use crate::resources::{
    ClusterNetworkPolicy, ClusterTrafficPolicy, L2Announcement, LoadBalancerPool, NetworkSet, Tenant,
    TrafficPolicy, TrafficTier,
};

macro_rules! kinds {
    ($($kind:ident in $version:literal, $doc:literal;)*) => {
        /// A kind that we read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[doc = $doc] $kind,)* }

        /// An object of a kind that we read, as the Kubernetes API defines it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object { $(#[doc = $doc] $kind(Box<$kind>),)* }

        impl Kind {
            /// All kinds, in the order in which they depend on each other.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// The kind's name in the API.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => stringify!($kind),)* }
            }

            /// The `apiVersion` that is read.
            pub fn api_version(self) -> &'static str {
                match self { $(Kind::$kind => $version,)* }
            }
        }

        impl Object {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind,)* }
            }

            /// Its `metadata`.
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Object::$kind(object) => &object.metadata,)* }
            }

            /// Its `metadata`.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Object::$kind(object) => &mut object.metadata,)* }
            }

            /// As JSON, which is YAML too, ending in a newline.
            pub fn to_json(&self) -> Result<String, serde_json::Error> {
                let mut text = match self { $(Object::$kind(object) => serde_json::to_string_pretty(object)?,)* };
                text.push('\n');
                Ok(text)
            }

            /// Reads a tree as an object of `kind`; problems carry lines of the tree.
            pub(super) fn read(kind: Kind, node: &super::yaml::tree::Node)
                -> (Option<Self>, Vec<super::yaml::de::Found>) {
                match kind { $(Kind::$kind => {
                    let (object, found) = super::yaml::de::read::<$kind>(node, &["status"]);
                    (object.map(|object| Object::$kind(Box::new(object))), found)
                })* }
            }
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Object::$kind(Box::new(object))
            }
        })*
    };
}

kinds! {
    Namespace in "v1", "core/v1.";
    Node in "v1", "core/v1.";
    Pod in "v1", "core/v1.";
    Deployment in "apps/v1", "apps/v1.";
    StatefulSet in "apps/v1", "apps/v1.";
    DaemonSet in "apps/v1", "apps/v1.";
    ReplicaSet in "apps/v1", "apps/v1.";
    Job in "batch/v1", "batch/v1.";
    Service in "v1", "core/v1.";
    EndpointSlice in "discovery.k8s.io/v1", "discovery.k8s.io/v1.";
    NetworkPolicy in "networking.k8s.io/v1", "networking.k8s.io/v1.";
    ServiceCIDR in "networking.k8s.io/v1", "networking.k8s.io/v1.";
    ClusterNetworkPolicy in "policy.networking.k8s.io/v1alpha2", "policy.networking.k8s.io/v1alpha2.";
    TrafficTier in "sheetbend.dev/v1alpha1", "sheetbend.dev/v1alpha1.";
    NetworkSet in "sheetbend.dev/v1alpha1", "sheetbend.dev/v1alpha1.";
    ClusterTrafficPolicy in "sheetbend.dev/v1alpha1", "sheetbend.dev/v1alpha1.";
    TrafficPolicy in "sheetbend.dev/v1alpha1", "sheetbend.dev/v1alpha1.";
    Tenant in "sheetbend.dev/v1alpha1", "sheetbend.dev/v1alpha1.";
    LoadBalancerPool in "sheetbend.dev/v1alpha1", "sheetbend.dev/v1alpha1.";
    L2Announcement in "sheetbend.dev/v1alpha1", "sheetbend.dev/v1alpha1.";
}

impl Kind {
    /// The kind called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether its objects live in namespaces.
    pub fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Kind::Namespace
                | Kind::Node
                | Kind::ServiceCIDR
                | Kind::ClusterNetworkPolicy
                | Kind::TrafficTier
                | Kind::NetworkSet
                | Kind::ClusterTrafficPolicy
                | Kind::Tenant
                | Kind::LoadBalancerPool
                | Kind::L2Announcement
        )
    }

    /// Whether a cluster may lack it: it is a CustomResourceDefinition's, or its version of Kubernetes is older (1.33 for
    /// ServiceCIDR).
    pub fn is_optional(self) -> bool {
        self.is_ours() || matches!(self, Kind::ClusterNetworkPolicy | Kind::ServiceCIDR)
    }

    /// Whether it is a resource of our own.
    pub fn is_ours(self) -> bool {
        self.api_version() == crate::resources::API_VERSION
    }

    /// Whether it makes Pods from a template.
    pub fn is_workload(self) -> bool {
        matches!(self, Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet | Kind::ReplicaSet | Kind::Job)
    }
}

/// What makes an object unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds outside namespaces.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectId {
    /// The object `name` of `kind` in `namespace`, which is not used for kinds outside namespaces.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// `namespace/name`.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name) }
    }

    /// The file that holds this object alone: `pod.shop.web-0.json`. Names contain no slash, and a namespace no dot,
    /// so two objects never share a file.
    pub fn file_name(&self) -> String {
        let kind = self.kind.name().to_lowercase();
        if self.kind.is_namespaced() {
            format!("{kind}.{}.{}.json", self.namespace, self.name)
        } else {
            format!("{kind}.{}.json", self.name)
        }
    }
}

/// `Pod shop/web-0`, `Node node-1`.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_namespaced() {
            write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
        } else {
            write!(f, "{} {}", self.kind.name(), self.name)
        }
    }
}

impl Object {
    /// What makes it unique. An absent namespace is `default`, as with `kubectl apply`.
    pub fn id(&self) -> ObjectId {
        let metadata = self.metadata();
        let namespace =
            metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
        ObjectId::new(self.kind(), namespace, metadata.name.as_deref().unwrap_or_default())
    }
}
