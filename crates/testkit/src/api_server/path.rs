//! What a URL's path names.

/// A resource, or one object of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Plural, as `pods`.
    pub(super) resource: String,
    /// Empty for kinds outside namespaces and for all namespaces.
    pub(super) namespace: String,
    /// `None` for the whole resource.
    pub(super) name: Option<String>,
}

/// `/api/v1/…` or `/apis/GROUP/VERSION/…`; a subresource is the object itself.
pub(super) fn parse(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = match parts.as_slice() {
        ["api", "v1", rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return None,
    };
    let target = |namespace: &str, resource: &str, name: Option<&str>| {
        Some(Target {
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.map(ToOwned::to_owned),
        })
    };
    match rest {
        ["namespaces", namespace, resource] if *resource != "status" => target(namespace, resource, None),
        ["namespaces", namespace, resource, name, ..] => target(namespace, resource, Some(name)),
        [resource] => target("", resource, None),
        [resource, name, ..] => target("", resource, Some(name)),
        [] => None,
    }
}
