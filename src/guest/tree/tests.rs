#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{FileImage, MAX_FILE, Overlay, Tree, apply, diff};
use crate::guest::{FileEdit, GuestError};

/// A root with `etc`, beside a file that nothing may touch.
fn root() -> (TempDir, PathBuf) {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "outside").unwrap();
    let root = outside.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    (outside, root)
}

fn open(root: &Path) -> Tree {
    Tree::open(root).unwrap()
}

fn edit(tree: &Tree, path: &str, after: Option<FileImage>) -> FileEdit {
    let before = tree.image(Path::new(path)).unwrap();
    FileEdit { path: path.into(), before, after, why: "test".into() }
}

fn swapped(edits: &[FileEdit]) -> Vec<FileEdit> {
    let swap = |edit: &FileEdit| FileEdit { before: edit.after.clone(), after: edit.before.clone(), ..edit.clone() };
    edits.iter().map(swap).collect()
}

fn unfit(error: GuestError) -> String {
    assert!(matches!(error, GuestError::Unfit { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn no_link_leads_out() {
    let (outside, root) = root();
    symlink(outside.path(), root.join("absolute")).unwrap();
    symlink("../..", root.join("etc/up")).unwrap();
    symlink("/", root.join("slash")).unwrap();
    symlink(outside.path().join("secret"), root.join("etc/file")).unwrap();
    fs::write(root.join("etc/inside"), "inside").unwrap();
    let tree = open(&root);
    // An absolute link is read from the guest's root, `..` stops there.
    for path in ["absolute/secret", "etc/up/secret", "etc/up/../secret", "slash/secret", "/secret"] {
        assert!(!matches!(tree.exists(Path::new(path)), Ok(true)), "{path}");
        let after = Some(tree.new_file("evil", 0o644));
        let edit = FileEdit { path: path.into(), before: None, after, why: String::new() };
        if apply(&tree, std::slice::from_ref(&edit)).is_ok() {
            assert_eq!(fs::read_to_string(root.join("secret")).unwrap_or_default(), "evil", "{path}");
            apply(&tree, &swapped(&[edit])).unwrap();
        }
    }
    assert_eq!(tree.read_text(Path::new("slash/etc/inside")).unwrap().unwrap(), "inside");
    assert!(unfit(tree.read_text(Path::new("etc/file")).unwrap_err()).contains("not followed"));
    let mut overlay = Overlay::new(&tree);
    assert!(unfit(overlay.set_text(Path::new("etc/file"), "x".into(), "").unwrap_err()).contains("not followed"));
    unfit(tree.image(Path::new("../secret")).unwrap_err());
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "outside");
    // Replacing a link replaces the link.
    apply(&tree, &[edit(&tree, "etc/file", Some(tree.new_file("new", 0o644)))]).unwrap();
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "outside");
    assert_eq!(fs::read_to_string(root.join("etc/file")).unwrap(), "new");
}

#[test]
fn odd_files_neither_hang_nor_open() {
    let (_outside, root) = root();
    nix::unistd::mkfifo(&root.join("etc/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("etc/socket")).unwrap();
    symlink("loop", root.join("etc/loop")).unwrap();
    symlink("/proc/self/root", root.join("etc/magic")).unwrap();
    fs::write(root.join("etc/large"), vec![b'x'; MAX_FILE as usize + 1]).unwrap();
    let tree = open(&root);
    for (path, what) in [
        ("etc/fifo", "is a FIFO"),
        ("etc/socket", "is a socket"),
        ("etc/large", "is larger than 1024 KiB"),
        ("etc/loop/x", "loop of links"),
    ] {
        let error = unfit(tree.image(Path::new(path)).unwrap_err());
        assert!(error.contains(what) && error.contains(path), "{error}");
    }
    assert_eq!(tree.image(Path::new("etc/magic/etc/passwd")).unwrap(), None);
    assert!(matches!(tree.image(Path::new("etc/loop")).unwrap(), Some(FileImage::Symlink { .. })));
    if nix::unistd::geteuid().is_root() {
        let status = Command::new("mknod").arg(root.join("etc/zero")).args(["c", "1", "5"]).status().unwrap();
        if status.success() {
            assert!(unfit(tree.image(Path::new("etc/zero")).unwrap_err()).contains("is a device"));
        }
    }
}

#[test]
fn odd_names_are_kept() {
    let (_outside, root) = root();
    let long = "n".repeat(255);
    let latin = OsStr::from_bytes(b"caf\xe9\n");
    fs::write(root.join("etc").join(&long), "old").unwrap();
    fs::write(root.join("etc").join(latin), "x").unwrap();
    let tree = open(&root);
    assert_eq!(tree.list(Path::new("etc")).unwrap(), [latin.to_owned(), OsString::from(&long)]);
    assert!(tree.list(Path::new("none")).unwrap().is_empty());
    let path = format!("etc/{long}");
    let edits = [edit(&tree, &path, Some(tree.new_file("new", 0o600)))];
    assert!(apply(&tree, &edits).unwrap());
    assert_eq!(tree.read_text(Path::new(&path)).unwrap().unwrap(), "new");
    let latin = Path::new("etc").join(latin);
    let mut overlay = Overlay::new(&tree);
    let error = unfit(overlay.put(&latin, None, "").unwrap_err());
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn everything_is_checked_before_the_first_write() {
    let (_outside, root) = root();
    fs::write(root.join("etc/a"), "a").unwrap();
    fs::write(root.join("etc/b"), "b").unwrap();
    let tree = open(&root);
    let edits = ["etc/a", "etc/b"].map(|path| edit(&tree, path, Some(tree.new_file("new", 0o644))));
    fs::write(root.join("etc/b"), "changed").unwrap();
    match apply(&tree, &edits).unwrap_err() {
        GuestError::Changed { path, diff } => {
            assert_eq!(path, "/etc/b");
            assert!(diff.contains("+changed"), "{diff}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(fs::read_to_string(root.join("etc/a")).unwrap(), "a");
    // Cut off after the first write, with a temporary file left: the second attempt completes it.
    fs::write(root.join("etc/b"), "b").unwrap();
    assert!(apply(&tree, &edits[..1]).unwrap());
    fs::write(root.join("etc").join(super::apply::temporary(OsStr::new("b"))), "half").unwrap();
    assert!(apply(&tree, &edits).unwrap());
    assert!(!apply(&tree, &edits).unwrap());
    assert_eq!(tree.list(Path::new("etc")).unwrap(), ["a", "b"]);
}

#[test]
fn kinds_modes_owners_and_attributes_go_there_and_back() {
    let (_outside, root) = root();
    fs::write(root.join("etc/file"), "text").unwrap();
    fs::set_permissions(root.join("etc/file"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("file", root.join("etc/link")).unwrap();
    fs::create_dir(root.join("etc/dir")).unwrap();
    let tree = open(&root);
    let stat = tree.metadata(Path::new("etc/file")).unwrap().unwrap();
    let (uid, gid) = if nix::unistd::geteuid().is_root() { (12, 34) } else { (stat.st_uid, stat.st_gid) };
    // Only where the file system has such attributes (tmpfs may not).
    let probe = fs::File::open(root.join("etc/dir")).unwrap();
    let has = rustix::fs::fsetxattr(&probe, "user.t", b"x", rustix::fs::XattrFlags::empty()).is_ok();
    let xattrs = if has { [("user.test".to_owned(), b"\0v".to_vec())].into() } else { [].into() };
    let link = Some(FileImage::Symlink { target: "/new target".into() });
    let edits = [
        edit(&tree, "etc/file", Some(FileImage::Regular { bytes: b"new".to_vec(), mode: 0o4755, uid, gid, xattrs })),
        edit(&tree, "etc/link", Some(tree.new_file("was a link", 0o600))),
        edit(&tree, "etc/dir", link.clone()),
        edit(&tree, "srv", Some(FileImage::Directory { mode: 0o2750, uid, gid })),
        edit(&tree, "srv/deep", Some(tree.new_directory(0o700))),
        edit(&tree, "srv/deep/file", Some(tree.new_file("deep", 0o600))),
        edit(&tree, "srv/link", link),
    ];
    // What is stored in a plan is read again as it was.
    let stored = serde_json::to_string(&edits).unwrap();
    assert_eq!(serde_json::from_str::<Vec<FileEdit>>(&stored).unwrap(), edits);
    assert!(apply(&tree, &edits).unwrap());
    for edit in &edits {
        assert_eq!(tree.image(&edit.path).unwrap(), edit.after, "{}", edit.path.display());
    }
    assert!(apply(&tree, &swapped(&edits)).unwrap());
    for edit in &edits {
        assert_eq!(tree.image(&edit.path).unwrap(), edit.before, "{}", edit.path.display());
    }
    assert!(!apply(&tree, &swapped(&edits)).unwrap());
}

#[test]
fn immutable_files_are_named_before_anything_is_written() {
    let (_outside, root) = root();
    fs::write(root.join("etc/a"), "a").unwrap();
    fs::write(root.join("etc/b"), "b").unwrap();
    let tree = open(&root);
    let edits = ["etc/a", "etc/b"].map(|path| edit(&tree, path, Some(tree.new_file("new", 0o644))));
    let chattr = |flag| Command::new("chattr").arg(flag).arg(root.join("etc/b")).output();
    if !chattr("+i").is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this file system has no immutable files");
        return;
    }
    let error = apply(&tree, &edits);
    assert!(chattr("-i").unwrap().status.success());
    assert!(unfit(error.unwrap_err()).contains("/etc/b: is immutable"));
    assert_eq!(fs::read_to_string(root.join("etc/a")).unwrap(), "a");
}

#[test]
fn rewriters_see_each_other() {
    let (_outside, root) = root();
    fs::write(root.join("etc/a"), "one\r\n").unwrap();
    let tree = open(&root);
    let mut overlay = Overlay::new(&tree);
    let path = Path::new("/etc/a");
    overlay.set_text(path, "two\r\n".into(), "first").unwrap();
    assert_eq!(overlay.text(Path::new("etc/a")).unwrap().unwrap(), "two\r\n");
    overlay.set_text(path, "three\r\n".into(), "second").unwrap();
    overlay.put(Path::new("etc/new"), Some(tree.new_file("", 0o600)), "new").unwrap();
    overlay.put(Path::new("etc/same"), None, "nothing").unwrap();
    assert_eq!(overlay.list(Path::new("etc")).unwrap(), ["a", "new"]);
    let edits = overlay.into_edits();
    assert_eq!(edits.iter().map(|edit| edit.why.as_str()).collect::<Vec<_>>(), ["first; second", "new"]);
}

#[test]
fn diffs_show_no_secrets_and_no_control_characters() {
    let (_outside, root) = root();
    fs::create_dir(root.join("etc/ssh")).unwrap();
    fs::write(root.join("etc/a"), "one\ntwo\n").unwrap();
    let tree = open(&root);
    let new = |text: &str| Some(tree.new_file(text, 0o644));
    let edits = [edit(&tree, "etc/a", new("one\n\x1b[31mthree\r\n"))];
    assert_eq!(diff(&edits[0]), "--- a/etc/a\n+++ b/etc/a\n@@ -1,2 +1,2 @@\n one\n-two\n+\\u{1b}[31mthree\\r\n");
    let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nhush\n";
    for (path, text) in [("etc/ssh/ssh_host_rsa_key", "hush"), ("etc/x.pem", pem), ("etc/shadow", "root:hush:1\n")] {
        let shown = diff(&edit(&tree, path, new(text)));
        assert!(!shown.contains("hush") && shown.contains("not shown"), "{shown}");
    }
    assert!(diff(&edit(&tree, "etc/bin", new("\0\0"))).contains("binary content changes (0 bytes to 2)"));
    let mode = FileEdit { after: Some(tree.new_file("one\ntwo\n", 0o600)), ..edits[0].clone() };
    assert_eq!(diff(&mode).lines().count(), 1, "{}", diff(&mode));
    let link = edit(&tree, "etc/l", Some(FileImage::Symlink { target: "/dev/null".into() }));
    assert_eq!(diff(&link), "/etc/l: new link to /dev/null\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Undo after apply is the tree as it was, whatever the edits are.
    #[test]
    fn undo_takes_back_apply(
        files in prop::collection::btree_map("[a-c]", prop::option::of((prop::collection::vec(any::<u8>(), 0..40), 0u32..0o1000)), 0..4),
        edits in prop::collection::btree_map("[a-e]", prop::option::of((prop::collection::vec(any::<u8>(), 0..40), 0u32..0o1000)), 0..6),
    ) {
        let (_outside, root) = root();
        let tree = open(&root);
        let image = |content: &Option<(Vec<u8>, u32)>| match content {
            Some((bytes, mode)) => tree.new_file(bytes.clone(), *mode),
            None => FileImage::Symlink { target: "a".into() },
        };
        let setup: Vec<_> = files.iter().map(|(n, c)| edit(&tree, &format!("etc/{n}"), Some(image(c)))).collect();
        apply(&tree, &setup).unwrap();
        let snapshot = || {
            let names = tree.list(Path::new("etc")).unwrap();
            names.into_iter().map(|n| (tree.image(&Path::new("etc").join(&n)).unwrap(), n)).collect::<Vec<_>>()
        };
        let before = snapshot();
        let edits: Vec<_> = edits
            .iter()
            .map(|(name, content)| edit(&tree, &format!("etc/{name}"), content.as_ref().map(|c| image(&Some(c.clone())))))
            .collect();
        apply(&tree, &edits).unwrap();
        prop_assert!(!apply(&tree, &edits).unwrap());
        apply(&tree, &swapped(&edits)).unwrap();
        prop_assert_eq!(snapshot(), before);
    }
}
