//! Addresses that two Services claim.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::error::{ManifestError, Place, Problem};
use super::manifests::Manifest;
use super::object::{Object, ObjectId};
use crate::convert;

/// An error for each cluster address that an earlier Service has already.
pub(super) fn cluster_ips(objects: &BTreeMap<ObjectId, Manifest>) -> Vec<ManifestError> {
    let mut owners: BTreeMap<IpAddr, (&ObjectId, Place)> = BTreeMap::new();
    let mut errors = Vec::new();
    let mut services: Vec<_> = objects.iter().filter(|(_, manifest)| is_service(manifest)).collect();
    services.sort_by(|a, b| a.1.place.cmp(&b.1.place));
    for (id, manifest) in services {
        let Object::Service(service) = &*manifest.object else { continue };
        let place = Place { file: manifest.place.file.clone(), line: manifest.cluster_ip_line };
        for address in service.spec.iter().flat_map(convert::cluster_ips) {
            if let Some((other, first)) = owners.get(&address) {
                errors.push(ManifestError {
                    place: place.clone(),
                    object: id.to_string(),
                    problem: Problem::AddressClash {
                        field: "spec.clusterIP".to_owned(),
                        address: address.to_string(),
                        other: other.to_string(),
                        first: first.clone(),
                    },
                });
            } else {
                owners.insert(address, (id, place.clone()));
            }
        }
    }
    errors
}

fn is_service(manifest: &Manifest) -> bool {
    matches!(&*manifest.object, Object::Service(_))
}
