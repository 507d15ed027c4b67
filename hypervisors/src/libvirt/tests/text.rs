//! Reading and editing, over the fixtures.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use crate::libvirt::{edit, xml};
use crate::{DefinitionEdit, DiskEdit, DiskSource, HostKernel, MacAddr, Mark, Role, VolumeKind, VolumeRef};

const LXC: &str = include_str!("../../../tests/fixtures/libvirt-9.0/lxc.xml");
const XEN: &str = include_str!("../../../tests/fixtures/libvirt-9.0/xen-pv.xml");
const QEMU: &str = include_str!("../../../tests/fixtures/libvirt-9.0/qemu.xml");
const TEST: &str = include_str!("../../../tests/fixtures/libvirt-9.0/test.xml");
const ALL: [&str; 4] = [LXC, XEN, QEMU, TEST];

fn mark() -> Mark {
    Mark { run: "mercure--k3f9".to_owned(), role: Role::Clone }
}

fn set_mark(mark: Option<Mark>) -> DefinitionEdit {
    DefinitionEdit { mark: Some(mark), ..DefinitionEdit::default() }
}

fn volume(path: &str) -> VolumeRef {
    VolumeRef { kind: VolumeKind::Btrfs, path: PathBuf::from(path) }
}

#[test]
fn a_container_is_read() {
    let facts = xml::read(LXC).unwrap();
    assert_eq!((facts.kind.as_str(), facts.name.as_str()), ("lxc", "mercure"));
    assert_eq!(facts.uuid.as_deref(), Some("0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"));
    assert_eq!((facts.memory_bytes, facts.vcpus), (256 << 20, 2));
    let disks: Vec<_> = facts.disks.iter().map(|d| (d.name.as_str(), &d.source, d.root, d.readonly)).collect();
    assert_eq!(
        disks,
        [
            ("/", &DiskSource::Directory("/srv/guests/mercure".into()), true, false),
            ("/srv/mail", &DiskSource::Directory("/srv/mail/mercure".into()), false, true),
            ("/tmp", &DiskSource::Other("ram 10240".to_owned()), false, false),
        ]
    );
    let nics: Vec<_> = facts.nics.iter().map(|n| (n.name.as_deref(), n.bridge.as_str())).collect();
    assert_eq!(nics, [(Some("lan0"), "br5"), (Some("eth1"), "br6")]);
    assert_eq!(facts.nics[0].filter.as_deref(), Some("clean-traffic"));
    assert_eq!(facts.nics[0].addresses, ["10.0.5.12".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(facts.mark, None);
}

#[test]
fn a_kernel_of_the_host_is_read_and_replaced() {
    let old = HostKernel {
        kernel: "/boot/vmlinuz-6.1.0-13-amd64".into(),
        initrd: Some("/boot/initrd.img-6.1.0-13-amd64".into()),
        arguments: Some("root=/dev/xvda2 ro console=hvc0 \"quoted\"".into()),
    };
    assert_eq!(xml::read(XEN).unwrap().kernel.as_ref(), Some(&old));
    for other in [LXC, QEMU, TEST] {
        assert_eq!(xml::read(other).unwrap().kernel, None);
    }
    let with = |text: &str, kernel: &HostKernel| {
        edit::apply(text, &DefinitionEdit { kernel: Some(kernel.clone()), ..DefinitionEdit::default() })
    };
    assert_eq!(with(XEN, &old).unwrap(), XEN);
    let new =
        HostKernel { kernel: "/boot/new & <6>".into(), initrd: None, arguments: Some("root=/dev/xvda2 rw".into()) };
    let text = with(XEN, &new).unwrap();
    assert_eq!(xml::read(&text).unwrap().kernel.as_ref(), Some(&new));
    assert_eq!(text.lines().count() + 1, XEN.lines().count(), "only the initrd's line is gone");
    let back = with(&text, &old).unwrap();
    assert_eq!(xml::read(&back).unwrap().kernel.as_ref(), Some(&old));
    assert!(with(LXC, &new).is_err());
    // A boot loader takes the guest's own.
    let loader = XEN.replace("/boot/vmlinuz-6.1.0-13-amd64", "/usr/lib/xen/boot/pv-grub-x86_64");
    assert_eq!(xml::read(&loader).unwrap().kernel, None);
}

#[test]
fn a_xen_guest_moves_to_another_logical_volume() {
    let facts = xml::read(XEN).unwrap();
    let name = facts.disks[0].name.clone();
    let path: std::path::PathBuf = "/dev/vg1/mercure--k3f9-xvda".into();
    let to = |kind| DefinitionEdit {
        disks: [(name.clone(), DiskEdit::Source(VolumeRef { kind, path: path.clone() }))].into(),
        ..DefinitionEdit::default()
    };
    let text = edit::apply(XEN, &to(VolumeKind::LvmThick)).unwrap();
    assert_eq!(xml::read(&text).unwrap().disks[0].source, DiskSource::Block(path.clone()));
    // A device is no tree.
    assert!(edit::apply(XEN, &to(VolumeKind::Btrfs)).is_err());
}

#[test]
fn a_xen_guest_is_read() {
    let facts = xml::read(XEN).unwrap();
    assert_eq!(facts.memory_bytes, 512 << 20);
    let disks: Vec<_> = facts.disks.iter().map(|d| (d.name.as_str(), d.root, d.shareable)).collect();
    assert_eq!(disks, [("xvda1", false, false), ("xvda2", true, false), ("xvdb", false, true)]);
    assert_eq!(facts.disks[1].source, DiskSource::Block("/dev/vg0/neptune-disk".into()));
    assert_eq!((facts.nics[0].name.as_deref(), facts.nics[0].bridge.as_str()), (None, "xenbr0"));
    assert_eq!(facts.nics[0].addresses.len(), 1);
}

#[test]
fn a_qemu_guest_is_read() {
    let facts = xml::read(QEMU).unwrap();
    let disks: Vec<_> = facts.disks.iter().map(|d| (d.name.as_str(), d.root, d.readonly)).collect();
    assert_eq!(disks, [("hdc", false, true), ("vda", true, false), ("vdb", false, false)]);
    assert_eq!(facts.disks[2].source, DiskSource::Other("network rbd pool/image".to_owned()));
    assert_eq!(facts.on_network, [true, false]);
    assert_eq!(facts.nics[1].mac, None);
}

#[test]
fn a_clone_differs_in_the_named_lines_only() {
    let change = DefinitionEdit {
        addresses: BTreeMap::new(),
        name: Some("mercure--k3f9".to_owned()),
        uuid: Some("11111111-2222-4333-8444-555555555555".to_owned()),
        mark: Some(Some(mark())),
        macs: vec![Some(MacAddr([0, 0x16, 0x3e, 1, 2, 3])), None],
        disks: BTreeMap::from([
            ("/".to_owned(), DiskEdit::Source(volume("/srv/guests/a & b's"))),
            ("/srv/mail".to_owned(), DiskEdit::Remove),
        ]),
        memory_bytes: Some(128 << 20),
        vcpus: Some(1),
        kernel: None,
    };
    let edited = edit::apply(LXC, &change).unwrap();
    insta::assert_snapshot!(diff(LXC, &edited), @r#"
    -  <name>mercure</name>
    -  <uuid>0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d</uuid>
    +  <name>mercure--k3f9</name>
    +  <uuid>11111111-2222-4333-8444-555555555555</uuid>
    +    <upgradectl:run xmlns:upgradectl="urn:upgradectl:run:1" id="mercure--k3f9" role="clone"/>
    -  <memory unit='KiB'>262144</memory>
    -  <currentMemory unit='KiB'>262144</currentMemory>
    -  <vcpu placement='static'>2</vcpu>
    +  <memory unit='KiB'>131072</memory>
    +  <currentMemory unit='KiB'>131072</currentMemory>
    +  <vcpu placement='static'>1</vcpu>
    -      <source dir='/srv/guests/mercure'/>
    +      <source dir='/srv/guests/a &amp; b&apos;s'/>
    -    <filesystem type='mount' accessmode='passthrough'>
    -      <source dir='/srv/mail/mercure'/>
    -      <target dir='/srv/mail'/>
    -      <readonly/>
    -    </filesystem>
    -      <mac address='00:16:3e:00:05:0c'/>
    +      <mac address='00:16:3e:01:02:03'/>
    "#);
}

/// Lines that only one of the texts has, in order; a plain greedy comparison, enough for edits this small.
fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        let (a, b) = (old.get(i), new.get(j));
        if a == b {
            (i, j) = (i + 1, j + 1);
        } else if let Some(a) = a.filter(|a| !new[j..].contains(a) || b.is_some_and(|b| old[i..].contains(b))) {
            out.push_str(&format!("-{a}\n"));
            i += 1;
        } else if let Some(b) = b {
            out.push_str(&format!("+{b}\n"));
            j += 1;
        }
    }
    out
}

#[test]
fn the_mark_comes_and_goes_without_a_trace() {
    let heads = [
        "<metadata/>",
        "<metadata></metadata>",
        "<metadata>\n\t </metadata >",
        "<metadata\n/>",
        "<!-- none -->",
        "<metadata><!-- only this --></metadata>",
        "<metadata><a:b xmlns:a='urn:a'/></metadata>",
        "<metadata>\n    <a:b xmlns:a=\"urn:a\"><upgradectl:run xmlns:upgradectl='urn:other'/></a:b>\n  </metadata>",
    ];
    let odd = heads.map(|head| format!("<domain type='lxc'>\n  <name>m</name>\n  {head}\n<x y='&#65;'/></domain>"));
    let flat = "<domain type='lxc'><name>m</name><memory>1024</memory></domain>".to_owned();
    for text in odd.into_iter().chain([flat]).chain(ALL.map(str::to_owned)) {
        let marked = edit::apply(&text, &set_mark(Some(mark()))).unwrap();
        assert_eq!(xml::read(&marked).unwrap().mark, Some(mark()), "{marked}");
        let other = Mark { run: "x--1".to_owned(), role: Role::Production };
        let twice = edit::apply(&marked, &set_mark(Some(other.clone()))).unwrap();
        assert_eq!(xml::read(&twice).unwrap().mark, Some(other), "{twice}");
        assert_eq!(edit::apply(&twice, &set_mark(None)).unwrap(), text);
        assert_eq!(edit::apply(&text, &set_mark(None)).unwrap(), text);
    }
}

#[test]
fn a_missing_uuid_and_hardware_address_are_added() {
    let text = QEMU.replace("  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>\n", "");
    let change = DefinitionEdit {
        addresses: BTreeMap::new(),
        uuid: Some("c7a5fdbd-edaf-9455-926a-d65c16db1809".to_owned()),
        macs: vec![None, Some(MacAddr([2, 0, 0, 0, 0, 1]))],
        ..DefinitionEdit::default()
    };
    let bridge = "    <interface type='bridge'>\n";
    let wanted = QEMU.replace(bridge, &format!("{bridge}      <mac address='02:00:00:00:00:01'/>\n"));
    assert_eq!(edit::apply(&text, &change).unwrap(), wanted);
}

#[test]
fn memory_keeps_its_unit_where_it_can() {
    let memory = |bytes| edit::apply(XEN, &DefinitionEdit { memory_bytes: Some(bytes), ..DefinitionEdit::default() });
    assert!(memory(400 << 20).unwrap().contains("<memory unit=\"MiB\">400</memory>"));
    assert!(
        memory(1 << 10)
            .unwrap()
            .contains("<memory unit=\"KiB\">1</memory><currentMemory unit=\"KiB\">1</currentMemory>")
    );
    assert!(memory(1000).is_err());
}

#[test]
fn what_cannot_be_done_is_refused() {
    let refused = |text: &str, change: DefinitionEdit| edit::apply(text, &change).unwrap_err();
    let source = |name: &str, volume: VolumeRef| DefinitionEdit {
        disks: BTreeMap::from([(name.to_owned(), DiskEdit::Source(volume))]),
        ..DefinitionEdit::default()
    };
    refused(XEN, source("xvda2", volume("/srv/x")));
    refused(LXC, source("/tmp", volume("/srv/x")));
    refused(LXC, source("/nowhere", volume("/srv/x")));
    refused(LXC, source("/", volume("relative")));
    refused(LXC, source("/", volume("/srv/\u{1}")));
    let without =
        DefinitionEdit { disks: BTreeMap::from([("/".to_owned(), DiskEdit::Remove)]), ..DefinitionEdit::default() };
    refused(LXC, without);
    refused(LXC, DefinitionEdit { macs: vec![None, None, Some(MacAddr([2; 6]))], ..DefinitionEdit::default() });
    refused(LXC, DefinitionEdit { uuid: Some("mercure".to_owned()), ..DefinitionEdit::default() });
    refused(LXC, DefinitionEdit { name: Some(String::new()), ..DefinitionEdit::default() });
    refused(LXC, DefinitionEdit { vcpus: Some(0), ..DefinitionEdit::default() });
    let commented = LXC.replace("<name>mercure", "<name><!-- -->mercure");
    refused(&commented, DefinitionEdit { name: Some("x".to_owned()), ..DefinitionEdit::default() });
}

#[test]
fn hostile_texts_are_refused() {
    let domain = |inside: &str| format!("<domain type='lxc'><name>m</name>{inside}</domain>");
    let deep = "<a>".repeat(100) + &"</a>".repeat(100);
    let ours = "<o:run xmlns:o='urn:upgradectl:run:1' id='a' role='clone'/>";
    let bad = [
        String::new(),
        "x".to_owned(),
        "<network/>".to_owned(),
        domain("") + "<domain/>",
        domain("") + "x",
        domain("<a>"),
        domain("</a>"),
        domain("<a b='1' b='2'/>"),
        domain("&lol;"),
        domain("<title>&lol;</title>"),
        domain("<title a='&lol;'/>"),
        domain(&deep),
        domain(&" ".repeat(2 << 20)),
        domain("<memory unit='furlong'>1</memory>"),
        domain("<memory unit='TiB'>99999999999</memory>"),
        domain("<vcpu>-1</vcpu>"),
        domain("<devices><interface><mac address='zz'/></interface></devices>"),
        domain(&format!("<metadata>{ours}{ours}</metadata>")),
        domain("<metadata><o:run xmlns:o='urn:upgradectl:run:1' id='a' role='king'/></metadata>"),
        format!("<!DOCTYPE domain [<!ENTITY lol 'x'>]>{}", domain("")),
        format!("<?xml version='1.0' encoding='UTF-16'?>{}", domain("")),
    ];
    for text in bad {
        assert!(xml::read(&text).is_err(), "{:?}", &text[..text.len().min(120)]);
    }
    assert!(xml::read(&domain("<title><![CDATA[<a>&b;]]></title>")).is_ok());
}

proptest! {
    #[test]
    fn an_edit_and_its_inverse_give_the_same_bytes(
        which in 0..ALL.len(),
        name in proptest::option::of("[ -~é]{1,20}"),
        uuid in proptest::option::of("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
        macs in proptest::collection::vec(proptest::option::of(any::<[u8; 6]>().prop_map(MacAddr)), 0..2),
        path in proptest::option::of("/[ -~\n\té]{0,30}"),
        mebibytes in proptest::option::of(1_u64..1 << 20),
        vcpus in proptest::option::of(1_u32..512),
        marked in any::<bool>(),
    ) {
        let text = ALL[which];
        let before = xml::read(text).unwrap();
        // a card without an address cannot be given back its lack of one
        let macs: Vec<_> = macs.into_iter().zip(&before.nics).map(|(mac, nic)| mac.filter(|_| nic.mac.is_some())).collect();
        let root = before.disks.iter().find_map(|disk| match &disk.source {
            DiskSource::Directory(path) if disk.root => Some((disk.name.clone(), path.to_str().unwrap().to_owned())),
            _ => None,
        });
        let disks = |path: &str| root.iter().map(|(name, _)| (name.clone(), DiskEdit::Source(volume(path)))).collect();
        let change = DefinitionEdit {
            addresses: BTreeMap::new(),
            name: name.clone().filter(|name| name.trim() == name),
            uuid: uuid.clone(),
            mark: marked.then(|| Some(mark())),
            macs: macs.clone(),
            disks: path.as_deref().map(disks).unwrap_or_default(),
            memory_bytes: mebibytes.map(|n| n << 20),
            vcpus,
            kernel: None,
        };
        let edited = edit::apply(text, &change).unwrap();
        let inverse = DefinitionEdit {
            addresses: BTreeMap::new(),
            name: Some(before.name.clone()),
            uuid: before.uuid.clone(),
            mark: Some(None),
            macs: before.nics.iter().map(|nic| nic.mac).collect(),
            disks: root.as_ref().map(|(_, path)| disks(path)).unwrap_or_default(),
            memory_bytes: Some(before.memory_bytes),
            vcpus: Some(before.vcpus),
            kernel: None,
        };
        // a balloon that differed from the memory cannot be told to differ again
        let same = before.current_memory_bytes == Some(before.memory_bytes);
        let inverse = if same { inverse } else { DefinitionEdit { memory_bytes: None, ..inverse } };
        prop_assume!(same || mebibytes.is_none());
        prop_assert_eq!(edit::apply(&edited, &inverse).unwrap(), text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(<|>|/|a|domain|type='x'| |&|;|#|!|-|\\[|\\]|\\?|'|\"|é|name|\n){0,60}") {
        let _ = xml::read(&text);
        let _ = xml::read(&format!("<domain type='lxc'><name>m</name>{text}</domain>"));
    }
}
