//! Limits of what a pod receives and sends: a token bucket (`tc-tbf(8)`) as the queue of the end of the veth that the
//! packets leave by.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use sheetbend_model::state::Rate;

use super::connection::{Change, Request};

pub(super) const KIND: &str = "tbf";
/// `5b00:`, so that people see whose it is.
const HANDLE: TcHandle = TcHandle { major: 0x5b00, minor: 0 };
/// Attributes of linux/pkt_sched.h.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: packets cost their own length, no rate table is wanted.
const LINK_LAYER: u8 = 1;

/// A whole segmentation-offload packet fits, or the kernel would cut it up.
const LEAST_BURST: u64 = 2 * 65_536;
/// Longest pause whose tokens are kept, as a part of a second. A runtime that knows no burst asks for 2³² bits, which
/// would be no limit for minutes.
const LONGEST_PAUSE: u64 = 10;
/// How long a packet may wait, as a part of a second.
const LONGEST_WAIT: u64 = 20;

/// Bytes that may go at once.
fn burst(rate: Rate) -> u64 {
    (rate.burst_bits / 8).min(rate.bits / 8 / LONGEST_PAUSE).max(LEAST_BURST)
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// `struct tc_tbf_qopt`: rate and peak rate (`struct tc_ratespec`: cell_log, linklayer, overhead, cell_align, mpu, rate),
/// limit, buffer, mtu.
fn parameters(rate: Rate) -> Vec<u8> {
    let bytes = rate.bits / 8;
    let mut parameters = vec![0, LINK_LAYER, 0, 0, 0, 0, 0, 0];
    parameters.extend(small(bytes).to_ne_bytes());
    parameters.extend([0; 12]);
    let limit = burst(rate) + (bytes / LONGEST_WAIT).max(LEAST_BURST);
    parameters.extend(small(limit).to_ne_bytes());
    parameters.extend([0; 8]);
    parameters
}

/// Makes `rate` the limit of what leaves by device `index`, `name` for people.
pub(super) fn limit(name: &str, index: u32, rate: Rate) -> Request {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.handle = HANDLE;
    message.header.parent = TcHandle::ROOT;
    let bytes = rate.bits / 8;
    let option = |kind, value: Vec<u8>| TcOption::Other(DefaultNla::new(kind, value));
    message.attributes = vec![
        TcAttribute::Kind(KIND.to_owned()),
        TcAttribute::Options(vec![
            option(TCA_TBF_PARMS, parameters(rate)),
            option(TCA_TBF_BURST, small(burst(rate)).to_ne_bytes().into()),
            option(TCA_TBF_RATE64, bytes.to_ne_bytes().into()),
        ]),
    ];
    let what = format!("limit {name} to {} bit/s (needs CONFIG_NET_SCH_TBF)", rate.bits);
    Request::new(what, Change::Replace, RouteNetlinkMessage::NewQueueDiscipline(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_no_way_around_the_rate() {
        let rate = |bits| Rate { bits, burst_bits: u64::from(u32::MAX) };
        assert_eq!(burst(rate(1_000_000)), LEAST_BURST);
        assert_eq!(burst(rate(8_000_000_000)), 100_000_000);
        assert_eq!(burst(Rate { bits: 8_000_000_000, burst_bits: 8_000_000 }), 1_000_000);
    }

    #[test]
    fn the_parameters_are_the_kernels_structure() {
        let parameters = parameters(Rate { bits: 80_000_000, burst_bits: 0 });
        assert_eq!(parameters.len(), 36);
        assert_eq!(parameters[8..12], 10_000_000_u32.to_ne_bytes());
    }
}
