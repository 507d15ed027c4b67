//! Addresses are read, replaced and written back as they stood; jails of other programs are recognised.

use proptest::prelude::*;

use super::super::address::{read, replaced, write};
use super::super::managed::{Known, Managed, Manager, managed};
use super::config;

#[test]
fn every_form_is_read_and_written_back() {
    let forms = [
        ("10.0.5.12", None, None, None),
        ("em0|10.0.5.12", Some("em0"), None, None),
        ("em0|10.0.5.12/24", Some("em0"), Some(24), None),
        ("10.0.5.12/32", None, Some(32), None),
        ("em0.5|10.0.5.12/255.255.255.0", Some("em0.5"), Some(24), None),
        ("em0|10.0.5.12 netmask 255.255.255.0", Some("em0"), None, Some("netmask 255.255.255.0")),
        ("em0|10.0.5.12/24 vhid 1  pass x", Some("em0"), Some(24), Some("vhid 1  pass x")),
    ];
    for (text, interface, prefix, options) in forms {
        let found = read(text).unwrap();
        assert_eq!(write(&found), text);
        let [address] = found.as_slice() else { panic!("{text}") };
        assert_eq!(
            (address.interface.as_deref(), address.prefix, address.options.as_deref()),
            (interface, prefix, options)
        );
        let other = address.with_ip("10.0.5.16".parse().unwrap()).unwrap();
        assert_eq!(other.to_string(), text.replace("10.0.5.12", "10.0.5.16"));
        assert!(address.with_ip("::1".parse().unwrap()).is_err());
    }
    // The operator's spelling of an IPv6 address stays.
    let six = "em0|2001:DB8:0::12/64,10.0.5.12";
    assert_eq!(write(&read(six).unwrap()), six);
    let same = read(six).unwrap()[0].with_ip("2001:db8::12".parse().unwrap()).unwrap();
    assert_eq!(same.to_string(), "em0|2001:DB8:0::12/64");
    for bad in [
        "",
        "em0",
        "em0|",
        "|10.0.5.12",
        "10.0.5",
        "10.0.5.12/33",
        "10.0.5.12/",
        "10.0.5.12/+3",
        "10.0.5.12/255.0.255.0",
        "::1/129",
        "::1/255.255.255.0",
        "a|b|10.0.5.12",
        "em 0|10.0.5.12",
        "10.0.5.12,,10.0.5.13",
        "10.0.5.12 x\ny",
        "an-interface-too-long|10.0.5.12",
    ] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn one_address_of_a_list_is_replaced() {
    let values = ["em0|10.0.5.12/24", "10.0.5.120", "em1|10.0.5.12"];
    let new = replaced(&values, "10.0.5.12".parse().unwrap(), "10.0.5.16".parse().unwrap()).unwrap();
    assert_eq!(new.unwrap(), ["em0|10.0.5.16/24", "10.0.5.120", "em1|10.0.5.16"]);
    assert_eq!(replaced(&values, "10.0.5.1".parse().unwrap(), "10.0.5.2".parse().unwrap()), Ok(None));
    assert!(replaced(&["em0|"], "10.0.5.1".parse().unwrap(), "10.0.5.2".parse().unwrap()).is_err());
}

proptest! {
    #[test]
    fn what_is_read_is_written_as_it_stood(text in "([a-z]{1,3}[0-9]\\|)?([0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9a-fA-F:]{2,12})(/[0-9.]{1,4})?( [a-z ]{0,6})?") {
        if let Ok(addresses) = read(&text) {
            prop_assert_eq!(write(&addresses), text);
        }
    }
}

fn by(known: &Known<'_>) -> Option<(Manager, String)> {
    managed(known).map(|Managed { by, why, .. }| (by, why))
}

#[test]
fn jails_of_bastille_and_iocage_are_recognised_with_the_reason() {
    let plain =
        Known { name: "mercure", file: Some("/etc/jail.conf"), path: Some("/data/jails/mercure"), ..Known::default() };
    assert_eq!(by(&plain), None);
    let file = Known { file: Some("/usr/local/bastille/jails/mercure/jail.conf"), ..plain };
    let (manager, why) = by(&file).unwrap();
    assert!(manager == Manager::Bastille && why.contains("/usr/local/bastille/jails/mercure/jail.conf"), "{why}");
    let root = Known { path: Some("/usr/local/bastille/jails/mercure/root"), ..plain };
    assert_eq!(by(&root).unwrap().0, Manager::Bastille);
    assert_eq!(by(&Known { path: Some("/usr/local/bastille/jailsx/mercure"), ..plain }), None);
    // Where the operator put it.
    let conf = "bastille_prefix=\"/zroot/bastille\"  ## default\nbastille_jailsdir=\"${bastille_prefix}/jails\"\n";
    let moved = Known { path: Some("/zroot/bastille/jails/mercure/root"), ..plain };
    assert_eq!(by(&moved), None);
    assert_eq!(by(&Known { bastille_conf: Some(conf), ..moved }).unwrap().0, Manager::Bastille);
    let fstab = config("mercure { path = /data; mount.fstab = /zroot/bastille/jails/mercure/fstab; }");
    let effective = fstab.effective("mercure").unwrap();
    let known = Known { name: "mercure", effective: Some(&effective), bastille_conf: Some(conf), ..Known::default() };
    assert!(by(&known).unwrap().1.contains("mounted"));

    let running = Known { name: "ioc-mercure", ..plain };
    assert!(by(&running).unwrap().1.contains("ioc-mercure"));
    let dataset = Known { path: Some("/mnt/tank/iocage/jails/mercure/root"), ..plain };
    assert_eq!(by(&dataset).unwrap().0, Manager::Iocage);
    let home = Known { path: Some("/srv/j/mercure/root"), ..plain };
    assert_eq!(by(&home), None);
    let present = ["/srv/j/mercure/config.json"];
    assert_eq!(by(&Known { present: &present, ..home }).unwrap().0, Manager::Iocage);
}
