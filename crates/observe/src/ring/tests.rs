#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use super::*;

fn flow(port: u16) -> FlowRecord {
    FlowRecord {
        time: 1_800_000_000 + u64::from(port),
        source: "10.244.1.2".parse().unwrap(),
        destination: "fd00:244::7".parse().unwrap(),
        network: 3,
        protocol: 6,
        port,
        denied: port.is_multiple_of(2),
    }
}

fn flows(ports: impl IntoIterator<Item = u16>) -> Vec<FlowRecord> {
    ports.into_iter().map(flow).collect()
}

#[test]
fn the_newest_are_kept_also_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.ring");
    assert_eq!(recorded_flows(&path).unwrap(), []);
    let mut ring = FlowRing::open(&path, 10).unwrap();
    ring.write(&flows(1..=4)).unwrap();
    assert_eq!(recorded_flows(&path).unwrap(), flows(1..=4));
    ring.write(&flows(5..=7)).unwrap();
    drop(ring);
    let mut ring = FlowRing::open(&path, 10).unwrap();
    ring.write(&flows(8..=13)).unwrap();
    assert_eq!(recorded_flows(&path).unwrap(), flows(4..=13));
    // More than there is room for, at once.
    ring.write(&flows(14..=45)).unwrap();
    assert_eq!(recorded_flows(&path).unwrap(), flows(36..=45));
    assert_eq!(fs::metadata(&path).unwrap().len(), 640);
}

#[test]
fn another_size_keeps_what_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.ring");
    FlowRing::open(&path, 8).unwrap().write(&flows(1..=12)).unwrap();
    let mut larger = FlowRing::open(&path, 16).unwrap();
    assert_eq!(recorded_flows(&path).unwrap(), flows(5..=12));
    larger.write(&flows(13..=13)).unwrap();
    let mut smaller = FlowRing::open(&path, 3).unwrap();
    assert_eq!(recorded_flows(&path).unwrap(), flows(11..=13));
    smaller.write(&flows(14..=14)).unwrap();
    assert_eq!(recorded_flows(&path).unwrap(), flows(12..=14));
}

/// A process may be killed between any two bytes.
#[test]
fn a_record_that_was_written_in_part_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.ring");
    FlowRing::open(&path, 4).unwrap().write(&flows(1..=4)).unwrap();
    let old = fs::read(&path).unwrap();
    FlowRing::open(&path, 4).unwrap().write(&flows(5..=5)).unwrap();
    let new = fs::read(&path).unwrap();
    for cut in 0..=RECORD {
        let torn = [&new[..cut], &old[cut..]].concat();
        fs::write(&path, &torn).unwrap();
        let known = recorded_flows(&path).unwrap();
        let whole = torn[..RECORD] == new[..RECORD];
        let before = torn[..RECORD] == old[..RECORD];
        let expected = if whole {
            flows(2..=5)
        } else if before {
            flows(1..=4)
        } else {
            flows(2..=4)
        };
        assert_eq!(known, expected, "cut at {cut}");
        // Whoever goes on takes the place of the torn one, or goes on behind it.
        FlowRing::open(&path, 4).unwrap().write(&flows(6..=6)).unwrap();
        assert_eq!(recorded_flows(&path).unwrap().last(), Some(&flow(6)), "cut at {cut}");
    }
    fs::write(&path, &new[..new.len() - 9]).unwrap();
    assert_eq!(recorded_flows(&path).unwrap(), flows([2, 3, 5]));
}
