//! ifcfg files and keyfiles: what the manuals say, as files that are inspected, rewritten, rewritten again and given back.

use super::super::super::{diff, restore};
use super::*;

pub(super) const PLAIN: &str = include_str!("../../fixtures/ifcfg/plain");
pub(super) const NUMBERED: &str = include_str!("../../fixtures/ifcfg/numbered");
const ALIAS: &str = include_str!("../../fixtures/ifcfg/alias");
const RANGE: &str = include_str!("../../fixtures/ifcfg/range");
const ROUTE: &str = include_str!("../../fixtures/ifcfg/route");
const RULE: &str = include_str!("../../fixtures/ifcfg/rule");
pub(super) const PROFILE: &str = include_str!("../../fixtures/keyfile/profile.nmconnection");
pub(super) const LEGACY: &str = include_str!("../../fixtures/keyfile/legacy");
const RULES_6: &str = include_str!("../../fixtures/udev/70-persistent-net.rules.el6");

const SCRIPTS: &str = "etc/sysconfig/network-scripts";
pub(super) const ETH0: &str = "etc/sysconfig/network-scripts/ifcfg-eth0";
const GLOBAL: &str = "etc/sysconfig/network";
pub(super) const KEYFILE: &str = "etc/NetworkManager/system-connections/office.nmconnection";
/// initscripts' sysconfig.txt, `/etc/sysconfig/network`: "GATEWAY=<gateway IP>", "GATEWAYDEV=<gateway device to use>".
const NETWORKING: &str = "NETWORKING=yes\nHOSTNAME=mercure.example.org\nGATEWAY=10.0.5.254\n";

fn path(name: &str) -> String {
    format!("{SCRIPTS}/{name}")
}

/// What a plan changes, of all files. Applied, planned again, changed by an upgrade and given back on the way.
fn diffs(files: &[(&str, &str)], spec: &CloneSpec) -> String {
    let guest = Guest::new(files);
    let edits = guest.plan(spec).unwrap();
    assert!(apply(&guest.tree(), &edits).unwrap());
    assert_eq!(guest.plan(spec).unwrap(), [], "a second plan changes something");
    inspect(&guest.tree()).unwrap();
    for edit in &edits {
        let file = edit.path.to_str().unwrap();
        std::fs::write(guest.root.path().join(file), format!("{}# the upgrade's\n", guest.read(file))).unwrap();
    }
    let back = restore::restore_edits(&guest.tree(), &edits).unwrap();
    apply(&guest.tree(), &back.edits).unwrap();
    assert_eq!(restore::restore_edits(&guest.tree(), &edits).unwrap().edits, [], "given back twice");
    for (file, text) in files {
        let ours = edits.iter().any(|edit| edit.path == std::path::Path::new(file));
        let upgraded = if ours { "# the upgrade's\n" } else { "" };
        assert_eq!(guest.read(file), format!("{text}{upgraded}"), "{file}");
    }
    edits.iter().map(diff).collect()
}

/// Name, methods, addresses, gateways and hardware address of each interface, a line each.
fn shown(files: &[(&str, &str)]) -> String {
    let line = |one: crate::guest::Interface| {
        let addresses: Vec<String> =
            one.addresses.iter().map(|own| format!("{}/{}:{}", own.ip, own.prefix, own.line)).collect();
        let gateways: Vec<String> = one.gateways.iter().map(ToString::to_string).collect();
        let mac = one.mac.map_or("-".to_owned(), |mac| mac.to_string());
        let methods = format!("{:?}/{:?}", one.ipv4, one.ipv6);
        format!(
            "{} {methods} {} via {} mac {mac} {}\n",
            one.name,
            addresses.join(","),
            gateways.join(","),
            one.configured_by
        )
    };
    inspect(&Guest::new(files).tree()).unwrap().into_iter().map(line).collect()
}

#[test]
fn red_hats_files_are_inspected() {
    let (alias, range, backup) = (path("ifcfg-eth0:0"), path("ifcfg-eth0-range0"), path("ifcfg-eth0.rpmsave"));
    let (lo, eth1, dhcp) = (path("ifcfg-lo"), path("ifcfg-eth1"), path("ifcfg-wan"));
    insta::assert_snapshot!(shown(&[
        (ETH0, NUMBERED),
        (&alias, ALIAS),
        (&range, RANGE),
        (&backup, PLAIN),
        (&lo, "DEVICE=lo\nIPADDR=127.0.0.1\nNETMASK=255.0.0.0\nNETWORK=127.0.0.0\nONBOOT=yes\nNAME=loopback\n"),
        (&eth1, "# class B, by ipcalc(1)\nIPADDR=172.16.0.1\nPREFIX1=8\n"),
        (&dhcp, "DEVICE=\"eth2\"\nBOOTPROTO='dhcp'\nHWADDR=00:16:3e:00:05:0d\nDHCPV6C=yes\nIPV6_AUTOCONF=no\n"),
        (GLOBAL, NETWORKING),
        (KEYFILE, PROFILE),
        ("etc/NetworkManager/system-connections/old", LEGACY),
        ("etc/NetworkManager/system-connections/.hidden.nmconnection", PROFILE),
        ("etc/NetworkManager/system-connections/eth0~", PROFILE),
        ("etc/NetworkManager/system-connections/eth0.Xy12Ab", PROFILE),
        ("etc/NetworkManager/system-connections/ca.pem", "-----BEGIN CERTIFICATE-----\n"),
    ]));
}

#[test]
fn ifcfg_changes_only_the_address() {
    let after = Guest::new(&[(ETH0, PLAIN)]).rewritten(ETH0, &moved(&[("10.0.5.12", "10.0.5.16")]));
    assert_eq!(changed(PLAIN, &after), ["IPADDR=10.0.5.16   # not 10.0.5.12 alone", "SRCADDR=10.0.5.16"]);
    let crlf = PLAIN.replace('\n', "\r\n");
    let after = Guest::new(&[(ETH0, &crlf)]).rewritten(ETH0, &moved(&[("2001:db8::12", "2001:db8::16")]));
    assert_eq!(after, crlf.replace("=2001:db8::12", "=2001:db8::16"));
}

#[test]
fn ifcfg_follows_with_all_that_names_it() {
    let (alias, route, rule) = (path("ifcfg-eth0:0"), path("route-eth0"), path("rule-eth0"));
    let files = [(ETH0, PLAIN), (&alias, ALIAS), (&route, ROUTE), (&rule, RULE), (GLOBAL, NETWORKING)];
    let spec = moved(&[("10.0.5.12", "10.0.7.16"), ("10.0.5.20", "10.0.7.20"), ("2001:db8::12", "2001:db8::16")]);
    insta::assert_snapshot!(diffs(&files, &CloneSpec { macs: pinned().macs, ..spec }));
}

#[test]
fn ifcfg_takes_off_and_leaves_no_gap() {
    let (route, rule) = (path("route-eth0"), path("rule-eth0"));
    let files = [(ETH0, NUMBERED), (&route, ROUTE), (&rule, RULE)];
    let spec = moved(&[("10.0.5.13", ""), ("10.0.5.14", ""), ("2001:db8::13", ""), ("2001:db8::14", "2001:db8::24")]);
    insta::assert_snapshot!(diffs(&files, &spec));
    let alias = path("ifcfg-eth0:0");
    let spec = moved(&[("10.0.5.12", ""), ("2001:db8::12", ""), ("10.0.5.20", "10.0.5.21")]);
    insta::assert_snapshot!(diffs(&[(ETH0, PLAIN), (&alias, ALIAS)], &spec));
}

#[test]
fn ifcfg_turns_to_dhcp() {
    insta::assert_snapshot!(diffs(&[(ETH0, NUMBERED), (GLOBAL, NETWORKING)], &dhcp("eth0")));
    let other = format!("{NETWORKING}GATEWAYDEV=eth1\n");
    let bare = "IPADDR=10.0.5.12\nNETMASK=255.255.255.0\n";
    insta::assert_snapshot!(diffs(&[(ETH0, bare), (GLOBAL, &other)], &dhcp("eth0")));
}

#[test]
fn keyfiles_are_rewritten() {
    let spec = moved(&[("10.0.5.12", "10.0.5.16"), ("10.0.5.13", "10.0.5.17"), ("2001:db8::12", "2001:db8::16")]);
    let all = CloneSpec { macs: pinned().macs, ..spec };
    insta::assert_snapshot!(diffs(&[(KEYFILE, PROFILE)], &all));
    let all = CloneSpec { addresses: all.addresses[..2].to_vec(), ..all };
    insta::assert_snapshot!(diffs(&[(KEYFILE, LEGACY)], &all));
}

#[test]
fn keyfiles_keep_the_gateway_and_what_is_empty_is_off() {
    insta::assert_snapshot!(diffs(&[(KEYFILE, PROFILE)], &moved(&[("10.0.5.12", ""), ("2001:db8::12", "")])));
    insta::assert_snapshot!(diffs(&[(KEYFILE, LEGACY)], &moved(&[("10.0.5.12", ""), ("10.0.5.13", "")])));
    insta::assert_snapshot!(diffs(&[(KEYFILE, PROFILE)], &moved(&[("10.0.5.13", "")])));
}

#[test]
fn keyfiles_turn_to_dhcp() {
    insta::assert_snapshot!(diffs(&[(KEYFILE, PROFILE)], &dhcp("eth0")));
    // Without `interface-name` it goes by the name that people see.
    let bare = "[connection]\nid=office\n[ipv4]\naddress1=10.0.5.12/24\n";
    insta::assert_snapshot!(diffs(&[(KEYFILE, bare)], &dhcp("office")));
    let crlf = bare.replace('\n', "\r\n");
    let after = Guest::new(&[(KEYFILE, &crlf)]).rewritten(KEYFILE, &dhcp("office"));
    assert_eq!(after, crlf.replace("address1", "method=auto\r\n# upgradectl: address1"));
}

/// NetworkManager's keyfile reader: slash, comma and semicolon may stand for each other.
#[test]
fn keyfiles_separators_are_read_as_they_come() {
    for address in ["10.0.5.12/24,10.0.5.1", "10.0.5.12/24/10.0.5.1", "10.0.5.12/10.0.5.1", "10.0.5.12;24;10.0.5.1;"] {
        let text = format!("[ipv4]\nmethod=manual\naddresses={address}\n");
        let guest = Guest::new(&[(KEYFILE, &text)]);
        let found = inspect(&guest.tree()).unwrap();
        assert_eq!((found[0].addresses[0].prefix, found[0].gateways.len()), (24, 1), "{address}");
        let after = guest.rewritten(KEYFILE, &moved(&[("10.0.5.12", "10.0.5.16")]));
        assert_eq!(after, text.replace("10.0.5.12", "10.0.5.16"));
        let after = guest.rewritten(KEYFILE, &moved(&[("10.0.5.12", "")]));
        assert_eq!(changed(&text, &after), ["method=disabled", &format!("# upgradectl: addresses={address}")]);
    }
}

#[test]
fn variables_are_followed_as_far_as_they_are_known() {
    let text = "IP=10.0.5.12\nIPADDR=$IP\nPREFIX=24\n";
    let guest = Guest::new(&[(ETH0, text)]);
    let after = guest.rewritten(ETH0, &moved(&[("10.0.5.12", "10.0.5.16")]));
    assert_eq!(after, text.replace("$IP", "10.0.5.16"));
    let error = guest.plan(&moved(&[("10.0.5.12", "")])).unwrap_err().to_string();
    assert!(error.contains("line 2 does not have the value of IPADDR written out"), "{error}");
}

#[test]
fn an_address_in_both_is_changed_in_both_and_modes_stay() {
    use std::os::unix::fs::PermissionsExt;
    let guest = Guest::new(&[(ETH0, PLAIN), (KEYFILE, PROFILE)]);
    let secret = guest.root.path().join(KEYFILE);
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let edits = guest.plan(&moved(&[("10.0.5.12", "10.0.5.16")])).unwrap();
    assert_eq!(edits.len(), 2);
    apply(&guest.tree(), &edits).unwrap();
    assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(inspect(&guest.tree()).unwrap().iter().all(|one| one.addresses[0].ip.to_string() == "10.0.5.16"));
}

#[test]
fn centos_6_pins_names_in_udev_too() {
    let rules = "etc/udev/rules.d/70-persistent-net.rules";
    let after = Guest::new(&[(rules, RULES_6)]).rewritten(rules, &pinned());
    assert_eq!(changed(RULES_6, &after).len(), 1);
    assert!(after.contains("ATTR{address}==\"00:16:3e:00:05:10\", ATTR{type}==\"1\""), "{after}");
}

#[test]
fn what_is_not_understood_is_told() {
    let range = path("ifcfg-eth0-range0");
    let spec = moved(&[("10.0.5.12", "10.0.5.16"), ("10.0.5.31", "")]);
    let says = |files: &[(&str, &str)], what: &str| {
        let error = Guest::new(files).plan(&spec).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let with = |line: &str| format!("{PLAIN}{line}\n");
    says(
        &[(ETH0, PLAIN), (&range, RANGE)],
        "/ifcfg-eth0-range0: gives eth0 a range of addresses, 10.0.5.31 among them",
    );
    says(&[(ETH0, "IPADDR=10.0.5.12/24\n")], "ifcfg-eth0:1: \"10.0.5.12/24\" is not an IPv4 address");
    says(&[(ETH0, "IPADDR=10.0.5.12\nNETMASK=255.0.255.0\n")], "ifcfg-eth0:2: \"255.0.255.0\" is no NETMASK");
    says(&[(ETH0, "IPADDR=10.0.5.12\nPREFIX=33\n")], "ifcfg-eth0:2: \"33\" is no PREFIX");
    says(&[(ETH0, "IPV6ADDR=10.0.5.12\n")], "is not an IPv6 address");
    says(&[(ETH0, "IPADDR=$(cat /address)\n")], "ifcfg-eth0:1: only a shell could tell the value of IPADDR");
    says(&[(ETH0, &with(". ./common"))], "ifcfg-eth0:17: only a shell could tell what this line does");
    says(&[(ETH0, &with("[ -f /x ] && IPADDR1=10.0.5.13"))], "ifcfg-eth0:17: only a shell");
    says(&[(ETH0, "IPADDR=\"10.0.5.12\n")], "ifcfg-eth0:1: a string that begins with");
    says(&[(KEYFILE, "[ipv4\n")], "office.nmconnection:1: a group without ]");
    says(&[(KEYFILE, "address1=10.0.5.12/24\n")], "office.nmconnection:1: a setting before the first group");
    says(
        &[(KEYFILE, "[ipv4]\naddress1=10.0.5.12/24,10.0.5.1,5\n")],
        "office.nmconnection:2: \"10.0.5.12/24,10.0.5.1,5\"",
    );
    says(&[(KEYFILE, "[ipv4]\naddress1=2001:db8::12/64\n")], "office.nmconnection:2:");
    says(&[(KEYFILE, "[ipv4]\nwhat is this\n")], "office.nmconnection:2: neither a group nor KEY=VALUE");
    let shared = "IPADDR=10.0.5.12; NETMASK=255.255.255.0\n";
    let error = Guest::new(&[(ETH0, shared)]).plan(&moved(&[("10.0.5.12", "")])).unwrap_err().to_string();
    assert!(error.contains("line 1 has more than IPADDR"), "{error}");
    // An alias cannot be turned, and code that sets nothing of this is left alone.
    let alias = path("ifcfg-eth0:0");
    assert!(Guest::new(&[(ETH0, PLAIN), (&alias, ALIAS)]).plan(&dhcp("eth0:0")).is_err());
    let code = with("NAME=Wired connection 1\nif true; then MTU=9000; fi");
    Guest::new(&[(ETH0, &code)]).rewritten(ETH0, &moved(&[("10.0.5.12", "10.0.5.16")]));
}
