#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use super::twin::Twin;
use super::{DEFAULT_REUSE_DELAY, Ipam, NoAddress, router_address};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn ipam(pools: &[&str]) -> Ipam {
    Ipam::new(&pools.iter().map(|pool| net(pool)).collect::<Vec<_>>(), DEFAULT_REUSE_DELAY).unwrap()
}

#[test]
fn the_router_address_is_the_first_usable_one() {
    assert_eq!(router_address(net("10.244.1.0/24")), Some(ip("10.244.1.1")));
    assert_eq!(router_address(net("fd00:10:244:1::/64")), Some(ip("fd00:10:244:1::1")));
    assert_eq!(router_address(net("10.244.1.0/31")), None);
    assert_eq!(router_address(net("0.0.0.0/0")), Some(ip("0.0.0.1")));
}

#[test]
fn every_pod_gets_one_address_per_family() {
    let mut ipam = ipam(&["fd00::/64", "10.244.1.0/24"]);
    assert_eq!(ipam.allocate(seconds(0)).unwrap(), [ip("10.244.1.2"), ip("fd00::2")]);
    assert_eq!(ipam.allocate(seconds(0)).unwrap(), [ip("10.244.1.3"), ip("fd00::3")]);
}

#[test]
fn network_broadcast_and_router_are_never_given() {
    let mut ipam = ipam(&["10.244.1.0/29"]);
    let given: Vec<IpAddr> = (0..5).flat_map(|_| ipam.allocate(seconds(0)).unwrap()).collect();
    assert_eq!(given, ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"].map(ip));
    let error = ipam.allocate(seconds(0)).unwrap_err();
    assert_eq!(error, NoAddress::Exhausted { pools: vec![net("10.244.1.0/29")], size: 5 });
    assert_eq!(
        error.to_string(),
        "pool 10.244.1.0/29 is exhausted: all 5 addresses are in use; remove pods or give the Node another podCIDR"
    );
}

#[test]
fn a_released_address_rests_thirty_seconds() {
    let mut ipam = ipam(&["10.0.0.0/30"]);
    assert_eq!(ipam.allocate(seconds(0)).unwrap(), [ip("10.0.0.2")]);
    ipam.release(ip("10.0.0.2"), seconds(100));
    let error = ipam.allocate(seconds(112)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pool 10.0.0.0/30 has only addresses that were released just now; the next is free in 18.0 s"
    );
    assert_eq!(ipam.allocate(seconds(130)).unwrap(), [ip("10.0.0.2")]);
}

#[test]
fn fresh_addresses_come_before_rested_ones() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    for _ in 0..3 {
        ipam.allocate(seconds(0)).unwrap();
    }
    ipam.release(ip("10.0.0.3"), seconds(1));
    ipam.release(ip("10.0.0.2"), seconds(2));
    let given: Vec<IpAddr> = (0..4).flat_map(|_| ipam.allocate(seconds(1000)).unwrap()).collect();
    assert_eq!(given, ["10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.2"].map(ip));
}

#[test]
fn a_family_without_addresses_takes_none_of_the_other() {
    let mut ipam = ipam(&["10.0.0.0/30", "fd00::/64"]);
    ipam.allocate(seconds(0)).unwrap();
    ipam.allocate(seconds(0)).unwrap_err();
    assert_eq!(ipam.held().into_iter().collect::<Vec<_>>(), [ip("10.0.0.2"), ip("fd00::2")]);
}

#[test]
fn a_second_pool_follows_the_first() {
    let mut ipam = ipam(&["10.0.0.0/30", "10.0.1.0/30"]);
    assert_eq!(ipam.allocate(seconds(0)).unwrap(), [ip("10.0.0.2")]);
    assert_eq!(ipam.allocate(seconds(0)).unwrap(), [ip("10.0.1.2")]);
    let error = ipam.allocate(seconds(0)).unwrap_err();
    assert!(error.to_string().starts_with("pool 10.0.0.0/30, 10.0.1.0/30 is exhausted: all 2"), "{error}");
}

#[test]
fn no_pool_says_what_to_set() {
    assert!(ipam(&[]).allocate(seconds(0)).unwrap_err().to_string().contains("spec.podCIDRs"));
}

#[test]
fn restored_addresses_are_not_given_again() {
    let mut ipam = ipam(&["fd00::/126"]);
    ipam.restore_held(ip("fd00::2"));
    ipam.restore_released(ip("fd00::3"), seconds(5));
    assert_eq!(
        ipam.allocate(seconds(6)).unwrap_err(),
        NoAddress::Resting { pools: vec![net("fd00::/126")], free_in: seconds(29) }
    );
    assert_eq!(ipam.allocate(seconds(35)).unwrap(), [ip("fd00::3")]);
}

#[test]
fn a_wanted_address_is_given_or_refused_by_name() {
    let mut ipam = ipam(&["10.0.0.0/29", "fd00::/64"]);
    assert_eq!(ipam.allocate_wanted(&[ip("10.0.0.4")], seconds(0)).unwrap(), [ip("10.0.0.4"), ip("fd00::2")]);
    let refused =
        |ipam: &mut Ipam, addr| ipam.allocate_wanted(&[ip(addr)], seconds(5)).unwrap_err().to_string();
    assert_eq!(
        refused(&mut ipam, "10.0.0.4"),
        "address 10.0.0.4 is another pod's; choose another, or let the node choose"
    );
    for foreign in ["10.0.0.1", "10.0.0.0", "10.0.1.4"] {
        let told = refused(&mut ipam, foreign);
        assert!(
            told.ends_with("none that a pod of this node can have; its ranges are 10.0.0.0/29, fd00::/64"),
            "{told}"
        );
    }
    ipam.release(ip("10.0.0.4"), seconds(1));
    assert!(refused(&mut ipam, "10.0.0.4").ends_with("the next is free in 26.0 s"));
    assert_eq!(
        ipam.allocate_wanted(&[ip("10.0.0.4"), ip("fd00::9")], seconds(31)).unwrap(),
        [ip("10.0.0.4"), ip("fd00::9")]
    );
    assert_eq!(ipam.allocate(seconds(31)).unwrap(), [ip("10.0.0.2"), ip("fd00::3")]);
}

#[derive(Clone, Debug)]
enum Action {
    Allocate,
    Release(usize),
    Wait(u64),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Allocate),
        3 => any::<prop::sample::Index>().prop_map(|index| Action::Release(index.index(64))),
        2 => (0u64..40).prop_map(Action::Wait),
        1 => Just(Action::Restart),
    ]
}

/// The agent after kill -9: a new allocator that is told what the files say.
fn restarted(block: IpNet, held: &[IpAddr], released: &[(IpAddr, Duration)]) -> Ipam {
    let mut ipam = Ipam::new(&[block], DEFAULT_REUSE_DELAY).unwrap();
    held.iter().for_each(|addr| ipam.restore_held(*addr));
    released.iter().for_each(|(addr, at)| ipam.restore_released(*addr, *at));
    ipam
}

proptest! {
    #[test]
    fn the_twin_chooses_the_same(
        actions in prop::collection::vec(action(), 0..120),
        block in prop::sample::select(vec!["10.0.0.0/28", "10.0.0.248/29", "fd00::/124", "fd00::fff0/125", "10.0.0.0/30"]),
    ) {
        let block = net(block);
        let mut twin = Twin::new(block, DEFAULT_REUSE_DELAY);
        let mut ipam = restarted(block, &[], &[]);
        let (mut now, mut held, mut released) = (seconds(0), Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Allocate => match (twin.allocate(now), ipam.allocate(now)) {
                    (Some(expected), Ok(given)) => {
                        prop_assert_eq!(vec![expected], given);
                        released.retain(|(addr, _)| *addr != expected);
                        held.push(expected);
                    }
                    (None, Err(NoAddress::Exhausted { size, .. })) => {
                        prop_assert!(twin.all_held());
                        prop_assert_eq!(size as usize, twin.size());
                    }
                    (None, Err(NoAddress::Resting { free_in, .. })) => {
                        prop_assert!(free_in > Duration::ZERO && free_in <= DEFAULT_REUSE_DELAY);
                    }
                    (expected, given) => prop_assert!(false, "twin {expected:?}, ipam {given:?}"),
                },
                Action::Release(index) if !held.is_empty() => {
                    let addr = held.swap_remove(index % held.len());
                    released.push((addr, now));
                    twin.release(addr, now);
                    ipam.release(addr, now);
                }
                Action::Release(_) => {}
                Action::Wait(count) => now += seconds(count),
                Action::Restart => ipam = restarted(block, &held, &released),
            }
            prop_assert_eq!(ipam.held().into_iter().collect::<Vec<_>>(), {
                let mut sorted = held.clone();
                sorted.sort_unstable();
                sorted
            });
        }
    }
}
