//! Names of logical volumes and the device paths they have. LVM's rules (`lvm(8)`, VALID NAMES) are held before anything
//! reaches a command, so that no name is an option, a path or a volume of LVM's own.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Mark, Result};

/// Parts of names that LVM keeps for volumes of its own.
const RESERVED_PARTS: [&str; 17] = [
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog", "_pmspare", "_rimage",
    "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig",
];
const RESERVED_BEGINNINGS: [&str; 2] = ["snapshot", "pvmove"];
/// Longest `VG/LV` that device-mapper can name.
const LONGEST: usize = 126;
/// What stands before a mark in a tag.
const TAG: &str = "upgradectl.";

/// `VG/LV`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LvName {
    /// Volume group.
    pub vg: String,
    /// Logical volume.
    pub lv: String,
}

impl fmt::Display for LvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vg, self.lv)
    }
}

impl LvName {
    /// The volume that a device path names: `/dev/VG/LV`, or `/dev/mapper/VG-LV` with the hyphens of names doubled.
    pub fn of(path: &Path) -> Option<Self> {
        let mut parts = path.components();
        if parts.next() != Some(Component::RootDir) || parts.next() != Some(Component::Normal("dev".as_ref())) {
            return None;
        }
        let words: Vec<&str> = parts.map(|part| part.as_os_str().to_str()).collect::<Option<_>>()?;
        let (vg, lv) = match words.as_slice() {
            ["mapper", name] => of_mapper(name)?,
            [vg, lv] => ((*vg).to_owned(), (*lv).to_owned()),
            _ => return None,
        };
        (valid(&vg) && valid(&lv) && ours_to_name(&lv) && vg.len() + lv.len() < LONGEST).then_some(Self { vg, lv })
    }
    /// The same, for a driver: an error that says what is wrong.
    pub fn checked(doing: &str, path: &Path) -> Result<Self> {
        Self::of(path).ok_or_else(|| {
            let path = crate::host::printable(&path.display().to_string());
            Error::refused(doing, format!("{path} cannot be a logical volume"))
                .help("names are made of A-Z a-z 0-9 + _ . -, do not begin with a hyphen, and some are LVM's own")
        })
    }
    /// `/dev/VG/LV`.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.vg).join(&self.lv)
    }
}

/// A device path of a logical volume in its one form; any other path as it is.
pub fn canonical(path: &Path) -> PathBuf {
    LvName::of(path).map_or_else(|| path.to_owned(), |name| name.path())
}

/// A volume group's name, if a directory is that of one (`/dev/VG`).
pub fn group_of(directory: &Path) -> Option<String> {
    let name = directory.strip_prefix("/dev").ok()?.to_str()?;
    (valid(name) && name != "mapper").then(|| name.to_owned())
}

/// Undoes device-mapper's doubling; the single hyphen stands between the two names.
fn of_mapper(name: &str) -> Option<(String, String)> {
    let mut names = vec![String::new()];
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '-' && chars.next_if_eq(&'-').is_none() {
            names.push(String::new());
        } else {
            names.last_mut()?.push(c);
        }
    }
    // A third name is that of a layer within a volume.
    match names.as_slice() {
        [vg, lv] => Some((vg.clone(), lv.clone())),
        _ => None,
    }
}

fn valid(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    !name.is_empty() && name.bytes().all(fits) && !name.starts_with('-') && ![".", ".."].contains(&name)
}

fn ours_to_name(lv: &str) -> bool {
    !RESERVED_BEGINNINGS.iter().any(|word| lv.starts_with(word)) && !RESERVED_PARTS.iter().any(|part| lv.contains(part))
}

/// The tag that bears a mark: `upgradectl.RUNID.ROLE`.
pub fn tag(doing: &str, mark: &Mark) -> Result<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    if mark.run.is_empty() || mark.run.len() > 200 || !mark.run.bytes().all(fits) {
        return Err(Error::refused(doing, "its mark cannot be written as a tag"));
    }
    Ok(format!("{TAG}{mark}"))
}

/// The mark in a tag, if it is one of ours.
pub fn mark(tag: &str) -> Option<Mark> {
    tag.strip_prefix(TAG)?.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::Role;
    use proptest::prelude::*;

    #[test]
    fn both_forms_of_a_path_name_the_same_volume() {
        let recorded = Path::new("/dev/mapper/vg1-mercure----k3f9--xvda1");
        assert_eq!(canonical(recorded), Path::new("/dev/vg1/mercure--k3f9-xvda1"));
        assert_eq!(LvName::of(Path::new("/dev/vg-a/b")).unwrap().to_string(), "vg-a/b");
        for other in
            ["/dev/sda", "/dev/mapper/vg1-pool-tpool", "/dev/disk/by-id/x", "/srv/vg/lv", "/dev/vg/../lv", "lv"]
        {
            assert_eq!(LvName::of(Path::new(other)), None, "{other}");
        }
        assert_eq!(group_of(Path::new("/dev/vg1")).as_deref(), Some("vg1"));
        for none in ["/dev", "/dev/mapper", "/dev/a/b", "/srv"] {
            assert_eq!(group_of(Path::new(none)), None, "{none}");
        }
    }

    #[test]
    fn names_of_lvm_itself_and_options_are_no_names() {
        for bad in ["-f", "a b", "a;b", "pool_tdata", "snapshot1", "pvmove0", ".", "a\n", "é"] {
            let error = LvName::checked("d", &Path::new("/dev/vg").join(bad)).unwrap_err();
            assert!(error.help.is_some(), "{bad}");
        }
        assert!(LvName::of(&Path::new("/dev/vg").join("x".repeat(124))).is_none());
    }

    proptest! {
        #[test]
        fn the_mapper_name_comes_back(vg in "[a-z0-9+_.][a-z0-9+_.-]{0,12}", lv in "[a-z0-9+_.][a-z0-9+_.-]{0,12}") {
            prop_assume!(valid(&vg) && valid(&lv) && ours_to_name(&lv) && vg != "mapper");
            // Where one ends and the other begins with a hyphen, device-mapper itself cannot tell; LVM allows it.
            prop_assume!(!vg.ends_with('-'));
            let path = format!("/dev/mapper/{}-{}", vg.replace('-', "--"), lv.replace('-', "--"));
            prop_assert_eq!(LvName::of(Path::new(&path)), Some(LvName { vg, lv }));
        }

        #[test]
        fn marks_come_back_from_tags(run in "[a-z0-9-]{1,20}(--[a-z0-9]{4})?") {
            let original = Mark { run, role: Role::Detached };
            prop_assert_eq!(mark(&tag("d", &original).unwrap()), Some(original));
        }
    }
}
