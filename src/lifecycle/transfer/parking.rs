//! The server's rc.conf for the time after promotion: it comes up at its parking address. Pure.

use std::net::Ipv4Addr;

use hypervisors::jail::Wrong;
use hypervisors::jail::ifconfig::netmask;
use hypervisors::jail::rc::Rc;

use crate::steps::server::Parking;

/// Where a server goes: by its parking address, in the network it is in now if that holds the address, with the way out it has if
/// that is within reach from there.
pub fn place(address: Ipv4Addr, home: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>) -> Parking {
    let within = |ip: Ipv4Addr, other: Ipv4Addr, prefix: u8| {
        let mask = u32::from(netmask(prefix));
        u32::from(ip) & mask == u32::from(other) & mask
    };
    // In a network of its own it has the usual length of one.
    let prefix = if within(address, home, prefix) { prefix } else { 24 };
    Parking {
        ip: address,
        netmask: netmask(prefix),
        gateway: gateway.filter(|gateway| within(*gateway, address, prefix)),
    }
}

/// The rc.conf with which it comes up there; without a place it comes up without a network. `services`: they have been stopped and
/// do not start again, or a reboot would mail and answer beside the guest that took the place.
///
/// # Errors
/// Code has a part in what would have to be changed.
pub fn rc_conf(text: &str, interface: &str, parking: Option<&Parking>, services: &[String]) -> Result<String, Wrong> {
    let mut rc = Rc::parse("/etc/rc.conf", text)?;
    let begins =
        [format!("ifconfig_{interface}_"), format!("ipv4_addrs_{interface}"), format!("ipv6_ifconfig_{interface}")];
    let names: Vec<String> = rc.assigns().map(|assign| assign.name.clone()).collect();
    for name in names.iter().filter(|name| begins.iter().any(|begin| name.starts_with(begin))) {
        rc = rc.unset(name)?;
    }
    let own = format!("ifconfig_{interface}");
    rc = match parking {
        Some(parking) => rc.set(&own, &format!("inet {} netmask {}", parking.ip, parking.netmask))?,
        None => rc.set(&own, "down")?,
    };
    if parking.is_none_or(|parking| parking.gateway.is_none()) && names.iter().any(|name| name == "defaultrouter") {
        rc = rc.set("defaultrouter", "NO")?;
    }
    for service in services {
        // sendmail_enable="NO" still sends this machine's own mail (rc.sendmail(8)).
        let off = if service == "sendmail" { "NONE" } else { "NO" };
        rc = rc.set(&format!("{}_enable", service.replace(['-', '.'], "_")), off)?;
    }
    Ok(rc.text().to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TEXT: &str = "# since 2004\nhostname=\"ServerA.example\"\nifconfig_fxp0=\"inet 10.0.5.12  netmask 255.255.255.0\"\n\
ifconfig_fxp0_alias0=\"inet 10.0.5.13 netmask 255.255.255.255\"\nifconfig_fxp1=\"DHCP\"\ndefaultrouter=\"10.0.5.1\"\nsshd_enable=\"YES\"\n";

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_server_comes_up_where_it_is_parked() {
        let near = place(ip("10.0.5.212"), ip("10.0.5.12"), 24, Some(ip("10.0.5.1")));
        assert_eq!((near.netmask, near.gateway), (ip("255.255.255.0"), Some(ip("10.0.5.1"))));
        insta::assert_snapshot!(
            rc_conf(TEXT, "fxp0", Some(&near), &["cron".to_owned(), "sendmail".to_owned()]).unwrap()
        );
        let far = place(ip("10.11.12.213"), ip("10.0.5.12"), 24, Some(ip("10.0.5.1")));
        assert_eq!(far.gateway, None);
        let text = rc_conf(TEXT, "fxp0", Some(&far), &[]).unwrap();
        assert!(
            text.contains("defaultrouter=\"NO\"") && text.contains("inet 10.11.12.213 netmask 255.255.255.0"),
            "{text}"
        );
        assert!(rc_conf(TEXT, "fxp0", None, &[]).unwrap().contains("ifconfig_fxp0=\"down\""));
        assert!(rc_conf("ifconfig_fxp0=\"$(cat /etc/ip)\"\n", "fxp0", Some(&near), &[]).is_err());
        assert!(rc_conf("", "fxp0", Some(&near), &[]).unwrap().contains("ifconfig_fxp0="));
    }
}
