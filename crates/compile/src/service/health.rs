//! Health check node ports: where this node tells load balancers whether it has endpoints of a Service.

use std::collections::BTreeMap;

use sheetbend_model::plan::{Condition, HealthCheck};
use sheetbend_model::state::{EndpointSlice, Service, ServiceType, TrafficPolicy};
use sheetbend_model::types::{NodeName, ObjectKey, Port};

/// Who claims which port, and what would be answered there.
#[derive(Debug, Default)]
pub(super) struct HealthChecks {
    /// (port, Service) → ready endpoints on this node. The first Service of a port has it.
    claims: BTreeMap<(Port, ObjectKey), u32>,
}

impl HealthChecks {
    /// Forgets what `service` claimed.
    pub(super) fn remove(&mut self, service: &Service) {
        if let Some(port) = port_of(service) {
            self.claims.remove(&(port, service.key.clone()));
        }
    }

    /// Takes in `service` with its `slices`.
    pub(super) fn insert<'a>(
        &mut self,
        service: &Service,
        slices: impl Iterator<Item = &'a EndpointSlice>,
        node: &NodeName,
    ) {
        if let Some(port) = port_of(service) {
            self.claims.insert((port, service.key.clone()), ready_here(slices, node));
        }
    }

    /// The answer of each port.
    pub(super) fn all(&self) -> BTreeMap<Port, HealthCheck> {
        let mut checks = BTreeMap::new();
        for ((port, service), endpoints) in &self.claims {
            checks
                .entry(*port)
                .or_insert_with(|| HealthCheck { service: service.clone(), endpoints: *endpoints });
        }
        checks
    }

    /// Services that claim a port that another has.
    pub(super) fn conditions(&self) -> impl Iterator<Item = Condition> {
        self.claims.keys().filter_map(|(port, service)| {
            let owner = self.owner(*port)?;
            (owner != service).then(|| Condition {
                kind: "Service",
                object: service.clone(),
                reason: "HealthCheckPortConflict",
                message: format!(
                    "healthCheckNodePort {port} belongs to Service {owner}; give one of them another port"
                )
                .into(),
            })
        })
    }

    fn owner(&self, port: Port) -> Option<&ObjectKey> {
        let from = (port, ObjectKey::new("", ""));
        self.claims.range(from..).next().filter(|((own, _), _)| *own == port).map(|((_, key), _)| key)
    }
}

/// Only a load balancer's Service with external policy Local has one (core/v1, `healthCheckNodePort`).
fn port_of(service: &Service) -> Option<Port> {
    let asks =
        service.service_type == ServiceType::LoadBalancer && service.external_policy == TrafficPolicy::Local;
    service.health_check_node_port.filter(|_| asks && !service.proxied_elsewhere)
}

/// Ready endpoints on `node`; one with addresses of both families counts once, as its pod.
fn ready_here<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, node: &NodeName) -> u32 {
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| endpoint.ready && endpoint.node.as_ref() == Some(node));
    let ends = ready.map(|endpoint| match &endpoint.pod {
        Some((key, uid)) => (Some((key, uid)), None),
        None => (None, endpoint.address),
    });
    u32::try_from(ends.collect::<std::collections::BTreeSet<_>>().len()).unwrap_or(u32::MAX)
}
