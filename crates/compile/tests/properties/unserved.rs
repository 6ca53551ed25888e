//! Addresses of Services without a frontend: dropped, refused, or nobody's matter.

use std::cell::RefCell;
use std::net::IpAddr;

use proptest::prelude::*;
use sheetbend_compile::compile;
use sheetbend_model::plan::{AddressHolder, Dataplane, Route};
use sheetbend_model::state::NetworkConfig;
use sheetbend_model::types::{AddrKey, Family};
use sheetbend_oracle::{Unserved, unserved};
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::generators::pools;
use sheetbend_testkit::generators::services::{cluster_address, free_address};

use crate::runner;

/// What the kernel's programs read from the tables.
fn found(tables: &Dataplane, addr: IpAddr) -> Option<Unserved> {
    let around = tables.routes.iter().filter(|(key, _)| key.block.contains(&addr));
    let route = around.max_by_key(|(key, _)| key.block.prefix_len()).map(|(_, route)| route);
    let is_of_services = match route {
        Some(Route::Service) => true,
        None => false,
        Some(_) => return None,
    };
    match tables.service_addresses.get(&AddrKey::new(addr)) {
        Some(AddressHolder::Us) => Some(Unserved::Refused),
        Some(AddressHolder::Others) => None,
        None => is_of_services.then_some(Unserved::Dropped),
    }
}

fn addresses() -> Vec<IpAddr> {
    let mut addresses = pools::world();
    for family in Family::ALL {
        addresses.extend((0..pools::SERVICES).map(|number| cluster_address(number, family)));
        addresses.extend((0..3).map(|number| free_address(number, family)));
        addresses.extend([pools::node_address(0, family), pools::pod_address(1, 0, family)]);
    }
    addresses
}

#[test]
fn what_no_frontend_takes_is_dropped_or_refused_as_the_objects_say() {
    let seen = RefCell::new([0usize; 5]);
    let ranges = ["10.96.2.0/24", "fd00:96::2:0/112"].map(|text| text.parse().unwrap());
    let configured = prop_oneof![Just(Vec::new()), Just(ranges.to_vec())];
    runner("unserved", 400)
        .run(&(cluster(), configured), |(cluster, service_cidrs)| {
            let config = NetworkConfig { service_cidrs: service_cidrs.clone(), ..NetworkConfig::default() };
            let tables = compile(&cluster, &pools::node(), &config);
            for addr in addresses() {
                let wanted = unserved(&cluster, &service_cidrs, addr);
                prop_assert_eq!(found(&tables, addr), wanted, "{}", addr);
                let holder = tables.service_addresses.get(&AddrKey::new(addr));
                let without_range = cluster.service_cidrs.is_empty() && service_cidrs.is_empty();
                let mut seen = seen.borrow_mut();
                seen[0] += usize::from(wanted == Some(Unserved::Dropped));
                seen[1] += usize::from(wanted == Some(Unserved::Refused));
                seen[2] += usize::from(holder == Some(&AddressHolder::Others));
                seen[3] += usize::from(without_range && wanted == Some(Unserved::Refused));
                seen[4] += usize::from(wanted.is_none() && holder.is_none());
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    eprintln!("{seen:?}");
    assert!(seen.iter().all(|count| *count >= 15), "{seen:?}");
}
