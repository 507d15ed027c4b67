//! Ethernet frames of address resolution, built and read: ARP (RFC 826, probes of RFC 5227) and IPv6 neighbour discovery
//! (RFC 4861). Pure. What is read comes from anyone on the link: every length and field is checked, and what does not fit
//! is no answer.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::MacAddr;

/// `ETH_P_ARP`.
pub(super) const ARP: u16 = 0x0806;
/// `ETH_P_IPV6`.
pub(super) const IPV6: u16 = 0x86dd;

const BROADCAST: MacAddr = MacAddr([0xff; 6]);
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
/// An advertisement's override flag (RFC 4861 §4.4).
const OVERRIDE: u8 = 0x20;

/// "Who has `wanted`?", from `mac` at `own` (0.0.0.0: a probe, which leaves no trace in caches).
pub(super) fn arp_request(mac: MacAddr, own: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    arp(mac, own, wanted)
}

/// "`address` is at `mac`": a gratuitous request, which every neighbour that knows the address takes over.
pub(super) fn arp_announcement(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    arp(mac, address, address)
}

fn arp(mac: MacAddr, own: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ARP);
    // Ethernet, IPv4, address lengths 6 and 4, operation 1: request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(wanted.octets());
    frame
}

/// The hardware address in an ARP reply for `wanted`.
pub(crate) fn arp_answer(frame: &[u8], wanted: Ipv4Addr) -> Option<MacAddr> {
    let body = payload(frame, ARP)?;
    let (head, rest) = body.split_first_chunk::<8>()?;
    let (sender, rest) = rest.split_first_chunk::<6>()?;
    let (address, rest) = rest.split_first_chunk::<4>()?;
    let whole = rest.len() >= 10;
    (*head == [0, 1, 8, 0, 6, 4, 0, 2] && whole && *address == wanted.octets()).then_some(())?;
    unicast(*sender)
}

/// Who speaks in an ARP frame, question or answer, and at which address. A probe (from 0.0.0.0) names none.
pub(crate) fn arp_sender(frame: &[u8]) -> Option<(MacAddr, Ipv4Addr)> {
    let body = payload(frame, ARP)?;
    let (head, rest) = body.split_first_chunk::<8>()?;
    let (sender, rest) = rest.split_first_chunk::<6>()?;
    let (address, rest) = rest.split_first_chunk::<4>()?;
    let known = matches!(head, [0, 1, 8, 0, 6, 4, 0, 1 | 2]) && rest.len() >= 10;
    let address = Ipv4Addr::from(*address);
    (known && !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()).then_some(())?;
    Some((unicast(*sender)?, address))
}

/// "Who has `wanted`?", from `mac` at `own` (`::`: the form of duplicate detection, without a source address option).
pub(super) fn solicitation(mac: MacAddr, own: Ipv6Addr, wanted: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = wanted.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(wanted.octets());
    if !own.is_unspecified() {
        message.extend([SOURCE_ADDRESS, 1]);
        message.extend(mac.0);
    }
    icmpv6(MacAddr([0x33, 0x33, 0xff, a, b, c]), mac, own, group, message)
}

/// "`address` is at `mac`": an unsolicited neighbour advertisement to all nodes, overriding caches.
pub(super) fn advertisement(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_ADDRESS, 1]);
    message.extend(mac.0);
    icmpv6(MacAddr([0x33, 0x33, 0, 0, 0, 1]), mac, address, all_nodes, message)
}

/// The hardware address in a neighbour advertisement for `wanted`: its option, else the frame's sender.
pub(crate) fn advertisement_answer(frame: &[u8], wanted: Ipv6Addr) -> Option<MacAddr> {
    let packet = payload(frame, IPV6)?;
    let (head, rest) = packet.split_first_chunk::<40>()?;
    // Hop limit 255 proves that no router passed it on (RFC 4861 §7.1.2).
    (head[0] >> 4 == 6 && head[6] == ICMPV6 && head[7] == 255).then_some(())?;
    let message = rest.get(..usize::from(u16::from_be_bytes([head[4], head[5]])))?;
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&head[8..24]).ok()?);
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(&head[24..40]).ok()?);
    (checksum(source, target, message) == 0).then_some(())?;
    let (fixed, mut options) = message.split_first_chunk::<24>()?;
    (fixed[0] == ADVERTISEMENT && fixed[1] == 0 && fixed[8..] == wanted.octets()).then_some(())?;
    while let [kind, units, ..] = options {
        let length = usize::from(*units) * 8;
        // Length 0 is invalid, and would never end.
        (length > 0).then_some(())?;
        let option = options.get(..length)?;
        if *kind == TARGET_ADDRESS {
            return unicast(option.get(2..8)?.try_into().ok()?);
        }
        options = &options[length..];
    }
    unicast(frame.get(6..12)?.try_into().ok()?)
}

fn ethernet(to: MacAddr, from: MacAddr, kind: u16) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes()].concat()
}

fn payload(frame: &[u8], kind: u16) -> Option<&[u8]> {
    let (head, body) = frame.split_first_chunk::<14>()?;
    (head[12..] == kind.to_be_bytes()).then_some(body)
}

fn unicast(mac: [u8; 6]) -> Option<MacAddr> {
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(MacAddr(mac))
}

fn icmpv6(to: MacAddr, from: MacAddr, source: Ipv6Addr, target: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(source, target, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut frame = ethernet(to, from, IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(target.octets());
    frame.extend(message);
    frame
}

/// The internet checksum over the pseudo header and the message (RFC 8200 §8.1); 0 if the message's own one is right.
fn checksum(source: Ipv6Addr, target: Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = [source.octets(), target.octets()].concat();
    bytes.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend([0, 0, 0, ICMPV6]);
    bytes.extend(message);
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .fold(0, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0x00, 0x05, 0x0c]);
    const V4: Ipv4Addr = Ipv4Addr::new(10, 0, 5, 12);

    fn v6() -> Ipv6Addr {
        "fd00::5:c".parse().unwrap()
    }
    fn reply() -> Vec<u8> {
        let mut frame = arp_announcement(MAC, V4);
        frame[21] = 2;
        frame
    }

    #[test]
    fn an_arp_request_has_the_bytes_of_rfc_826() {
        let frame = arp_request(MAC, Ipv4Addr::UNSPECIFIED, V4);
        let expected = "ffffffffffff00163e00050c08060001080006040001\
                        00163e00050c000000000000000000000a00050c";
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn arp_replies_are_read_and_other_frames_are_not() {
        assert_eq!(arp_answer(&reply(), V4), Some(MAC));
        assert_eq!(arp_answer(&reply(), Ipv4Addr::new(10, 0, 5, 13)), None);
        assert_eq!(arp_answer(&arp_announcement(MAC, V4), V4), None, "a request is no answer");
        for (at, value) in [(12, 0x86), (15, 6), (18, 8), (22, 0x01)] {
            let mut frame = reply();
            frame[at] = value;
            assert_eq!(arp_answer(&frame, V4), None, "byte {at}");
        }
        for length in 0..reply().len() {
            assert_eq!(arp_answer(&reply()[..length], V4), None);
        }
    }

    #[test]
    fn whoever_speaks_arp_tells_its_address() {
        assert_eq!(arp_sender(&reply()), Some((MAC, V4)));
        assert_eq!(arp_sender(&arp_request(MAC, V4, Ipv4Addr::new(10, 0, 5, 1))), Some((MAC, V4)));
        assert_eq!(arp_sender(&arp_request(MAC, Ipv4Addr::UNSPECIFIED, V4)), None, "a probe");
        for (at, value) in [(12, 0x86), (15, 6), (21, 3), (22, 0x01), (28, 224), (28, 127)] {
            let mut frame = reply();
            frame[at] = value;
            assert_eq!(arp_sender(&frame), None, "byte {at}");
        }
        for length in 0..reply().len() {
            assert_eq!(arp_sender(&reply()[..length]), None);
        }
    }

    /// The expected checksum was computed by another program from the fields of RFC 4861 §4.3.
    #[test]
    fn a_solicitation_carries_a_right_checksum_and_group() {
        let own: Ipv6Addr = "fe80::1".parse().unwrap();
        let frame = solicitation(MAC, own, v6());
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x05, 0, 0x0c]);
        let target = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[38..54]).unwrap());
        assert_eq!(target, "ff02::1:ff05:c".parse::<Ipv6Addr>().unwrap());
        assert_eq!(checksum(own, target, &frame[54..]), 0);
        assert_eq!(frame[56..58], [0x3a, 0xd8]);
        assert_eq!(solicitation(MAC, Ipv6Addr::UNSPECIFIED, v6()).len(), frame.len() - 8);
    }

    #[test]
    fn advertisements_are_read_and_other_frames_are_not() {
        let good = advertisement(MAC, v6());
        assert_eq!(advertisement_answer(&good, v6()), Some(MAC));
        assert_eq!(advertisement_answer(&good, "fd00::5:d".parse().unwrap()), None);
        // Every bit of the ICMPv6 message is under the checksum; hop limit and protocol are checked.
        for at in [12, 14, 20, 21, 54, 55, 56, 62, 78, 79, 85] {
            let mut frame = good.clone();
            frame[at] ^= 0x10;
            assert_eq!(advertisement_answer(&frame, v6()), None, "byte {at}");
        }
        for length in 0..good.len() {
            assert_eq!(advertisement_answer(&good[..length], v6()), None);
        }
        let mut padded = good.clone();
        padded.extend([0; 20]);
        assert_eq!(advertisement_answer(&padded, v6()), Some(MAC));
    }

    #[test]
    fn an_option_of_length_zero_ends_the_reading() {
        let mut message = vec![ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0];
        message.extend(v6().octets());
        message.extend([TARGET_ADDRESS, 0, 0, 0, 0, 0, 0, 0]);
        let frame = icmpv6(MAC, MAC, v6(), v6(), message);
        assert_eq!(advertisement_answer(&frame, v6()), None);
    }

    proptest! {
        #[test]
        fn no_frame_makes_reading_panic(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (arp_answer(&frame, V4), advertisement_answer(&frame, v6()));
            let _ = (arp_answer(&[&reply()[..20], &frame].concat(), V4), advertisement_answer(&[&advertisement(MAC, v6())[..60], &frame].concat(), v6()));
        }
    }
}
