//! A Service's slots: shares as weights say, and Maglev's table against its slow twin.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sheetbend_model::plan::{Backend, Preference, Reach, ServiceEntry, table_size};
use sheetbend_model::state::Algorithm;
use sheetbend_model::types::{NetworkId, ObjectKey, Protocol};
use sheetbend_testkit::generators::pools;

use crate::runner;

fn backend(number: u32) -> Backend {
    // Neighbours differ in one bit, as those of a node do.
    let addr = if number.is_multiple_of(3) {
        std::net::Ipv6Addr::from((0xfd00_0244_u128 << 96) + u128::from(number)).into()
    } else {
        std::net::Ipv4Addr::from(0x0af4_0000 + number).into()
    };
    Backend {
        network: NetworkId::default(),
        addr,
        protocol: Protocol::Tcp,
        port: pools::port(8080),
        pod_uid: format!("uid-{number}").into(),
    }
}

fn entry(algorithm: Algorithm, backends: Vec<Backend>, weights: Vec<u8>) -> ServiceEntry {
    let is_weighted = weights.iter().any(|weight| Some(weight) != weights.first());
    ServiceEntry {
        service: ObjectKey::new("blue", "web"),
        port_name: "".into(),
        reach: Reach::Inside,
        only_remote: false,
        sources: None,
        algorithm,
        affinity_timeout: None,
        backends: backends.into(),
        weights: if is_weighted { weights.into() } else { [].into() },
        draining: [].into(),
    }
}

/// Backends by their numbers, with weights.
fn drawn(most: usize) -> impl Strategy<Value = BTreeMap<u32, u8>> {
    let weight = prop_oneof![2 => Just(1u8), 1 => 1..=5u8, 1 => 1..=100u8];
    prop_oneof![
        1 => prop::collection::btree_map(0..4_000u32, Just(1u8), 1..=most),
        1 => prop::collection::btree_map(0..4_000u32, weight, 1..=most),
    ]
}

fn made(algorithm: Algorithm, drawn: &BTreeMap<u32, u8>) -> ServiceEntry {
    let mut all: Vec<(Backend, u8)> =
        drawn.iter().map(|(number, weight)| (backend(*number), *weight)).collect();
    all.sort();
    let (backends, weights) = all.into_iter().unzip();
    entry(algorithm, backends, weights)
}

/// How many slots each backend has.
fn counts(entry: &ServiceEntry) -> Vec<usize> {
    let mut counts = vec![0; entry.backends.len()];
    for slot in entry.slots() {
        counts[slot.backend as usize] += 1;
    }
    counts
}

fn weight(entry: &ServiceEntry, index: usize) -> usize {
    entry.weights.get(index).copied().map_or(1, usize::from)
}

#[test]
fn slots_are_shared_as_weights_say() {
    runner("weights", 400)
        .run(&drawn(60), |drawn| {
            for algorithm in [Algorithm::Random, Algorithm::RoundRobin] {
                let entry = made(algorithm, &drawn);
                let counts = counts(&entry);
                for (index, count) in counts.iter().enumerate() {
                    prop_assert_eq!(count * weight(&entry, 0), counts[0] * weight(&entry, index));
                }
                // Turns alternate: in each stretch of the row a backend has its share, give or take one.
                let slots = entry.slots();
                let mut so_far = vec![0usize; entry.backends.len()];
                for (at, slot) in slots.iter().enumerate() {
                    let index = slot.backend as usize;
                    so_far[index] += 1;
                    let share = (at + 1) as f64 * counts[index] as f64 / slots.len() as f64;
                    prop_assert!(
                        (so_far[index] as f64 - share).abs() <= entry.backends.len() as f64 / 2.0 + 1.0
                    );
                }
            }
            let entry = made(Algorithm::LeastConnections, &drawn);
            prop_assert!(counts(&entry).iter().all(|count| *count == 1));
            for (index, slot) in entry.slots().iter().enumerate() {
                prop_assert_eq!(usize::from(slot.weight), weight(&entry, index));
            }
            Ok(())
        })
        .unwrap();
}

/// Every order of positions written out, every turn of every backend in a list, one after the other.
fn slow_table(entry: &ServiceEntry) -> Vec<usize> {
    let count = entry.backends.len();
    let size = table_size(count) as usize;
    let most = (0..count).map(|index| weight(entry, index)).max().unwrap_or(1);
    let mut turns: Vec<(usize, usize)> = Vec::new();
    for index in 0..count {
        // A backend of half the weight has its turn in every second round.
        turns.extend((0..size).map(|turn| (turn * most / weight(entry, index), index)));
    }
    turns.sort();
    let orders: Vec<Vec<usize>> = entry
        .backends
        .iter()
        .map(|one| Preference::new(one, size as u32).take(size).map(|position| position as usize).collect())
        .collect();
    let mut table = vec![None; size];
    for (_, index) in turns {
        if let Some(position) = orders[index].iter().find(|position| table[**position].is_none()) {
            table[*position] = Some(index);
        }
    }
    table.into_iter().flatten().collect()
}

#[test]
fn maglev_tables_equal_their_slow_twin() {
    runner("maglev", 60)
        .run(&drawn(12), |drawn| {
            let entry = made(Algorithm::Maglev, &drawn);
            let table: Vec<usize> = entry.slots().iter().map(|slot| slot.backend as usize).collect();
            prop_assert_eq!(table, slow_table(&entry));
            Ok(())
        })
        .unwrap();
}

#[test]
fn maglev_tables_are_even_and_alike_from_any_order() {
    let cell = std::cell::Cell::new(0.0_f64);
    runner("maglev-even", 200)
        .run(&(drawn(170), any::<prop::sample::Index>()), |(drawn, turn)| {
            let mut entry = made(Algorithm::Maglev, &drawn);
            let by_content = |entry: &ServiceEntry| {
                let slots = entry.slots().into_iter();
                slots.map(|slot| entry.backends[slot.backend as usize].clone()).collect::<Vec<_>>()
            };
            let table = by_content(&entry);
            let (counts, total) = (counts(&entry), table.len());
            let all: usize = (0..counts.len()).map(|index| weight(&entry, index)).sum();
            for (index, count) in counts.iter().enumerate() {
                let wanted = (total * weight(&entry, index)) as f64 / all as f64;
                let off = (*count as f64 - wanted).abs();
                prop_assert!(*count > 0 && off < 2.0 + 0.01 * wanted, "{count} of {total}, wanted {wanted}");
                if entry.weights.is_empty() {
                    cell.set(cell.get().max(off / wanted));
                }
            }
            let turn = turn.index(entry.backends.len());
            let (mut backends, mut weights) = (entry.backends.to_vec(), entry.weights.to_vec());
            backends.rotate_left(turn);
            let by = turn.min(weights.len());
            weights.rotate_left(by);
            (entry.backends, entry.weights) = (backends.into(), weights.into());
            prop_assert_eq!(by_content(&entry), table);
            Ok(())
        })
        .unwrap();
    eprintln!("equal weights: at most {:.2} % from the share", 100.0 * cell.get());
    assert!(cell.get() <= 0.015, "{}", cell.get());
}

#[test]
fn a_backend_that_goes_moves_few_flows_of_the_others() {
    let cell = std::cell::RefCell::new(Vec::new());
    runner("maglev-moves", 200)
        .run(&(drawn(160), any::<prop::sample::Index>()), |(drawn, gone)| {
            let whole = made(Algorithm::Maglev, &drawn);
            let gone = gone.index(whole.backends.len());
            let mut backends = whole.backends.to_vec();
            let gone = backends.remove(gone);
            let mut weights = whole.weights.to_vec();
            if !weights.is_empty() {
                weights.remove(whole.backends.iter().position(|one| *one == gone).unwrap_or(0));
            }
            let rest = entry(Algorithm::Maglev, backends, weights);
            // Of another size, the table is another.
            if rest.backends.is_empty() || table_size(rest.backends.len()) != table_size(whole.backends.len())
            {
                return Ok(());
            }
            let (before, after) = (whole.slots(), rest.slots());
            let kept =
                before.iter().zip(&after).filter(|(slot, _)| whole.backends[slot.backend as usize] != gone);
            let kept: Vec<bool> = kept
                .map(|(old, new)| whole.backends[old.backend as usize] == rest.backends[new.backend as usize])
                .collect();
            let moved = kept.iter().filter(|kept| !**kept).count() as f64 / kept.len() as f64;
            // A rare table shuffles more than the others; the promise is the mean, below.
            prop_assert!(moved <= 0.2, "{:.2} % of the others' flows move", 100.0 * moved);
            cell.borrow_mut().push(moved);
            Ok(())
        })
        .unwrap();
    let moved = cell.into_inner();
    let mean = moved.iter().sum::<f64>() / moved.len() as f64;
    eprintln!(
        "of the others' flows move: mean {:.2} %, most {:.2} %, {} tables",
        100.0 * mean,
        100.0 * moved.iter().copied().fold(0.0, f64::max),
        moved.len()
    );
    assert!(moved.len() > 100, "most tables keep their size");
    assert!(mean <= 0.02, "a mean of {:.2} % moves", 100.0 * mean);
}
