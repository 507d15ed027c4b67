//! Reading and editing, over the fixtures and over texts made at random.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::xl::cfg::{Cfg, Value};
use crate::xl::{edit, facts, spec};
use crate::{DefinitionEdit, DiskEdit, DiskSource, HostKernel, MacAddr, Mark, Role, VolumeKind, VolumeRef};

pub(super) const MERCURE: &str = include_str!("../../../tests/fixtures/xen-4.17/mercure.cfg");
const TOOLS: &str = include_str!("../../../tests/fixtures/xen-4.17/xen-tools.cfg");
const GALAAD: &str = include_str!("../../../tests/fixtures/xen-4.17/galaad.cfg");
const PYTHON: &str = include_str!("../../../tests/fixtures/xen-4.17/python.cfg");
const ALL: [&str; 3] = [MERCURE, TOOLS, GALAAD];

/// A logical volume, as far as a definition is concerned: a path in /dev.
fn volume(path: &str) -> DiskEdit {
    DiskEdit::Source(VolumeRef { kind: VolumeKind::Sim, path: path.into() })
}

fn set_mark(mark: Option<Mark>) -> DefinitionEdit {
    DefinitionEdit { mark: Some(mark), ..DefinitionEdit::default() }
}

fn mark(role: Role) -> Mark {
    Mark { run: "mercure--k3f9".into(), role }
}

fn disks<const N: usize>(edits: [(&str, DiskEdit); N]) -> DefinitionEdit {
    let disks = edits.into_iter().map(|(name, edit)| (name.to_owned(), edit)).collect();
    DefinitionEdit { disks, ..DefinitionEdit::default() }
}

/// The lines that only one of two texts has.
fn changed(before: &str, after: &str) -> String {
    let only = |sign: char, in_this: &str, not_there: &str| {
        let missing = in_this.lines().filter(|line| !not_there.lines().any(|other| other == *line));
        missing.map(|line| format!("{sign}{line}\n")).collect::<String>()
    };
    only('-', before, after) + &only('+', after, before)
}

#[test]
fn an_operators_file_is_read() {
    let facts = facts::read(MERCURE).unwrap();
    assert_eq!((facts.name.as_str(), &facts.uuid, &facts.mark), ("mercure", &None, &None));
    assert_eq!((facts.memory_bytes, facts.maxmem_bytes, facts.vcpus), (512 << 20, None, 1));
    let disks: Vec<_> = facts.disks.iter().map(|d| (d.name.as_str(), d.source.clone(), d.root, d.readonly)).collect();
    let block = |path: &str| DiskSource::Block(path.into());
    assert_eq!(
        disks,
        [
            ("xvda1", block("/dev/vg1/mercure"), true, false),
            ("xvda2", block("/dev/vg1/mercure_swap"), false, false),
            ("xvdb1", block("/dev/vg1/mail"), false, false),
        ]
    );
    let nics: Vec<_> =
        facts.nics.iter().map(|n| (n.mac.map(|m| m.to_string()), n.bridge.as_str(), n.addresses.len())).collect();
    assert_eq!(nics, [(Some("00:16:3e:00:05:0c".to_owned()), "br5", 1), (None, "br6", 0)]);
}

#[test]
fn a_kernel_of_the_host_is_read_and_replaced() {
    let text = "name = 'm' # the mail host\nkernel = \"/boot/vmlinuz-6.1\"\nramdisk='/boot/initrd-6.1'\nroot = '/dev/xvda1 ro'\n\
                extra = 'console=hvc0'\ndisk = ['phy:/dev/vg1/m,xvda1,w']\n";
    let old = HostKernel {
        kernel: "/boot/vmlinuz-6.1".into(),
        initrd: Some("/boot/initrd-6.1".into()),
        arguments: Some("root=/dev/xvda1 ro console=hvc0".into()),
    };
    assert_eq!(facts::read(text).unwrap().kernel.as_ref(), Some(&old));
    let with = |kernel: &HostKernel| {
        edit::apply(text, &DefinitionEdit { kernel: Some(kernel.clone()), ..DefinitionEdit::default() })
    };
    assert_eq!(with(&old).unwrap(), text);
    let new =
        HostKernel { kernel: "/boot/vmlinuz-6.12".into(), initrd: None, arguments: Some("root=/dev/xvda1 rw".into()) };
    let edited = with(&new).unwrap();
    assert_eq!(
        changed(text, &edited),
        "-kernel = \"/boot/vmlinuz-6.1\"\n-ramdisk='/boot/initrd-6.1'\n+cmdline = 'root=/dev/xvda1 rw'\n\
         +kernel = \"/boot/vmlinuz-6.12\"\n+ramdisk=''\n"
    );
    assert_eq!(facts::read(&edited).unwrap().kernel.as_ref(), Some(&new));
    // A boot loader takes the guest's own.
    for own in ["bootloader = 'pygrub'", "kernel = '/usr/lib/xen-4.17/boot/pv-grub-x86_64.gz'"] {
        let loaded = format!("{text}{own}\n");
        assert_eq!(facts::read(&loaded).unwrap().kernel, None, "{own}");
    }
    assert!(edit::apply("name = 'm'\n", &DefinitionEdit { kernel: Some(new), ..DefinitionEdit::default() }).is_err());
}

#[test]
fn what_xen_tools_prints_is_read() {
    let facts = facts::read(TOOLS).unwrap();
    assert_eq!((facts.name.as_str(), facts.memory_bytes, facts.maxmem_bytes), ("echelon", 256 << 20, Some(512 << 20)));
    assert!(facts.disks[0].root && !facts.disks[1].root);
    assert_eq!(facts.nics[0].mac.unwrap().to_string(), "00:16:3e:00:05:0c");
}

#[test]
fn named_parameters_joined_lists_and_the_last_of_two_names_are_read() {
    let facts = facts::read(GALAAD).unwrap();
    assert_eq!(facts.name, "galaad");
    assert_eq!(facts.uuid.as_deref(), Some("5b3a1f00-0000-4000-8000-00000000000a"));
    assert_eq!((facts.memory_bytes, facts.vcpus), (512 << 20, 4));
    let disks: Vec<_> = facts.disks.iter().map(|d| (d.name.as_str(), d.source.clone(), d.root, d.readonly)).collect();
    assert_eq!(
        disks,
        [
            ("hda", DiskSource::Block("/dev/vg1/galahad,with=comma".into()), true, false),
            ("hdc", DiskSource::File("/srv/iso/install.iso".into()), false, true),
            ("xvdb", DiskSource::File("/srv/images/data.qcow2".into()), false, true),
            ("xvdc", DiskSource::Other("script block-drbd mail".into()), false, false),
        ]
    );
    let nics: Vec<_> = facts.nics.iter().map(|n| (n.bridge.as_str(), n.addresses.len())).collect();
    assert_eq!(nics, [("xenbr0", 0), ("eth0", 2)]);
    assert_eq!(Cfg::parse(GALAAD).unwrap().text("extra").unwrap().unwrap(), "root=/dev/nowhere console=\"hvc0\"");
}

/// The answers are those of libxlutil 4.17.
#[test]
fn what_xl_refuses_is_refused_with_its_line_and_what_helps() {
    let refused = [
        ("name = \"x\"\n# no line end", 2, "put a line end"),
        ("name = \"x\"\r\n", 1, "sed -i"),
        ("\u{feff}name = \"x\"\n", 1, "take it out"),
        (PYTHON, 2, "write the values out"),
        ("a = 1\ndef f():\n  return 1\n", 2, "write the values out"),
        ("a = (\"x\")\n", 1, "write the values out"),
        ("a = \"%s\" % 1\n", 1, "write the values out"),
        ("a = \"x\" + \"y\"\n", 1, "write the values out"),
        ("a = \"\"\"x\"\"\"\n", 1, "one line"),
        ("a = \"x\n", 1, "one line"),
        ("a = -1\n", 1, "in quotes"),
        ("a = True\n", 1, "write the values out"),
        ("a = b\n", 1, "string in quotes"),
        ("a = 1 b = 2\n", 1, "one setting to a line"),
        ("a = [ 'x' 'y' ]\n", 1, "wants"),
        ("a = '\\x41'\n", 1, "character itself"),
        ("a = '\\101'\n", 1, "character itself"),
    ];
    for (text, line, help) in refused {
        let wrong = Cfg::parse(text).map(|_| text).unwrap_err();
        assert_eq!(wrong.line, line, "{text:?}: {wrong}");
        assert!(wrong.help.as_deref().unwrap_or_default().contains(help), "{text:?}: {wrong:?}");
    }
    for text in [
        "a\n=1",
        "a=\n1",
        "a=[,]",
        "a=['x',,'y']",
        "A=1",
        "_a=1",
        "a=1_0",
        "a=12z",
        "a='\\q'",
        "a=[1",
        "=1",
        "a;b",
        "a=['x']\na+='y'\n",
        "a='x'\na+=['y']\n",
        "\u{c}a=1",
        "a=1,\n",
    ] {
        assert!(Cfg::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn what_xl_takes_is_taken() {
    let said = |text: &str| {
        let cfg = Cfg::parse(text).unwrap();
        cfg.effective("a").iter().map(|setting| setting.value.said()).collect::<Vec<_>>().join("+")
    };
    assert_eq!(said("a=1"), "\"1\"");
    assert_eq!(said("a=1;a=2\n"), "\"2\"");
    assert_eq!(said("a='x\\'y'\n"), "\"x'y\"");
    assert_eq!(said("a=\"é\\\"\" #ü\n"), "\"é\\\"\"");
    assert_eq!(said("a=['x',\n\n# c\n'y',]\n"), "[\"x\",\"y\"]");
    assert_eq!(said("a=['x'\n,'y']\n"), "[\"x\",\"y\"]");
    assert_eq!(said("a=[['x','y'],'z']\n"), "[[\"x\",\"y\"],\"z\"]");
    assert_eq!(said("a=['x'];a+=['y'];a=['z']\n"), "[\"z\"]");
    assert_eq!(said("a='x'\na+='y'"), "\"x\"+\"y\"");
    assert_eq!(said("a+='y'\n"), "\"y\"");
    assert_eq!(said("a=[]\n;;\n"), "[]");
    assert_eq!(said("a =\t[ 1 , 0x1f ]\t\n"), "[\"1\",\"0x1f\"]");
    assert_eq!(Cfg::parse("a='0x10'\n").unwrap().number("a").unwrap(), Some(16));
    assert_eq!(Cfg::parse("a=010\n").unwrap().number("a").unwrap(), Some(8));
    assert!(Cfg::parse("a='many'\n").unwrap().number("a").is_err());
}

/// After xl's own test data (xl-disk-configuration(5)).
#[test]
fn disks_are_read_in_every_form() {
    let seen = |text: &str| {
        let disk = spec::disk(text).unwrap();
        (disk.target, disk.vdev, disk.format.unwrap_or_default(), disk.readonly, disk.cdrom, disk.script)
    };
    let volume = ("/dev/vg/guest-volume".to_owned(), "hda".to_owned(), "raw".to_owned(), false, false, None);
    for text in [
        "/dev/vg/guest-volume,,hda",
        "/dev/vg/guest-volume,raw,hda,rw",
        "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
        "raw:/dev/vg/guest-volume,hda,w",
    ] {
        assert_eq!(seen(text), volume, "{text}");
    }
    let image = ("/root/image.iso".to_owned(), "hdc".to_owned(), "raw".to_owned(), true, true, None);
    for text in [
        "/root/image.iso,,hdc,cdrom",
        "/root/image.iso,,hdc,,cdrom",
        "/root/image.iso,raw,hdc,devtype=cdrom",
        "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",
        "raw:/root/image.iso,hdc:cdrom,ro",
    ] {
        assert_eq!(seen(text), image, "{text}");
    }
    for text in [
        "devtype=cdrom,,,hdc",
        ",,hdc:cdrom,r",
        ",hdc:cdrom,r",
        "vdev=hdc,access=r,devtype=cdrom,target=",
        ",empty,hdc:cdrom,r",
    ] {
        assert_eq!((seen(text).0.as_str(), seen(text).1.as_str(), seen(text).4), ("", "hdc", true), "{text}");
    }
    let script = seen("iscsi:iqn.2001-05.com.example:0-8a-x,xvda,w");
    assert_eq!((script.0.as_str(), script.5.as_deref()), ("iqn.2001-05.com.example:0-8a-x", Some("block-iscsi")));
    // what the seed's files hold, the stray quote and comma of its prose aside
    assert!(seen("phy:/dev/etherd/e0.0,hda10,r").3);
    assert_eq!(seen("tap:aio:/srv/x.img,xvda,w").0, "/srv/x.img");
    for text in [
        "",
        "phy:/dev/a",
        "phy:/dev/a,xvda,w!",
        "what:/dev/a,xvda,w",
        "/dev/a,raw,xvda,w,w",
        "/dev/a=b,xvda",
        "size=3,/dev/a,,xvda",
        "format=raw,format=qcow2,vdev=xvda,target=/a",
        "target=/a,vdev=xvda",
        ",,xvda,w",
    ] {
        assert!(spec::disk(text).is_err(), "{text:?}: {:?}", spec::disk(text));
    }
}

#[test]
fn a_clones_definition_is_the_originals_but_for_what_was_asked() {
    let clone = DefinitionEdit {
        name: Some("mercure--k3f9".into()),
        uuid: Some("11111111-2222-4333-8444-555555555555".into()),
        mark: Some(Some(mark(Role::Clone))),
        macs: vec![Some("00:16:3e:00:05:10".parse().unwrap()), Some("00:16:3e:00:06:10".parse().unwrap())],
        addresses: [("10.0.5.12".parse().unwrap(), Some("10.0.5.16".parse().unwrap()))].into(),
        memory_bytes: Some(256 << 20),
        vcpus: Some(2),
        ..disks([
            ("xvda1", volume("/dev/vg1/mercure--k3f9-xvda1")),
            ("xvda2", volume("/dev/vg1/mercure--k3f9-xvda2")),
            ("xvdb1", DiskEdit::Remove),
        ])
    };
    let text = edit::apply(MERCURE, &clone).unwrap();
    insta::assert_snapshot!(changed(MERCURE, &text), @r#"
    -name    = "mercure"
    -memory  = '512'
    -    'phy:/dev/vg1/mercure,xvda1,w',         # /
    -    'phy:vg1/mercure_swap,xvda2,w',
    -    'phy:/dev/vg1/mail,xvdb1,w',            # /srv/mail
    -vif = [ 'mac=00:16:3e:00:05:0c, bridge=br5, ip=10.0.5.12, vifname=mercure.0',
    -        'bridge=br6' ]
    +# upgradectl run mercure--k3f9 role clone
    +name    = "mercure--k3f9"
    +uuid = "11111111-2222-4333-8444-555555555555"
    +vcpus = 2
    +memory  = '256'
    +    'phy:/dev/vg1/mercure--k3f9-xvda1,xvda1,w',         # /
    +    'phy:/dev/vg1/mercure--k3f9-xvda2,xvda2,w',
    +vif = [ 'mac=00:16:3e:00:05:10, bridge=br5, ip=10.0.5.16',
    +        'mac=00:16:3e:00:06:10,bridge=br6' ]
    "#);
}

#[test]
fn addresses_of_cards_follow_the_guests() {
    let moved = |vif: &str, pairs: &[(&str, Option<&str>)]| {
        let text = format!("name='x'\nvif=['{vif}']\n");
        let addresses = pairs.iter().map(|(old, new)| (old.parse().unwrap(), new.map(|new| new.parse().unwrap())));
        let edit = DefinitionEdit { name: Some("y".into()), addresses: addresses.collect(), ..Default::default() };
        let edited = edit::apply(&text, &edit).unwrap();
        edited.strip_prefix("name='y'\nvif=['").unwrap().strip_suffix("']\n").unwrap().to_owned()
    };
    let old = "10.0.5.12";
    assert_eq!(
        moved("ip=10.0.5.12 2001:db8::1,mac=0:16:3e:0:0:1", &[(old, Some("10.0.5.16"))]),
        "ip=10.0.5.16 2001:db8::1,mac=0:16:3e:0:0:1"
    );
    assert_eq!(moved("ip=10.0.5.12/24,bridge=b", &[(old, Some("10.0.5.16"))]), "ip=10.0.5.16/24,bridge=b");
    assert_eq!(moved("bridge=b,ip=10.0.5.12,vifname=v", &[(old, None)]), "bridge=b");
    assert_eq!(moved("vifname=v,ip=10.0.5.12,bridge=b", &[(old, None)]), "bridge=b");
    assert_eq!(moved("ip=10.0.5.12,vifname=v", &[(old, None)]), "");
    assert_eq!(moved("ip=10.0.9.9,bridge=b", &[(old, None)]), "ip=10.0.9.9,bridge=b");
}

#[test]
fn forms_and_options_of_disks_stay() {
    let named = "name='x'\ndisk=['format=raw,vdev=xvda,access=w,backendtype=phy,discard,target=/dev/vg0/a']\n";
    let edited = edit::apply(named, &disks([("xvda", volume("/dev/vg0/b,c"))])).unwrap();
    assert_eq!(edited, named.replace("/dev/vg0/a", "/dev/vg0/b,c"), "target= takes the rest, commas included");
    let positional = "name='x'\ndisk=['phy:/dev/vg0/a,xvda,w']\n";
    let edited = edit::apply(positional, &disks([("xvda", volume("/dev/vg0/b"))])).unwrap();
    assert_eq!(edited, positional.replace("/dev/vg0/a", "/dev/vg0/b"));
    let wrong = edit::apply(positional, &disks([("xvda", volume("/dev/vg0/b,c"))])).unwrap_err();
    assert!(wrong.help.unwrap().contains("target="), "a comma would end a positional target");
    // the same volume, written otherwise, is left as it is written
    let short = "name='x'\ndisk=['phy:vg0/a,xvda,w']\n";
    assert_eq!(edit::apply(short, &disks([("xvda", volume("/dev/vg0/a"))])).unwrap(), short);
}

#[test]
fn disks_are_taken_out_of_lists_of_every_layout() {
    let removed = |list: &str, gone: &[&str]| {
        let text = format!("name = 'x'\ndisk = {list}\nvcpus = 1\n");
        let edits = gone.iter().map(|name| ((*name).to_owned(), DiskEdit::Remove)).collect();
        let edited = edit::apply(&text, &DefinitionEdit { disks: edits, ..Default::default() }).unwrap();
        edited.strip_prefix("name = 'x'\ndisk = ").unwrap().strip_suffix("\nvcpus = 1\n").unwrap().to_owned()
    };
    let (a, b, c) = ("'phy:/dev/a,xvda,w'", "'phy:/dev/b,xvdb,w'", "'phy:/dev/c,xvdc,w'");
    assert_eq!(removed(&format!("[ {a}, {b}, {c} ]"), &["xvdb"]), format!("[ {a}, {c} ]"));
    assert_eq!(removed(&format!("[{a},{b},{c}]"), &["xvdc"]), format!("[{a},{b}]"));
    assert_eq!(removed(&format!("[{a},{b},{c}]"), &["xvdb", "xvdc"]), format!("[{a}]"));
    assert_eq!(removed(&format!("[{a}, {b}, ]"), &["xvdb"]), format!("[{a}, ]"));
    assert_eq!(
        removed(&format!("[\n  {a}, # root\n  {b},  # mail\n  {c}\n]"), &["xvdb"]),
        format!("[\n  {a}, # root\n  {c}\n]")
    );
    assert_eq!(
        removed(&format!("[\n  {a}, # root\n  {b},\n  {c}\n]"), &["xvdb", "xvdc"]),
        format!("[\n  {a}, # root\n]")
    );
    assert_eq!(removed(&format!("[{a}, # root\n   {b}]"), &["xvdb"]), format!("[{a}, # root\n   ]"));
    assert_eq!(removed(&format!("[{a}]\ndisk += [{b}]"), &["xvdb"]), format!("[{a}]\ndisk += []"));
}

#[test]
fn what_cannot_be_edited_safely_is_refused_by_name() {
    let error = |text: &str, edit: DefinitionEdit| edit::apply(text, &edit).unwrap_err().to_string();
    let renamed = || DefinitionEdit { name: Some("y".into()), ..Default::default() };
    assert!(error("name='x'\nname+='y'\n", renamed()).contains("name is put together by +="));
    assert!(error("name='x'\npci=['01:00.0']\n", renamed()).contains("line 2: pci"));
    assert!(error("name='x'\n", disks([("xvda", DiskEdit::Remove)])).contains("there is no disk \"xvda\""));
    let two = "name='x'\ndisk=['phy:/dev/a,xvda,w','phy:/dev/b,xvda,w']\n";
    assert!(error(two, disks([("xvda", volume("/dev/c"))])).contains("two disks"));
    assert!(error(GALAAD, disks([("xvdc", volume("/dev/c"))])).contains("cannot stand for"), "of a script");
    assert!(error(GALAAD, disks([("xvdb", volume("/dev/c"))])).contains("cannot stand for"), "an image");
    assert!(error(TOOLS, disks([("xvda2", DiskEdit::Remove)])).contains("root disk"));
    assert!(error(TOOLS, disks([("xvda2", volume("/srv/tree"))])).contains("cannot stand for"));
    let macs = vec![None, Some(MacAddr([0; 6]))];
    assert!(error(TOOLS, DefinitionEdit { macs, ..Default::default() }).contains("no network card 2, only 1"));
    assert!(error(TOOLS, DefinitionEdit { memory_bytes: Some(1000), ..Default::default() }).contains("MiB"));
    assert!(error(TOOLS, DefinitionEdit { uuid: Some("x".into()), ..Default::default() }).contains("no UUID"));
    let marked = "# upgradectl run a--b role clone\nname='x'\n# upgradectl run a--c role clone\n";
    assert!(error(marked, set_mark(None)).contains("second run mark"));
}

#[test]
fn settings_that_were_not_there_are_put_where_they_can_stand() {
    let edit = || DefinitionEdit { memory_bytes: Some(64 << 20), ..Default::default() };
    let edited = |text: &str| edit::apply(text, &edit()).unwrap();
    assert_eq!(edited("name='x' # n\nvcpus=1\n"), "name='x' # n\nmemory = 64\nvcpus=1\n");
    assert_eq!(edited("name='x'"), "name='x'\nmemory = 64");
    assert_eq!(edited("name='x'; disk=[\n]\n"), "name='x'; memory = 64; disk=[\n]\n");
    assert_eq!(edited("name='x'\nmaxmem='128'\n"), "name='x'\nmemory = 64\nmaxmem='64'\n");
    let first_mac = DefinitionEdit { macs: vec![Some(MacAddr([0, 22, 62, 0, 0, 1]))], ..Default::default() };
    assert_eq!(edit::apply("name='x'\nvif=['']\n", &first_mac).unwrap(), "name='x'\nvif=['mac=00:16:3e:00:00:01']\n");
}

#[test]
fn marks_come_and_go_without_a_trace() {
    for text in ALL {
        let marked = edit::apply(text, &set_mark(Some(mark(Role::Clone)))).unwrap();
        assert_eq!(marked, format!("# upgradectl run mercure--k3f9 role clone\n{text}"));
        let production = edit::apply(&marked, &set_mark(Some(mark(Role::Production)))).unwrap();
        assert_eq!(facts::read(&production).unwrap().mark, Some(mark(Role::Production)));
        assert_eq!(edit::apply(&production, &set_mark(None)).unwrap(), text);
    }
}

prop_compose! {
    fn style()(quote in "['\"]", eq in prop_oneof![Just("="), Just(" = "), Just("\t=  ")], lines in any::<bool>(),
        comma in any::<bool>(), comments in any::<bool>(), last in any::<bool>())
        -> (String, &'static str, bool, bool, bool, bool) {
        (quote, eq, lines, comma, comments, last)
    }
}

prop_compose! {
    /// A sound definition in some style, of a guest with up to five disks.
    fn definition()(style in style(), order in Just(vec![0, 1, 2, 3, 4]).prop_shuffle(), count in 1..5_usize,
        named in proptest::collection::vec(any::<bool>(), 5), memory in 1..9000_u64) -> (String, usize) {
        let (quote, eq, lines, comma, comments, last) = style;
        let note = |words: &str| if comments { format!(" # {words}, é \"'") } else { String::new() };
        let list = |items: Vec<String>| {
            let mut out = String::from("[");
            let length = items.len();
            for (index, item) in items.into_iter().enumerate() {
                out.push_str(if lines { "\n    " } else { " " });
                out.push_str(&format!("{quote}{item}{quote}"));
                if comma || index + 1 < length {
                    out.push(',');
                }
                if lines {
                    out.push_str(&note("item"));
                }
            }
            out.push_str(if lines { "\n]" } else { " ]" });
            out
        };
        let disks = (0..count).map(|i| {
            let device = char::from(b'a' + u8::try_from(i).unwrap());
            match named[i] {
                true => format!("vdev=xvd{device},access=w,target=/dev/vg/{device}"),
                false => format!("phy:/dev/vg/{device},xvd{device},w"),
            }
        });
        let settings = [
            format!("name{eq}{quote}mercure{quote}"),
            format!("uuid{eq}{quote}0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d{quote}"),
            format!("memory{eq}{memory}"),
            format!("disk{eq}{}", list(disks.collect())),
            format!("vif{eq}{}", list(vec!["mac=00:16:3e:00:05:0c,bridge=br5".into(), "bridge=br6, mac=00:16:3e:00:05:0d".into()])),
        ];
        let mut text = String::new();
        for index in order {
            text.push_str(note("line").trim_start());
            text.push('\n');
            text.push_str(&settings[index]);
            text.push_str(&note("end"));
            text.push('\n');
        }
        // a comment at the end wants its line end
        if last && !comments {
            text.truncate(text.trim_end().len());
        }
        (text, count)
    }
}

proptest! {
    #[test]
    fn an_edit_and_its_inverse_give_the_same_bytes((text, count) in definition(), removed in any::<bool>()) {
        let before = facts::read(&text).unwrap();
        prop_assert_eq!(before.disks.len(), count);
        prop_assert_eq!(edit::apply(&text, &DefinitionEdit::default()).unwrap(), text.clone());
        let source = |suffix: &str| -> BTreeMap<String, DiskEdit> {
            before.disks.iter().map(|disk| {
                let letter = &disk.name[3..];
                (disk.name.clone(), volume(&format!("/dev/vg/{letter}{suffix}")))
            }).collect()
        };
        let there = DefinitionEdit {
            name: Some("mercure--k3f9".into()),
            uuid: Some("11111111-2222-4333-8444-555555555555".into()),
            mark: Some(Some(mark(Role::Clone))),
            macs: vec![Some(MacAddr([2, 0, 0, 0, 0, 1])), Some(MacAddr([2, 0, 0, 0, 0, 2]))],
            disks: source("--copy"),
            memory_bytes: Some(7 << 20),
            ..Default::default()
        };
        let back = DefinitionEdit {
            name: Some("mercure".into()),
            uuid: before.uuid.clone(),
            mark: Some(None),
            macs: before.nics.iter().map(|nic| nic.mac).collect(),
            disks: source(""),
            memory_bytes: Some(before.memory_bytes),
            ..Default::default()
        };
        let edited = edit::apply(&text, &there).unwrap();
        prop_assert_ne!(&edited, &text);
        prop_assert_eq!(edit::apply(&edited, &back).unwrap(), text.clone());
        // any disk but the root can go, and everything else says what it said
        if removed && count > 1 {
            let gone = before.disks.iter().filter(|disk| !disk.root).map(|disk| (disk.name.clone(), DiskEdit::Remove));
            let edited = edit::apply(&text, &DefinitionEdit { disks: gone.collect(), ..Default::default() }).unwrap();
            prop_assert_eq!(facts::read(&edited).unwrap().disks.len(), 1);
        }
    }

    #[test]
    fn every_span_says_where_it_is(text in fragments()) {
        if let Ok(cfg) = Cfg::parse(&text) {
            for setting in cfg.settings() {
                prop_assert!(text[setting.span.clone()].starts_with(&setting.name));
                if let Value::Atom(atom) = &setting.value {
                    let place = &text[atom.place(0..atom.text.len())];
                    prop_assert!(place == atom.text || place.contains('\\'), "{place:?} {:?}", atom.text);
                }
            }
        }
    }

    #[test]
    fn hostile_text_is_refused_or_read_never_worse(text in prop_oneof![any::<String>(), fragments()], disk in ".*", vif in ".*") {
        let _ = facts::read(&text);
        let _ = spec::disk(&disk);
        let _ = spec::vif(&vif);
        let edit = DefinitionEdit { name: Some("y".into()), mark: Some(Some(mark(Role::Clone))), memory_bytes: Some(1 << 20), ..Default::default() };
        if let Ok(edited) = edit::apply(&text, &edit) {
            prop_assert_eq!(facts::read(&edited).unwrap().name, "y");
        }
    }
}

/// Texts that are nearly sound.
fn fragments() -> impl Strategy<Value = String> {
    let words = [
        "name",
        "disk",
        "vif",
        "memory",
        "a",
        "=",
        "+=",
        " = ",
        "[",
        "]",
        ",",
        ";",
        "\n",
        "\n",
        "# c\n",
        "'x'",
        "\"y\"",
        "'phy:/dev/a,xvda,w'",
        "'mac=00:16:3e:00:00:01,vifname=v'",
        "''",
        "12",
        "0x1f",
        "'\\''",
        "'\\\\'",
        "é",
        "'",
        "\"",
        "\\",
        "\r",
        " ",
        "\t",
        "name = 'x'\n",
        "disk = [ 'phy:/dev/a,xvda,w', ]\n",
        "# upgradectl run a--b role clone\n",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..25).prop_map(|words| words.concat())
}
