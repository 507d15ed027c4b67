//! Guests that are made to break whoever works on their files: every such tree against everything that is done in one. Nothing
//! outside of the tree is touched or read, everything ends, and a refusal names the file.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{
    CloneSpec, FileEdit, GuestError, Tree, fence, keys, leftovers, mounts, network, quarantine, queues, restore, system,
};
use crate::guest::AddressChange;

const RUN: &str = "mercure--k3f9";
/// What a tree's secrets would show, were they read.
const SECRET: &str = "10.0.5.12 mercure the canary";
/// How long anything may take, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory a whole test may come to, in KiB: a sparse file of 10 GiB is not read.
const MEMORY_KIB: u64 = 1 << 20;

/// Files that are read or written in a guest, and the content they have in a good one.
const FILES: [(&str, &str); 20] = [
    ("etc/hosts", "127.0.0.1 localhost\n10.0.5.12 mercure\n"),
    ("etc/hostname", "mercure\n"),
    ("etc/mailname", "mercure\n"),
    ("etc/fstab", "/dev/a / ext4 defaults 0 1\n/dev/b /srv/mail ext4 defaults 0 2\n"),
    ("etc/machine-id", "b08dfa6083e7567a1921a715000001fb\n"),
    ("var/lib/dbus/machine-id", "b08dfa6083e7567a1921a715000001fb\n"),
    ("etc/network/interfaces", "auto eth0\niface eth0 inet static\n\taddress 10.0.5.12/24\nsource interfaces.d/*\n"),
    ("etc/network/interfaces.d/more", "iface eth1 inet dhcp\n"),
    ("etc/netplan/50.yaml", "network: {version: 2, ethernets: {eth2: {addresses: [10.0.6.1/24]}}}\n"),
    ("etc/systemd/network/x.network", "[Match]\nName=eth3\n[Network]\nAddress=10.0.7.1/24\n"),
    ("etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=mercure\nGATEWAY=10.0.8.254\n"),
    ("etc/sysconfig/network-scripts/ifcfg-eth4", "DEVICE=eth4\nBOOTPROTO=none\nIPADDR=10.0.8.1\nPREFIX=24\n"),
    (
        "etc/NetworkManager/system-connections/eth5.nmconnection",
        "[connection]\ninterface-name=eth5\n[ipv4]\nmethod=manual\naddress1=10.0.9.1/24\n",
    ),
    ("etc/ssh/sshd_config", "ListenAddress 10.0.5.12\n"),
    ("etc/ssh/ssh_host_ed25519_key", "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
    (
        "etc/ssh/ssh_host_ed25519_key.pub",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJr0g3V5hX2kYbq3yG0kqjv3s8n1QzQm8d5T4w6mRk2A x\n",
    ),
    ("etc/udev/rules.d/70-persistent-net.rules", "ATTR{address}==\"00:16:3e:00:05:0c\", NAME=\"eth0\"\n"),
    ("etc/postfix/main.cf", "queue_directory = /var/spool/postfix\n"),
    ("etc/passwd", "_apt:x:100:65534::/:/bin/false\n"),
    ("var/lib/systemd/timers/stamp-apt-daily.timer", ""),
];

/// Directories that are listed or written in.
const DIRECTORIES: [&str; 16] = [
    "etc",
    "etc/network",
    "etc/network/interfaces.d",
    "etc/netplan",
    "etc/systemd",
    "etc/systemd/system",
    "etc/systemd/network",
    "etc/sysconfig/network-scripts",
    "etc/NetworkManager/system-connections",
    "etc/ssh",
    "etc/init.d",
    "var/lib/systemd/timers",
    "var/lib/upgradectl",
    "var/spool/postfix",
    "var/spool/postfix/deferred",
    "srv/mail",
];

/// A guest beside what nothing may touch.
struct Guest {
    outside: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Guest {
    fn new() -> Self {
        // In memory where there is room: everything that is written is synced.
        let place =
            ["/dev/shm", "/tmp"].iter().find_map(|place| tempfile::TempDir::with_prefix_in("hostile-", place).ok());
        Self::at(place.unwrap())
    }
    fn at(outside: tempfile::TempDir) -> Self {
        let root = outside.path().join("root");
        for directory in DIRECTORIES {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (path, text) in FILES {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        for path in ["lib/systemd/system/postfix.service", "lib/systemd/system/nginx.service", "lib/systemd/systemd"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "").unwrap();
        }
        fs::write(root.join("var/spool/postfix/deferred/A1"), "mail").unwrap();
        let victim = outside.path().join("victim");
        fs::create_dir_all(victim.join("deferred")).unwrap();
        // What is linked into a guest is the guest's to show.
        fs::write(victim.join("linked"), "10.0.5.12 mercure\n").unwrap();
        for path in
            ["secret", "interfaces", "hosts", "deferred/B1", "ssh_host_ed25519_key.pub", "50.yaml", "stamp-x.timer"]
        {
            fs::write(victim.join(path), SECRET).unwrap();
        }
        Self { outside, before: BTreeMap::new() }
    }
    fn root(&self) -> PathBuf {
        self.outside.path().join("root")
    }
    fn victim(&self) -> PathBuf {
        self.outside.path().join("victim")
    }
    /// What lies outside of the root.
    fn look(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.victim()];
        while let Some(path) = todo.pop() {
            let facts = fs::symlink_metadata(&path).unwrap();
            let text = if facts.is_dir() { String::new() } else { fs::read_to_string(&path).unwrap() };
            let (mode, links) = (facts.mode(), facts.nlink());
            // Not the change time of files: a hard link to one in the tree is the guest's own, and may go.
            let times = (facts.mtime_nsec(), if facts.is_dir() { facts.ctime_nsec() } else { 0 });
            if facts.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let links = if facts.is_dir() { links } else { 0 };
            found.insert(path, format!("{mode:o} {}:{} {links} {times:?} {text}", facts.uid(), facts.gid()));
        }
        let around: Vec<_> =
            fs::read_dir(self.outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.insert(self.outside.path().to_owned(), around.len().to_string());
        found
    }
    /// Takes what is at a path away.
    fn clear(&self, path: &str) -> PathBuf {
        let path = self.root().join(path);
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_dir() => fs::remove_dir_all(&path).unwrap(),
            Ok(_) => fs::remove_file(&path).unwrap(),
            Err(_) => fs::create_dir_all(path.parent().unwrap()).unwrap(),
        }
        path
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = Command::new("chattr").args(["-R", "-i", "-a"]).arg(self.root()).output();
        let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(self.root()).output();
    }
}

/// What is put in the place of one file; says whether this file system and user can have it.
type Spoil = fn(&Guest, &Path) -> bool;

fn link(to: impl AsRef<Path>, at: &Path) -> bool {
    symlink(to, at).is_ok()
}

/// What can stand in the place of a file.
const INSTEAD_OF_FILES: [(&str, Spoil); 16] = [
    ("a link out", |guest, at| link(guest.victim().join("secret"), at)),
    ("a link up and out", |_, at| link("../../../../../../../../victim/secret", at)),
    ("a link to the machine's own", |_, at| link("/etc/passwd", at)),
    ("a link through /proc", |guest, at| link(format!("/proc/self/root{}/secret", guest.victim().display()), at)),
    ("a dangling link", |_, at| link("/nowhere/at/all", at)),
    ("a link to itself", |_, at| link(at.file_name().unwrap(), at)),
    ("a FIFO", |_, at| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).is_ok()),
    ("a socket", |guest, at| {
        // A socket's path may have 107 characters.
        let short = guest.outside.path().join("s");
        let made = std::os::unix::net::UnixListener::bind(&short).is_ok();
        made && fs::rename(&short, at).is_ok()
    }),
    ("a device", |_, at| Command::new("mknod").arg(at).args(["c", "1", "5"]).output().unwrap().status.success()),
    ("10 GiB of nothing", |_, at| fs::File::create(at).unwrap().set_len(10 << 30).is_ok()),
    ("a directory", |_, at| fs::create_dir(at).and_then(|()| fs::write(at.join("x"), "x")).is_ok()),
    ("not text", |_, at| fs::write(at, b"\xff\xfe\0\x1b[2J").is_ok()),
    ("one endless line", |_, at| fs::write(at, vec![b'a'; 16 << 10]).is_ok()),
    ("a hard link", |guest, at| fs::hard_link(guest.victim().join("linked"), at).is_ok()),
    ("immutable", |_, at| {
        let written = fs::write(at, "10.0.5.12 mercure\n").is_ok();
        written && Command::new("chattr").arg("+i").arg(at).output().is_ok_and(|output| output.status.success())
    }),
    ("without any mode", |_, at| {
        fs::write(at, "10.0.5.12 mercure\n")
            .and_then(|()| fs::set_permissions(at, fs::Permissions::from_mode(0o0)))
            .is_ok()
    }),
];

/// What can stand in the place of a directory, or in it.
const INSTEAD_OF_DIRECTORIES: [(&str, Spoil); 9] = [
    ("a link out", |guest, at| link(guest.victim(), at)),
    ("a link up and out", |_, at| link("../../../../../../../../victim", at)),
    ("a link to the root", |_, at| link("/", at)),
    ("a link to itself", |_, at| link(at.file_name().unwrap(), at)),
    ("a link through /proc", |guest, at| link(format!("/proc/self/root{}", guest.victim().display()), at)),
    ("a file", |_, at| fs::write(at, "x").is_ok()),
    ("a FIFO", |_, at| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).is_ok()),
    ("odd names", |guest, at| {
        fs::create_dir(at).unwrap();
        let names: [&[u8]; 9] = [
            b"caf\xe9.service",
            b"new\nline.service",
            b"\x1b[2J.conf",
            b"$(touch canary).timer",
            b"-rf",
            b"a;b.network",
            b"`id`.yaml",
            b"..service",
            b"S20\n",
        ];
        for name in names {
            fs::write(at.join(OsStr::from_bytes(name)), "10.0.5.12 mercure\n").unwrap();
        }
        let long = "n".repeat(247) + ".service";
        fs::write(at.join(&long[..255]), "x").unwrap();
        ["out.service", "out.conf", "out.yaml", "out.network", "ifcfg-out", "ssh_host_out_key.pub", "stamp-out.timer"]
            .iter()
            .all(|name| link(guest.victim().join("secret"), &at.join(name)))
    }),
    ("endless depth", |_, at| {
        // Deeper than a path may be long: made from within.
        let mut line = String::from("cd \"$1\"");
        for _ in 0..40 {
            line.push_str(" && mkdir -p d/d/d/d/d && cd d/d/d/d/d");
        }
        fs::create_dir(at).unwrap();
        Command::new("sh").args(["-c", &line, "sh"]).arg(at).output().unwrap().status.success()
    }),
];

fn spec() -> CloneSpec {
    CloneSpec {
        addresses: vec![AddressChange {
            interface: "eth0".into(),
            old: "10.0.5.12".parse().unwrap(),
            new: Some("10.0.5.16".parse().unwrap()),
        }],
        macs: [("00:16:3e:00:05:0c".to_owned(), "00:16:3e:00:05:10".parse().unwrap())].into(),
        hostname: Some("saturne".into()),
        detached: vec!["/srv/mail".into()],
        skeletons: vec![(
            "/srv/mail".into(),
            vec![
                mounts::SkeletonDirectory { path: "".into(), mode: 0o755, uid: 0, gid: 0 },
                mounts::SkeletonDirectory { path: "queue".into(), mode: 0o700, uid: 0, gid: 0 },
            ],
        )],
        quarantine: vec!["nginx".into()],
        fence: Some(fence::Fence { ways: vec![std::net::IpAddr::from([10, 0, 5, 1]).into()] }),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        host_keys: [("ssh_host_ed25519_key".to_owned(), "new".to_owned())].into(),
        ..CloneSpec::default()
    }
}

/// What is done in a guest, by what steps call. The specification of a clone is planned and applied as a whole, and by parts,
/// so that what one part refuses does not hide the next.
fn everything(tree: &Tree, done: &mut dyn FnMut(&str, Result<(), GuestError>)) {
    let part = |spec: CloneSpec| -> Result<(), GuestError> {
        let edits = super::clone_edits(tree, &spec)?;
        edits.iter().for_each(|edit| drop(super::diff(edit)));
        super::apply(tree, &edits)?;
        let back = restore::restore_edits(tree, &edits)?;
        super::apply(tree, &back.edits)?;
        Ok(())
    };
    let (all, none) = (spec(), CloneSpec::default());
    done("addresses", part(CloneSpec { addresses: all.addresses.clone(), ..none.clone() }));
    done("hardware addresses", part(CloneSpec { macs: all.macs.clone(), ..none.clone() }));
    done("hostname", part(CloneSpec { hostname: all.hostname.clone(), ..none.clone() }));
    done("mounts", part(CloneSpec { detached: all.detached.clone(), ..none.clone() }));
    done("skeletons", part(CloneSpec { skeletons: all.skeletons.clone(), ..none.clone() }));
    done("quarantine", part(CloneSpec { quarantine: all.quarantine.clone(), ..none.clone() }));
    done("fence", part(CloneSpec { fence: all.fence.clone(), ..none.clone() }));
    done("machine id", part(CloneSpec { machine_id: all.machine_id.clone(), ..none.clone() }));
    done("host keys", part(CloneSpec { host_keys: all.host_keys.clone(), ..none }));
    done("clone", part(all.clone()));
    // What was planned on a sound guest is applied to this one: the guest runs between clone and promotion.
    let sound = Guest::new();
    let planned = super::clone_edits(&Tree::open(&sound.root()).unwrap(), &all).unwrap();
    done("apply what was planned before", super::apply(tree, &planned).map(drop));
    done("restore what was planned before", restore::restore_edits(tree, &planned).map(drop));
    let back: Vec<FileEdit> =
        planned.into_iter().map(|edit| FileEdit { before: edit.after, after: edit.before, ..edit }).collect();
    done("apply what was undone before", super::apply(tree, &back).map(drop));
    done("inspect", network::inspect(tree).map(drop));
    done("fstab", mounts::network_mounts(tree).map(drop));
    done("public keys", keys::public_keys(tree).map(drop));
    done(
        "units",
        quarantine::planned(tree, &["nginx".into()]).and_then(|held| quarantine::timers(tree, &held)).map(drop),
    );
    done("queues", queues::found(tree).map(drop));
    done("set aside", queues::set_aside(tree, RUN).map(drop));
    done("is set aside", queues::is_set_aside(tree, RUN).map(drop));
    done("put back", queues::put_back(tree, RUN).map(drop));
    done("set aside again", queues::set_aside(tree, RUN).map(drop));
    done("discard", queues::discard(tree, RUN).map(drop));
    done("time stamps", system::restamp(tree, &BTreeMap::new(), 1_000_000).map(drop));
    done(
        "links",
        mounts::links_into(tree, &["/srv/mail".into()]).and_then(|links| mounts::lost_links(tree, &links)).map(drop),
    );
    done("skeleton", mounts::skeleton(tree).map(drop));
    done(
        "leftovers",
        leftovers::search(tree, &["10.0.5.12".into(), "mercure".into()]).map(|found| {
            assert!(found.iter().all(|hit| !hit.text.contains("canary")), "the secret was read: {found:?}");
        }),
    );
    let other = Guest::new();
    let sound = Tree::open(&other.root()).unwrap();
    let mirrored = queues::found(&sound).and_then(|queues| {
        queues.iter().try_for_each(|queue| {
            queues::mirror(&sound, tree, queue)?;
            queues::mirror(tree, &sound, queue).map(drop)
        })
    });
    done("mirror", mirrored);
    let taken = fs::read_dir(other.root().join("var/spool/postfix/deferred")).unwrap();
    assert!(taken.flatten().all(|entry| entry.file_name() != "B1"), "a file of the machine was carried into a guest");
}

/// Puts one thing in the place of one path, and does everything. A refusal names a path and is fit for a terminal.
fn try_all(what: &str, path: &str, spoil: Spoil) -> usize {
    let mut guest = Guest::new();
    let at = guest.clear(path);
    if !spoil(&guest, &at) {
        return 0;
    }
    guest.before = guest.look();
    let tree = Tree::open(&guest.root()).unwrap();
    let (mut count, mut begun) = (0, Instant::now());
    everything(&tree, &mut |doing, result| {
        let about = format!("{what} at {path}: {doing}");
        assert!(begun.elapsed() < PATIENCE, "{about} took {:?}", begun.elapsed());
        if let Err(error) = result {
            let said = error.to_string();
            assert!(said.starts_with('/'), "{about} names no file: {said}");
            assert!(!said.contains("canary"), "{about} read the secret: {said}");
            assert!(
                !said.chars().any(char::is_control) || matches!(error, GuestError::Ambiguous { .. }),
                "{about}: {said:?}"
            );
            if let GuestError::Unfit { help, .. } = &error {
                assert!(!help.is_empty(), "{about}");
            }
        }
        let now = guest.look();
        assert_eq!(now, guest.before, "{about} touched what is outside");
        (count, begun) = (count + 1, Instant::now());
    });
    count
}

fn most_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn nothing_in_the_place_of_a_file_leads_out_or_hangs() {
    let mut count = 0;
    for (what, spoil) in INSTEAD_OF_FILES {
        let kinds = FILES.iter().map(|(path, _)| try_all(what, path, spoil)).sum::<usize>();
        if kinds == 0 {
            eprintln!("not tried here: {what}");
        }
        count += kinds;
    }
    assert!(count > 16 * 20 * 20, "{count}");
    assert!(most_memory_kib() < MEMORY_KIB, "{} KiB", most_memory_kib());
}

#[test]
fn nothing_in_the_place_of_a_directory_leads_out_or_hangs() {
    let mut count = 0;
    for (what, spoil) in INSTEAD_OF_DIRECTORIES {
        count += DIRECTORIES.iter().map(|path| try_all(what, path, spoil)).sum::<usize>();
    }
    assert_eq!(count % (9 * 16), 0, "{count}");
    assert!(count > 9 * 16 * 20, "{count}");
}

#[test]
fn what_is_made_to_be_compared_for_hours_is_compared_for_seconds() {
    let guest = Guest::new();
    let tree = Tree::open(&guest.root()).unwrap();
    let hosts = guest.root().join("etc/hosts");
    let lines = |word: &str| (0..60_000).map(|number| format!("{word}{number}\n")).collect::<String>();
    fs::write(&hosts, format!("10.0.5.12 mercure\n{}", lines("# "))).unwrap();
    let edits = super::clone_edits(&tree, &spec()).unwrap();
    super::apply(&tree, &edits).unwrap();
    // Every line is another one, and ours is gone: nothing can be merged.
    fs::write(&hosts, lines("#")).unwrap();
    let begun = Instant::now();
    let error = restore::restore_edits(&tree, &edits).unwrap_err();
    assert!(error.to_string().starts_with("/etc/hosts: "), "{error}");
    assert!(begun.elapsed() < PATIENCE * 2, "{:?}", begun.elapsed());
}

#[test]
fn a_tree_full_of_units_is_no_work_without_end() {
    let guest = Guest::new();
    let units = guest.root().join("lib/systemd/system");
    for number in 0..20_000 {
        fs::write(units.join(format!("postfix@{number}.service")), "").unwrap();
    }
    let tree = Tree::open(&guest.root()).unwrap();
    let begun = Instant::now();
    let held = quarantine::planned(&tree, &[]).unwrap();
    assert!(held.units.len() >= 20_000);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn extended_attributes_are_bounded() {
    let guest = Guest::at(tempfile::tempdir().unwrap());
    let file = fs::File::open(guest.root().join("etc/hosts")).unwrap();
    let value = vec![b'x'; 3000];
    let set = |number: usize| {
        rustix::fs::fsetxattr(&file, format!("user.{number}"), &value, rustix::fs::XattrFlags::empty()).is_ok()
    };
    let has = (0..600).take_while(|number| set(*number)).count();
    let image = Tree::open(&guest.root()).unwrap().image(Path::new("etc/hosts"));
    if has < 600 {
        eprintln!("skipped: this file system bounds extended attributes itself, after {has}");
        image.unwrap();
        return;
    }
    let error = image.unwrap_err();
    assert!(error.to_string().contains("extended attributes"), "{error}");
}
