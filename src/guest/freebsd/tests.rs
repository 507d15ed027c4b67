//! Trees in the style of their releases, reduced: what changes is in `snapshots/`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;
use crate::guest::restore::restore_edits;
use crate::guest::{apply, diff};

/// A copy of the files in `fixtures`, with the modes they have on a server.
fn server(release: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guest/freebsd/fixtures").join(release);
    copy(&from, root.path());
    root
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        let mode = if entry.path().is_dir() || to.to_string_lossy().contains("/rc.d/") { 0o755 } else { 0o644 };
        if entry.path().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn change(old: &str, new: Option<&str>) -> AddressChange {
    AddressChange { interface: "em0".into(), old: old.parse().unwrap(), new: new.map(|new| new.parse().unwrap()) }
}

fn spec(addresses: &[(&str, Option<&str>)]) -> JailSpec {
    let addresses = addresses.iter().map(|(old, new)| change(old, *new)).collect();
    JailSpec { addresses, ..JailSpec::default() }
}

fn planned(root: &Path, spec: &JailSpec) -> Reduced {
    plan(&Tree::open(root).unwrap(), spec).unwrap()
}

/// Every byte of a tree, by path, with modes.
fn bytes(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let facts = fs::symlink_metadata(&path).unwrap();
            if facts.is_dir() {
                left.push(path);
            } else if facts.is_file() {
                all.insert(path.clone(), (facts.permissions().mode(), fs::read(path).unwrap()));
            }
        }
    }
    all
}

fn back(edits: &[FileEdit]) -> Vec<FileEdit> {
    edits.iter().rev().map(|e| FileEdit { before: e.after.clone(), after: e.before.clone(), ..e.clone() }).collect()
}

/// Reduces a tree and looks at what holds of every reduction: once is enough, promotion gives back all of the identity, and
/// reversed it is as it was. Returns the plan.
fn holds(root: &Path, spec: &JailSpec) -> Reduced {
    let before = bytes(root);
    let tree = Tree::open(root).unwrap();
    let reduced = planned(root, spec);
    assert_eq!(apply(&tree, &reduced.edits).unwrap(), !reduced.edits.is_empty());
    assert_eq!(planned(root, spec).edits, [], "reducing twice");
    let clone = bytes(root);
    let restored = restore_edits(&tree, &reduced.identity).unwrap();
    apply(&tree, &restored.edits).unwrap();
    let production = JailSpec::default();
    let promoted = bytes(root);
    for (path, (_, text)) in &promoted {
        let kept = path.to_string_lossy().ends_with(ORIGINAL);
        let text = decoded(text.clone());
        for change in spec.addresses.iter().filter(|_| !kept) {
            assert!(!change.new.is_some_and(|new| text.contains(&format!("{new}\n"))), "{}", path.display());
        }
    }
    assert!(restore_edits(&tree, &reduced.identity).unwrap().edits.is_empty(), "promoting twice");
    // What is left is the reduction alone: without an identity there is nothing to do but the quarantine.
    let again = planned(root, &production);
    assert_eq!(again.edits, again.identity);
    apply(&tree, &back(&restored.edits)).unwrap();
    assert_eq!(bytes(root), clone, "the clone's identity again");
    apply(&tree, &back(&reduced.edits)).unwrap();
    assert_eq!(bytes(root), before, "reversed");
    reduced
}

fn shown(reduced: &Reduced) -> String {
    let mut text = String::new();
    for edit in &reduced.edits {
        text += &format!("=== {}: {}\n", edit.path.display(), edit.why);
        if !edit.path.to_string_lossy().ends_with(ORIGINAL) {
            text += &diff(edit);
        }
    }
    text += "=== identity\n";
    for edit in &reduced.identity {
        text += &format!("{}: {}\n", edit.path.display(), edit.why);
    }
    text += "=== held\n";
    for held in &reduced.held {
        text += &format!("{}: {}\n", held.unit, held.reason);
    }
    text += "=== notes\n";
    for note in &reduced.notes {
        text += note;
        text.push('\n');
    }
    text
}

fn snapshot(release: &str, spec: &JailSpec) {
    let root = server(release);
    let reduced = holds(root.path(), spec);
    insta::with_settings!({ filters => vec![(r"file (\d{4}) \d+:\d+", "file $1 OWNER")], omit_expression => true }, {
        insta::assert_snapshot!(format!("freebsd-{release}"), shown(&reduced));
    });
}

#[test]
fn freebsd_4() {
    snapshot("4.10", &spec(&[("10.11.12.13", Some("10.11.12.113")), ("10.11.12.14", None)]));
}

#[test]
fn freebsd_6() {
    let mut spec = spec(&[("192.0.2.40", Some("192.0.2.140")), ("2001:db8::40", Some("2001:db8::140"))]);
    spec.quarantine = vec!["mysql-server".into(), "nothing".into()];
    snapshot("6.2", &spec);
}

#[test]
fn freebsd_12() {
    let mut spec = spec(&[("198.51.100.7", Some("198.51.100.107")), ("2001:db8:7::7", Some("2001:db8:7::107"))]);
    spec.resolv_conf = Some("nameserver 198.51.100.2\n".into());
    spec.hostname = Some("mail2.example.org".into());
    snapshot("12.4", &spec);
}

#[test]
fn freebsd_13() {
    snapshot("13.2", &spec(&[]));
}

#[test]
fn bytes_of_an_old_encoding_stay() {
    let root = server("4.10");
    apply(&Tree::open(root.path()).unwrap(), &planned(root.path(), &spec(&[])).edits).unwrap();
    let text = fs::read(root.path().join("etc/rc.conf")).unwrap();
    assert!(text.windows(11).any(|at| at == b"# Fr\xfchere E"));
    assert_eq!(fs::read(root.path().join("etc/rc.conf.upgradectl-server")).unwrap(), {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guest/freebsd/fixtures/4.10/etc/rc.conf")).unwrap()
    });
}

#[test]
fn the_world_upgrade_may_change_the_files_meanwhile() {
    let root = server("4.10");
    let tree = Tree::open(root.path()).unwrap();
    let reduced = planned(root.path(), &spec(&[("10.11.12.13", Some("10.11.12.113"))]));
    apply(&tree, &reduced.edits).unwrap();
    let file = |name: &str| root.path().join(name);
    let sshd = fs::read_to_string(file("etc/ssh/sshd_config")).unwrap();
    fs::write(file("etc/ssh/sshd_config"), format!("# OpenSSH 9.7\n{sshd}UsePAM yes\n")).unwrap();
    let hosts = fs::read_to_string(file("etc/hosts")).unwrap();
    fs::write(file("etc/hosts"), format!("::1 localhost\n{hosts}")).unwrap();
    apply(&tree, &restore_edits(&tree, &reduced.identity).unwrap().edits).unwrap();
    let sshd = fs::read_to_string(file("etc/ssh/sshd_config")).unwrap();
    assert_eq!(sshd, "# OpenSSH 9.7\n#Port 22\nListenAddress 10.11.12.13\nPermitRootLogin yes\nUsePAM yes\n");
    assert!(fs::read_to_string(file("etc/hosts")).unwrap().starts_with("::1 localhost\n127.0.0.1"));
    let rc = fs::read(file("etc/rc.conf")).unwrap();
    let rc = decoded(rc);
    assert!(!rc.contains("cron_enable") && rc.contains("sendmail_enable=\"YES\"") && rc.contains("-a 10.11.12.13\""));
    assert!(rc.contains("\n# upgradectl: ifconfig_fxp0="), "the reduction stays");
    // A line of ours that is not there any more in any form cannot be given back.
    apply(&tree, &planned(root.path(), &spec(&[("10.11.12.13", Some("10.11.12.113"))])).edits).unwrap();
    fs::write(file("etc/ssh/sshd_config"), "Port 2222\nListenAddress 10.11.12.200\n").unwrap();
    let error = restore_edits(&tree, &reduced.identity).unwrap_err();
    assert!(matches!(error, GuestError::Ambiguous { .. }), "{error}");
}

#[test]
fn hostile_files_are_left_alone_or_refused() {
    let root = server("13.2");
    let etc = root.path().join("etc");
    for name in ["fstab", "hosts", "crontab", "periodic.conf", "syslog.conf"] {
        let _ = fs::remove_file(etc.join(name));
        symlink("/etc/passwd", etc.join(name)).unwrap();
    }
    fs::write(etc.join("newsyslog.conf"), b"\0\xff /var/run/pflogd.pid\n").unwrap();
    fs::create_dir(etc.join("resolv.conf")).unwrap();
    symlink("loop", etc.join("loop")).unwrap();
    symlink("../../..", etc.join("rc.conf.d")).unwrap();
    let reduced = holds(root.path(), &spec(&[("10.0.0.1", Some("10.0.0.2"))]));
    let paths: Vec<_> = reduced.edits.iter().map(|edit| edit.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["etc/newsyslog.conf", "etc/rc.conf", "etc/rc.conf.upgradectl-server"]);
    assert!(
        reduced.notes.iter().any(|note| note.starts_with("etc/fstab: is not a regular file")),
        "{:?}",
        reduced.notes
    );

    for (text, why) in [("a=\"open\n", "does not end"), ("a=1\0", "NUL")] {
        fs::write(etc.join("rc.conf"), text).unwrap();
        let error = plan(&Tree::open(root.path()).unwrap(), &spec(&[])).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    fs::remove_file(etc.join("rc.conf")).unwrap();
    let reduced = holds(root.path(), &spec(&[]));
    assert!(reduced.edits.iter().any(|edit| edit.path == Path::new("etc/rc.conf") && edit.before.is_none()));
}

#[test]
fn code_is_kept_and_counts() {
    let root = server("13.2");
    let text = "if true; then\n  cron_enable=YES\nfi\nifconfig_em0=DHCP; sshd_enable=YES; keymap=de\nfoo_enable=YES pf_enable=YES\n\
                cat <<END\nifconfig_em1=DHCP\nEND\n";
    fs::write(root.path().join("etc/rc.conf"), text).unwrap();
    let reduced = holds(root.path(), &spec(&[]));
    apply(&Tree::open(root.path()).unwrap(), &reduced.edits).unwrap();
    let after = fs::read_to_string(root.path().join("etc/rc.conf")).unwrap();
    let kept =
        "if true; then\n  cron_enable=YES\nfi\nsshd_enable=YES;\nfoo_enable=YES\ncat <<END\nifconfig_em1=DHCP\nEND\n";
    assert!(after.starts_with(kept), "{after}");
    assert!(after.contains("\ncron_enable=\"NO\" # upgradectl: "), "{after}");
}

fn line() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "ifconfig_em0",
        "hostname",
        "sshd_enable",
        "cron_enable",
        "keymap",
        "kld_list",
        "jail_list",
        "sendmail_enable",
        "postfix_enable",
        "postfix_flags",
        "foo",
        "pf_rules",
        "nfs_server_enable",
        "defaultrouter",
        "zfs_enable",
        "vm_list",
    ]);
    let value = prop::sample::select(vec![
        "YES",
        "\"YES\"",
        "'NO'",
        "\"inet 10.0.0.1/24\"",
        "\"a \\\n  b\"",
        "\"${hostname} x\"",
        "\"\"",
        "\"-b 10.0.0.1:5\"",
        "none",
        "\"two\nlines\"",
        "\"`id`\"",
        "10.0.0.1",
    ]);
    let end = prop::sample::select(vec!["\n", "\n", "\n", "; ", " ", " # c\n", "\n\n", "\\\n\n"]);
    let assign = (name, value, end).prop_map(|(name, value, end)| format!("{name}={value}{end}"));
    let other = prop::sample::select(vec![
        "# comment\n",
        "if true; then\n a=1\nfi\n",
        ". /etc/other\n",
        "# upgradectl: x=1\n",
        "f() { cron_enable=YES; }\n",
    ]);
    prop_oneof![6 => assign, 1 => other.prop_map(str::to_owned)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_rc_conf_is_reduced_once_and_given_back(
        lines in prop::collection::vec(line(), 0..12),
        local in prop::option::of(prop::collection::vec(line(), 0..4)),
        newline: bool,
    ) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let mut text = lines.concat();
        if newline {
            text.push('\n');
        }
        fs::write(root.path().join("etc/rc.conf"), text).unwrap();
        if let Some(local) = local {
            fs::write(root.path().join("etc/rc.conf.local"), local.concat()).unwrap();
        }
        let spec = spec(&[("10.0.0.1", Some("10.0.0.101"))]);
        // What hangs together in a way that cannot be cut is refused, and nothing else is.
        match plan(&Tree::open(root.path()).unwrap(), &spec) {
            Ok(_) => drop(holds(root.path(), &spec)),
            Err(error) => prop_assert!(matches!(error, GuestError::Unfit { .. } | GuestError::Syntax { .. }), "{error}"),
        }
    }
}
