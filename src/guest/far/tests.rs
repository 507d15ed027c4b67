//! A tree on another machine, by real sh, find, tar on this one.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use hypervisors::host::LocalHost;

use super::*;

fn host() -> LocalHost {
    LocalHost::new("jailhost")
}

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn paths(of: &[&str]) -> Vec<PathBuf> {
    of.iter().map(PathBuf::from).collect()
}

async fn fetched(root: &Path, of: &[&str]) -> Fetched {
    fetch(&host(), root, Wanted { paths: &paths(of), ..Wanted::default() }).await.unwrap()
}

fn regular(root: &Path, text: &str, mode: u32) -> FileImage {
    let owner = fs::metadata(root).unwrap();
    let (uid, gid) = (owner.uid(), owner.gid());
    FileImage::Regular { bytes: text.into(), mode, uid, gid, xattrs: Default::default() }
}

fn edit(path: &str, before: Option<FileImage>, after: Option<FileImage>) -> FileEdit {
    FileEdit { path: path.into(), before, after, why: "test".into() }
}

fn back(edits: &[FileEdit]) -> Vec<FileEdit> {
    edits.iter().rev().map(|e| edit(e.path.to_str().unwrap(), e.after.clone(), e.before.clone())).collect()
}

#[tokio::test]
async fn what_is_asked_for_comes_with_its_modes_and_owners() {
    let root =
        tree(&[("etc/rc.conf", "a=1\n"), ("etc/rc.conf.d/b c", "x"), ("etc/secret", "s"), ("usr/local/etc/d/e", "e")]);
    symlink("mail/aliases", root.path().join("etc/aliases")).unwrap();
    fs::hard_link(root.path().join("etc/rc.conf"), root.path().join("etc/rc.same")).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(root.path().join("etc/secret"), Some(3_000_000), Some(66)).unwrap();
    }
    fs::set_permissions(root.path().join("etc/secret"), fs::Permissions::from_mode(0o4600)).unwrap();
    let there = fetched(root.path(), &["etc", "usr/local/etc/d/e", "no/such"]).await;
    let owner = fs::symlink_metadata(root.path().join("etc/secret")).unwrap();
    let image = there.tree.image(Path::new("etc/secret")).unwrap();
    let (uid, gid) = (owner.uid(), owner.gid());
    assert_eq!(
        image,
        Some(FileImage::Regular { bytes: b"s".into(), mode: 0o4600, uid, gid, xattrs: Default::default() })
    );
    let local = fs::symlink_metadata(there.tree.path().join("etc/secret")).unwrap();
    assert_eq!(local.mode() & 0o7777, 0o600, "the copy is not setuid here");
    assert_eq!(there.tree.read_text(Path::new("etc/rc.conf")).unwrap().unwrap(), "a=1\n");
    assert_eq!(there.tree.read_text(Path::new("etc/rc.same")).unwrap().unwrap(), "a=1\n");
    assert_eq!(there.tree.read_text(Path::new("etc/rc.conf.d/b c")).unwrap().unwrap(), "x");
    assert_eq!(there.tree.read_text(Path::new("usr/local/etc/d/e")).unwrap().unwrap(), "e");
    let link = there.tree.image(Path::new("etc/aliases")).unwrap();
    assert_eq!(link, Some(FileImage::Symlink { target: "mail/aliases".into() }));
    assert_eq!(
        there.tree.owner(),
        (fs::metadata(root.path()).unwrap().uid(), fs::metadata(root.path()).unwrap().gid())
    );
    let copy = there.tree.path().to_owned();
    drop(there);
    assert!(!copy.exists());
}

#[tokio::test]
async fn a_hostile_tree_gives_files_links_and_directories_only() {
    let outside = tree(&[("passwd", "out")]);
    let root = tree(&[("etc/rc.conf", "a=1\n"), ("etc/-n\nnew\\line", "x"), ("etc/$(id) `id`", "y")]);
    let etc = root.path().join("etc");
    symlink(outside.path(), etc.join("out")).unwrap();
    symlink(outside.path(), root.path().join("usr")).unwrap();
    nix::unistd::mkfifo(&etc.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::File::create(etc.join("huge")).unwrap().set_len(1 << 40).unwrap();
    fs::write(etc.join("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
    fs::write(etc.join("fits"), vec![b'x'; 1 << 20]).unwrap();
    fs::File::create(etc.join("sparse")).unwrap().set_len(1 << 19).unwrap();
    fs::write(etc.join(OsStr::from_bytes(b"n\xffme")), "z").unwrap();
    let there = fetched(root.path(), &["etc", "usr/local/etc"]).await;
    assert_eq!(there.behind_links, paths(&["usr/local/etc"]));
    let names = there.tree.list(Path::new("etc")).unwrap();
    let names: Vec<_> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let expected = ["$(id) `id`", "-n\nnew\\line", "fits", "n\u{fffd}me", "out", "rc.conf", "sparse"];
    assert_eq!(names, expected);
    assert_eq!(there.tree.metadata(Path::new("etc/fits")).unwrap().unwrap().st_size, 1 << 20);
    let sparse = there.tree.read_text(Path::new("etc/sparse")).unwrap().unwrap();
    assert!(sparse.len() == 1 << 19 && sparse.bytes().all(|byte| byte == 0));
}

#[tokio::test]
async fn files_that_name_a_word_are_found() {
    let root = tree(&[
        ("etc/a", "x 10.0.5.12 y"),
        ("etc/b/c", "-e\n2001:db8::1\n"),
        ("etc/d", "10.0.6.1"),
        ("srv/e", "10.0.5.12"),
    ]);
    let words = ["10.0.5.12".to_owned(), "2001:db8::1".to_owned()];
    let wanted = Wanted { paths: &paths(&["etc/d"]), places: &paths(&["etc", "usr"]), words: &words };
    let there = fetch(&host(), root.path(), wanted).await.unwrap();
    assert_eq!(there.tree.list(Path::new("etc")).unwrap(), ["a", "b", "d"]);
    assert_eq!(there.tree.list(Path::new("")).unwrap(), ["etc"]);
    let none = Wanted { places: &paths(&["etc"]), words: &["nothing".to_owned()], ..Wanted::default() };
    assert!(fetch(&host(), root.path(), none).await.unwrap().tree.list(Path::new("")).unwrap().is_empty());
}

/// What comes out is what went in, and nothing in it is a csh's.
#[tokio::test]
async fn scripts_survive_a_csh_login_shell() {
    let words = ["", "a b", "x\n;echo no\n", "!!", "'\"\\n\\041$(id)`id`%s", "-n", "*", "\u{1}\u{7f}é", "trailing\n\n"];
    let command = script("said", "printf '%s|' \"$#\" \"$@\"\n# !\n", &words);
    let harmful = |c: char| c == '!' || c.is_control();
    assert!(command.argv.iter().all(|word| !word.contains(harmful)), "{:?}", command.argv);
    let output = host().run(&command).await.unwrap();
    assert_eq!(output.text(), format!("{}|{}|", words.len(), words.join("|")));
    assert_eq!((output.status, output.stderr.as_slice()), (0, &b""[..]));
}

#[tokio::test]
async fn a_tree_that_is_not_there_or_a_link_is_refused() {
    let root = tree(&[("real/etc/x", "")]);
    symlink("real", root.path().join("link")).unwrap();
    for name in ["none", "link", "real/etc/x"] {
        let wanted = Wanted { paths: &paths(&["etc"]), ..Wanted::default() };
        let error = fetch(&host(), &root.path().join(name), wanted).await.unwrap_err();
        assert!(error.to_string().contains("there is no directory"), "{error}");
    }
    for path in ["", "/etc", "../etc", "etc/../..", "etc/", "./etc/.."] {
        let wanted = Wanted { paths: &paths(&[path]), ..Wanted::default() };
        let error = fetch(&host(), root.path(), wanted).await.unwrap_err();
        assert!(error.to_string().contains("is no path beneath the tree"), "{path}: {error}");
    }
}

#[tokio::test]
async fn edits_are_put_once_and_taken_back() {
    let root = tree(&[("etc/rc.conf", "a=1\n"), ("etc/old", "old"), ("etc/mode", "m"), ("etc/x y/z", "")]);
    let at = root.path();
    for name in ["rc.conf", "old", "mode"] {
        fs::set_permissions(at.join("etc").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink("rc.conf", at.join("etc/link")).unwrap();
    fs::set_permissions(at.join("etc/x y"), fs::Permissions::from_mode(0o755)).unwrap();
    let (uid, gid) = (fs::metadata(at).unwrap().uid(), fs::metadata(at).unwrap().gid());
    let link = |target: &str| Some(FileImage::Symlink { target: target.into() });
    let long = format!("etc/{}", "n".repeat(200));
    let edits = [
        edit("etc/rc.conf", Some(regular(at, "a=1\n", 0o755)), Some(regular(at, "a=2\n", 0o4711))),
        edit("etc/old", Some(regular(at, "old", 0o755)), None),
        edit("etc/mode", Some(regular(at, "m", 0o755)), Some(regular(at, "m", 0o644))),
        edit("etc/link", link("rc.conf"), link("/nowhere/else")),
        edit("etc/new/deep/file", None, Some(regular(at, "new\n", 0o600))),
        edit("etc/new", None, Some(FileImage::Directory { mode: 0o750, uid, gid })),
        edit("etc/new/deep", None, Some(FileImage::Directory { mode: 0o700, uid, gid })),
        edit(&long, None, Some(regular(at, "long", 0o644))),
        edit("etc/x y/$(id)", None, Some(regular(at, "q", 0o644))),
    ];
    assert!(put(&host(), at, &edits).await.unwrap());
    assert_eq!(fs::read(at.join("etc/rc.conf")).unwrap(), b"a=2\n");
    assert_eq!(fs::metadata(at.join("etc/rc.conf")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(fs::metadata(at.join("etc/mode")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(fs::read_link(at.join("etc/link")).unwrap(), Path::new("/nowhere/else"));
    assert_eq!(fs::read(at.join("etc/new/deep/file")).unwrap(), b"new\n");
    assert_eq!(fs::metadata(at.join("etc/new")).unwrap().mode() & 0o7777, 0o750);
    assert!(!at.join("etc/old").exists());
    let stray = |at: &Path| {
        fs::read_dir(at.join("etc")).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().contains("upgradectl"))
    };
    assert!(!stray(at));
    assert!(!put(&host(), at, &edits).await.unwrap());
    assert!(put(&host(), at, &back(&edits)).await.unwrap());
    assert_eq!(fs::read(at.join("etc/rc.conf")).unwrap(), b"a=1\n");
    assert_eq!(fs::read_link(at.join("etc/link")).unwrap(), Path::new("rc.conf"));
    assert_eq!(fs::read(at.join("etc/old")).unwrap(), b"old");
    assert!(!at.join("etc/new").exists() && !at.join(&long).exists() && !stray(at));
    assert!(!put(&host(), at, &back(&edits)).await.unwrap());
}

#[tokio::test]
async fn a_file_that_someone_changed_stops_all() {
    let root = tree(&[("etc/a", "a"), ("etc/b", "someone's")]);
    let at = root.path();
    let edits = ["etc/a", "etc/b"].map(|path| edit(path, Some(regular(at, "a", 0o644)), Some(regular(at, "c", 0o644))));
    let error = put(&host(), at, &edits).await.unwrap_err();
    assert!(matches!(&error, FarError::Guest(GuestError::Changed { path, .. }) if path == "/etc/b"), "{error}");
    assert_eq!(fs::read(at.join("etc/a")).unwrap(), b"a");
}

#[tokio::test]
async fn nothing_is_written_through_what_stands_there() {
    let outside = tree(&[("passwd", "out"), ("d/x", "")]);
    let untouched = |outside: &Path| {
        let names: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!((fs::read(outside.join("passwd")).unwrap(), names.len()), (b"out".to_vec(), 2));
        assert_eq!(fs::read_dir(outside.join("d")).unwrap().count(), 1);
    };
    let new = |at: &Path, path: &str| edit(path, None, Some(regular(at, "ours", 0o644)));

    // A directory on the way that is a link.
    let root = tree(&[("etc/a", "a")]);
    symlink(outside.path(), root.path().join("usr")).unwrap();
    let edits = [new(root.path(), "etc/first"), new(root.path(), "usr/passwd")];
    let error = put(&host(), root.path(), &edits).await.unwrap_err();
    assert!(error.to_string().contains("lies behind a link"), "{error}");
    assert!(!root.path().join("etc/first").exists());
    untouched(outside.path());

    // A link, a FIFO, a directory in the place of the file or of its temporary.
    let name = temporary(OsStr::new("file"));
    let link_out = |at: &Path| symlink(outside.path().join("passwd"), at).unwrap();
    let link_to_directory = |at: &Path| symlink(outside.path().join("d"), at).unwrap();
    let fifo = |at: &Path| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let make: [&dyn Fn(&Path); 3] = [&link_out, &link_to_directory, &fifo];
    for make in make {
        let root = tree(&[("etc/a", "a")]);
        make(&root.path().join("etc/file"));
        put(&host(), root.path(), &[new(root.path(), "etc/file")]).await.unwrap_err();
        let root = tree(&[("etc/a", "a")]);
        make(&root.path().join("etc").join(&name));
        assert!(put(&host(), root.path(), &[new(root.path(), "etc/file")]).await.unwrap());
        let facts = fs::symlink_metadata(root.path().join("etc/file")).unwrap();
        assert!(facts.is_file());
        untouched(outside.path());
    }

    // A link that is to be replaced, and leads to a directory: mv(1) would go through it.
    let root = tree(&[("etc/a", "a")]);
    link_to_directory(&root.path().join("etc/file"));
    let before = Some(FileImage::Symlink { target: outside.path().join("d") });
    let edits = [edit("etc/file", before, Some(regular(root.path(), "ours", 0o644)))];
    assert!(put(&host(), root.path(), &edits).await.unwrap());
    assert_eq!(fs::read(root.path().join("etc/file")).unwrap(), b"ours");
    untouched(outside.path());
}
