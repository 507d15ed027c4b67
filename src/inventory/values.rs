//! Values with a form of their own: durations, sizes, addresses. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Reads `90s`, `15m`, `2h`, `14d`. Errors are fragments that name the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as \"90s\", \"15m\", \"2h\" or \"14d\"");
    let (number, unit) = split_number(text).ok_or_else(bad)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    // A hundred years: beyond it clock arithmetic overflows somewhere.
    number
        .checked_mul(factor)
        .filter(|seconds| *seconds <= 100 * 366 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is too long"))
}

/// Reads a size in bytes: `512M`, `2G` (powers of 1024; `K M G T`, or plain bytes).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size such as \"512M\" or \"2G\"");
    let (number, unit) = split_number(text).ok_or_else(bad)?;
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).filter(|bytes| *bytes <= 1 << 60).ok_or_else(|| format!("{text:?} is too large"))
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit))
}

/// A size, absolute or relative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Size {
    /// Bytes: `2G`.
    Bytes(u64),
    /// Percent of the whole: `20%`.
    Percent(u16),
    /// Percent of what is in use: `110%USED`.
    PercentUsed(u16),
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a size such as \"2G\", \"20%\" or \"110%USED\"");
        let Some((number, of)) = text.split_once('%') else {
            return parse_bytes(text).map(Self::Bytes).map_err(|_| bad());
        };
        let percent: u16 = number.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(bad)?;
        match of {
            "" => Ok(Self::Percent(percent)),
            "USED" => Ok(Self::PercentUsed(percent)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => {
                let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
                let exact = units.iter().find(|(shift, _)| *bytes != 0 && bytes % (1 << shift) == 0);
                match exact {
                    Some((shift, unit)) => write!(f, "{}{unit}", bytes >> shift),
                    None => write!(f, "{bytes}"),
                }
            }
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::PercentUsed(percent) => write!(f, "{percent}%USED"),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

/// Completes `.16` or `.6.16` from the guest's own address: the last octets are replaced. A full address is itself.
pub fn complete_ip(partial: &str, own: Ipv4Addr) -> Result<Ipv4Addr, String> {
    let bad = || format!("{partial:?} is not an address such as \".16\", \".6.16\" or \"10.0.5.16\"");
    let Some(tail) = partial.strip_prefix('.') else {
        return partial.parse().map_err(|_| bad());
    };
    let parts: Vec<&str> = tail.split('.').collect();
    if parts.len() > 3 {
        return Err(bad());
    }
    let mut octets = own.octets();
    let first = octets.len() - parts.len();
    for (octet, part) in octets[first..].iter_mut().zip(parts) {
        // Leading zeros are refused as Ipv4Addr refuses them: some tools read them as octal.
        let plain =
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
        *octet = part.parse().ok().filter(|_| plain).ok_or_else(bad)?;
    }
    Ok(octets.into())
}

/// What an `--ip` argument or an entry of `clone.ip` asks for: `[NIC=]ADDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressWish {
    /// Interface in the guest; may be left out if there is only one.
    pub nic: Option<String>,
    /// The address.
    pub to: AddressTo,
}

/// The address asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressTo {
    /// The last octets of the interface's own IPv4 address, with the leading dot; see [`complete_ip`].
    Partial(String),
    /// This address.
    Full(IpAddr),
    /// From a DHCP server.
    Dhcp,
}

impl FromStr for AddressWish {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (nic, address) = match text.split_once('=') {
            Some((nic, address)) => (Some(nic), address),
            None => (None, text),
        };
        let known = |c: char| c.is_ascii_alphanumeric() || "_-.@:".contains(c);
        if nic.is_some_and(|nic| nic.is_empty() || nic.len() > 31 || !nic.chars().all(known)) {
            return Err(format!("{text:?} does not name an interface before the \"=\""));
        }
        let to = if address == "dhcp" {
            AddressTo::Dhcp
        } else if address.starts_with('.') {
            complete_ip(address, Ipv4Addr::UNSPECIFIED)?;
            AddressTo::Partial(address.to_owned())
        } else {
            let full = address.parse().map_err(|_| {
                format!("{address:?} is not an address such as \".16\", \"10.0.5.16\", \"2001:db8::16\" or \"dhcp\"")
            })?;
            AddressTo::Full(full)
        };
        Ok(Self { nic: nic.map(str::to_owned), to })
    }
}

/// What a fenced clone may reach: `10.0.5.20`, `10.0.6.0/24`, `db.example`, each with `:PORT` or without
/// (`[2001:db8::5]:443`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Where to.
    pub to: AllowedTo,
    /// TCP and UDP port; all if absent.
    pub port: Option<u16>,
}

/// Where an [`Allowed`] leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedTo {
    /// An address, or a network by its prefix length.
    Network(IpAddr, u8),
    /// A name that the clone looks up.
    Name(String),
}

impl FromStr for Allowed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a place such as \"10.0.5.20\", \"10.0.6.0/24\" or \"db.example:5432\"");
        let (place, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (place, rest) = rest.split_once(']').ok_or_else(bad)?;
                (place, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(bad)?) })
            }
            // More than one colon: an IPv6 address without a port.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(place, port)| (place, Some(port))),
        };
        let number = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.map(|port| number(port).ok_or_else(bad)).transpose()?;
        let (address, prefix) =
            place.split_once('/').map_or((place, None), |(address, prefix)| (address, Some(prefix)));
        let to = match (address.parse::<IpAddr>(), prefix) {
            (Ok(address), prefix) => {
                let full = if address.is_ipv4() { 32 } else { 128 };
                let prefix = prefix.map_or(Some(full), |prefix| prefix.parse().ok().filter(|prefix| *prefix <= full));
                AllowedTo::Network(address, prefix.ok_or_else(bad)?)
            }
            (Err(_), None) if is_name(place) => AllowedTo::Name(place.to_owned()),
            (Err(_), _) => return Err(bad()),
        };
        Ok(Self { to, port })
    }
}

/// A host name (RFC 1123) that is no mistyped address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && last.bytes().any(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("14d"), Ok(Duration::from_secs(14 * 86_400)));
        for bad in ["", "s", "90", "1.5h", "-3s", "3 s", "3w", "99999999999999999999d", "999999999999d", "٣s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("512M"), Ok(512 << 20));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for bad in ["", "M", "2g", "2GB", "2 G", "99999999999T", "-1M", "1e3"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        for text in ["2G", "110%USED", "20%", "1536M", "1000"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for bad in ["0%", "%USED", "20%FREE", "20%used", "1001%"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn partial_addresses_replace_the_last_octets() {
        let own = Ipv4Addr::new(10, 0, 5, 12);
        assert_eq!(complete_ip(".16", own), Ok(Ipv4Addr::new(10, 0, 5, 16)));
        assert_eq!(complete_ip(".6.16", own), Ok(Ipv4Addr::new(10, 0, 6, 16)));
        assert_eq!(complete_ip("192.0.2.1", own), Ok(Ipv4Addr::new(192, 0, 2, 1)));
        for bad in [".", "..", ".256", ".016", ".1.2.3.4", "16", ".16.", ".+6", ".1 6", ""] {
            assert!(complete_ip(bad, own).is_err(), "{bad}");
        }
    }

    #[test]
    fn wishes() {
        let wish = "eth1=.16".parse::<AddressWish>().unwrap();
        assert_eq!(wish, AddressWish { nic: Some("eth1".into()), to: AddressTo::Partial(".16".into()) });
        assert_eq!("dhcp".parse::<AddressWish>().unwrap().to, AddressTo::Dhcp);
        assert!("2001:db8::16".parse::<AddressWish>().is_ok());
        for bad in ["=.16", "eth0=", "e th0=.1", "example.org", "10.0.5.16/24"] {
            assert!(bad.parse::<AddressWish>().is_err(), "{bad}");
        }
    }

    #[test]
    fn places_a_fenced_clone_may_reach() {
        let allowed = |text: &str| text.parse::<Allowed>().map(|allowed| (allowed.to, allowed.port));
        let network = |text: &str, prefix| AllowedTo::Network(text.parse().unwrap(), prefix);
        assert_eq!(allowed("10.0.5.20"), Ok((network("10.0.5.20", 32), None)));
        assert_eq!(allowed("10.0.6.0/24:53"), Ok((network("10.0.6.0", 24), Some(53))));
        assert_eq!(allowed("db.example:5432"), Ok((AllowedTo::Name("db.example".into()), Some(5432))));
        assert_eq!(allowed("2001:db8::5"), Ok((network("2001:db8::5", 128), None)));
        assert_eq!(allowed("[2001:db8::/32]:443"), Ok((network("2001:db8::", 32), Some(443))));
        for bad in [
            "",
            ":25",
            "10.0.5",
            "10.0.5.300",
            "10.0.5.1/33",
            "db.example:0",
            "db example",
            "a/24",
            "[::1",
            "-a.b",
            "$(x)",
        ] {
            assert!(allowed(bad).is_err(), "{bad}");
        }
    }
}
