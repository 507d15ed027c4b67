//! DNS messages (RFC 1035), as much as a question and its answer need. Answers are hostile: names and jumps are bounded.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::check::RecordType;

fn code(record: RecordType) -> u16 {
    match record {
        RecordType::A => 1,
        RecordType::Soa => 6,
        RecordType::Mx => 15,
        RecordType::Aaaa => 28,
    }
}

/// A question with recursion desired. `None` if the name does not fit.
pub(crate) fn question(id: u16, name: &str, record: RecordType) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(64);
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&code(record).to_be_bytes());
    message.extend_from_slice(&1u16.to_be_bytes());
    (message.len() <= 12 + 255 + 4).then_some(message)
}

/// The records of the type asked for: addresses, `10 mail.example.org`, `ns.example.org serial 42`. Errors are fragments.
pub(crate) fn answers(id: u16, record: RecordType, message: &[u8]) -> Result<Vec<String>, String> {
    let garbled = || "sent an answer that makes no sense".to_owned();
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let head: Option<Vec<u16>> = (0..6).map(|index| word(index * 2)).collect();
    let head = head.ok_or_else(garbled)?;
    if head[0] != id || head[1] & 0x8000 == 0 {
        return Err("sent something that is no answer to the question".into());
    }
    match head[1] & 0xf {
        0 => {}
        2 => return Err("answered SERVFAIL".into()),
        3 => return Err("answered that the name does not exist (NXDOMAIN)".into()),
        5 => return Err("refused to answer (REFUSED)".into()),
        other => return Err(format!("answered with error {other}")),
    }
    let mut at = 12;
    for _ in 0..head[2] {
        at = name(message, at).ok_or_else(garbled)?.1 + 4;
    }
    let mut found = Vec::new();
    for _ in 0..head[3] {
        at = name(message, at).ok_or_else(garbled)?.1;
        let kind = word(at).ok_or_else(garbled)?;
        let length = usize::from(word(at + 8).ok_or_else(garbled)?);
        let data = at + 10;
        let bytes = message.get(data..data + length).ok_or_else(garbled)?;
        if kind == code(record) {
            found.push(rdata(record, message, data, bytes).ok_or_else(garbled)?);
        }
        at = data + length;
    }
    Ok(found)
}

fn rdata(record: RecordType, message: &[u8], at: usize, bytes: &[u8]) -> Option<String> {
    match record {
        RecordType::A => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
        RecordType::Aaaa => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        RecordType::Mx => {
            let preference = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
            Some(format!("{preference} {}", name(message, at + 2)?.0))
        }
        RecordType::Soa => {
            let (primary, after) = name(message, at)?;
            let (_, after) = name(message, after)?;
            let serial = u32::from_be_bytes(message.get(after..after + 4)?.try_into().ok()?);
            Some(format!("{primary} serial {serial}"))
        }
    }
}

/// The name at a place and the place after it. Pointers only lead backwards, so they end.
fn name(message: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut floor) = (start, None, start);
    let mut labels: Vec<String> = Vec::new();
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some((labels.join("."), end.unwrap_or(at + 1))),
            1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                let plain = |byte: u8| if byte.is_ascii_graphic() { char::from(byte) } else { '?' };
                labels.push(label.iter().map(|byte| plain(*byte)).collect());
                if labels.len() > 127 {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            192..=255 => {
                let to = usize::from(length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                end = end.or(Some(at + 2));
                if to >= floor {
                    return None;
                }
                (at, floor) = (to, to);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// An answer with compression as BIND writes it: RFC 1035 §4.1.4.
    fn answer(id: u16, name: &str, record: RecordType, rdata: &[u8]) -> Vec<u8> {
        let mut message = question(id, name, record).unwrap();
        (message[2], message[7]) = (0x81, 1);
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&code(record).to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        message.extend_from_slice(&u16::try_from(rdata.len()).unwrap().to_be_bytes());
        message.extend_from_slice(rdata);
        message
    }

    #[test]
    fn records_are_read() {
        let a = answer(7, "www.example.org", RecordType::A, &[192, 0, 2, 1]);
        assert_eq!(answers(7, RecordType::A, &a).unwrap(), ["192.0.2.1"]);
        assert!(answers(7, RecordType::Mx, &a).unwrap().is_empty());
        let mx = answer(7, "example.org", RecordType::Mx, &[0, 10, 4, b'm', b'a', b'i', b'l', 0xc0, 12]);
        assert_eq!(answers(7, RecordType::Mx, &mx).unwrap(), ["10 mail.example.org"]);
        let mut soa = vec![0xc0, 12, 1, b'h', 0xc0, 12];
        soa.extend_from_slice(&[0, 0, 0, 42, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
        let soa = answer(7, "example.org", RecordType::Soa, &soa);
        assert_eq!(answers(7, RecordType::Soa, &soa).unwrap(), ["example.org serial 42"]);
    }

    #[test]
    fn hostile_answers_end() {
        let good = answer(7, "example.org", RecordType::Mx, &[0, 10, 0xc0, 12]);
        for cut in 0..good.len() {
            assert!(answers(7, RecordType::Mx, &good[..cut]).is_err());
        }
        assert!(answers(8, RecordType::Mx, &good).is_err());
        let mut nxdomain = good.clone();
        nxdomain[3] = 3;
        assert!(answers(7, RecordType::Mx, &nxdomain).unwrap_err().contains("NXDOMAIN"));
        // A pointer to itself.
        let own = u8::try_from(good.len() - 2).unwrap();
        let mut looping = good;
        *looping.last_mut().unwrap() = own;
        assert!(answers(7, RecordType::Mx, &looping).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_get_an_answer(mut bytes in proptest::collection::vec(0u8.., 0..80)) {
            if bytes.len() > 4 { bytes[..4].copy_from_slice(&[0, 7, 0x81, 0]); }
            let _ = answers(7, RecordType::Soa, &bytes);
        }
    }

    #[test]
    fn names_that_do_not_fit_are_not_asked() {
        assert!(question(1, &"a".repeat(64), RecordType::A).is_none());
        assert!(question(1, &"abc.".repeat(70), RecordType::A).is_none());
        assert!(question(1, "a..b", RecordType::A).is_none());
    }
}
