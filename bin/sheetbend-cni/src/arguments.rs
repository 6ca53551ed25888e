//! CNI_ARGS: `KEY=VALUE` pairs joined by semicolons (CNI 1.1.0, "Parameters"), as Kubernetes' runtimes fill them.

use sheetbend_cni_wire::{CniError, PodRef, code};

use crate::nearest::nearest;

const KNOWN: [&str; 5] =
    ["IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID"];

/// Whose interface it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) pod: Option<PodRef>,
    pub(crate) pod_uid: Option<String>,
}

impl Arguments {
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        let (mut namespace, mut name, mut pod_uid) = (None, None, None);
        let (mut ignore_unknown, mut unknown) = (false, None);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                let msg = format!("CNI_ARGS has {pair:?}");
                return Err(CniError::new(code::INVALID_ENVIRONMENT, msg, "each part must be KEY=VALUE"));
            };
            let value = (!value.is_empty()).then(|| value.to_owned());
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown =
                        matches!(value.as_deref(), Some("1" | "true" | "True" | "TRUE" | "t" | "T"));
                }
                "K8S_POD_NAMESPACE" => namespace = value,
                "K8S_POD_NAME" => name = value,
                "K8S_POD_UID" => pod_uid = value,
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                other => unknown = unknown.or(Some(other)),
            }
        }
        if let (Some(key), false) = (unknown, ignore_unknown) {
            let hint =
                nearest(key, &KNOWN).map(|known| format!("did you mean {known}? ")).unwrap_or_default();
            let details = format!("{hint}IgnoreUnknown=1 lets unknown keys pass");
            return Err(CniError::new(
                code::INVALID_ENVIRONMENT,
                format!("CNI_ARGS has the unknown key {key}"),
                details,
            ));
        }
        let pod = match (namespace, name) {
            (Some(namespace), Some(name)) => Some(PodRef { namespace, name }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let msg = "CNI_ARGS has only one of K8S_POD_NAMESPACE and K8S_POD_NAME";
                return Err(CniError::new(code::INVALID_ENVIRONMENT, msg, "a pod is named by both"));
            }
        };
        Ok(Self { pod, pod_uid })
    }
}
