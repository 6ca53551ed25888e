//! A cluster as it would be after a change.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use sheetbend_intake::file::{self, Kind, Object, ObjectId};
use sheetbend_model::state::Snapshot;
use sheetbend_model::state::traffic::written_as;
use sheetbend_shell::exit;

use crate::ask::Failure;
use crate::policy::offline::refuse;

/// The kinds on which verdicts depend, and which a change may have.
const KINDS: [Kind; 8] = [
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::ClusterTrafficPolicy,
    Kind::TrafficPolicy,
    Kind::TrafficTier,
    Kind::NetworkSet,
    Kind::Tenant,
    Kind::Namespace,
];

/// `--delete`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deletion(ObjectId);

impl FromStr for Deletion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (word, namespace, name) = match parts.as_slice() {
            [kind, name] => (*kind, "", *name),
            [kind, namespace, name] => (*kind, *namespace, *name),
            _ => return Err(format!("{text:?} names no object; write KIND/NAMESPACE/NAME or KIND/NAME")),
        };
        let kind = KINDS.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(word));
        let kind = kind.ok_or_else(|| {
            let kinds = KINDS.map(Kind::name).join(", ");
            format!("{word:?} is no kind on which verdicts depend; these are: {kinds}")
        })?;
        if kind.is_namespaced() && namespace.is_empty() {
            return Err(format!("{text:?} has no namespace; write {}/NAMESPACE/{name}", kind.name()));
        }
        Ok(Self(ObjectId { kind, namespace: namespace.into(), name: name.into() }))
    }
}

/// `before` with the objects of `paths`, each in the place of what has its kind and name, and then without `deletions`.
pub(super) fn changed(
    before: &Snapshot,
    paths: &[PathBuf],
    deletions: &[Deletion],
    notes: &mut Vec<String>,
) -> Result<Snapshot, Failure> {
    let mut after = before.clone();
    if !paths.is_empty() {
        let manifests = file::read(paths).map_err(|errors| refuse(&errors))?;
        notes.extend(manifests.skipped.iter().map(ToString::to_string));
        let (counting, others): (Vec<_>, Vec<_>) =
            manifests.objects.iter().partition(|(id, _)| KINDS.contains(&id.kind));
        notes.extend(others.iter().map(|(id, manifest)| {
            format!("{}: {id}: left out, no verdict depends on it as such", manifest.place)
        }));
        let objects: Vec<&Object> = counting.iter().map(|(_, manifest)| &*manifest.object).collect();
        if objects.is_empty() && deletions.is_empty() {
            let text = "there is no policy among the manifests, so there is nothing to compare";
            return Err((exit::BAD_INPUT, text.to_owned()));
        }
        after = file::applied(&after, objects);
    }
    for Deletion(id) in deletions {
        after = file::deleted(&after, id).ok_or_else(|| (exit::NO_OBJECT, format!("there is no {id}")))?;
    }
    Ok(after)
}

/// Says which of the policies that a change brings are staged, and so change nothing.
pub(super) fn still_staged(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    if before.staged == after.staged {
        return Vec::new();
    }
    let known: BTreeSet<_> = before.staged.keys().collect();
    let new = after.staged.keys().filter(|key| !known.contains(key));
    let text = |key| {
        let (kind, name) = written_as(&key);
        format!("{kind} {name} is staged, so it changes nothing; --staged shows what it would change")
    };
    new.map(text).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn deletions_name_a_kind_of_policy() {
        let id = "networkpolicy/shop/web".parse::<Deletion>().unwrap().0;
        assert_eq!((id.kind, &*id.namespace, &*id.name), (Kind::NetworkPolicy, "shop", "web"));
        assert!("ClusterNetworkPolicy/web".parse::<Deletion>().is_ok());
        for wrong in ["web", "NetworkPolicy/web", "Pod/shop/web", "NetworkPolicy/a/b/c"] {
            assert!(wrong.parse::<Deletion>().is_err(), "{wrong}");
        }
    }
}
