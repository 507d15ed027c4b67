//! Which addresses and hardware addresses the clone gets. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hypervisors::MacAddr;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{Failure, exit};
use super::facts::{Facts, OwnAddress};
use crate::guest::AddressChange;
use crate::inventory::MacRule;
use crate::inventory::values::{AddressTo, AddressWish, complete_ip};
use crate::steps::net::Place;

/// The clone's place on the network, and the original's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressing {
    /// What becomes of each address.
    pub changes: Vec<AddressChange>,
    /// Old to new hardware addresses, as text (keys of a map).
    pub macs: BTreeMap<String, MacAddr>,
    /// New hardware addresses by card.
    pub by_card: Vec<Option<MacAddr>>,
    /// Address by which the original is reached.
    pub original: IpAddr,
    /// Address by which the clone is reached; with [`Addressing::by`] the last one that was learnt, unspecified before.
    pub clone: IpAddr,
    /// Interfaces of the guest that ask a DHCP server in the clone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dhcp: Vec<String>,
    /// By what the clone is found, if a DHCP server chooses its only address: hardware address, interface of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<(MacAddr, String)>,
    /// Where the original's addresses are.
    pub original_places: Vec<Place>,
    /// Where the clone's addresses are.
    pub clone_places: Vec<Place>,
}

/// Chooses by the wishes of the command line (or, without any, of the inventory).
///
/// # Errors
/// A wish that cannot be understood for this guest: place and remedy name it.
pub fn choose(facts: &Facts, wishes: &[AddressWish], macs: &[String]) -> Result<Addressing, Failure> {
    let refuse = |why: String, place: &str, help: &str| {
        Failure::new(exit::REFUSED, format!("choose addresses for the clone of {}", facts.spec.name))
            .cause(why)
            .place(place)
            .help(help)
    };
    let Some(primary) = facts.primary() else {
        let dynamic = facts.interfaces.iter().any(|interface| interface.ipv4 == crate::guest::Method::Dhcp);
        return Err(if dynamic {
            refuse(
                "it gets its address by DHCP".to_owned(),
                "its network configuration",
                "give the guest a static address first: what cannot be named cannot be swapped",
            )
        } else {
            refuse(
                "no static address was found in its network configuration".to_owned(),
                "its network configuration",
                &format!("{} are understood", crate::guest::network::UNDERSTOOD),
            )
        });
    };
    if wishes.is_empty() {
        return Err(refuse(
            "no address was given for the clone".to_owned(),
            "--ip",
            "give one, such as --ip .16, or set clone.ip in the inventory",
        ));
    }
    let mut new: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    let mut dhcp: Vec<String> = Vec::new();
    for wish in wishes {
        let (old, ip) = match one(facts, primary, wish).map_err(|(why, help)| refuse(why, "--ip", &help))? {
            New::Static(old, ip) => (old, ip),
            New::Dhcp(interface) => {
                dhcp.push(interface);
                continue;
            }
        };
        if facts.addresses.iter().any(|own| own.ip == ip) {
            return Err(refuse(format!("{ip} is the original's own address"), "--ip", "choose a free address"));
        }
        new.insert(old, ip);
    }
    let changes: Vec<AddressChange> = facts
        .addresses
        .iter()
        .map(|own| AddressChange { interface: own.interface.clone(), old: own.ip, new: new.get(&own.ip).copied() })
        .collect();
    let by_card = cards(facts, &changes, macs).map_err(|why| refuse(why, "--mac", "give it as [NIC=]MAC"))?;
    let old_macs = facts.platform.nics.iter().map(|nic| nic.mac);
    let macs =
        old_macs.zip(&by_card).filter_map(|(old, new)| Some((old?.to_string(), (*new)?))).collect::<BTreeMap<_, _>>();
    let clone_places = facts
        .addresses
        .iter()
        .filter_map(|own| {
            let mac = own.nic.and_then(|nic| by_card.get(nic).copied().flatten());
            Some(Place { address: *new.get(&own.ip)?, via: own.via.clone(), mac })
        })
        .collect::<Vec<_>>();
    let original_places = facts
        .addresses
        .iter()
        .map(|own| Place { address: own.ip, via: own.via.clone(), mac: own.mac })
        .collect::<Vec<_>>();
    let clone = new.get(&primary.ip).copied().or_else(|| clone_places.first().map(|place| place.address));
    // A static address is the surer way; else it is found by the card whose address a DHCP server chooses.
    let leased = dhcp.first().and_then(|interface| facts.addresses.iter().find(|own| own.interface == *interface));
    let by = leased.filter(|_| clone.is_none()).and_then(|own| {
        let mac = own.nic.and_then(|nic| by_card.get(nic).copied().flatten())?;
        (!own.via.is_empty()).then(|| (mac, own.via.clone()))
    });
    let unknown = by.as_ref().map(|_| IpAddr::from([0; 4]));
    let Some(clone) = clone.or(unknown) else {
        return Err(refuse("the clone would have no address".to_owned(), "--ip", "give one, such as --ip .16"));
    };
    Ok(Addressing { changes, macs, by_card, original: primary.ip, clone, dhcp, by, original_places, clone_places })
}

/// What a wish comes to.
enum New {
    /// This address becomes that one.
    Static(IpAddr, IpAddr),
    /// The interface asks a DHCP server.
    Dhcp(String),
}

impl Addressing {
    /// The clone's address, for people.
    pub fn shown(&self) -> String {
        if self.clone.is_unspecified() { "by DHCP".to_owned() } else { self.clone.to_string() }
    }
}

/// Nothing changes: the guest itself is upgraded.
///
/// # Errors
/// It has no static address: there is no way into it.
pub fn unchanged(facts: &Facts) -> Result<Addressing, Failure> {
    let primary = facts.primary().ok_or_else(|| {
        Failure::new(exit::REFUSED, format!("find the address of {}", facts.spec.name))
            .cause("no static address was found in its network configuration")
            .place("its network configuration")
            .help("give the guest a static address first")
    })?;
    let place = |own: &OwnAddress| Place { address: own.ip, via: own.via.clone(), mac: own.mac };
    Ok(Addressing {
        changes: Vec::new(),
        macs: BTreeMap::new(),
        by_card: vec![None; facts.platform.nics.len()],
        original: primary.ip,
        clone: primary.ip,
        original_places: facts.addresses.iter().map(place).collect(),
        clone_places: Vec::new(),
        by: None,
        dhcp: Vec::new(),
    })
}

type Why = (String, String);

/// The address a wish replaces, and by what.
fn one(facts: &Facts, primary: &OwnAddress, wish: &AddressWish) -> Result<New, Why> {
    let mut names: Vec<&str> = facts.addresses.iter().map(|own| own.interface.as_str()).collect();
    names.dedup();
    let interface = match &wish.nic {
        Some(nic) if names.contains(&nic.as_str()) => nic.as_str(),
        Some(nic) => {
            return Err((
                format!("the guest has no static address on an interface {nic}"),
                format!("its interfaces: {}", names.join(", ")),
            ));
        }
        None if facts.platform.nics.len() > 1 && names.len() > 1 => {
            return Err((
                "the guest has several network cards".to_owned(),
                format!("say which: --ip {}=… (its interfaces: {})", primary.interface, names.join(", ")),
            ));
        }
        None => primary.interface.as_str(),
    };
    let own = |v4: bool| facts.addresses.iter().find(|own| own.interface == interface && own.ip.is_ipv4() == v4);
    let missing = |family: &str| {
        (
            format!("{interface} has no static {family} address to replace"),
            "only addresses the original has are replaced".to_owned(),
        )
    };
    match &wish.to {
        AddressTo::Partial(tail) => match own(true).map(|own| own.ip) {
            Some(IpAddr::V4(old)) => {
                let new = complete_ip(tail, old).map_err(|why| (why, "give it as .16".to_owned()))?;
                Ok(New::Static(IpAddr::V4(old), IpAddr::V4(new)))
            }
            _ => Err(missing("IPv4")),
        },
        AddressTo::Full(ip) => {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            Ok(New::Static(own(ip.is_ipv4()).ok_or_else(|| missing(family))?.ip, *ip))
        }
        AddressTo::Dhcp if own(true).is_some() => Ok(New::Dhcp(interface.to_owned())),
        AddressTo::Dhcp => Err(missing("IPv4")),
    }
}

/// New hardware addresses by card: given, derived from the address, or drawn from the guest's name and address so that
/// planning again draws the same.
fn cards(facts: &Facts, changes: &[AddressChange], given: &[String]) -> Result<Vec<Option<MacAddr>>, String> {
    let mut by_card = Vec::new();
    for (index, nic) in facts.platform.nics.iter().enumerate() {
        let own = facts.addresses.iter().find(|own| own.nic == Some(index) && own.ip.is_ipv4());
        let change = own.and_then(|own| changes.iter().find(|change| change.old == own.ip));
        let old = own.map(|own| own.ip);
        let new = change.and_then(|change| change.new);
        let rule = match (facts.spec.clone.mac, index) {
            (MacRule::Fixed(mac), 0) => MacRule::Fixed(mac),
            (MacRule::Fixed(_), _) => MacRule::Derive,
            (rule, _) => rule,
        };
        let derived = match (rule, nic.mac, old, new) {
            (MacRule::Fixed(mac), ..) => Some(mac),
            (MacRule::Derive, Some(mac), Some(IpAddr::V4(old)), Some(IpAddr::V4(new)))
                if mac.0[5] == old.octets()[3] =>
            {
                let mut bytes = mac.0;
                bytes[5] = new.octets()[3];
                (bytes != mac.0).then_some(MacAddr(bytes))
            }
            _ => None,
        };
        let drawn = || {
            let seed = format!("{} {index} {new:?} {:?}", facts.spec.name, nic.mac);
            let hash = Sha256::digest(seed.as_bytes());
            let [a, b, c, ..] = nic.mac.map_or([0x52, 0x54, 0, 0, 0, 0], |mac| mac.0);
            MacAddr([a, b, c, hash[0], hash[1], hash[2]])
        };
        by_card.push(Some(derived.unwrap_or_else(drawn)));
    }
    for wish in given {
        let (nic, mac) = wish.split_once('=').map_or((None, wish.as_str()), |(nic, mac)| (Some(nic), mac));
        let mac: MacAddr = mac.parse()?;
        let index = match nic {
            None => 0,
            Some(name) => facts
                .addresses
                .iter()
                .find(|own| own.interface == name)
                .and_then(|own| own.nic)
                .ok_or_else(|| format!("the guest has no interface {name}"))?,
        };
        *by_card.get_mut(index).ok_or("the guest has no network card")? = Some(mac);
    }
    Ok(by_card)
}
