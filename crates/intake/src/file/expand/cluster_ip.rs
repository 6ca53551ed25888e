//! Addresses for Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use sheetbend_model::types::{Family, ObjectKey};

use super::{Assigned, Cluster, trim};
use crate::convert;
use crate::file::error::{ManifestError, Problem};
use crate::file::manifests::{Manifest, Manifests};
use crate::file::object::{Object, ObjectId};

/// The Services with all addresses: those written, those assigned before, and new ones in name order.
pub(super) fn services(
    manifests: &Manifests,
    cluster: &Cluster,
    assigned: &Assigned,
) -> Result<Vec<Service>, Vec<ManifestError>> {
    let mut pool = Pool::new(cluster);
    let mut wanted = Vec::new();
    let mut errors = Vec::new();
    let all = manifests.objects.iter().filter_map(|(id, manifest)| {
        if let Object::Service(service) = &*manifest.object { Some((id, manifest, service)) } else { None }
    });
    let mut given: BTreeMap<IpAddr, ObjectKey> = BTreeMap::new();
    for (id, manifest, service) in all {
        let spec = service.spec.clone().unwrap_or_default();
        given.extend(convert::cluster_ips(&spec).into_iter().map(|address| (address, id.key())));
        wanted.push((id, manifest, service, spec));
    }
    // Written addresses were compared with each other before.
    for (id, manifest, _, spec) in &wanted {
        let kept = assigned.cluster_ips.get(&id.key()).map(Vec::as_slice).unwrap_or_default();
        for address in kept.iter().filter(|_| convert::cluster_ips(spec).is_empty()) {
            match given.get(address) {
                Some(other) => errors.push(taken(id, manifest, *address, other)),
                None => drop(pool.used.insert(*address)),
            }
        }
    }
    pool.used.extend(given.into_keys());
    let mut services = Vec::new();
    for (id, manifest, service, mut spec) in wanted {
        let kept = assigned.cluster_ips.get(&id.key()).map(Vec::as_slice).unwrap_or_default();
        match complete(&mut spec, kept, &mut pool) {
            Ok(()) => {
                let mut metadata = service.metadata.clone();
                trim(&mut metadata);
                services.push(Service { metadata, spec: Some(spec), status: None });
            }
            Err(problem) => errors.push(error(id, manifest, problem)),
        }
    }
    if errors.is_empty() { Ok(services) } else { Err(errors) }
}

fn error(id: &ObjectId, manifest: &Manifest, problem: Problem) -> ManifestError {
    ManifestError { place: manifest.place.clone(), object: id.to_string(), problem }
}

fn taken(id: &ObjectId, manifest: &Manifest, address: IpAddr, other: &ObjectKey) -> ManifestError {
    let problem = Problem::Conflict {
        field: "spec.clusterIP".to_owned(),
        why: format!("its address {address} is now written for Service {other}"),
        fix: "write another address there".to_owned(),
    };
    error(id, manifest, problem)
}

/// Writes the families and addresses that the API server would.
fn complete(spec: &mut ServiceSpec, kept: &[IpAddr], pool: &mut Pool) -> Result<(), Problem> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(());
    }
    let given = convert::cluster_ips(spec);
    let (families, dual) = families(spec, &given, pool)?;
    spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned());
    spec.ip_families = Some(families.iter().map(Family::to_string).collect());
    if spec.cluster_ip.as_deref() == Some("None") {
        spec.cluster_ips = Some(vec!["None".to_owned()]);
        return Ok(());
    }
    let mut addresses = Vec::with_capacity(2);
    for family in families {
        let have = given.iter().chain(kept).copied().find(|address| Family::of(*address) == family);
        match have.map_or_else(|| pool.next(family), Ok) {
            Ok(address) => addresses.push(address),
            Err(problem) if dual || addresses.is_empty() => return Err(problem),
            Err(_) => {}
        }
    }
    // PreferDualStack may have found addresses of one family only.
    spec.ip_families = Some(addresses.iter().map(|address| Family::of(*address).to_string()).collect());
    spec.cluster_ip = addresses.first().map(IpAddr::to_string);
    spec.cluster_ips = Some(addresses.iter().map(IpAddr::to_string).collect());
    Ok(())
}

/// The families in order, and whether both are required (core/v1, ipFamilyPolicy).
fn families(spec: &ServiceSpec, given: &[IpAddr], pool: &Pool) -> Result<(Vec<Family>, bool), Problem> {
    let policy = spec.ip_family_policy.as_deref().unwrap_or("SingleStack");
    let written = spec
        .ip_families
        .iter()
        .flatten()
        .map(|word| if word == "IPv6" { Family::IPv6 } else { Family::IPv4 });
    let mut families: Vec<Family> = Vec::with_capacity(2);
    let of_cluster = pool.blocks.iter().map(|block| Family::of(block.addr()));
    for family in given.iter().map(|address| Family::of(*address)).chain(written).chain(of_cluster) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    match policy {
        "RequireDualStack" if families.len() < 2 => Err(Problem::Conflict {
            field: "spec.ipFamilyPolicy".to_owned(),
            why: "RequireDualStack, and the cluster has Service addresses of one family".to_owned(),
            fix: "write PreferDualStack, or give the cluster a second Service range".to_owned(),
        }),
        "RequireDualStack" => Ok((families, true)),
        "PreferDualStack" => Ok((families, false)),
        _ => {
            families.truncate(1);
            Ok((families, true))
        }
    }
}

struct Pool {
    blocks: Vec<IpNet>,
    used: BTreeSet<IpAddr>,
}

impl Pool {
    fn new(cluster: &Cluster) -> Self {
        Self { blocks: cluster.service_cidrs.iter().map(IpNet::trunc).collect(), used: BTreeSet::new() }
    }

    /// The lowest free address behind the band that KEP-3070 leaves for addresses that people write
    /// (`min(max(16, size / 16), 256)`), then within it.
    fn next(&mut self, family: Family) -> Result<IpAddr, Problem> {
        let block = self.blocks.iter().find(|block| Family::of(block.addr()) == family);
        let Some(block) = block else {
            return Err(Problem::Conflict {
                field: "spec.ipFamilies".to_owned(),
                why: format!("the cluster has no Service addresses of family {family}"),
                fix: "write a family that it has, or give the cluster such a range".to_owned(),
            });
        };
        // IPv4 keeps its broadcast address free; more than 2^20 are not handed out, as by the API server for IPv6.
        let bits = u32::from(family.bits() - block.prefix_len()).min(20);
        let size = 1u128 << bits;
        let last = if family == Family::IPv4 { size.saturating_sub(1) } else { size };
        let band = (size / 16).clamp(16, 256).min(last);
        let free = (band..last).chain(1..band).map(|offset| nth(block.network(), offset));
        let found = free.into_iter().find(|address| !self.used.contains(address));
        let address = found.ok_or_else(|| Problem::Conflict {
            field: "spec.clusterIP".to_owned(),
            why: format!("all {} addresses of {block} are in use", last.saturating_sub(1)),
            fix: "give the cluster a larger Service range".to_owned(),
        })?;
        self.used.insert(address);
        Ok(address)
    }
}

fn nth(first: IpAddr, offset: u128) -> IpAddr {
    match first {
        IpAddr::V4(address) => {
            let offset = u32::try_from(offset).unwrap_or_default();
            Ipv4Addr::from_bits(address.to_bits().wrapping_add(offset)).into()
        }
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().wrapping_add(offset)).into(),
    }
}
