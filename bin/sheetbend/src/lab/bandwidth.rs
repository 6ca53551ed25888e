//! Limits of a pod's traffic, as a container runtime reads them from its annotations and passes them to the plugin.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

/// Annotation → its key in `runtimeConfig.bandwidth` (CNI conventions), without `Rate` or `Burst`.
const ANNOTATIONS: [(&str, &str); 2] =
    [("kubernetes.io/ingress-bandwidth", "ingress"), ("kubernetes.io/egress-bandwidth", "egress")];
/// Bits a second that Kubernetes takes (`k8s.io/kubernetes/pkg/util/bandwidth`).
const LEAST: f64 = 1e3;
const MOST: f64 = 1e15;
/// Decimal and binary suffixes of a quantity (`k8s.io/apimachinery/pkg/api/resource`).
const SUFFIXES: [(&str, f64); 11] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("", 1.0),
];

/// `runtimeConfig.bandwidth`, empty without limits.
///
/// # Errors
/// A quantity cannot be read, or is not one that Kubernetes takes.
pub(crate) fn of_pod(annotations: Option<&BTreeMap<String, String>>) -> anyhow::Result<Map<String, Value>> {
    let mut limits = Map::new();
    for (annotation, key) in ANNOTATIONS {
        let Some(text) = annotations.and_then(|all| all.get(annotation)) else { continue };
        let why =
            || format!("annotation {annotation} is {text:?}; write bits a second from 1k to 1P, as 10M");
        let bits = quantity(text).with_context(why)?;
        ensure!((LEAST..=MOST).contains(&bits), why());
        // As containerd, which knows no burst.
        limits.insert(format!("{key}Rate"), json!(bits as u64));
        limits.insert(format!("{key}Burst"), json!(u32::MAX));
    }
    Ok(limits)
}

fn quantity(text: &str) -> Option<f64> {
    SUFFIXES.iter().find_map(|(suffix, factor)| {
        let number: f64 = text.trim().strip_suffix(suffix)?.parse().ok()?;
        Some(number * factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, bits) in [("10M", 1e7), ("1.5G", 1.5e9), ("1Ki", 1024.0), ("5000", 5e3), ("1e6", 1e6)] {
            assert_eq!(quantity(text), Some(bits), "{text}");
        }
        for text in ["", "M", "10X", "ten"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        let limits =
            |text: &str| of_pod(Some(&BTreeMap::from([(ANNOTATIONS[0].0.to_owned(), text.to_owned())])));
        assert!(limits("999").is_err() && limits("2P").is_err() && limits("-1M").is_err());
        assert!(limits("1M").is_ok_and(|limits| limits["ingressRate"] == 1_000_000));
        assert!(of_pod(None).is_ok_and(|limits| limits.is_empty()));
    }
}
