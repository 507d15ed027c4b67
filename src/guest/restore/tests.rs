//! The way back, on real small trees.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;
use crate::guest::{AddressChange, CloneSpec, apply, clone_edits};

/// sshd_config of openssh-server 1:9.2p1-2+deb12u3, shortened, with a ListenAddress.
const SSHD: &str = "Include /etc/ssh/sshd_config.d/*.conf\n\nPort 22\n#AddressFamily any\nListenAddress 10.0.5.12\n\n\
    PermitRootLogin prohibit-password\nKbdInteractiveAuthentication no\nUsePAM yes\n";

fn guest() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("etc/ssh/sshd_config", SSHD);
    put("etc/network/interfaces", "auto eth0\niface eth0 inet static\n\taddress 10.0.5.12/24\n\tgateway 10.0.5.1\n");
    put("etc/ssh/ssh_host_rsa_key", "production");
    put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    put("etc/fstab", "/dev/xvda1 / ext4 defaults 0 1\n/dev/xvdb1 /srv/mail ext4 defaults 0 2\n");
    put("etc/systemd/system/cron.service", "[Service]\n# mine\n");
    put("usr/lib/systemd/system/cron.service", "[Service]\n");
    put("usr/lib/systemd/system/postfix.service", "[Service]\n");
    put("etc/cloud/cloud.cfg", "");
    put("etc/init.d/exim4", "");
    put("srv/mail/.keep", "");
    fs::create_dir_all(root.path().join("etc/rc2.d")).unwrap();
    symlink("../init.d/exim4", root.path().join("etc/rc2.d/S20exim4")).unwrap();
    root
}

/// A guest after clone's edits, and the edits.
fn cloned() -> (tempfile::TempDir, Tree, Vec<FileEdit>) {
    let root = guest();
    let tree = Tree::open(root.path()).unwrap();
    let spec = CloneSpec {
        addresses: vec![AddressChange {
            interface: "eth0".into(),
            old: "10.0.5.12".parse().unwrap(),
            new: Some("10.0.5.16".parse().unwrap()),
        }],
        detached: vec!["/srv/mail".into()],
        machine_id: "fedcba9876543210fedcba9876543210".into(),
        host_keys: [("ssh_host_ed25519_key".to_owned(), "throw-away".to_owned())].into(),
        ..CloneSpec::default()
    };
    let edits = clone_edits(&tree, &spec).unwrap();
    assert!(apply(&tree, &edits).unwrap());
    (root, tree, edits)
}

fn restore(tree: &Tree, edits: &[FileEdit]) -> Restored {
    let plan = restore_edits(tree, edits).unwrap();
    apply(tree, &plan.edits).unwrap();
    assert_eq!(restore_edits(tree, edits).unwrap().edits, [], "restoring twice gives nothing");
    plan
}

fn read(root: &tempfile::TempDir, path: &str) -> String {
    fs::read_to_string(root.path().join(path)).unwrap()
}

#[test]
fn without_an_upgrade_everything_is_as_it_was() {
    let (root, tree, edits) = cloned();
    assert!(edits.len() >= 8, "{edits:#?}");
    let plan = restore(&tree, &edits);
    assert_eq!(plan.notes, Vec::<String>::new());
    for edit in &edits {
        assert_eq!(tree.image(&edit.path).unwrap(), edit.before, "{}", edit.path.display());
    }
    assert_eq!(read(&root, "etc/ssh/sshd_config"), SSHD);
    assert_eq!(tree.list(Path::new("etc/rc2.d")).unwrap(), ["S20exim4"]);
}

#[test]
fn the_upgrades_lines_stay_and_productions_values_return() {
    let (root, tree, edits) = cloned();
    let path = root.path().join("etc/ssh/sshd_config");
    // Far from ours, and touching ours: the second is a conflict for diff3 and none for a person.
    let new = read(&root, "etc/ssh/sshd_config")
        .replace("KbdInteractiveAuthentication no\n", "KbdInteractiveAuthentication no\nX11Forwarding no\n")
        .replace("#AddressFamily any\n", "AddressFamily inet\n");
    fs::write(&path, &new).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let fstab = read(&root, "etc/fstab");
    fs::write(root.path().join("etc/fstab"), format!("# new\n{fstab}tmpfs /tmp tmpfs\n")).unwrap();
    let plan = restore(&tree, &edits);
    assert_eq!(read(&root, "etc/ssh/sshd_config"), new.replace("10.0.5.16", "10.0.5.12"));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "the upgrade's mode");
    assert_eq!(
        read(&root, "etc/fstab"),
        "# new\n/dev/xvda1 / ext4 defaults 0 1\n/dev/xvdb1 /srv/mail ext4 defaults 0 2\ntmpfs /tmp tmpfs\n"
    );
    assert_eq!(plan.notes.len(), 2, "{:?}", plan.notes);
}

#[test]
fn what_cannot_be_merged_is_refused_whole() {
    let (root, tree, edits) = cloned();
    fs::write(root.path().join("etc/ssh/sshd_config"), "ListenAddress 10.9.9.9\n").unwrap();
    fs::write(root.path().join("etc/fstab"), b"\xff\0").unwrap();
    let error = restore_edits(&tree, &edits).unwrap_err();
    let GuestError::Ambiguous { path, why, diff } = error else { panic!("{error}") };
    assert_eq!(path, "/etc/fstab");
    assert!(why.contains("1 more"), "{why}");
    assert!(diff.contains("+ListenAddress 10.9.9.9") && diff.contains("since then:"), "{diff}");
}

#[test]
fn identity_is_never_merged_and_masks_are_sensible() {
    let (root, tree, edits) = cloned();
    let at = |path: &str| root.path().join(path);
    fs::write(at("etc/machine-id"), "another\n").unwrap();
    fs::write(at("etc/ssh/ssh_host_rsa_key"), "made by postinst").unwrap();
    fs::write(at("etc/ssh/ssh_host_ed25519_key"), "changed").unwrap();
    fs::remove_file(at("etc/systemd/system/cron.service")).unwrap();
    fs::remove_file(at("etc/systemd/system/postfix.service")).unwrap();
    fs::write(at("etc/systemd/system/postfix.service"), "by a package").unwrap();
    fs::remove_file(at("etc/fstab")).unwrap();
    fs::remove_file(at("etc/rc2.d/K01exim4")).unwrap();
    symlink("../init.d/exim4", at("etc/rc2.d/K05exim4")).unwrap();
    let plan = restore(&tree, &edits);
    assert_eq!(read(&root, "etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
    assert_eq!(read(&root, "etc/ssh/ssh_host_rsa_key"), "production");
    assert!(!at("etc/ssh/ssh_host_ed25519_key").exists());
    assert_eq!(read(&root, "etc/systemd/system/cron.service"), "[Service]\n# mine\n");
    assert_eq!(read(&root, "etc/systemd/system/postfix.service"), "by a package");
    assert!(!at("etc/fstab").exists());
    assert_eq!(tree.list(Path::new("etc/rc2.d")).unwrap(), ["S20exim4"]);
    assert!(plan.notes.iter().any(|note| note.starts_with("/etc/fstab: was removed")), "{:?}", plan.notes);
}

#[test]
fn directories_of_ours_go_when_they_are_empty() {
    let root = guest();
    let tree = Tree::open(root.path()).unwrap();
    let made = |path: &str| FileEdit {
        path: path.into(),
        before: None,
        after: Some(tree.new_directory(0o755)),
        why: String::new(),
    };
    let edits = [made("srv/mail/a"), made("srv/mail/a/b"), made("srv/mail/c"), made("srv/mail/c/d")];
    apply(&tree, &edits).unwrap();
    fs::write(root.path().join("srv/mail/c/log"), "").unwrap();
    fs::set_permissions(root.path().join("srv/mail/a/b"), fs::Permissions::from_mode(0o700)).unwrap();
    let plan = restore(&tree, &edits);
    assert_eq!(tree.list(Path::new("srv/mail")).unwrap(), [".keep", "c"]);
    assert_eq!(plan.notes, ["/srv/mail/c: is not empty and stays"]);
}

#[test]
fn something_that_is_no_file_any_more_is_refused() {
    let (root, tree, edits) = cloned();
    fs::remove_file(root.path().join("etc/fstab")).unwrap();
    nix::unistd::mkfifo(&root.path().join("etc/fstab"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(restore_edits(&tree, &edits), Err(GuestError::Ambiguous { .. })));
}

fn lines() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[a-d]{1,2}", 0..8)
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

proptest! {
    /// Whatever we wrote, and whatever the upgrade added in lines of its own: our change is taken back, its lines stay.
    #[test]
    fn merge_keeps_the_upgrades_lines(before in lines(), after in lines(), at in 0_usize..9) {
        let (before, mut new) = (text(&before), after.clone());
        new.insert(at.min(after.len()), "upgrade".to_owned());
        let base = text(&after);
        if let Some(merged) = merged_text(&base, &before, &text(&new)) {
            prop_assert_eq!(merged.lines().filter(|line| *line == "upgrade").count(), 1);
            prop_assert_eq!(merged.replace("upgrade\n", ""), before.clone());
            prop_assert_eq!(merged_text(&base, &before, &merged), Some(merged));
        }
        prop_assert_eq!(merged_text(&base, &before, &base), Some(before));
    }

    /// Any edits of any files: applied and restored is identity.
    #[test]
    fn apply_and_restore_is_identity(
        files in proptest::collection::btree_map("[a-c]{1,2}", (proptest::option::of(lines()), proptest::option::of(lines())), 0..6),
    ) {
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let image = |lines: &Option<Vec<String>>| lines.as_ref().map(|lines| tree.new_file(text(lines), 0o644));
        let mut edits = Vec::new();
        for (name, (before, after)) in &files {
            if let Some(before) = before {
                fs::write(root.path().join(name), text(before)).unwrap();
                fs::set_permissions(root.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
            }
            edits.push(FileEdit { path: name.into(), before: image(before), after: image(after), why: String::new() });
        }
        apply(&tree, &edits).unwrap();
        let plan = restore_edits(&tree, &edits).unwrap();
        apply(&tree, &plan.edits).unwrap();
        for edit in &edits {
            prop_assert_eq!(&tree.image(&edit.path).unwrap(), &edit.before);
        }
        prop_assert_eq!(restore_edits(&tree, &edits).unwrap(), Restored::default());
    }
}
