//! What people call the pods that one workload made.

use sheetbend_model::state::Pod;
use sheetbend_model::types::Labels;

/// `namespace/name` of the workload that made `pod`, as far as its name and the labels that controllers give show it:
/// a Deployment's, a StatefulSet's, a DaemonSet's, a Job's, or a lab's. A pod that nobody made is its own.
pub(super) fn workload(pod: &Pod) -> String {
    let name = stem(&pod.key.name, &pod.labels);
    if pod.key.namespace.is_empty() { name.to_owned() } else { format!("{}/{name}", pod.key.namespace) }
}

fn stem<'a>(name: &'a str, labels: &Labels) -> &'a str {
    let Some((before, last)) = name.rsplit_once('-') else { return name };
    // The ordinal of a StatefulSet's pod, and of every workload's in a lab.
    if !before.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) && !last.is_empty() {
        return before;
    }
    // A Deployment's pods are NAME-HASH-xxxxx, those of others NAME-xxxxx.
    let hash = labels.get("pod-template-hash");
    if let Some(deployment) = hash.and_then(|hash| before.strip_suffix(&**hash)) {
        return deployment.strip_suffix('-').filter(|name| !name.is_empty()).unwrap_or(before);
    }
    let is_made = ["controller-revision-hash", "job-name", "batch.kubernetes.io/job-name"];
    if hash.is_some() || is_made.iter().any(|label| labels.contains_key(*label)) { before } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_workloads_are_found_in_those_of_pods() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
        };
        let hashed = labels(&[("pod-template-hash", "7d4b9c6f5")]);
        let revised = labels(&[("controller-revision-hash", "6f9d")]);
        let plain = labels(&[("app", "web")]);
        for (name, labels, workload) in [
            ("web-7d4b9c6f5-x2x4z", &hashed, "web"),
            ("my-web-7d4b9c6f5-x2x4z", &hashed, "my-web"),
            ("db-12", &plain, "db"),
            ("agent-x2x4z", &revised, "agent"),
            ("web-x2x4z", &plain, "web-x2x4z"),
            ("toolbox", &plain, "toolbox"),
            ("-1", &plain, "-1"),
        ] {
            assert_eq!(stem(name, labels), workload, "{name}");
        }
    }
}
