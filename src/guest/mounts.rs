//! Mounts: what of `etc/fstab` and systemd's mount units cannot come up in a clone whose data stays with the original.
//!
//! Lines of detached mount points are commented out, mount units masked, and the empty mount points get the directories
//! services need to start ([`skeleton`]). Links of the root into detached data are noted at clone, so that one that a
//! package replaces during the upgrade is found again ([`lost_links`]). Swap is not this module's business.

use std::collections::VecDeque;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::beneath::{self, Beneath, Budget, io};
use super::tree::{FileImage, Overlay, shown};
use super::{COMMENT, CloneSpec, FileEdit, GuestError, Tree};

const FSTAB: &str = "etc/fstab";
/// Where systemd looks for units, first match first (systemd.unit(5)); only the first is the administrator's.
pub(super) const UNIT_DIRECTORIES: [&str; 4] =
    ["etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// A skeleton has at most so many levels below the mount point …
const SKELETON_DEPTH: usize = 4;
/// … and so many directories, the shallow ones first.
const SKELETON_DIRECTORIES: usize = 2_000;

/// One line of fstab(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FstabEntry {
    /// Device, `UUID=…`, `host:/path` …; octal escapes decoded.
    pub spec: String,
    /// Mount point, octal escapes decoded; `none` for swap.
    pub file: PathBuf,
    /// File system type.
    pub kind: String,
    /// Options.
    pub options: Vec<String>,
    /// Line, counted from 1.
    pub line: usize,
}

impl FstabEntry {
    /// Whether it needs another machine: a network file system, or `_netdev`.
    pub fn is_network(&self) -> bool {
        let kind = self.kind.strip_prefix("fuse.").unwrap_or(&self.kind);
        let network = [
            "nfs",
            "nfs4",
            "cifs",
            "smbfs",
            "smb3",
            "glusterfs",
            "ceph",
            "afs",
            "ncpfs",
            "sshfs",
            "davfs",
            "9p",
            "lustre",
            "ocfs2",
            "gfs2",
            "beegfs",
            "s3fs",
        ];
        network.contains(&kind) || self.options.iter().any(|option| option == "_netdev")
    }

    /// Whether it needs neither a device nor another machine.
    fn stands_alone(&self) -> bool {
        let bound = self.options.iter().any(|option| option == "bind" || option == "rbind");
        !self.is_network() && (bound || matches!(self.kind.as_str(), "tmpfs" | "proc" | "sysfs" | "devpts" | "overlay"))
    }

    /// Whether it cannot be mounted, or has nothing to be mounted on, without the detached mount points.
    fn needs(&self, detached: &[PathBuf]) -> bool {
        let spec = Path::new(&self.spec);
        self.kind != "swap"
            && detached.iter().any(|point| {
                let point = clean(point);
                clean(&self.file).starts_with(&point)
                    || (spec.is_absolute() && !spec.starts_with("/dev") && clean(spec).starts_with(&point))
            })
    }
}

/// Plans the edits of fstab and of mount units.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    if spec.detached.is_empty() {
        return Ok(());
    }
    let path = Path::new(FSTAB);
    if let Some(text) = edits.text(path)? {
        let mut new = String::with_capacity(text.len());
        for (index, line) in text.split_inclusive('\n').enumerate() {
            if parse_line(line, index + 1).is_some_and(|entry| entry.needs(&spec.detached)) {
                new.push_str(COMMENT);
            }
            new.push_str(line);
        }
        if new != text {
            edits.set_text(path, new, "detached data is not mounted in the clone")?;
        }
    }
    for directory in UNIT_DIRECTORIES {
        for name in edits.list(Path::new(directory))? {
            let Some(name) = name.to_str() else { continue };
            let Some(point) = mount_point_of(name) else { continue };
            if spec.detached.iter().any(|detached| clean(&point).starts_with(clean(detached))) {
                let mask = FileImage::Symlink { target: "/dev/null".into() };
                let path = Path::new(UNIT_DIRECTORIES[0]).join(name);
                edits.put(&path, Some(mask), "detached data is not mounted in the clone")?;
            }
        }
    }
    Ok(())
}

/// Plans that fstab mounts nothing but what needs no device and no other machine: a container's file systems are its host's.
pub fn without_devices(edits: &mut Overlay<'_>) -> Result<(), GuestError> {
    let path = Path::new(FSTAB);
    let Some(text) = edits.text(path)? else { return Ok(()) };
    let mut new = String::with_capacity(text.len());
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if parse_line(line, index + 1).is_some_and(|entry| !entry.stands_alone()) {
            new.push_str(COMMENT);
        }
        new.push_str(line);
    }
    if new != text { edits.set_text(path, new, "a container has no devices of its own") } else { Ok(()) }
}

/// Entries of etc/fstab in file order; no file, no entries. Lines that are no entries (fewer than two fields) are left out.
pub fn fstab(tree: &Tree) -> Result<Vec<FstabEntry>, GuestError> {
    let text = tree.read_text(Path::new(FSTAB))?.unwrap_or_default();
    Ok(text.lines().enumerate().filter_map(|(index, line)| parse_line(line, index + 1)).collect())
}

/// Mounts that need another machine: preflight wants a decision for each.
pub fn network_mounts(tree: &Tree) -> Result<Vec<FstabEntry>, GuestError> {
    Ok(fstab(tree)?.into_iter().filter(FstabEntry::is_network).collect())
}

/// fstab(5): fields separated by blanks, `#` starts a comment only where a line starts; type and options may be absent.
fn parse_line(text: &str, line: usize) -> Option<FstabEntry> {
    if text.trim_start().starts_with('#') {
        return None;
    }
    let mut fields = text.split_ascii_whitespace();
    let spec = String::from_utf8_lossy(&unescaped(fields.next()?)).into_owned();
    let file = PathBuf::from(std::ffi::OsString::from_vec(unescaped(fields.next()?)));
    let kind = fields.next().unwrap_or("auto").to_owned();
    let options = fields.next().unwrap_or("defaults").split(',').map(str::to_owned).collect();
    Some(FstabEntry { spec, file, kind, options, line })
}

/// `\040` and the like as getmntent(3) decodes them.
fn unescaped(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = bytes.get(at + 1..at + 4).filter(|digits| {
            byte == b'\\' && digits[0] <= b'3' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0, |value, digit| value * 8 + (digit - b'0')));
            at += 4;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    out
}

/// Mount point of a `.mount` or `.automount` unit: its name says it, and must (systemd.mount(5), systemd-escape(1)).
fn mount_point_of(unit: &str) -> Option<PathBuf> {
    let stem = unit.strip_suffix(".mount").or_else(|| unit.strip_suffix(".automount"))?;
    let mut bytes = vec![b'/'];
    let mut rest = stem.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = after.get(..3).filter(|code| byte == b'\\' && code[0] == b'x');
        let code = escaped.and_then(|code| u8::from_str_radix(std::str::from_utf8(&code[1..]).ok()?, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => bytes.push(if byte == b'-' { b'/' } else { byte }),
        }
    }
    (stem != "-").then(|| std::ffi::OsString::from_vec(bytes).into())
}

/// A path relative to the root, by its names alone: `.` and doubled slashes go, `..` takes a name away.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// A directory of a detached mount point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkeletonDirectory {
    /// Relative to the mount point; empty for the mount point itself.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The directories of detached data that services may need to start, read from the original's data: its own root
/// first, four levels, at most 2,000, shallow ones first. Names that are not UTF-8 are left out.
pub fn skeleton(mounted: &Tree) -> Result<Vec<SkeletonDirectory>, GuestError> {
    let beneath = Beneath::of(mounted);
    let mut budget = Budget { entries: 200_000, until: None };
    let mut found = Vec::new();
    let mut level = VecDeque::from([(PathBuf::new(), SKELETON_DEPTH)]);
    while let Some((path, depth)) = level.pop_front() {
        let Some(directory) = beneath.directory(&path)? else { continue };
        let stat = rustix::fs::fstat(&directory).map_err(|errno| io(&path, errno))?;
        found.push(SkeletonDirectory {
            path: path.clone(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        });
        if depth == 0 {
            continue;
        }
        beneath::walk(beneath, &path, 1, &mut budget, &mut |entry| {
            let wanted =
                beneath::is_directory(&entry.stat) && entry.name != "lost+found" && entry.name.to_str().is_some();
            if wanted && found.len() + level.len() < SKELETON_DIRECTORIES {
                level.push_back((entry.path.to_owned(), depth - 1));
            }
            Ok(false)
        })?;
    }
    Ok(found)
}

/// Plans the directories of a skeleton beneath an empty mount point (absolute, or relative to the root). What is there
/// already stays, the mount point's own mode and owner excepted. What is missing above the mount point is made too.
pub fn skeleton_edits(
    edits: &mut Overlay<'_>,
    mount_point: &Path,
    skeleton: &[SkeletonDirectory],
) -> Result<(), GuestError> {
    let mount_point = clean(mount_point);
    let mut above: Vec<&Path> = mount_point.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for path in above {
        if edits.image(path)?.is_none() {
            let image = edits.tree().new_directory(0o755);
            edits.put(path, Some(image), format!("{} is mounted beneath it", shown(&mount_point)))?;
        }
    }
    let is_directory = |image: Option<FileImage>| matches!(image, Some(FileImage::Directory { .. }));
    for bone in skeleton {
        let path = mount_point.join(&bone.path);
        let top = bone.path.as_os_str().is_empty();
        // A mount point that is a link, or a file hidden beneath one, is left alone with all that would be in it.
        if !top && !is_directory(edits.image(path.parent().unwrap_or(Path::new("")))?) {
            continue;
        }
        let current = edits.image(&path)?;
        if current.is_none() || (top && is_directory(current)) {
            let image = FileImage::Directory { mode: bone.mode, uid: bone.uid, gid: bone.gid };
            let why = format!("services find the directories of {}", shown(&mount_point));
            edits.put(&path, Some(image), why)?;
        }
    }
    Ok(())
}

/// Symbolic links in the root that lead into detached data (the seed: `/var/lib/sympa` to `/srv/mail/lib-sympa`): path
/// of the link relative to the root, target as written. Looked for below etc, var, srv, home, opt and usr/local, three
/// levels deep; names that are not UTF-8 are left out.
pub fn links_into(tree: &Tree, detached: &[PathBuf]) -> Result<Vec<(PathBuf, PathBuf)>, GuestError> {
    let beneath = Beneath::of(tree);
    let mut budget = Budget { entries: 100_000, until: None };
    let mut links = Vec::new();
    let inside = |path: &Path| detached.iter().any(|point| clean(path).starts_with(clean(point)));
    let mut look = |entry: &beneath::Entry<'_>| {
        if rustix::fs::FileType::from_raw_mode(entry.stat.st_mode) == rustix::fs::FileType::Symlink {
            let target = rustix::fs::readlinkat(entry.directory, entry.name, Vec::new());
            let target = target.map_err(|errno| io(entry.path, errno))?;
            let target = PathBuf::from(std::ffi::OsStr::from_bytes(target.as_bytes()));
            let from = entry.path.parent().unwrap_or(Path::new(""));
            let absolute = if target.is_absolute() { target.clone() } else { from.join(&target) };
            if inside(&absolute) && entry.path.to_str().is_some() && target.to_str().is_some() {
                links.push((entry.path.to_owned(), target));
            }
        }
        Ok(!inside(entry.path))
    };
    for (start, depth) in [("", 1), ("etc", 3), ("var", 3), ("srv", 3), ("home", 2), ("opt", 3), ("usr/local", 3)] {
        if !inside(Path::new(start)) {
            beneath::walk(beneath, Path::new(start), depth, &mut budget, &mut look)?;
        }
    }
    links.sort();
    links.dedup();
    Ok(links)
}

/// What became of links into detached data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostLinks {
    /// Edits that put links back: where there is nothing, or an empty directory.
    pub edits: Vec<FileEdit>,
    /// Links that something with content took the place of; people have to look.
    pub warnings: Vec<String>,
}

/// Compares with what [`links_into`] recorded at clone.
pub fn lost_links(tree: &Tree, recorded: &[(PathBuf, PathBuf)]) -> Result<LostLinks, GuestError> {
    let mut lost = LostLinks::default();
    for (path, target) in recorded {
        let link = FileImage::Symlink { target: target.clone() };
        let before = match tree.image(path) {
            Err(GuestError::Unfit { why, .. }) => {
                lost.warnings.push(format!("{} was a link to {} and {why} now", shown(path), shown(target)));
                continue;
            }
            other => other?,
        };
        if before.as_ref() == Some(&link) {
            continue;
        }
        let free = match &before {
            None => tree.exists(path.parent().unwrap_or(Path::new("")))?,
            Some(FileImage::Directory { .. }) => tree.list(path)?.is_empty(),
            Some(_) => false,
        };
        if free {
            let why = format!("leads into {} again", shown(target));
            lost.edits.push(FileEdit { path: path.clone(), before, after: Some(link), why });
        } else {
            let now = match before {
                None => "is gone with its directory",
                Some(FileImage::Directory { .. }) => "is a directory with content",
                Some(FileImage::Symlink { .. }) => "leads elsewhere",
                Some(FileImage::Regular { .. }) => "is a file",
            };
            lost.warnings.push(format!(
                "{} was a link to {} and {now} now: move what is new there, then restore the link",
                shown(path),
                shown(target)
            ));
        }
    }
    Ok(lost)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// Lines in the forms of fstab(5) of util-linux 2.38 and of what the Debian 12 installer writes.
    const FSTAB_TEXT: &str = "# /etc/fstab: static file system information.\n\
        UUID=6b1c-22 / ext4 errors=remount-ro 0 1\n\
        /dev/xvda2\tnone\tswap\tsw\t0\t0\n\
        /dev/xvdb1 /srv/mail ext4 defaults,nofail 0 2\n\
        /dev/xvdb2 /srv/mail2 ext4 defaults 0 2\n\
        /srv/mail/home /home none bind\n\
        /dev/xvdc1 /srv/mail/with\\040space/ xfs\n\
        nas:/export /mnt/nas nfs4 ro\n\
        /dev/nbd0 /mnt/nbd ext4 _netdev,ro 0 0";

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc/systemd/system", "lib/systemd/system", "var/lib", "srv/mail"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join(FSTAB), FSTAB_TEXT).unwrap();
        root
    }

    fn edits(root: &Path, detached: &[&str]) -> Vec<FileEdit> {
        let tree = Tree::open(root).unwrap();
        let mut edits = Overlay::new(&tree);
        let spec = CloneSpec { detached: detached.iter().map(PathBuf::from).collect(), ..CloneSpec::default() };
        rewrite(&mut edits, &spec).unwrap();
        edits.into_edits()
    }

    #[test]
    fn what_hangs_on_detached_data_is_commented_out_and_masked() {
        let root = root();
        fs::write(root.path().join("etc/systemd/system/srv-mail-deep.mount"), "[Mount]\nWhere=/srv/mail/deep\n")
            .unwrap();
        fs::write(root.path().join("lib/systemd/system/srv-mail.automount"), "").unwrap();
        fs::write(root.path().join("lib/systemd/system/srv-mail2.mount"), "").unwrap();
        let first = edits(root.path(), &["/srv/mail/"]);
        super::super::apply(&Tree::open(root.path()).unwrap(), &first).unwrap();
        let text = fs::read_to_string(root.path().join(FSTAB)).unwrap();
        let off: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(COMMENT)).collect();
        assert_eq!(
            off,
            [
                "/dev/xvdb1 /srv/mail ext4 defaults,nofail 0 2",
                "/srv/mail/home /home none bind",
                "/dev/xvdc1 /srv/mail/with\\040space/ xfs"
            ]
        );
        assert_eq!(text.replace(COMMENT, ""), FSTAB_TEXT);
        let masked: Vec<_> = first.iter().skip(1).map(|edit| edit.path.to_str().unwrap()).collect();
        assert_eq!(masked, ["etc/systemd/system/srv-mail-deep.mount", "etc/systemd/system/srv-mail.automount"]);
        assert!(first[1].before.is_some(), "the administrator's unit is kept for the way back");
        assert_eq!(edits(root.path(), &["/srv/mail/"]), []);
    }

    #[test]
    fn fstab_and_network_mounts() {
        let root = root();
        let tree = Tree::open(root.path()).unwrap();
        let entries = fstab(&tree).unwrap();
        assert_eq!(entries.len(), 8);
        assert_eq!(entries[5].file, Path::new("/srv/mail/with space/"));
        assert_eq!((entries[5].line, entries[5].options.as_slice()), (7, &["defaults".to_owned()][..]));
        let network: Vec<_> = network_mounts(&tree).unwrap().into_iter().map(|entry| entry.line).collect();
        assert_eq!(network, [8, 9]);
        assert_eq!(mount_point_of(r"srv-with\x20space\x2dx.mount"), Some("/srv/with space-x".into()));
        assert_eq!(mount_point_of("-.mount"), None);
        assert_eq!(unescaped(r"a\04"), b"a\\04");
    }

    #[test]
    fn a_skeleton_is_directories_only_and_shallow() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir_all(data.path().join("clamav/a/b/c/d")).unwrap();
        fs::create_dir_all(data.path().join("lost+found")).unwrap();
        fs::write(data.path().join("syslog"), "x").unwrap();
        symlink("/", data.path().join("loop")).unwrap();
        fs::set_permissions(data.path().join("clamav"), fs::Permissions::from_mode(0o2750)).unwrap();
        let bones = skeleton(&Tree::open(data.path()).unwrap()).unwrap();
        let paths: Vec<_> = bones.iter().map(|bone| bone.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["", "clamav", "clamav/a", "clamav/a/b", "clamav/a/b/c"]);
        assert_eq!(bones[1].mode, 0o2750);

        let root = root();
        let tree = Tree::open(root.path()).unwrap();
        let mut overlay = Overlay::new(&tree);
        skeleton_edits(&mut overlay, Path::new("/srv/mail"), &bones).unwrap();
        let planned = overlay.into_edits();
        super::super::apply(&tree, &planned).unwrap();
        assert!(root.path().join("srv/mail/clamav/a/b/c").is_dir());
        assert_eq!(root.path().join("srv/mail/clamav").metadata().unwrap().permissions().mode() & 0o7777, 0o2750);
        let mut again = Overlay::new(&tree);
        skeleton_edits(&mut again, Path::new("/srv/mail"), &bones).unwrap();
        assert_eq!(again.into_edits(), []);
    }

    #[test]
    fn a_skeleton_gets_the_directories_above_it_and_leaves_links_alone() {
        let root = root();
        symlink("/srv/mail", root.path().join("srv/link")).unwrap();
        fs::write(root.path().join("srv/mail/a"), "hidden by the mount").unwrap();
        let bone = |path: &str| SkeletonDirectory { path: path.into(), mode: 0o755, uid: 0, gid: 0 };
        let bones = [bone(""), bone("a"), bone("a/b"), bone("c")];
        let paths = |point: &str| {
            let spec = CloneSpec { skeletons: vec![(point.into(), bones.to_vec())], ..CloneSpec::default() };
            let edits = super::super::clone_edits(&Tree::open(root.path()).unwrap(), &spec).unwrap();
            edits.into_iter().map(|edit| edit.path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("/data/deep"),
            ["data", "data/deep", "data/deep/a", "data/deep/a/b", "data/deep/c"].map(str::to_owned)
        );
        assert_eq!(paths("/srv/link"), Vec::<String>::new());
        assert!(!paths("/srv/mail").iter().any(|path| path.starts_with("srv/mail/a")));
    }

    #[test]
    fn links_into_detached_data_are_found_and_restored() {
        let root = root();
        let lib = root.path().join("var/lib");
        for (name, target) in [("sympa", "/srv/mail/lib-sympa"), ("rel", "../../srv/mail/x"), ("no", "/srv/mail2")] {
            symlink(target, lib.join(name)).unwrap();
        }
        symlink("loop", lib.join("loop")).unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let recorded = links_into(&tree, &["/srv/mail".into()]).unwrap();
        assert_eq!(
            recorded,
            [
                (PathBuf::from("var/lib/rel"), PathBuf::from("../../srv/mail/x")),
                ("var/lib/sympa".into(), "/srv/mail/lib-sympa".into())
            ]
        );
        assert_eq!(lost_links(&tree, &recorded).unwrap(), LostLinks::default());
        for name in ["sympa", "rel"] {
            fs::remove_file(lib.join(name)).unwrap();
            fs::create_dir(lib.join(name)).unwrap();
        }
        fs::write(lib.join("rel/new"), "").unwrap();
        let lost = lost_links(&tree, &recorded).unwrap();
        assert_eq!(lost.warnings.len(), 1);
        assert!(lost.warnings[0].contains("/var/lib/rel"), "{:?}", lost.warnings);
        super::super::apply(&tree, &lost.edits).unwrap();
        assert_eq!(fs::read_link(lib.join("sympa")).unwrap(), Path::new("/srv/mail/lib-sympa"));
    }
}
