//! Names in the lab: each node runs `sheetbend dns`, and pods ask the Service address in front of them.
//!
//! A lab whose manifests bring a Service `kube-system/kube-dns` of their own, or use its address, is left as it is.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sheetbend_intake::file::{Kind, Object, ObjectId};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::{Family, ObjectKey};

use super::layout;
use super::state::LabDir;

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
/// The zone of every lab.
const ZONE: &str = "cluster.local";
const PORT: i32 = 53;

/// The Service in front of the nodes' name servers, and its EndpointSlices; nothing where `others` bring their own.
pub(crate) fn objects(others: &[Object], nodes: u8) -> Vec<Object> {
    if others.iter().any(takes_the_place) {
        return Vec::new();
    }
    let mut objects = vec![Object::from(service())];
    objects.extend(Family::ALL.map(|family| Object::from(slice(family, nodes))));
    objects
}

fn takes_the_place(object: &Object) -> bool {
    let Object::Service(service) = object else { return false };
    let spec = service.spec.as_ref();
    let addresses =
        spec.into_iter().flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    object.id() == ObjectId::new(Kind::Service, NAMESPACE, SERVICE)
        || addresses
            .filter_map(|text| text.parse().ok())
            .any(|addr: IpAddr| layout::dns_addresses().contains(&addr))
}

fn metadata(name: String) -> ObjectMeta {
    let labels = [
        ("k8s-app".to_owned(), SERVICE.to_owned()),
        ("kubernetes.io/service-name".to_owned(), SERVICE.to_owned()),
    ];
    ObjectMeta {
        name: Some(name),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels.into()),
        ..ObjectMeta::default()
    }
}

fn service() -> Service {
    let addresses: Vec<String> = layout::dns_addresses().iter().map(ToString::to_string).collect();
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        port: PORT,
        protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: addresses.first().cloned(),
        cluster_ips: Some(addresses),
        ip_families: Some(Family::ALL.map(|family| family.to_string()).into()),
        ip_family_policy: Some("RequireDualStack".to_owned()),
        ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
        ..ServiceSpec::default()
    };
    Service { metadata: metadata(SERVICE.to_owned()), spec: Some(spec), status: None }
}

fn slice(family: Family, nodes: u8) -> EndpointSlice {
    let port = |name: &str, protocol: &str| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(PORT),
        protocol: Some(protocol.to_owned()),
        ..EndpointPort::default()
    };
    let ready = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let endpoints = (1..=nodes).map(|index| Endpoint {
        addresses: vec![layout::node_address(index, family).to_string()],
        conditions: Some(ready.clone()),
        node_name: Some(layout::node_name(index)),
        ..Endpoint::default()
    });
    EndpointSlice {
        metadata: metadata(slice_name(family)),
        address_type: family.to_string(),
        endpoints: endpoints.collect(),
        ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
    }
}

fn slice_name(family: Family) -> String {
    format!("{SERVICE}-lab-{}", family.to_string().to_lowercase())
}

/// Takes the lab's own Service out of `snapshot`: the matrix asks only what the user's objects say.
pub(crate) fn hide(snapshot: &mut Snapshot) {
    for family in Family::ALL {
        if snapshot.endpoint_slices.remove(&ObjectKey::new(NAMESPACE, slice_name(family))).is_some() {
            snapshot.services.remove(&ObjectKey::new(NAMESPACE, SERVICE));
        }
    }
}

/// What the kubelet writes for a pod of `namespace` with `dnsPolicy: ClusterFirst`; `None` where the lab serves no names.
pub(crate) fn resolv_conf(dir: &LabDir, namespace: &str) -> anyhow::Result<Option<PathBuf>> {
    let slice = ObjectId::new(Kind::EndpointSlice, NAMESPACE, &slice_name(Family::IPv4));
    if !dir.cluster().join(slice.file_name()).exists() {
        return Ok(None);
    }
    let mut text = format!("search {namespace}.svc.{ZONE} svc.{ZONE} {ZONE}\noptions ndots:5\n");
    for addr in layout::dns_addresses() {
        text += &format!("nameserver {addr}\n");
    }
    let directory = dir.join("resolv");
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{namespace}.conf"));
    // Two commands may come at once: each reads a whole file.
    let draft =
        directory.join(format!(".{namespace}.{}.{:?}", std::process::id(), std::thread::current().id()));
    fs::write(&draft, text)?;
    fs::rename(draft, &path)?;
    Ok(Some(path))
}

/// Lets the calling thread, and what it starts, see `file` as /etc/resolv.conf. The rest of the machine does not.
pub(crate) fn use_resolv_conf(file: &Path) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot keep mounts private")?;
    mount(Some(file), "/etc/resolv.conf", none, MsFlags::MS_BIND, none)
        .context("cannot put the pod's /etc/resolv.conf in its place; is there one on this machine?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_with_a_name_server_of_its_own_keeps_it() {
        assert_eq!(objects(&[], 2).len(), 3);
        assert!(objects(&[Object::from(service())], 2).is_empty());
        let mut other = service();
        other.metadata.name = Some("other".to_owned());
        assert!(objects(&[Object::from(other.clone())], 2).is_empty(), "its address is taken");
        other.spec = None;
        assert_eq!(objects(&[Object::from(other)], 2).len(), 3);
    }
}
