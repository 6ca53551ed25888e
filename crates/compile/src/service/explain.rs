//! Why each endpoint of a Service is chosen or not, said by the code that fills the tables.

use std::collections::BTreeSet;
use std::sync::Arc;

use sheetbend_model::plan::{Backend, Condition, Frontend, ServiceEntry};
use sheetbend_model::state::{
    Endpoint, EndpointSlice, NodeLocalDns, Service, ServicePort, Snapshot, TrafficPolicy,
};
use sheetbend_model::types::{Family, NodeName, ObjectKey, Port};

pub use super::endpoints::Why;
use super::endpoints::{self, Choice, Judged, Own, Question, Viewpoint};
use super::{ServiceTables, frontends, sctp};
use crate::changes::Changes;

/// Explains the Services of a Snapshot as one node sees them, but for node-local addresses. Building it costs a walk over all of them.
#[derive(Debug)]
pub struct Explainer<'a> {
    snapshot: &'a Snapshot,
    tables: ServiceTables,
}

/// What becomes of one Service.
#[derive(Clone, Debug)]
pub struct Explanation<'a> {
    /// The Service.
    pub service: &'a Service,
    /// What clients connect to, sorted. None of a headless Service.
    pub frontends: Vec<ExplainedFrontend>,
    /// Its endpoints, once for each way to choose among them.
    pub choices: Vec<ExplainedChoice<'a>>,
    /// What is wrong with it.
    pub conditions: Vec<Condition>,
}

/// What becomes of a frontend.
#[derive(Clone, Debug)]
pub struct ExplainedFrontend {
    /// What clients connect to.
    pub frontend: Frontend,
    /// Index in [`Explanation::choices`].
    pub choice: Option<usize>,
    /// The row of the Service table, or the Service that has the frontend instead.
    pub entry: Result<ServiceEntry, ObjectKey>,
}

/// The endpoints of a Service port in one family, as clients on this node choose among them.
#[derive(Clone, Debug)]
pub struct ExplainedChoice<'a> {
    /// The Service port.
    pub port: &'a ServicePort,
    /// Family of the endpoints' addresses.
    pub family: Family,
    /// A traffic policy Local: only endpoints of this node count.
    pub only_this_node: bool,
    /// The port that clients use, where it cannot be translated (SCTP): only endpoints with it count.
    pub fixed_port: Option<Port>,
    /// All that EndpointSlices name, in their order.
    pub endpoints: Vec<ExplainedEndpoint<'a>>,
}

/// What becomes of an endpoint.
#[derive(Clone, Debug)]
pub struct ExplainedEndpoint<'a> {
    /// Its slice.
    pub slice: &'a EndpointSlice,
    /// As the slice names it.
    pub endpoint: &'a Endpoint,
    /// The port; `None` where the slice gives none that can be used.
    pub port: Option<Port>,
    /// Its weight.
    pub weight: u8,
    /// Whether new flows go there.
    pub verdict: Result<(), Why>,
    /// Where no new flows go there: whether it keeps those that it has.
    pub keeps: bool,
}

impl<'a> Explainer<'a> {
    /// For the Services of `snapshot`, as seen from `node`.
    pub fn new(snapshot: &'a Snapshot, node: NodeName) -> Self {
        let mut tables = ServiceTables::new(node, NodeLocalDns::default());
        let services: BTreeSet<ObjectKey> = snapshot.services.keys().cloned().collect();
        tables.index(&Snapshot::default(), snapshot, &Changes::services_of(snapshot), &services, None);
        Self { snapshot, tables }
    }

    /// Of every Service, in the order of their keys.
    pub fn all(&self) -> impl Iterator<Item = Explanation<'_>> {
        self.snapshot.services.values().map(|service| self.explain(service))
    }

    /// Of the Service `key`; `None` where there is none.
    pub fn one(&self, key: &ObjectKey) -> Option<Explanation<'_>> {
        self.snapshot.services.get(key).map(|service| self.explain(service))
    }

    fn explain<'s>(&'s self, service: &'s Arc<Service>) -> Explanation<'s> {
        let mut explanation = Explanation {
            service,
            frontends: Vec::new(),
            choices: Vec::new(),
            conditions: self.tables.conditions_of(self.snapshot, service),
        };
        let frontends: BTreeSet<Frontend> = frontends::of_service(service).into_iter().collect();
        for frontend in frontends {
            let Some((port, meaning)) = frontends::port_of(service, &frontend) else { continue };
            let owner = self.tables.owner(&frontend);
            let entry = match owner.filter(|owner| **owner != service.key) {
                Some(other) => Err(other.clone()),
                None => match self.tables.entry(self.snapshot, &frontend) {
                    Some(entry) => Ok(entry),
                    None => continue,
                },
            };
            let only = meaning.policy == TrafficPolicy::Local;
            let fixed = sctp::fixed_port(&frontend);
            let which = (port, Family::of(frontend.addr), only, fixed);
            let choice = Some(self.choice(&mut explanation, service, which));
            explanation.frontends.push(ExplainedFrontend { frontend, choice, entry });
        }
        // Of a headless Service all, and of others those that no address leads to.
        for port in &service.ports {
            for family in Family::ALL {
                let chosen = |of: &ExplainedChoice<'_>| std::ptr::eq(of.port, port) && of.family == family;
                let mut slices = self.tables.slices.of(self.snapshot, &service.key);
                if !explanation.choices.iter().any(chosen) && slices.any(|slice| slice.family == family) {
                    // Nobody translates what no address leads to.
                    self.choice(&mut explanation, service, (port, family, false, None));
                }
            }
        }
        explanation
    }

    /// The index of a choice, which is made where there is none yet.
    fn choice<'s>(
        &'s self,
        explanation: &mut Explanation<'s>,
        service: &'s Service,
        (port, family, only, fixed_port): (&'s ServicePort, Family, bool, Option<Port>),
    ) -> usize {
        let same = |of: &ExplainedChoice<'_>| {
            std::ptr::eq(of.port, port)
                && (of.family, of.only_this_node, of.fixed_port) == (family, only, fixed_port)
        };
        if let Some(index) = explanation.choices.iter().position(same) {
            return index;
        }
        let own = if only { Own::Only } else { Own::Alike };
        let from = Viewpoint { node: &self.tables.node, zone: self.tables.zone(self.snapshot), own };
        let question = Question { snapshot: self.snapshot, service, port, family, fixed_port, from };
        let endpoints = self.endpoints(question, service);
        explanation.choices.push(ExplainedChoice {
            port,
            family,
            only_this_node: only,
            fixed_port,
            endpoints,
        });
        explanation.choices.len() - 1
    }

    fn endpoints<'s>(&'s self, question: Question<'s>, service: &'s Service) -> Vec<ExplainedEndpoint<'s>> {
        let slices = || self.tables.slices.of(self.snapshot, &service.key);
        let choice = Choice::new(question, slices());
        let has_family = service.cluster_ips.is_empty()
            || service.cluster_ips.iter().any(|addr| Family::of(addr.to_canonical()) == question.family);
        let mut seen: BTreeSet<Backend> = BTreeSet::new();
        let mut endpoints = Vec::new();
        for slice in slices().filter(|slice| slice.family == question.family) {
            let numbers = endpoints::numbers(slice, question.port, question.fixed_port);
            let mut numbers: Vec<Option<Port>> = numbers.map(Some).collect();
            if numbers.is_empty() {
                numbers.push(None);
            }
            for number in numbers {
                for endpoint in &slice.endpoints {
                    let judged = judge(&choice, &mut seen, &question, (slice, endpoint, number));
                    let weight = endpoints::weight(service, slice, endpoint);
                    let judged =
                        judged.unwrap_or_else(|why| Judged { verdict: Err(why), weight, keeps: false });
                    let Judged { verdict, weight, keeps } = match judged.verdict {
                        Ok(()) if !has_family => {
                            Judged { verdict: Err(Why::WrongFamily), keeps: false, ..judged }
                        }
                        Ok(()) | Err(_) => judged,
                    };
                    endpoints.push(ExplainedEndpoint {
                        slice,
                        endpoint,
                        port: number,
                        weight,
                        verdict,
                        keeps,
                    });
                }
            }
        }
        endpoints
    }
}

/// `Err` of what takes no part in the choice.
fn judge(
    choice: &Choice,
    seen: &mut BTreeSet<Backend>,
    question: &Question<'_>,
    (slice, endpoint, number): (&EndpointSlice, &Endpoint, Option<Port>),
) -> Result<Judged, Why> {
    // Without a number that can be used: has it another?
    let has_other = endpoints::numbers(slice, question.port, None).next().is_some();
    let without_number = if has_other { Why::SctpPort } else { Why::NoPort };
    let backend = question.backend(slice, endpoint, number.ok_or(without_number)?)?;
    let judged = choice.of(&backend).ok_or(Why::NoPort)?;
    if seen.insert(backend) { Ok(judged) } else { Err(Why::Duplicate) }
}
