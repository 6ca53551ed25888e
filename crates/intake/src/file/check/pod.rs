//! PodSpec (core/v1 `ValidatePodSpec`).

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{Check, names};
use crate::file::field::Field;

pub(super) fn spec(check: &mut Check<'_>, field: &Field<'_>, pod: &PodSpec) {
    let containers = field.key("containers");
    if pod.containers.is_empty() {
        check.missing(&containers, "a Pod has at least one container");
    }
    let mut seen = Vec::new();
    all_containers(check, &containers, &pod.containers, &mut seen);
    all_containers(
        check,
        &field.key("initContainers"),
        pod.init_containers.as_deref().unwrap_or_default(),
        &mut seen,
    );
    if let Some(node) = pod.node_name.as_deref().filter(|name| !name.is_empty()) {
        check.form(&field.key("nodeName"), node, names::dns_subdomain);
    }
    super::selector::map(check, &field.key("nodeSelector"), pod.node_selector.as_ref());
    check.word(&field.key("restartPolicy"), pod.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]);
    let hostname = field.key("hostname");
    if let Some(name) = pod.hostname.as_deref().filter(|name| !name.is_empty()) {
        check.form(&hostname, name, names::dns_label);
    }
}

fn all_containers<'a>(
    check: &mut Check<'_>,
    field: &Field<'_>,
    containers: &'a [Container],
    seen: &mut Vec<&'a str>,
) {
    for (index, container) in containers.iter().enumerate() {
        let field = field.index(index);
        let name = field.key("name");
        if container.name.is_empty() {
            check.missing(&name, "give the container a name");
        } else {
            check.form(&name, &container.name, names::dns_label);
            check.unique(&name, &container.name, container.name.as_str(), seen);
        }
        ports(check, &field.key("ports"), container);
    }
}

fn ports(check: &mut Check<'_>, field: &Field<'_>, container: &Container) {
    let mut named = Vec::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let field = field.index(index);
        check.port(&field.key("containerPort"), port.container_port);
        check.protocol(&field.key("protocol"), port.protocol.as_deref());
        let name_field = field.key("name");
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            check.form(&name_field, name, names::port_name);
            check.unique(&name_field, name, name, &mut named);
        }
        let host_port = field.key("hostPort");
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            check.port(&host_port, number);
        }
        if let Some(address) = port.host_ip.as_deref().filter(|address| !address.is_empty()) {
            check.address(&field.key("hostIP"), address);
        }
    }
}
