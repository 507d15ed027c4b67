#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::tree::{Overlay, Tree};
use super::super::{AddressChange, CloneSpec, FileEdit, GuestError, Method, apply};
use super::{inspect, matches, rewrite};

mod red_hat;

const INSTALLED: &str = include_str!("../fixtures/ifupdown/installed");
const OLD: &str = include_str!("../fixtures/ifupdown/old");
const STATIC: &str = include_str!("../fixtures/networkd/static.network");
const LINK: &str = include_str!("../fixtures/networkd/10-lan.link");
const FORMS: &str = include_str!("../fixtures/netplan/forms.yaml");
const MULTI: &str = include_str!("../fixtures/netplan/static_multiaddress.yaml");
const GATEWAYS: &str = include_str!("../fixtures/netplan/static_singlenic_multiip_multigateway.yaml");
const ROUTING: &str = include_str!("../fixtures/netplan/source_routing.yaml");
const BRIDGE: &str = include_str!("../fixtures/netplan/bridge.yaml");
const UDEV: &str = include_str!("../fixtures/udev/70-persistent-net.rules");

const INTERFACES: &str = "etc/network/interfaces";
const NETWORK: &str = "etc/systemd/network/lan.network";
const NETPLAN: &str = "etc/netplan/01.yaml";

struct Guest {
    root: tempfile::TempDir,
}

impl Guest {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self { root }
    }
    fn tree(&self) -> Tree {
        Tree::open(self.root.path()).unwrap()
    }
    fn plan(&self, spec: &CloneSpec) -> Result<Vec<FileEdit>, GuestError> {
        let tree = self.tree();
        let mut edits = Overlay::new(&tree);
        rewrite(&mut edits, spec)?;
        super::super::udev::rewrite(&mut edits, spec)?;
        Ok(edits.into_edits())
    }
    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.path().join(path)).unwrap()
    }
    /// Applies, checks that a second plan is empty and that undoing gives the same bytes back; returns the new text.
    fn rewritten(&self, path: &str, spec: &CloneSpec) -> String {
        let before = self.read(path);
        let edits = self.plan(spec).unwrap();
        assert!(apply(&self.tree(), &edits).unwrap());
        let after = self.read(path);
        assert_eq!(self.plan(spec).unwrap(), [], "{after}");
        inspect(&self.tree()).unwrap();
        let undo: Vec<FileEdit> = edits
            .into_iter()
            .map(|edit| FileEdit { before: edit.after, after: edit.before, path: edit.path, why: edit.why })
            .collect();
        apply(&self.tree(), &undo).unwrap();
        assert_eq!(self.read(path), before);
        after
    }
}

fn moved(changes: &[(&str, &str)]) -> CloneSpec {
    let change = |(old, new): &(&str, &str)| AddressChange {
        interface: "eth0".into(),
        old: old.parse().unwrap(),
        new: (!new.is_empty()).then(|| new.parse().unwrap()),
    };
    CloneSpec { addresses: changes.iter().map(change).collect(), ..CloneSpec::default() }
}

fn dhcp(name: &str) -> CloneSpec {
    CloneSpec { to_dhcp: vec![name.into()], ..CloneSpec::default() }
}

fn pinned() -> CloneSpec {
    let macs = BTreeMap::from([("00:16:3e:00:05:0c".to_owned(), "00:16:3e:00:05:10".parse().unwrap())]);
    CloneSpec { macs, ..CloneSpec::default() }
}

/// The lines in which two texts of equal length in lines differ.
fn changed<'a>(before: &'a str, after: &'a str) -> Vec<&'a str> {
    assert_eq!(before.lines().count(), after.lines().count(), "{after}");
    before.lines().zip(after.lines()).filter(|(a, b)| a != b).map(|(_, b)| b).collect()
}

#[test]
fn ifupdown_is_inspected() {
    let guest = Guest::new(&[(INTERFACES, OLD), ("etc/network/interfaces.d/vlan", "iface vlan7 inet dhcp\n")]);
    let found = inspect(&guest.tree()).unwrap();
    let names: Vec<&str> = found.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(names, ["lo", "ethernet", "eth0", "eth0:1", "br0", "vlan7"]);
    let eth0 = &found[2];
    assert_eq!((eth0.ipv4, eth0.ipv6), (Method::Static, Method::Static));
    let addresses: Vec<String> = eth0.addresses.iter().map(|a| format!("{}/{} {}", a.ip, a.prefix, a.line)).collect();
    assert_eq!(addresses, ["10.0.5.12/24 14", "2001:db8::12/64 27"]);
    assert_eq!(eth0.gateways, ["10.0.5.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(found[5].ipv4, Method::Dhcp);
    assert_eq!(found[3].addresses[0].prefix, 24);
}

#[test]
fn ifupdown_changes_only_the_address() {
    let guest = Guest::new(&[(INTERFACES, INSTALLED)]);
    let after = guest.rewritten(INTERFACES, &moved(&[("10.0.5.12", "10.0.5.16")]));
    assert_eq!(changed(INSTALLED, &after), ["\taddress 10.0.5.16/24"]);
}

#[test]
fn ifupdown_follows_into_hooks_and_other_subnets() {
    let guest = Guest::new(&[(INTERFACES, OLD)]);
    let spec = moved(&[("10.0.5.12", "10.0.7.16"), ("10.0.5.14", ""), ("2001:db8::12", "2001:db8::16")]);
    let after = guest.rewritten(INTERFACES, &spec);
    assert_eq!(
        changed(OLD, &after),
        [
            "\taddress   10.0.7.16",
            "\tnetwork 10.0.7.0",
            "\tbroadcast 10.0.7.255",
            "# upgradectl: \tup   ip addr add 10.0.5.14/24 dev $IFACE || true",
            "\t   src 10.0.7.16",
            "\taddress 2001:db8::16",
        ]
    );
}

#[test]
fn ifupdown_takes_an_alias_off() {
    let guest = Guest::new(&[(INTERFACES, OLD)]);
    let after = guest.rewritten(INTERFACES, &moved(&[("10.0.5.13", "")]));
    assert_eq!(
        changed(OLD, &after),
        [
            "auto lo eth0 \\",
            "# upgradectl: iface eth0:1 inet static",
            "# upgradectl: \taddress 10.0.5.13",
            "# upgradectl: \tnetmask 24"
        ]
    );
    // A bridge stays one without its address.
    let after = guest.rewritten(INTERFACES, &moved(&[("192.168.1.2", "")]));
    assert_eq!(
        changed(OLD, &after),
        ["iface br0 inet manual", "# upgradectl: \taddress 192.168.1.2/24", "# upgradectl: \tgateway 192.168.1.1"]
    );
}

#[test]
fn ifupdown_turns_to_dhcp() {
    let guest = Guest::new(&[(INTERFACES, INSTALLED)]);
    let after = guest.rewritten(INTERFACES, &dhcp("eth0"));
    assert_eq!(
        changed(INSTALLED, &after),
        ["iface eth0 inet dhcp", "# upgradectl: \taddress 10.0.5.12/24", "# upgradectl: \tgateway 10.0.5.1"]
    );
}

#[test]
fn ifupdown_sources_by_pattern() {
    let main = "source interfaces.d/*.cfg\nsource /etc/network/more/[a-c]?\n";
    let stanza = "iface eth0 inet static\r\n  address 10.0.5.12/24\r\n";
    for (path, found) in [
        ("etc/network/interfaces.d/lan.cfg", true),
        ("etc/network/more/b1", true),
        ("etc/network/more/d1", false),
        ("etc/network/interfaces.d/.lan.cfg", false),
        ("etc/network/interfaces.d/lan", false),
    ] {
        let guest = Guest::new(&[(INTERFACES, main), (path, stanza)]);
        if found {
            let after = guest.rewritten(path, &moved(&[("10.0.5.12", "10.0.5.16")]));
            assert_eq!(after, stanza.replace("5.12", "5.16"));
        } else {
            assert!(guest.plan(&moved(&[("10.0.5.12", "10.0.5.16")])).is_err(), "{path}");
        }
    }
}

#[test]
fn networkd_is_inspected_and_rewritten() {
    let guest = Guest::new(&[(NETWORK, STATIC)]);
    let found = inspect(&guest.tree()).unwrap();
    assert_eq!((found[0].name.as_str(), found[0].ipv4, found[0].addresses.len()), ("eth0", Method::Static, 3));
    assert_eq!(found[0].mac, Some("00:16:3e:00:05:0c".parse().unwrap()));
    let after = guest.rewritten(NETWORK, &moved(&[("10.0.5.12", "10.0.7.16"), ("10.0.5.13", "10.0.7.17")]));
    assert_eq!(
        changed(STATIC, &after),
        ["Address = 10.0.7.16/24", "Address=10.0.7.17/24", "Broadcast=10.0.7.255", "PreferredSource=10.0.7.16"]
    );
    let after = guest.rewritten(NETWORK, &moved(&[("10.0.5.13", "")]));
    assert_eq!(
        changed(STATIC, &after),
        [
            "# upgradectl: [Address]",
            "# upgradectl: Address=10.0.5.13/24",
            "# upgradectl: Broadcast=10.0.5.255",
            "# upgradectl: Label=eth0:1"
        ]
    );
    let after = guest.rewritten(NETWORK, &dhcp("eth0"));
    assert!(after.contains("[Network]\nDHCP=ipv4\n"), "{after}");
    assert!(after.contains("\n# upgradectl: Gateway=10.0.5.1\n"), "{after}");
    assert!(after.contains("\nAddress=2001:db8::12/64\n"), "{after}");
}

#[test]
fn networkd_hides_masks_and_drops_in() {
    let off = "[Match]\nName=eth0\n[Network]\nAddress=10.0.5.12/24\n";
    let guest = Guest::new(&[
        ("usr/lib/systemd/network/a.network", off),
        ("etc/systemd/network/a.network.d/x.conf", "[Network]\nAddress=10.0.5.13/24\n"),
    ]);
    assert_eq!(inspect(&guest.tree()).unwrap()[0].addresses.len(), 2);
    std::os::unix::fs::symlink("/dev/null", guest.root.path().join("etc/systemd/network/a.network")).unwrap();
    assert_eq!(inspect(&guest.tree()).unwrap(), []);
    // Shipped with systemd (80-container-ve.network): any free network is nobody's address.
    let shipped = "[Match]\nName=ve-*\nDriver=veth\n[Network]\nAddress=0.0.0.0/28\nDHCPServer=yes\n";
    let guest = Guest::new(&[("usr/lib/systemd/network/80-container-ve.network", shipped)]);
    assert_eq!(inspect(&guest.tree()).unwrap(), []);
}

#[test]
fn networkd_turns_the_first_match_to_dhcp() {
    let (first, second) = ("etc/systemd/network/10-a.network", "etc/systemd/network/99-b.network");
    let a = "[Match]\r\nName=lo et*\r\n[Network]\r\nDHCP=ipv6\r\nAddress=10.0.5.12/24\r\n";
    let b = "[Match]\nName=*\n[Network]\nAddress=10.0.5.13/24\n";
    let guest = Guest::new(&[(first, a), (second, b)]);
    let after = guest.rewritten(first, &dhcp("eth0"));
    assert_eq!(changed(a, &after), ["DHCP=yes", "# upgradectl: Address=10.0.5.12/24"]);
    assert_eq!(guest.plan(&dhcp("eth0")).unwrap().len(), 1);
}

#[test]
fn netplan_is_inspected_and_rewritten() {
    let guest = Guest::new(&[(NETPLAN, FORMS)]);
    let found = inspect(&guest.tree()).unwrap();
    let names: Vec<&str> = found.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(names, ["eth1", "eth2", "eth0"]);
    assert_eq!((found[2].ipv4, found[1].ipv4, found[2].addresses.len()), (Method::Static, Method::Dhcp, 3));
    assert_eq!(found[2].mac, Some("00:16:3e:00:05:0c".parse().unwrap()));
    let spec = moved(&[
        ("10.0.5.12", "10.0.5.16"),
        ("10.0.5.13", "10.0.5.17"),
        ("2001:db8::12", "2001:db8::16"),
        ("192.0.2.13", "192.0.2.17"),
    ]);
    let after = guest.rewritten(NETPLAN, &spec);
    assert_eq!(
        changed(FORMS, &after),
        [
            "        - \"10.0.5.16/24\"   # main, 10.0.5.12",
            "        - 10.0.5.17/24:",
            "        - 2001:db8::16/64",
            "    eth1: {addresses: [192.0.2.12/24, '192.0.2.17/24', \"192.0.2.14/24\"], dhcp4: false}",
        ]
    );
}

#[test]
fn netplan_takes_off() {
    let guest = Guest::new(&[(NETPLAN, FORMS)]);
    let after = guest.rewritten(NETPLAN, &moved(&[("10.0.5.13", ""), ("192.0.2.12", ""), ("192.0.2.14", "")]));
    assert!(after.contains("\n# upgradectl:         - 10.0.5.13/24:\n# upgradectl:             label: \"eth0:1\"\n# upgradectl:             lifetime: 0\n        - 2001"), "{after}");
    assert!(
        after.contains(
            "\n# upgradectl: 192.0.2.12/24, \"192.0.2.14/24\"\n    eth1: {addresses: ['192.0.2.13/24'], dhcp4: false}\n"
        ),
        "{after}"
    );
    let guest = Guest::new(&[(NETPLAN, MULTI)]);
    let after = guest.rewritten(NETPLAN, &moved(&[("10.100.1.38", ""), ("10.100.1.39", "")]));
    assert_eq!(changed(MULTI, &after).len(), 3);
    assert!(after.contains("\n# upgradectl:      addresses:\n"));
    let alone = "network:\n  ethernets:\n    eth0:\n      addresses:\n      - 10.0.5.12/24\n";
    let after = Guest::new(&[(NETPLAN, alone)]).rewritten(NETPLAN, &moved(&[("10.0.5.12", "")]));
    assert!(after.contains("    eth0:\n      dhcp4: false\n# upgradectl:       addresses:\n"), "{after}");
}

#[test]
fn netplan_turns_to_dhcp() {
    for (text, name) in [(MULTI, "enp3s0"), (GATEWAYS, "eno1"), (ROUTING, "ens5"), (FORMS, "eth0"), (FORMS, "eth1")] {
        let guest = Guest::new(&[(NETPLAN, text)]);
        let edits = guest.plan(&dhcp(name)).unwrap();
        guest.rewritten(NETPLAN, &dhcp(name));
        apply(&guest.tree(), &edits).unwrap();
        let interfaces = inspect(&guest.tree()).unwrap();
        let interface = interfaces.iter().find(|interface| interface.name == name).unwrap();
        assert_eq!(interface.ipv4, Method::Dhcp, "{}", guest.read(NETPLAN));
        assert!(interface.addresses.iter().all(|address| address.ip.is_ipv6()));
        assert!(interface.gateways.is_empty(), "{}", guest.read(NETPLAN));
    }
    let guest = Guest::new(&[(NETPLAN, BRIDGE)]);
    assert_eq!(guest.plan(&dhcp("br0")).unwrap(), []);
}

#[test]
fn pinned_hardware_addresses_follow() {
    let link = "etc/systemd/network/10-lan.link";
    let rules = "etc/udev/rules.d/70-persistent-net.rules";
    let files = [(INTERFACES, OLD), (NETWORK, STATIC), (link, LINK), (NETPLAN, FORMS), (rules, UDEV)];
    for (path, text) in files {
        let after = Guest::new(&[(path, text)]).rewritten(path, &pinned());
        let lines = changed(text, &after);
        assert_eq!(lines.len(), 1, "{path}: {lines:?}");
        let upper = if path == link { "00-16-3E-00-05-10" } else { "00:16:3E:00:05:10" };
        assert!(lines[0].contains(upper) || lines[0].contains("00:16:3e:00:05:10"), "{}", lines[0]);
    }
}

#[test]
fn nothing_is_half_done() {
    let spec = moved(&[("10.0.5.12", "10.0.5.16")]);
    let says = |files: &[(&str, &str)], what: &str| {
        let error = Guest::new(files).plan(&spec).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    says(&[(INTERFACES, "auto eth0\niface eth0 inet dhcp\n")], "address 10.0.5.12 stands in none");
    says(&[(INTERFACES, "iface eth0 inet static\n address 10.0.5\n")], "/etc/network/interfaces:2: \"10.0.5\"");
    says(&[(INTERFACES, "address 10.0.5.12\n")], "interfaces:1: option");
    says(&[(INTERFACES, "source $(ls)\n")], "needs a shell");
    says(&[(NETWORK, "[Network\nAddress=10.0.5.12/24\n")], "lan.network:1:");
    says(&[(NETPLAN, "network:\n  ethernets:\n    a: [\n")], "/etc/netplan/01.yaml:");
    says(&[(NETPLAN, "a: &x 1\nb: *x\n")], "alias");
    let guest = Guest::new(&[(INTERFACES, "")]);
    std::fs::write(guest.root.path().join(INTERFACES), b"# \xff\n").unwrap();
    assert!(guest.plan(&spec).unwrap_err().to_string().contains("not UTF-8 text (line 1)"));
    std::fs::remove_file(guest.root.path().join(INTERFACES)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", guest.root.path().join(INTERFACES)).unwrap();
    assert!(guest.plan(&spec).unwrap_err().to_string().contains("symbolic link to /etc/passwd; not followed"));
    let error = Guest::new(&[(INTERFACES, INSTALLED)]).plan(&dhcp("eth9")).unwrap_err().to_string();
    assert!(error.contains("eth9"), "{error}");
}

#[test]
fn sources_that_go_round_end() {
    let text =
        "source /etc/network/*\nsource interfaces\nsource ../../../../etc/network/interfaces\niface lo inet loopback\n";
    assert_eq!(inspect(&Guest::new(&[(INTERFACES, text)]).tree()).unwrap().len(), 1);
}

#[test]
fn patterns_match_as_in_glob_7() {
    for (pattern, name, expected) in [
        ("*", "", true),
        ("*.cfg", "a.cfg", true),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("[a-c]x", "bx", true),
        ("[!a-c]x", "bx", false),
        ("[]]x", "]x", true),
        ("[ab", "a", false),
        ("é*", "été", true),
        ("abc", "abcd", false),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    }
    assert!(!matches(&"*a".repeat(100), &"a".repeat(99)));
    assert!(matches(&"*a".repeat(100), &"a".repeat(250)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Around the address anything may stand; only the address changes.
    #[test]
    fn only_address_tokens_change(
        host in 1u8..=254, new in 1u8..=254, prefix in 8u8..=30, noise in "[ -~é]{0,40}", crlf: bool, gap in "[ \t]{1,4}",
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let text = format!(
            "# 10.9.8.{host} {noise}{end}auto eth0{end}iface eth0 inet static{end}{gap}address{gap}10.9.8.{host}/{prefix}{end}\
             {gap}dns-search{gap}{}{end}", noise.replace('\\', ""),
        );
        let guest = Guest::new(&[(INTERFACES, &text)]);
        let (old, new) = (format!("10.9.8.{host}"), format!("10.9.8.{new}"));
        prop_assume!(old != new);
        let after = guest.rewritten(INTERFACES, &moved(&[(&old, &new)]));
        prop_assert_eq!(after, text.replace(&format!("{old}/{prefix}"), &format!("{new}/{prefix}")));
    }

    /// Whatever the files hold, reading them ends without a panic, and a plan that is made is complete.
    #[test]
    fn any_text_is_read_or_refused(cut in 0usize..900, insert in "[ -~\n\t\r\\\\é]{0,12}", which in 0usize..8) {
        let (path, text) = [
            (INTERFACES, OLD),
            (NETWORK, STATIC),
            (NETPLAN, FORMS),
            (INTERFACES, INSTALLED),
            (red_hat::ETH0, red_hat::PLAIN),
            (red_hat::ETH0, red_hat::NUMBERED),
            (red_hat::KEYFILE, red_hat::PROFILE),
            (red_hat::KEYFILE, red_hat::LEGACY),
        ][which];
        let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let text = format!("{}{insert}{}", &text[..cut], &text[cut..]);
        let guest = Guest::new(&[(path, &text)]);
        let _ = inspect(&guest.tree());
        for spec in [moved(&[("10.0.5.12", "10.0.5.16"), ("10.0.5.13", "")]), dhcp("eth0"), pinned()] {
            if let Ok(edits) = guest.plan(&spec) {
                apply(&guest.tree(), &edits).unwrap();
                prop_assert_eq!(guest.plan(&spec).unwrap(), []);
                for edit in &edits {
                    let undo = FileEdit { before: edit.after.clone(), after: edit.before.clone(), ..edit.clone() };
                    apply(&guest.tree(), &[undo]).unwrap();
                }
                prop_assert_eq!(guest.read(path), text.clone());
            }
        }
    }
}
