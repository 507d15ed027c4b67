//! The door for fuzzing: every parser of the product as a function of bytes, which panics where the parser does not keep its
//! word. Not an interface: hidden, and free to change. Those of the platforms are in [`hypervisors::fuzz`].
//!
//! Parsers of a guest's files are tried through what uses them: the file lies in a tree, the tree is rewritten for a clone,
//! rewritten again, and given its identity back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use hypervisors::fuzz::{TARGETS as PLATFORMS, Target, shown, text};

use crate::batch::schedule::Schedule;
use crate::batch::{expect, file};
use crate::engine::Plan;
use crate::guest::far::tar;
use crate::guest::freebsd::JailSpec;
use crate::guest::{self, AddressChange, CloneSpec, FileEdit, FileImage, Tree};
use crate::inventory::{self, Inventory, InventoryError, values};
use crate::recipe::debian::sources::{self, Format};
use crate::recipe::debian::{apt, preflight, release::Release};
use crate::recipe::{conffiles, freebsd, script};
use crate::steps::fsck;
use crate::verify::{RecordType, dns, inside};

/// Every parser, those of the platforms first.
pub fn targets() -> impl Iterator<Item = Target> {
    PLATFORMS.iter().chain(TARGETS).copied()
}

const TARGETS: &[Target] = &[
    Target { name: "apt_output", run: apt_output },
    Target { name: "apt_sources", run: |bytes, _| apt_sources(Format::OneLine, bytes) },
    Target { name: "apt_sources_deb822", run: |bytes, _| apt_sources(Format::Deb822, bytes) },
    Target { name: "batch_toml", run: batch_toml },
    Target { name: "dns_answer", run: dns_answer },
    Target { name: "dpkg_output", run: dpkg_output },
    Target { name: "freebsd_elf", run: freebsd_elf },
    Target { name: "freebsd_world", run: freebsd_world },
    Target { name: "guest_aside", run: guest_aside },
    Target { name: "guest_facts", run: guest_facts },
    Target { name: "guest_fstab", run: |bytes, root| rewritten("etc/fstab", bytes, root) },
    Target { name: "guest_hostname", run: |bytes, root| rewritten("etc/hostname", bytes, root) },
    Target { name: "guest_hosts", run: |bytes, root| rewritten("etc/hosts", bytes, root) },
    Target {
        name: "guest_ifcfg",
        run: |bytes, root| rewritten("etc/sysconfig/network-scripts/ifcfg-eth0", bytes, root),
    },
    Target { name: "guest_ifupdown", run: |bytes, root| rewritten("etc/network/interfaces", bytes, root) },
    Target {
        name: "guest_keyfile",
        run: |bytes, root| rewritten("etc/NetworkManager/system-connections/eth0.nmconnection", bytes, root),
    },
    Target { name: "guest_keys", run: guest_keys },
    Target { name: "guest_merge", run: guest_merge },
    Target { name: "guest_netplan", run: |bytes, root| rewritten("etc/netplan/50-x.yaml", bytes, root) },
    Target { name: "guest_networkd", run: |bytes, root| rewritten("etc/systemd/network/x.network", bytes, root) },
    Target { name: "guest_rc_conf", run: guest_rc_conf },
    Target { name: "guest_sshd", run: |bytes, root| rewritten("etc/ssh/sshd_config", bytes, root) },
    Target { name: "guest_sysconfig", run: |bytes, root| rewritten("etc/sysconfig/network", bytes, root) },
    Target { name: "guest_tar", run: guest_tar },
    Target {
        name: "guest_udev",
        run: |bytes, root| rewritten("etc/udev/rules.d/70-persistent-net.rules", bytes, root),
    },
    Target { name: "inventory_toml", run: inventory_toml },
    Target { name: "inventory_values", run: inventory_values },
    Target { name: "postfix_main_cf", run: postfix_main_cf },
    Target { name: "stored_plan", run: stored_plan },
    Target { name: "tune2fs", run: tune2fs },
];

/// A server's rc.conf, reduced once and for all, and given its identity back.
fn guest_rc_conf(bytes: &[u8], root: &Path) {
    put(root, "etc/rc.conf", bytes);
    let Ok(tree) = Tree::open(root) else { return };
    let address = |text: &str| text.parse().unwrap_or(IpAddr::from([0; 4]));
    let change =
        AddressChange { interface: "em0".into(), old: address("192.0.2.40"), new: Some(address("192.0.2.140")) };
    let spec = JailSpec { addresses: vec![change], ..JailSpec::default() };
    let Ok(reduced) = guest::freebsd::plan(&tree, &spec) else { return };
    assert!(guest::apply(&tree, &reduced.edits).is_ok());
    assert_eq!(guest::freebsd::plan(&tree, &spec).map(|again| again.edits).ok(), Some(Vec::new()), "reduced twice");
    let restored = guest::restore::restore_edits(&tree, &reduced.identity);
    assert!(restored.is_ok_and(|restored| guest::apply(&tree, &restored.edits).is_ok()));
}

/// What another machine packed: names stay beneath, and what was read is read again as it was.
fn guest_tar(bytes: &[u8], _: &Path) {
    let Ok(entries) = tar::read(bytes) else { return };
    let named: Vec<tar::Entry<'_>> = entries.into_iter().filter(|entry| entry.path.file_name().is_some()).collect();
    for entry in &named {
        assert!(entry.path.components().all(|part| matches!(part, Component::Normal(_))), "{}", entry.path.display());
    }
    assert_eq!(tar::read(&tar::write(&named)).ok(), Some(named), "not as it was written");
}

fn inventory_toml(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    match inventory::parse_text(&text) {
        Ok(inventory) => {
            let json = serde_json::to_value(&inventory).unwrap_or_default();
            assert_eq!(serde_json::from_value(json.clone()).ok(), Some(inventory), "it does not survive JSON");
            strings(&json, &mut |word| assert!(!word.contains('\0'), "{word:?}"));
        }
        Err(InventoryError::Invalid(problems)) => {
            assert!(!problems.is_empty());
            let lines = text.lines().count() + 1;
            assert!(problems.iter().all(|problem| problem.line <= lines), "a place outside of the file");
        }
        Err(InventoryError::Io { source, .. }) => drop(source),
    }
}

/// Every string of a JSON value, keys included.
fn strings(value: &serde_json::Value, look: &mut dyn FnMut(&str)) {
    match value {
        serde_json::Value::String(word) => look(word),
        serde_json::Value::Array(all) => all.iter().for_each(|value| strings(value, look)),
        serde_json::Value::Object(all) => all.iter().for_each(|(key, value)| {
            look(key);
            strings(value, look);
        }),
        _ => {}
    }
}

/// A batch file beside an inventory: it is stored and read again, and its night comes to an end.
fn batch_toml(bytes: &[u8], root: &Path) {
    let mut inventory = Inventory::default();
    for name in ["ServerA", "ServerB", "ServerC"] {
        let text = format!(
            "version = 1\n[hosts]\nh = {{ hypervisor = \"sim\" }}\n[guests.{name}]\nhost = \"h\"\ntags = [\"t\"]\n"
        );
        inventory.guests.extend(inventory::parse_text(&text).unwrap_or_default().guests);
    }
    let path = root.join("batch.toml");
    assert!(std::fs::write(&path, bytes).is_ok());
    let Ok(spec) = file::load(&path, &inventory) else { return };
    let stored = serde_json::to_string(&spec).unwrap_or_default();
    assert_eq!(serde_json::from_str(&stored).ok(), Some(spec.clone()), "it does not survive JSON");
    let lengths = expect::lengths(&spec, &inventory, |_| BTreeMap::new());
    let least: f64 = lengths.iter().map(|of| of.iter().sum::<f64>()).fold(0.0, f64::max);
    assert!(Schedule::new(&spec, lengths).play() >= least - 1e-6, "somebody was left out");
}

fn inventory_values(bytes: &[u8], _: &Path) {
    for word in text(bytes).lines() {
        let _ = (values::parse_duration(word), values::parse_bytes(word), word.parse::<values::AddressWish>());
        if let Ok(size) = word.parse::<values::Size>() {
            assert_eq!(size.to_string().parse(), Ok(size), "{word:?}");
        }
        if let Ok(values::Allowed { to: values::AllowedTo::Name(name), .. }) = word.parse() {
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)), "{name:?}");
            assert!(!name.starts_with('-'));
        }
        let _ = values::complete_ip(word, [10, 0, 5, 12].into());
    }
}

fn stored_plan(bytes: &[u8], _: &Path) {
    let Ok(plan) = serde_json::from_slice::<Plan>(bytes) else { return };
    let again = serde_json::to_vec(&plan).unwrap_or_default();
    let read = serde_json::from_slice::<Plan>(&again).ok();
    assert_eq!(read.map(|plan| plan.digest()), Some(plan.digest()), "a plan that is stored again is another");
}

fn apt_sources(format: Format, bytes: &[u8]) {
    let text = text(bytes);
    let (Some(from), Some(to)) = (Release::named("bookworm"), Release::named("trixie")) else { return };
    let once = sources::rewrite(format, &text, from, to);
    assert_eq!(once.notes.is_empty(), once.text == text, "changes that are not told, or told and not made");
    let again = sources::rewrite(format, &once.text, from, to);
    assert_eq!(again.text, once.text, "a second pass changes something");
    for note in &once.notes {
        shown(&note.entry);
        assert!(note.line >= 1 && note.line <= text.lines().count());
    }
    if format == Format::OneLine {
        assert_eq!(text.lines().count(), once.text.lines().count());
    }
    // A login is never shown, and nothing that was off is on.
    assert!(sources::entries(format, &once.text).len() <= sources::entries(format, &text).len());
}

fn apt_output(bytes: &[u8], _: &Path) {
    let mut transcript = apt::Transcript::default();
    let mut last = script::LastLine::default();
    for piece in bytes.chunks(61) {
        transcript.feed(piece);
        last.feed(piece);
        let (what, fraction) = transcript.progress();
        shown(&what);
        assert!(fraction.is_none_or(|fraction| (0.0..=1.0).contains(&fraction)));
    }
    shown(last.get());
    transcript.broken().into_iter().for_each(shown);
    transcript.cause().as_deref().into_iter().for_each(shown);
}

fn dpkg_output(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    preflight::parse_packages(&text);
    preflight::parse_df(&text);
    for (path, package) in conffiles::parse_owners(&text) {
        assert!(path.starts_with('/') && !path.contains([' ', '\n']) && !package.contains('\n'));
    }
    for (name, version) in inside::parse_packages(&text) {
        shown(&name);
        shown(&version);
    }
}

/// A file's beginning as it is, and as one of many in an answer.
fn freebsd_elf(bytes: &[u8], _: &Path) {
    freebsd::elf::built(bytes);
    let found = freebsd::elf::foreign(bytes, 14);
    assert!(found.older.values().map(|(count, _)| count).sum::<usize>() <= found.seen);
    found.older.values().for_each(|(_, name)| shown(name));
}

/// What etcupdate and make print, whoever printed it.
fn freebsd_world(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let told = freebsd::etcupdate::Told::read(&text);
    told.warnings.iter().chain(&told.other).for_each(|line| shown(line));
    assert!(told.conflicts().all(|path| path.starts_with('/')));
    let mut transcript = freebsd::world::Transcript::default();
    for piece in bytes.chunks(5) {
        transcript.feed(piece);
        shown(&transcript.progress());
    }
    shown(transcript.cause());
    let old = freebsd::world::check_old(&text, "/data/jails/ServerA");
    old.files.iter().chain(&old.libraries).chain(&old.directories).for_each(|path| shown(path));
    freebsd::update::kept(&text).iter().for_each(|path| shown(path));
    if let Some(release) = freebsd::Release::of_tree(&text, &text) {
        assert!(release.name.len() <= 60 && !release.name.contains(['/', ' ']));
    }
}

fn guest_facts(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let units = inside::parse_ps_units(&text);
    units.values().for_each(|unit| shown(unit));
    for socket in inside::parse_ss(&text, &units) {
        shown(&socket.address);
        socket.process.as_deref().into_iter().for_each(shown);
    }
    let (enabled, all) = inside::parse_unit_files(&text);
    assert!(enabled.is_subset(&all));
    all.iter().for_each(|unit| shown(unit));
    let units = inside::parse_units(&text);
    units.running.iter().chain(&units.failed).chain(&units.ended).for_each(|unit| shown(unit));
    inside::parse_release(&text).as_deref().into_iter().for_each(shown);
    let _ = Release::of_os_release(&text);
    if let Some((a, b)) = text.split_once('\n') {
        assert_eq!(inside::kernel_order(a, b), inside::kernel_order(b, a).reverse());
    }
}

fn dns_answer(bytes: &[u8], _: &Path) {
    // The number is the asker's: a fuzzer need not guess it.
    let Some((kind, message)) = bytes.split_first() else { return };
    let mut message = message.to_vec();
    if let Some(head) = message.get_mut(..4) {
        head.copy_from_slice(&[0, 7, 0x81, head[3] & 0xf]);
    }
    let record = [RecordType::A, RecordType::Aaaa, RecordType::Mx, RecordType::Soa][usize::from(kind % 4)];
    for found in dns::answers(7, record, &message).unwrap_or_default() {
        shown(&found);
    }
}

fn tune2fs(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    if let Ok(found) = fsck::parse(&text) {
        assert!(!found.periodic.is_never() || found.periodic.interval_s == 0);
    }
}

/// What a clone is given in these trees: every kind of change, of what the seeds have.
fn changes() -> CloneSpec {
    let ip = |text: &str| text.parse::<IpAddr>().ok();
    let address = |old: &str, new: &str| Some(AddressChange { interface: "eth0".into(), old: ip(old)?, new: ip(new) });
    CloneSpec {
        addresses: [("10.0.5.12", "10.0.5.16"), ("10.0.5.13", ""), ("2001:db8::12", "2001:db8::16")]
            .iter()
            .filter_map(|(old, new)| address(old, new))
            .collect(),
        macs: [("00:16:3e:00:05:0c".to_owned(), hypervisors::MacAddr([0, 0x16, 0x3e, 0, 5, 0x10]))].into(),
        hostname: Some("saturne.example.org".into()),
        detached: vec!["/srv/mail".into(), "/data".into()],
        quarantine: vec!["nginx".into()],
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        ..CloneSpec::default()
    }
}

/// A file for the specification to be possible, where the one that is tried is another.
const INTERFACES: &str = "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet static\n\taddress 10.0.5.12/24\n\
                          iface eth0 inet static\n\taddress 10.0.5.13/24\niface eth0 inet6 static\n\taddress 2001:db8::12/64\n";

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, bytes));
    assert!(made.is_ok(), "the scratch directory is of no use: {made:?}");
}

fn tree(root: &Path) -> Tree {
    match Tree::open(root) {
        Ok(tree) => tree,
        Err(error) => panic!("the scratch directory is of no use: {error}"),
    }
}

/// Does and undoes in a tree what a clone and a promotion do, for several specifications.
fn rewritten(path: &str, bytes: &[u8], root: &Path) {
    let places =
        ["etc/network", "etc/netplan", "etc/systemd/network", "etc/sysconfig/network-scripts", "etc/NetworkManager"];
    if !places.iter().any(|place| path.starts_with(place)) {
        put(root, "etc/network/interfaces", INTERFACES.as_bytes());
    }
    put(root, path, bytes);
    let tree = tree(root);
    let nothing = CloneSpec::default();
    if let Ok(edits) = guest::clone_edits(&tree, &nothing) {
        assert!(edits.iter().all(|edit| edit.path != Path::new(path)), "nothing was asked for, and {edits:?}");
    }
    let _ = (guest::network::inspect(&tree), guest::mounts::fstab(&tree), guest::mounts::network_mounts(&tree));
    let all = changes();
    let one = CloneSpec { addresses: all.addresses[..1].to_vec(), ..nothing.clone() };
    let dhcp = CloneSpec { to_dhcp: vec!["eth0".into()], ..nothing.clone() };
    let name = CloneSpec { addresses: Vec::new(), ..all.clone() };
    for spec in [all, one, dhcp, name] {
        let Ok(edits) = guest::clone_edits(&tree, &spec) else { continue };
        there_and_back(&tree, &spec, &edits);
        assert_eq!(std::fs::read(root.join(path)).ok().as_deref(), Some(bytes), "it is not as it was");
    }
}

fn there_and_back(tree: &Tree, spec: &CloneSpec, edits: &[FileEdit]) {
    for edit in edits {
        shown(&guest::diff(edit).replace(['\n', '\t'], " "));
        shown(&edit.why);
    }
    let applied = guest::apply(tree, edits);
    assert_eq!(applied.as_ref().ok(), Some(&!edits.is_empty()), "{applied:?}");
    match guest::clone_edits(tree, spec) {
        Ok(more) => assert!(more.is_empty(), "a second pass changes something: {more:?}"),
        Err(error) => panic!("what was written is not read again: {error}"),
    }
    match guest::restore::restore_edits(tree, edits) {
        Ok(back) => assert!(guest::apply(tree, &back.edits).is_ok()),
        Err(error) => panic!("what was written cannot be taken back: {error}"),
    }
}

/// The upgrade makes another file of the one that was rewritten: the bytes are the file, byte 255, and what became of it.
fn guest_merge(bytes: &[u8], root: &Path) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0xff);
    let (file, upgraded) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    put(root, "etc/network/interfaces", INTERFACES.as_bytes());
    put(root, "etc/hosts", file);
    let tree = tree(root);
    let Ok(edits) = guest::clone_edits(&tree, &changes()) else { return };
    assert!(guest::apply(&tree, &edits).is_ok());
    put(root, "etc/hosts", upgraded);
    let Ok(back) = guest::restore::restore_edits(&tree, &edits) else { return };
    assert!(guest::apply(&tree, &back.edits).is_ok());
    match guest::restore::restore_edits(&tree, &edits) {
        Ok(again) => assert!(again.edits.is_empty(), "a second promotion changes something: {again:?}"),
        Err(error) => panic!("a second promotion fails: {error}"),
    }
}

fn guest_keys(bytes: &[u8], root: &Path) {
    put(root, "etc/ssh/ssh_host_ed25519_key.pub", bytes);
    let Ok(keys) = guest::keys::public_keys(&tree(root)) else { return };
    let file = guest::keys::known_hosts("mercure--k3f9", &keys);
    assert_eq!(file.lines().count(), keys.len());
    for line in file.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(matches!(words[..], ["mercure--k3f9", kind, _] if kind.contains('-')), "{line:?}");
        shown(line);
    }
}

/// The list of what was set aside lies in a guest that ran in between. Whatever it says, nothing but what is there is touched.
fn guest_aside(bytes: &[u8], root: &Path) {
    const RUN: &str = "mercure--k3f9";
    put(root, "etc/keep", b"kept");
    put(root, "var/spool/postfix/deferred/1", b"mail");
    put(root, &format!("var/lib/upgradectl/aside/{RUN}.list"), bytes);
    let tree = tree(root);
    let _ = guest::queues::is_set_aside(&tree, RUN);
    let _ = guest::queues::put_back(&tree, RUN);
    let _ = guest::queues::discard(&tree, RUN);
    let _ = guest::queues::found(&tree);
    assert!(
        matches!(tree.image(Path::new("etc/keep")), Ok(Some(FileImage::Regular { .. }))),
        "a file of the guest's is gone"
    );
}

fn postfix_main_cf(bytes: &[u8], root: &Path) {
    put(root, "etc/postfix/main.cf", bytes);
    put(root, "srv/spool/deferred/A1", b"mail");
    put(root, "etc/passwd", bytes);
    let tree = tree(root);
    let _ = guest::fence::apt_user(&tree);
    for queue in guest::queues::found(&tree).unwrap_or_default() {
        assert!(queue.directories.iter().all(|path: &PathBuf| path.is_relative() && root.join(path).is_dir()));
    }
    let needles = ["10.0.5.12".to_owned(), "mercure".to_owned()];
    for leftover in guest::leftovers::search(&tree, &needles).unwrap_or_default() {
        shown(&leftover.text);
    }
}
