//! Where a guest's file systems lie: what its fstab mounts, on which of its disks and in which partition. What follows for the
//! clone: which mount points stay with detached disks, and what cannot be reached from the root.

use std::path::{Path, PathBuf};

use hypervisors::storage::disk::Layout;

use super::facts::{DiskFacts, Facts};
use super::preflight::Findings;
use crate::guest::mounts::FstabEntry;
use crate::guest::queues;
use crate::inventory::{CarryRule, DiskRule};

/// A file system, or swap space, that the guest's fstab names, on one of its disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its mount point; `none` for swap.
    pub point: PathBuf,
    /// Name of the disk.
    pub disk: String,
    /// Number of the partition; `None`: the disk is one file system.
    pub number: Option<u32>,
    /// What is on it, by blkid's name.
    pub content: String,
    /// What becomes of the disk.
    pub rule: DiskRule,
    /// It is mounted at boot.
    pub auto: bool,
}

/// Finds the entries of an fstab on disks. An id that several disks bear is that of the first.
pub fn placed(entries: &[FstabEntry], disks: &[DiskFacts]) -> Vec<Placed> {
    let on = |entry: &FstabEntry| {
        disks.iter().find_map(|disk| {
            let areas = &disk.layout.as_ref().ok()?.as_ref()?.areas;
            let area =
                areas.iter().filter(|area| !area.container).find(|area| area.is(&entry.spec, &disk.disk.name))?;
            Some(Placed {
                point: entry.file.clone(),
                disk: disk.disk.name.clone(),
                number: area.number,
                content: area.content.clone(),
                rule: disk.rule,
                auto: !entry.options.iter().any(|option| option == "noauto"),
            })
        })
    };
    entries.iter().filter_map(on).collect()
}

/// Mount points on detached disks that are named by device.
pub fn detached(placed: &[Placed]) -> impl Iterator<Item = &Placed> {
    placed.iter().filter(|one| one.rule == DiskRule::Detach && one.point.is_absolute())
}

/// The partitions of a disk, for the plan: name, what is there.
pub fn shown(disk: &DiskFacts, placed: &[Placed]) -> Vec<(String, String)> {
    let Ok(Some(layout @ Layout { table: Some(_), .. })) = &disk.layout else { return Vec::new() };
    let areas = layout.areas.iter().filter(|area| !area.container);
    areas
        .map(|area| {
            let here = placed.iter().find(|one| one.disk == disk.disk.name && one.number == area.number);
            let content = if area.content.is_empty() { "nothing known" } else { &area.content };
            let what = match here.filter(|one| one.point.is_absolute()) {
                Some(one) => format!("{content} on {}", one.point.display()),
                None => content.to_owned(),
            };
            (area.device(&disk.disk.name), hypervisors::host::printable(&what))
        })
        .collect()
}

/// Contents that must not stand beside a copy of themselves on one machine, each with why.
fn cannot_be_copied(content: &str) -> Option<&'static str> {
    match content {
        "LVM2_member" => Some(
            "holds a volume group of the guest's own: the copy would bear the same ids, and the host could take one for the other",
        ),
        "linux_raid_member" => Some("is part of an array of the guest's own: the host could assemble it from the copy"),
        "btrfs" => Some("holds a btrfs: two of the same id on one machine can damage each other"),
        "crypto_LUKS" => Some("is encrypted: nothing of it can be changed for the clone"),
        _ => None,
    }
}

/// What is looked at before a clone is made.
pub fn check(facts: &Facts, findings: &mut Findings) {
    for disk in facts.disks.iter().filter(|disk| disk.rule != DiskRule::Detach) {
        let name = &disk.disk.name;
        let detach = format!("declare it: disks = {{ \"{name}\" = \"detach\" }}");
        let layout = match &disk.layout {
            Ok(Some(layout)) => layout,
            Ok(None) => continue,
            Err(why) => {
                findings.refuse("disks", format!("{name}: {why}"), detach);
                continue;
            }
        };
        let areas = || layout.areas.iter().filter(|area| !area.container);
        for area in areas() {
            if let Some(why) = cannot_be_copied(&area.content) {
                let remedy = match area.content.as_str() {
                    "LVM2_member" => format!(
                        "{detach}; or give the guest a volume of the host for each of its own, or upgrade it in place; never \
                         let the host scan guests' volumes (devices/scan_lvs = 0, its default)"
                    ),
                    _ => format!("{detach}, or upgrade it in place"),
                };
                findings.refuse("disks", format!("{} {why}", area.device(name)), remedy);
            }
        }
        if layout.table.is_some() {
            if disk.rule == DiskRule::Swap {
                findings.refuse(
                    "disks",
                    format!(
                        "{name} is a disk with partitions: fresh swap is made for volumes that are swap space alone"
                    ),
                    format!("take it out of disks: {name} is cloned, the swap space in it comes along"),
                );
            }
            findings.pass("disks", format!("{name} has {} partitions", areas().count()));
        }
    }
    for one in detached(&facts.placed).filter(|one| one.number.is_some()) {
        findings.warn(
            "detached",
            format!("{}: the directories in {} are not made in the clone", one.disk, one.point.display()),
        );
    }
    apart(facts, findings);
}

/// File systems that are not reached with the root, and what would have to be done in them.
fn apart(facts: &Facts, findings: &mut Findings) {
    let reached = |point: &Path| facts.root.nested().iter().any(|nested| Path::new("/").join(nested) == *point);
    let unreached = facts.placed.iter().filter(|one| {
        let plain = one.auto && one.rule == DiskRule::Clone && one.point.is_absolute() && one.point != Path::new("/");
        plain && !reached(&one.point)
    });
    for one in unreached {
        let (point, remedy) = (
            one.point.display(),
            "only the root file system is opened, with partitions of the same disk; let the directory be in it",
        );
        if ["/etc", "/usr"].iter().any(|needed| Path::new(needed) == one.point) {
            findings.refuse("file_systems", format!("{point} is on a disk of its own ({})", one.disk), remedy);
        }
        for CarryRule::Rsync { path, .. } in &facts.spec.carry {
            if path.starts_with(&one.point) || one.point.starts_with(path) {
                findings.refuse(
                    "file_systems",
                    format!(
                        "{point} is on a disk of its own ({}): the rule for {} does not reach it",
                        one.disk,
                        path.display()
                    ),
                    "take the rule out, or detach the disk",
                );
            }
        }
        let held = |unit: &String| facts.quarantine.holds(unit).is_some();
        for service in queues::kept_in(&one.point, held).unwrap_or_default() {
            findings.refuse(
                "file_systems",
                format!(
                    "{point} is on a disk of its own ({}): the queue of {service} in it cannot be set aside, and what is in \
                     it would be done twice",
                    one.disk
                ),
                remedy,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use hypervisors::storage::disk::Area;
    use hypervisors::{Disk, DiskSource};

    use super::*;

    fn disk(name: &str, rule: DiskRule, areas: &[(Option<u32>, &str, &str)]) -> DiskFacts {
        let area = |(number, content, uuid): &(Option<u32>, &str, &str)| Area {
            number: *number,
            content: (*content).to_owned(),
            uuid: Some((*uuid).to_owned()),
            container: content.is_empty(),
            ..Area::default()
        };
        let table = areas.iter().any(|(number, ..)| number.is_some()).then(|| "gpt".to_owned());
        DiskFacts {
            disk: Disk {
                name: name.into(),
                source: DiskSource::Other(String::new()),
                root: false,
                readonly: false,
                shareable: false,
            },
            rule,
            volume: Err(String::new()),
            facts: None,
            sized: None,
            layout: Ok(Some(Layout { table, areas: areas.iter().map(area).collect() })),
        }
    }

    fn entry(spec: &str, file: &str) -> FstabEntry {
        FstabEntry { spec: spec.into(), file: file.into(), kind: "auto".into(), options: Vec::new(), line: 1 }
    }

    #[test]
    fn an_fstab_is_found_on_disks_and_partitions() {
        let disks = [
            disk("xvda", DiskRule::Clone, &[(Some(1), "ext4", "b"), (Some(2), "swap", "s"), (Some(5), "xfs", "r")]),
            disk("xvdb1", DiskRule::Detach, &[(None, "ext4", "m")]),
            disk("xvdc", DiskRule::Detach, &[(Some(1), "ext4", "d"), (Some(2), "", "x")]),
        ];
        let entries = [
            entry("UUID=r", "/"),
            entry("/dev/xvda1", "/boot"),
            entry("/dev/xvda2", "none"),
            entry("/dev/xvdb1", "/srv/mail"),
            entry("UUID=D", "/data"),
            entry("/dev/xvdc2", "/nothing"),
            entry("tmpfs", "/tmp"),
        ];
        let placed = placed(&entries, &disks);
        let found: Vec<_> =
            placed.iter().map(|one| (one.point.to_str().unwrap_or_default(), one.disk.as_str(), one.number)).collect();
        let expected = [
            ("/", "xvda", Some(5)),
            ("/boot", "xvda", Some(1)),
            ("none", "xvda", Some(2)),
            ("/srv/mail", "xvdb1", None),
            ("/data", "xvdc", Some(1)),
        ];
        assert_eq!(found, expected);
        let stay: Vec<_> = detached(&placed).map(|one| one.point.display().to_string()).collect();
        assert_eq!(stay, ["/srv/mail", "/data"]);
        let rows = shown(&disks[0], &placed);
        let rows: Vec<_> = rows.iter().map(|(name, what)| (name.as_str(), what.as_str())).collect();
        assert_eq!(rows, [("xvda1", "ext4 on /boot"), ("xvda2", "swap"), ("xvda5", "xfs on /")]);
        assert_eq!(shown(&disks[1], &placed), []);
    }

    #[test]
    fn what_may_not_be_doubled_on_one_machine_is_known() {
        for content in ["LVM2_member", "btrfs", "crypto_LUKS", "linux_raid_member"] {
            assert!(cannot_be_copied(content).is_some(), "{content}");
        }
        for content in ["", "ext4", "xfs", "swap", "vfat"] {
            assert!(cannot_be_copied(content).is_none(), "{content}");
        }
    }
}
