//! The LVM commands, as argument vectors (`lvcreate(8)` and its neighbours). Names are checked by
//! [`LvName`] before they come here.
//!
//! `scan_lvs=0`: LVM never looks for physical volumes on logical ones, which on a host of guests are the guests' own.

use std::time::Duration;

use super::name::LvName;
use super::report::FIELDS;
use super::size::CHUNK_BYTES;
use crate::host::Command;
use crate::storage::CowSize;

/// An LVM command is killed only when something is badly wrong: between suspending a device and resuming it, killing one
/// freezes whoever stands on it.
const PATIENCE: Duration = Duration::from_secs(600);

fn lvm<S: Into<String>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let head = [program, "--config", "devices/scan_lvs=0"].map(str::to_owned);
    let mut command = Command::new(head.into_iter().chain(arguments.into_iter().map(Into::into)));
    command.limit = 16 << 20;
    command.timeout(PATIENCE).env("LVM_SUPPRESS_FD_WARNINGS", "1")
}

/// A command as people would type it: without what only a program needs.
pub fn shown(command: Command) -> Vec<String> {
    let noise = ["-q", "-y", "--config", "devices/scan_lvs=0", "--"];
    command.argv.into_iter().filter(|word| !noise.contains(&word.as_str())).collect()
}

/// Everything in a volume group.
pub fn inventory(vg: &str) -> Command {
    lvm("lvs", ["-a", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", FIELDS, "--", vg])
}

/// A thick snapshot.
pub fn create_thick(origin: &LvName, snapshot: &str, size: CowSize, tag: &str) -> Command {
    let size = match size {
        // This form adds the exception table.
        CowSize::Covering => ["-l".to_owned(), "100%ORIGIN".to_owned()],
        CowSize::Bytes(bytes) => ["-L".to_owned(), format!("{bytes}b")],
    };
    let chunk = format!("{CHUNK_BYTES}b");
    let head = ["-q", "-y", "-s", "-c", &chunk].map(str::to_owned);
    let tail = ["--addtag", tag, "-n", snapshot, "--", &origin.to_string()].map(str::to_owned);
    lvm("lvcreate", head.into_iter().chain(size).chain(tail))
}

/// A thin snapshot, active from the beginning and after every boot of its host: no activation skip.
pub fn create_thin(origin: &LvName, snapshot: &str, tag: &str) -> Command {
    lvm("lvcreate", ["-q", "-y", "-s", "-k", "n", "--addtag", tag, "-n", snapshot, "--", &origin.to_string()])
}

/// A new, empty volume; in a thin pool if one is named.
pub fn create_empty(name: &LvName, bytes: u64, pool: Option<&str>, tag: &str) -> Command {
    let bytes = format!("{bytes}b");
    let tail = ["--addtag", tag, "-n", &name.lv, "--"];
    match pool {
        None => lvm(
            "lvcreate",
            ["-q", "-y", "-W", "y", "-Z", "y", "-L", &bytes].into_iter().chain(tail).chain([name.vg.as_str()]),
        ),
        Some(pool) => {
            let pool = format!("{}/{pool}", name.vg);
            lvm("lvcreate", ["-q", "-y", "-V", &bytes, "-T"].into_iter().chain(tail).chain([pool.as_str()]))
        }
    }
}

/// Removes volumes, each told by its UUID and one tag it bears: what was renamed or marked anew meanwhile stays, and so
/// does what has snapshots. LVM decides that with the volume group locked.
pub fn remove(vg: &str, volumes: &[(&str, &str)]) -> Command {
    let each: Vec<String> =
        volumes.iter().map(|(uuid, tag)| format!("(lv_uuid=\"{uuid}\" && lv_tags=\"{tag}\")")).collect();
    let select = format!("({}) && lv_attr!~\"^[oO]\"", each.join(" || "));
    lvm("lvremove", ["-q", "-y", "-S", &select, "--", vg])
}

/// Grows a thick snapshot to LVM's own maximum, at which it cannot fill. (`100%ORIGIN` would lack the exception table.)
pub fn extend_covering(snapshot: &LvName) -> Command {
    lvm("lvextend", ["-q", "-y", "-l", "200%ORIGIN", "--", &snapshot.to_string()])
}

/// Grows a thick snapshot by so many bytes; LVM stops at its maximum.
pub fn extend(snapshot: &LvName, bytes: u64) -> Command {
    lvm("lvextend", ["-q", "-y", "-L", &format!("+{bytes}b"), "--", &snapshot.to_string()])
}

/// Begins merging; what is thick drains on in the background.
pub fn merge(snapshots: &[String]) -> Command {
    lvm(
        "lvconvert",
        ["-q", "-y", "-b", "--merge", "--"].into_iter().map(str::to_owned).chain(snapshots.iter().cloned()),
    )
}

/// Begins a merge that was put off.
pub fn refresh(origins: &[String]) -> Command {
    lvm("lvchange", ["-q", "--refresh", "--"].into_iter().map(str::to_owned).chain(origins.iter().cloned()))
}

/// Sees to it that something waits for the end of a merge; harmless where something does.
pub fn poll(origins: &[String]) -> Command {
    lvm("lvchange", ["-q", "--poll", "y", "--"].into_iter().map(str::to_owned).chain(origins.iter().cloned()))
}

/// Changes tags in one go.
pub fn tags(name: &LvName, remove: &[String], add: Option<&str>) -> Command {
    let removed = remove.iter().flat_map(|tag| ["--deltag".to_owned(), tag.clone()]);
    let added = add.into_iter().flat_map(|tag| ["--addtag".to_owned(), tag.to_owned()]);
    let arguments = ["-q".to_owned()].into_iter().chain(removed).chain(added);
    lvm("lvchange", arguments.chain(["--".to_owned(), name.to_string()]))
}

/// Renames; open volumes too.
pub fn rename(from: &LvName, to: &LvName) -> Command {
    lvm("lvrename", ["-q", "--", &from.to_string(), &to.to_string()])
}

/// Activates, activation skip or not.
pub fn activate(name: &LvName) -> Command {
    lvm("lvchange", ["-q", "-a", "y", "-K", "--", &name.to_string()])
}

/// Clears the activation skip.
pub fn unskip(name: &LvName) -> Command {
    lvm("lvchange", ["-q", "--setactivationskip", "n", "--", &name.to_string()])
}

/// Makes swap space.
pub fn mkswap(name: &LvName, uuid: Option<&str>, label: Option<&str>) -> Command {
    let mut argv = vec!["mkswap".to_owned(), "-f".to_owned()];
    argv.extend(uuid.into_iter().flat_map(|uuid| ["-U".to_owned(), uuid.to_owned()]));
    argv.extend(label.into_iter().flat_map(|label| ["-L".to_owned(), label.to_owned()]));
    argv.extend(["--".to_owned(), name.path().display().to_string()]);
    Command::new(argv)
}
