//! The Service table says what Services and EndpointSlices say.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sheetbend_compile::compile;
use sheetbend_model::plan::Frontend;
use sheetbend_model::state::NetworkConfig;
use sheetbend_model::types::{Family, NetworkId, Protocol};
use sheetbend_oracle::service;
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::generators::pools;
use sheetbend_testkit::generators::services::cluster_address;

use crate::runner;

#[test]
fn every_frontend_has_the_backends_that_the_objects_say() {
    let mut seen = [0usize; 3];
    let seen_cell = std::cell::RefCell::new(&mut seen);
    runner("services", 800)
        .run(&cluster(), |cluster| {
            let tables = compile(&cluster, &pools::node(), &NetworkConfig::default());
            let mut matched = 0;
            for frontend in frontends() {
                let wanted = service(&cluster, frontend.addr, frontend.protocol, frontend.port.get());
                let found = tables.services.get(&frontend);
                prop_assert_eq!(found.is_some(), wanted.is_some(), "{}", frontend);
                let (Some(found), Some((owner, candidates))) = (found, wanted) else { continue };
                matched += 1;
                prop_assert_eq!(&found.service, &owner);
                let chosen: BTreeSet<_> = found.backends.iter().map(|b| (b.addr, b.port)).collect();
                let wanted: BTreeSet<_> = candidates.iter().map(|c| (c.addr, c.port)).collect();
                prop_assert_eq!(&chosen, &wanted, "{}", frontend);
                prop_assert!(found.draining.iter().all(|backend| !found.backends.contains(backend)));
                prop_assert!(found.backends.is_sorted() && found.draining.is_sorted());
                let mut seen = seen_cell.borrow_mut();
                seen[0] += 1;
                seen[1] += usize::from(chosen.len() > 1);
                seen[2] += usize::from(!found.draining.is_empty());
            }
            prop_assert_eq!(matched, tables.services.len(), "a row that no Service has");
            Ok(())
        })
        .unwrap();
    eprintln!("frontends, with several backends, with draining ones: {seen:?}");
    assert!(seen.iter().all(|count| *count >= 50), "{seen:?}");
}

fn frontends() -> Vec<Frontend> {
    let mut frontends = Vec::new();
    for family in Family::ALL {
        for number in 0..pools::SERVICES {
            for protocol in Protocol::ALL {
                for port in pools::PORTS {
                    let addr = cluster_address(number, family);
                    let port = pools::port(port);
                    frontends.push(Frontend { network: NetworkId::default(), addr, protocol, port });
                }
            }
        }
    }
    frontends
}
