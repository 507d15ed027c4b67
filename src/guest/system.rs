//! The machine's own identity: machine-id, cloud-init's marker, and the time stamps of persistent timers.
//!
//! `var/lib/systemd/random-seed` and `credential.secret` stay as cloned: the first is mixed in, not trusted
//! (random-seed(8)), the second may be what production's credentials are encrypted with.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::{AtFlags, Timespec, Timestamps};

use super::beneath::{self, Beneath, io};
use super::tree::{FileImage, Overlay, unfit};
use super::{CloneSpec, GuestError, Tree};

/// machine-id(5): two machines with one id get one DHCP lease and one journal.
pub(super) const MACHINE_ID: &str = "etc/machine-id";
pub(super) const DBUS_MACHINE_ID: &str = "var/lib/dbus/machine-id";
/// cloud-init(1), how to disable: it would take the clone for a first boot and make new users, keys and networks.
const CLOUD_INIT_DISABLED: &str = "etc/cloud/cloud-init.disabled";
const STAMPS: &str = "var/lib/systemd/timers";

/// Plans the edits of machine-id and cloud-init's marker.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    if !spec.machine_id.is_empty() {
        for path in [MACHINE_ID, DBUS_MACHINE_ID] {
            machine_id(edits, Path::new(path), &spec.machine_id)?;
        }
    }
    let marker = Path::new(CLOUD_INIT_DISABLED);
    let installed = matches!(edits.image(Path::new("etc/cloud"))?, Some(FileImage::Directory { .. }));
    if installed && edits.image(marker)?.is_none() {
        edits.set_text(marker, String::new(), "cloud-init leaves the clone alone")?;
    }
    Ok(())
}

/// A link (to the other file, usually) stays, as does absence: systemd then makes one at boot, a guest without it needs none.
fn machine_id(edits: &mut Overlay<'_>, path: &Path, id: &str) -> Result<(), GuestError> {
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err(unfit(path, "would get an id that is not 32 hexadecimal digits", "this is an error of upgradectl"));
    }
    if let Some(FileImage::Regular { mode, uid, gid, xattrs, .. }) = edits.image(path)? {
        let image = FileImage::Regular { bytes: format!("{id}\n").into_bytes(), mode, uid, gid, xattrs };
        edits.put(path, Some(image), "the clone is another machine")?;
    }
    Ok(())
}

/// When the persistent timers of a guest last ran: file name of the stamp to seconds since the epoch
/// (systemd.timer(5), `Persistent=`: `stamp-NAME.timer`, its modification time).
pub fn stamps(tree: &Tree) -> Result<BTreeMap<String, i64>, GuestError> {
    let mut stamps = BTreeMap::new();
    for name in tree.list(Path::new(STAMPS))? {
        let Some(name) = name.to_str().filter(|name| is_stamp(name)) else { continue };
        let path = Path::new(STAMPS).join(name);
        if let Some(stat) = tree.metadata(&path)?
            && beneath::is_file(&stat)
            // One with several names is another file as well.
            && stat.st_nlink == 1
        {
            stamps.insert(name.to_owned(), stat.st_mtime);
        }
    }
    Ok(stamps)
}

/// Sets the persistent timers' stamps at promotion: to those of the stopped original, so that each job runs when
/// production's would have, neither twice nor all at once; to `now` (seconds since the epoch) where the original has
/// none. Returns how many were changed. Stamps are touched beneath the root, links are not followed.
pub fn restamp(tree: &Tree, original: &BTreeMap<String, i64>, now: i64) -> Result<usize, GuestError> {
    let Some(directory) = Beneath::of(tree).directory(Path::new(STAMPS))? else { return Ok(0) };
    let mut changed = 0;
    for (name, current) in stamps(tree)? {
        let wanted = original.get(&name).copied().filter(|stamp| *stamp <= now).unwrap_or(now);
        if wanted == current {
            continue;
        }
        let time = Timespec { tv_sec: wanted, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(&directory, name.as_str(), &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| io(&Path::new(STAMPS).join(&name), errno))?;
        changed += 1;
    }
    Ok(changed)
}

fn is_stamp(name: &str) -> bool {
    name.starts_with("stamp-") && name.ends_with(".timer")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn edits(root: &Path, id: &str) -> Result<Vec<super::super::FileEdit>, GuestError> {
        let tree = Tree::open(root).unwrap();
        let mut edits = Overlay::new(&tree);
        rewrite(&mut edits, &CloneSpec { machine_id: id.into(), ..CloneSpec::default() })?;
        Ok(edits.into_edits())
    }

    #[test]
    fn machine_id_and_marker_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/cloud")).unwrap();
        fs::create_dir_all(root.path().join("var/lib/dbus")).unwrap();
        fs::write(root.path().join(MACHINE_ID), "0123456789abcdef0123456789abcdef\n").unwrap();
        // As dbus 1.14.10 on Debian 12 has it.
        symlink("/etc/machine-id", root.path().join(DBUS_MACHINE_ID)).unwrap();
        let id = "fedcba9876543210fedcba9876543210";
        let first = edits(root.path(), id).unwrap();
        let paths: Vec<_> = first.iter().map(|edit| edit.path.to_str().unwrap()).collect();
        assert_eq!(paths, [CLOUD_INIT_DISABLED, MACHINE_ID]);
        super::super::apply(&Tree::open(root.path()).unwrap(), &first).unwrap();
        assert_eq!(fs::read_to_string(root.path().join(MACHINE_ID)).unwrap(), format!("{id}\n"));
        assert_eq!(edits(root.path(), id).unwrap(), []);
        assert!(edits(root.path(), "no id").is_err());
    }

    #[test]
    fn stamps_become_the_originals_and_links_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(STAMPS);
        fs::create_dir_all(&directory).unwrap();
        for name in ["stamp-apt-daily.timer", "stamp-new.timer", "other"] {
            fs::write(directory.join(name), "").unwrap();
        }
        let outside = tempfile::NamedTempFile::new().unwrap();
        let untouched = outside.path().metadata().unwrap().mtime();
        symlink(outside.path(), directory.join("stamp-evil.timer")).unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let original = BTreeMap::from([("stamp-apt-daily.timer".to_owned(), 1_000)]);
        assert_eq!(restamp(&tree, &original, 5_000).unwrap(), 2);
        assert_eq!(restamp(&tree, &original, 5_000).unwrap(), 0);
        assert_eq!(
            stamps(&tree).unwrap(),
            BTreeMap::from([("stamp-apt-daily.timer".to_owned(), 1_000), ("stamp-new.timer".to_owned(), 5_000)])
        );
        assert_eq!(outside.path().metadata().unwrap().mtime(), untouched);
    }
}
