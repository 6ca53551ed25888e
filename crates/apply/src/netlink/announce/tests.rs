#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::net::{Ipv4Addr, Ipv6Addr};

use sheetbend_model::types::Mac;

use super::frame::{Question, gratuitous, solicited_node, unasked_advertisement};

const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
const TARGET4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const TARGET6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// `arping -c1 192.0.2.9` of 192.0.2.2.
fn arp_request() -> Vec<u8> {
    hex("ffffffffffff 020000000002 0806 0001 0800 06 04 0001 020000000002 c0000202 000000000000 c0000209")
}

/// What fe80::2 sends to find 2001:db8::12:3456, with its source link-layer address.
fn solicitation() -> Vec<u8> {
    hex("3333ff123456 020000000002 86dd 60000000 0020 3a ff fe800000000000000000000000000002
         ff0200000000000000000001ff123456 87 00 e290 00000000 20010db8000000000000000000123456 0101 020000000002")
}

#[test]
fn an_arp_request_is_answered_to_who_asked() {
    let question = Question::read(&arp_request(), OWN).unwrap();
    assert_eq!(question, Question::Arp { target: TARGET4, mac: PEER, addr: Ipv4Addr::new(192, 0, 2, 2) });
    assert_eq!(
        question.answer(OWN),
        hex(
            "020000000002 020000000001 0806 0001 0800 06 04 0002 020000000001 c0000209 020000000002 c0000202"
        )
    );
}

#[test]
fn what_is_no_question_to_us_is_none() {
    let mut reply = arp_request();
    reply[21] = 2;
    let mut others = arp_request();
    others[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let mut announcement = arp_request();
    announcement.copy_within(38..42, 28);
    let mut wrong_sum = solicitation();
    *wrong_sum.last_mut().unwrap() ^= 1;
    let mut routed = solicitation();
    routed[21] = 254;
    for frame in [
        reply,
        others,
        announcement,
        wrong_sum,
        routed,
        arp_request()[..30].to_vec(),
        solicitation()[..60].to_vec(),
    ] {
        assert_eq!(Question::read(&frame, OWN), None, "{frame:02x?}");
    }
    for length in 0..solicitation().len() {
        assert_eq!(Question::read(&solicitation()[..length], OWN), None);
    }
}

#[test]
fn a_solicitation_is_answered_with_a_valid_advertisement() {
    let question = Question::read(&solicitation(), OWN).unwrap();
    assert_eq!(question.target(), std::net::IpAddr::from(TARGET6));
    let answer = question.answer(OWN);
    let flags = 0x60;
    assert_eq!(&answer[..14], hex("020000000002 020000000001 86dd"));
    assert_eq!((answer[20], answer[21], answer[54], answer[58]), (58, 255, 136, flags));
    assert_eq!(&answer[62..78], TARGET6.octets());
    assert_eq!(&answer[78..], hex("0201 020000000001"));
    assert_eq!(sum(&answer), 0xffff);

    // Somebody who wants the address for itself hears it with all others.
    let mut duplicate = question;
    if let Question::Solicitation { addr, .. } = &mut duplicate {
        *addr = Ipv6Addr::UNSPECIFIED;
    }
    let answer = duplicate.answer(OWN);
    assert_eq!((&answer[..6], answer[58]), (&hex("333300000001")[..], 0x20));
    assert_eq!(sum(&answer), 0xffff);
}

#[test]
fn unasked_words_go_to_everybody() {
    let [request, reply] = gratuitous(OWN, TARGET4);
    assert_eq!(
        request,
        hex(
            "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c0000209 000000000000 c0000209"
        )
    );
    assert_eq!(
        reply,
        hex(
            "ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 c0000209 020000000001 c0000209"
        )
    );
    let advertisement = unasked_advertisement(OWN, "fe80::1".parse().unwrap(), TARGET6);
    assert_eq!((&advertisement[..6], advertisement[58]), (&hex("333300000001")[..], 0x20));
    assert_eq!(sum(&advertisement), 0xffff);
    assert_eq!(solicited_node(TARGET6), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
}

/// The one's complement sum over pseudo-header and message, in other words than the code's.
fn sum(frame: &[u8]) -> u32 {
    let (addresses, message) = (&frame[22..54], &frame[54..]);
    let words = addresses
        .chunks(2)
        .chain(message.chunks(2))
        .map(|pair| u32::from(pair[0]) * 256 + u32::from(pair[1]));
    let mut sum = words.sum::<u32>() + message.len() as u32 + 58;
    while sum > 0xffff {
        sum = sum % 0x1_0000 + sum / 0x1_0000;
    }
    sum
}
