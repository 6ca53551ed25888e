//! ns per packet and instructions of our programs, by the size of the tables they read.

use anyhow::Context;
use sheetbend_ebpf_abi::{Hook, STAGE_PROGRAMS, ServiceEntry, ServiceKey, limits};

use crate::cli::{Bench, say};
use crate::kernel::bare::Bare;
use crate::kernel::flows::{Flows, Keys, Phase, Towards, Xorshift};
use crate::kernel::world::{Node, Size, World};
use crate::report::{Row, Target};
use crate::stats::{Interval, median};

const SECTION: &str = "Kernel programs (`BPF_PROG_TEST_RUN`)";
const FAMILIES: [(&str, bool); 2] = [("IPv4", false), ("IPv6", true)];
/// CI fails above this (`design.md` §3).
const MOST_INSTRUCTIONS: f64 = 200_000.0;

/// All of it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Kernel programs …");
    let node = match Node::create("sbb-kernel") {
        Ok(node) => node,
        Err(error) => return vec![Row::missing(SECTION, "all", &error)],
    };
    // Programs run in the namespace of the thread that asks.
    let rows = node.netns.enter(|| {
        let mut rows = Vec::new();
        for part in [instructions, services, policies_by_default] {
            match part(bench, &node) {
                Ok(measured) => rows.extend(measured),
                Err(error) => rows.push(Row::missing(SECTION, "a part", &error)),
            }
        }
        rows
    });
    rows.unwrap_or_else(|error| vec![Row::missing(SECTION, "all", &error)])
}

fn instructions(_bench: &Bench, node: &Node) -> anyhow::Result<Vec<Row>> {
    let world = World::fill(node, "instructions", Size::default())?;
    let mut rows = Vec::new();
    for name in Hook::ALL.map(Hook::name).iter().chain(&STAGE_PROGRAMS) {
        let count = world.named(name)?.verified_instructions()?;
        rows.push(
            Row::value(SECTION, format!("`{name}`: instructions the verifier walked"), count.into(), "")
                .target(Target::AtMost(MOST_INSTRUCTIONS)),
        );
    }
    Ok(rows)
}

/// A case: its name, the tables' size, and what flows go to.
struct Case {
    name: String,
    size: Size,
    towards: Towards,
    bounds: Vec<Bound>,
}

/// At most so many times as long as another case takes.
struct Bound {
    phase: Phase,
    keys: Keys,
    /// Index of the other case.
    base: usize,
    times: f64,
}

fn services(bench: &Bench, node: &Node) -> anyhow::Result<Vec<Row>> {
    let case = |services, random: Option<f64>| Case {
        name: format!("{services} Services"),
        size: Size { services, ..Size::default() },
        towards: Towards::Services(services),
        bounds: [Phase::New, Phase::Established]
            .into_iter()
            .flat_map(|phase| {
                let hot = Bound { phase, keys: Keys::Hot, base: 0, times: 1.05 };
                let random = random.map(|times| Bound { phase, keys: Keys::Random, base: 0, times });
                [Some(hot), random]
            })
            .flatten()
            .collect(),
    };
    let cases = [case(10, None), case(1_000, None), case(10_000, Some(2.5)), case(50_000, Some(6.0))];
    let value = [0; size_of::<ServiceEntry>()];
    let bare = |services: u32| -> anyhow::Result<(Bare, Vec<Vec<u8>>)> {
        let keys: Vec<[u8; size_of::<ServiceKey>()]> = (0..services).map(random_key).collect();
        let bare = Bare::hash(limits::SERVICES, value, &keys)?;
        Ok((bare, keys.iter().map(|key| padded(key)).collect()))
    };
    compare(bench, node, "to a ClusterIP", &cases, &bare)
}

fn policies_by_default(bench: &Bench, node: &Node) -> anyhow::Result<Vec<Row>> {
    policies(bench, node, [0, 100, 1_000])
}

/// A pod's packets under so many policies: none, some, and so many that what they cost is judged.
pub(super) fn policies(bench: &Bench, node: &Node, numbers: [u32; 3]) -> anyhow::Result<Vec<Row>> {
    const PODS: u32 = 10_000;
    let case = |policies: u32| Case {
        name: format!("{policies} policies"),
        size: Size { policies, services: 0, remote_pods: PODS },
        towards: Towards::Pods(PODS),
        // Judging costs something; later packets must not. More policies must cost a hot flow nothing.
        bounds: if policies == numbers[2] {
            let bound = |phase, keys, base, times| Bound { phase, keys, base, times };
            vec![
                bound(Phase::New, Keys::Hot, 1, 1.05),
                bound(Phase::Established, Keys::Hot, 0, 1.0 / 0.97),
                bound(Phase::Established, Keys::Random, 0, 1.0 / 0.97),
            ]
        } else {
            Vec::new()
        },
    };
    let bare = |policies: u32| -> anyhow::Result<(Bare, Vec<Vec<u8>>)> {
        let keys: Vec<(u32, [u8; 12])> =
            (0..2 * policies.max(1)).map(|number| (96, random_key(number))).collect();
        let bare = Bare::lpm(limits::RULES, [0u8; 8], &keys)?;
        let packets =
            keys.iter().map(|(bits, key)| padded(&[&bits.to_ne_bytes()[..], key].concat())).collect();
        Ok((bare, packets))
    };
    compare(bench, node, "to a pod under egress policy", &numbers.map(case), &bare)
}

/// A key without order: its bytes depend on `number` alone.
fn random_key<const N: usize>(number: u32) -> [u8; N] {
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15 ^ u64::from(number) << 20 | 1);
    std::array::from_fn(|_| random.below(256) as u8)
}

/// Long enough for an Ethernet frame.
fn padded(key: &[u8]) -> Vec<u8> {
    let mut packet = key.to_vec();
    packet.resize(64, 0);
    packet
}

type BareOf<'a> = &'a dyn Fn(u32) -> anyhow::Result<(Bare, Vec<Vec<u8>>)>;

/// Runs all cases in turn, chunk by chunk, per family, phase and kind of keys.
fn compare(
    bench: &Bench,
    node: &Node,
    what: &str,
    cases: &[Case],
    bare: BareOf<'_>,
) -> anyhow::Result<Vec<Row>> {
    let worlds = cases
        .iter()
        .enumerate()
        .map(|(index, case)| {
            World::fill(node, &format!("case{index}"), case.size).with_context(|| case.name.clone())
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let floor = Bare::empty()?;
    let mut rows = Vec::new();
    for (family, v6) in FAMILIES {
        for phase in [Phase::New, Phase::Established] {
            for keys in [Keys::Hot, Keys::Random] {
                let title = title(what, phase, keys);
                match times(bench, node, &worlds, cases, (v6, phase, keys), &floor) {
                    Ok(times) => rows.extend(rows_of(&title, family, cases, &times, (phase, keys))),
                    Err(error) => rows.push(Row::missing(SECTION, title, &error).family(family)),
                }
            }
        }
    }
    for case in cases {
        let (bare, packets) = bare(case.size.services.max(case.size.policies))?;
        let samples = bare_times(bench, &bare, &packets, &floor)?;
        let value = median(&samples).context("no samples")?;
        let interval = Interval::of(&samples).context("no samples")?;
        rows.push(Row::value(SECTION, format!("a bare random look-up, {}", case.name), value, "ns").note(
            format!(
                "map of the same type, key, value and limit; {:.0}–{:.0} ns",
                interval.low, interval.high
            ),
        ));
    }
    Ok(rows)
}

fn title(what: &str, phase: Phase, keys: Keys) -> String {
    let phase = match phase {
        Phase::New => "first packet of a new flow",
        Phase::Established => "packet of an established flow",
    };
    let keys = match keys {
        Keys::Hot => "one destination",
        Keys::Random => "destinations drawn uniformly",
    };
    format!("{phase} {what}, {keys}")
}

/// ns per packet net of an empty program, by case and chunk.
fn times(
    bench: &Bench,
    node: &Node,
    worlds: &[World],
    cases: &[Case],
    (v6, phase, keys): (bool, Phase, Keys),
    floor: &Bare,
) -> anyhow::Result<Vec<Vec<f64>>> {
    let (chunks, samples, established) = if bench.quick { (15, 100, 500) } else { (21, 400, 8_000) };
    let established = if keys == Keys::Hot { 1 } else { established };
    let mut flows = Vec::new();
    for (world, case) in worlds.iter().zip(cases) {
        let mut flow = Flows::new(node, world, v6)?;
        if phase == Phase::Established {
            flow.establish(case.towards, keys, established).with_context(|| case.name.clone())?;
        }
        flows.push(flow);
    }
    let mut chunked = vec![Vec::new(); worlds.len()];
    for _ in 0..chunks {
        let empty = floor_time(floor, samples)?;
        for (index, (flow, case)) in flows.iter_mut().zip(cases).enumerate() {
            let mut one = || match phase {
                Phase::New => flow.first(case.towards, keys),
                Phase::Established => flow.later(),
            };
            let measured = (0..samples).map(|_| one()).collect::<anyhow::Result<Vec<f64>>>();
            let measured = measured.with_context(|| case.name.clone())?;
            chunked[index].push(median(&measured).context("no samples")? - empty);
        }
    }
    Ok(chunked)
}

fn floor_time(floor: &Bare, samples: usize) -> anyhow::Result<f64> {
    let packet = padded(&[]);
    let times = (0..samples).map(|_| Ok(floor.program.run(&packet, 0)?.nanoseconds));
    median(&times.collect::<anyhow::Result<Vec<f64>>>()?).context("no samples")
}

fn bare_times(bench: &Bench, bare: &Bare, packets: &[Vec<u8>], floor: &Bare) -> anyhow::Result<Vec<f64>> {
    let (chunks, samples) = if bench.quick { (15, 100) } else { (21, 400) };
    let mut random = Xorshift(7);
    let mut times = Vec::new();
    for _ in 0..chunks {
        let mut chunk = Vec::new();
        for _ in 0..samples {
            let packet = &packets[random.below(packets.len() as u32) as usize];
            let outcome = bare.program.run(packet, 0)?;
            anyhow::ensure!(outcome.code == 1, "the bare program did not find its key");
            chunk.push(outcome.nanoseconds);
        }
        times.push(median(&chunk).context("no samples")? - floor_time(floor, samples)?);
    }
    Ok(times)
}

fn rows_of(title: &str, family: &str, cases: &[Case], times: &[Vec<f64>], which: (Phase, Keys)) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, (case, own)) in cases.iter().zip(times).enumerate() {
        let Some(value) = median(own) else { continue };
        let row = Row::value(SECTION, format!("{title}: {}", case.name), value, "ns").family(family);
        let bound = case.bounds.iter().find(|bound| (bound.phase, bound.keys) == which);
        let base = bound.map_or(0, |bound| bound.base);
        let ratios: Vec<f64> = own.iter().zip(&times[base]).map(|(time, base)| time / base).collect();
        rows.push(match (Interval::of(&ratios), median(&times[base])) {
            (Some(ratio), Some(other)) if index != base => {
                let row = row
                    .beside(format!("Sheetbend, {}", cases[base].name), other)
                    .ratio(ratio)
                    .note("ratio of times: less is better");
                match bound {
                    Some(bound) => row.target(Target::AtMost(bound.times)),
                    None => row,
                }
            }
            (_, _) => row,
        });
    }
    rows
}
