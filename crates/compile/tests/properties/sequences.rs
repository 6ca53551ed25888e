//! Incremental and full compile give equal tables, whatever the way, and nothing is left in the end.

use proptest::prelude::*;
use sheetbend_compile::{Compiler, compile};
use sheetbend_model::plan::{Dataplane, Entry, Place, Plan, Step, Wanted, diff};
use sheetbend_model::state::{NetworkConfig, Snapshot};
use sheetbend_oracle::health_check;
use sheetbend_testkit::generators::cluster::sequence;
use sheetbend_testkit::generators::pools;
use sheetbend_testkit::generators::services::{health_ports, node_local};

use crate::runner;

/// A compiler, and the tables as somebody who only runs its Plans has them.
struct Follower {
    config: NetworkConfig,
    compiler: Compiler,
    tables: Dataplane,
}

impl Follower {
    fn new(config: &NetworkConfig) -> Self {
        Self {
            config: config.clone(),
            compiler: Compiler::new(pools::node(), config.clone()),
            tables: Dataplane::default(),
        }
    }

    fn follow(&mut self, next: &Snapshot) -> Result<Plan, TestCaseError> {
        let plan = self.compiler.update(next);
        self.tables.apply(&plan);
        let fresh = compile(next, &pools::node(), &self.config);
        same(&self.compiler.dataplane(), &fresh, "the compiler's own tables")?;
        let mut parts = in_parts(&self.compiler)?;
        parts.conditions = fresh.conditions.clone();
        same(&parts, &fresh, "the tables a part at a time")?;
        self.tables.conditions = self.compiler.conditions();
        same(&self.tables, &fresh, &format!("the tables after the plan\n{plan}"))?;
        for port in health_ports() {
            let told = self.compiler.health_checks().get(&port).cloned();
            let told = told.map(|check| (check.service, check.endpoints));
            prop_assert_eq!(told, health_check(next, &pools::node(), port), "port {}", port);
        }
        Ok(plan)
    }
}

/// The tables put together from their parts, which must tell of no other rows than they have.
fn in_parts(compiler: &Compiler) -> Result<Dataplane, TestCaseError> {
    let mut tables = Dataplane::default();
    let mut place = Some(Place::Base);
    while let Some(at) = place {
        let (entries, next) = compiler.part(&at);
        for entry in &entries {
            let has = match entry {
                Entry::Route(key, _) => compiler.has_route(key),
                Entry::Block(key, _) => compiler.has_block(key),
                Entry::Class(key, _) => compiler.has_class(key),
                Entry::Service(key, _) => compiler.has_service(key),
                Entry::ServiceAddress(key, _) => compiler.has_service_address(key),
                Entry::Pod(key, _) => Wanted::pods(compiler).any(|(id, _)| id == key),
                Entry::Overlay(_) | Entry::Rule(..) => true,
            };
            prop_assert!(has, "{} is in a part, and is said not to be", entry);
        }
        let swap = entries.into_iter().map(Step::Put).collect();
        tables.apply(&Plan { swap, ..Plan::default() });
        place = next;
    }
    Ok(tables)
}

/// Compares table by table, so that a failure shows the one that differs.
fn same(found: &Dataplane, wanted: &Dataplane, what: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(&found.pods, &wanted.pods, "{}", what);
    prop_assert_eq!(&found.classes, &wanted.classes, "{}", what);
    prop_assert_eq!(&found.blocks, &wanted.blocks, "{}", what);
    prop_assert_eq!(&found.rules, &wanted.rules, "{}", what);
    prop_assert_eq!(&found.services, &wanted.services, "{}", what);
    prop_assert_eq!(&found.service_addresses, &wanted.service_addresses, "{}", what);
    prop_assert_eq!(&found.routes, &wanted.routes, "{}", what);
    prop_assert_eq!(&found.overlay, &wanted.overlay, "{}", what);
    prop_assert_eq!(&found.conditions, &wanted.conditions, "{}", what);
    prop_assert_eq!(found, wanted, "{}", what);
    Ok(())
}

/// The ways in which a list of states may be seen.
fn expand(states: &[Snapshot]) -> Vec<Vec<Snapshot>> {
    let empty = Snapshot::default();
    let forward = states.to_vec();
    let reversed = states.iter().rev().cloned().collect();
    let with_empties = states.iter().flat_map(|state| [state.clone(), empty.clone()]).collect();
    let squashed = states.iter().step_by(3).chain(states.last()).cloned().collect();
    let repeated = states.iter().flat_map(|state| [state.clone(), state.clone()]).collect();
    let back_and_forth =
        states.windows(2).flat_map(|pair| [pair[1].clone(), pair[0].clone(), pair[1].clone()]).collect();
    let mut all = vec![forward, reversed, with_empties, squashed, repeated, back_and_forth];
    for states in &mut all {
        states.push(empty.clone());
    }
    all
}

#[test]
fn incremental_equals_full_in_every_order() {
    runner("sequences", 120)
        .run(&(sequence(8), node_local()), |(states, node_local_dns)| {
            let config = NetworkConfig { node_local_dns, ..NetworkConfig::default() };
            for states in expand(&states) {
                let mut follower = Follower::new(&config);
                for state in &states {
                    follower.follow(state)?;
                    prop_assert!(follower.compiler.update(state).is_empty(), "the same state again");
                }
                let end = Dataplane::default();
                prop_assert_eq!(&follower.tables, &end, "entries left in the last, empty state");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_plan_of_a_restarted_agent_leads_to_the_same_tables() {
    runner("restart", 100)
        .run(&sequence(3), |states| {
            let compiled: Vec<Dataplane> = states
                .iter()
                .map(|state| compile(state, &pools::node(), &NetworkConfig::default()))
                .collect();
            for pair in compiled.windows(2) {
                let plan = diff(&pair[0], &pair[1]);
                let mut tables = pair[0].clone();
                tables.apply(&plan);
                tables.conditions = pair[1].conditions.clone();
                prop_assert_eq!(&tables, &pair[1]);
                prop_assert!(diff(&tables, &pair[1]).is_empty());
            }
            Ok(())
        })
        .unwrap();
}
