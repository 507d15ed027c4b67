//! The definition of a jail's clone. It stands in a file of its own, which rc.d/jail reads instead of the host's: so it says all that the host
//! says of the original, by wildcards and for every jail, in values instead of variables.
//!
//! What the host does for the original is not done for the clone: commands that run outside of a jail ([`OUTSIDE`]) may give production
//! an address or a packet filter's rule, and what is mounted into it (`mount`, `mount.fstab`, mount_nullfs(8) as a rule) is production's data.
//!
//! The promoted jail, which is the original's own definition with another `path`, gets both again. Whatever names the tree by its path, not by
//! `$path`, would then still mean the old one: such an original is refused.

use super::super::conf::edit::{Change as ConfChange, Setting};
use super::super::conf::{Config, NewJail};
use super::super::rc::variables;
use super::texts::wrong;
use super::{Jails, addressed, file_for, guests, may_change, values, with_file};
use crate::host::Command;
use crate::{Definition, DefinitionEdit, DiskEdit, Error, Result};

/// Parameters of commands that run on the host (jail(8)).
const OUTSIDE: [&str; 7] = [
    "exec.created",
    "exec.poststart",
    "exec.poststop",
    "exec.prepare",
    "exec.prestart",
    "exec.prestop",
    "exec.release",
];

/// Others that a clone has not: what is mounted, what has to be one's own, what runs first.
const LEFT_OUT: [&str; 7] = ["depend", "jid", "mount", "mount.fstab", "name", "path", "zfs.dataset"];

/// Arguments: tree. What is mounted beneath it (mount(8), `-p`), but for what jail(8) mounts by itself.
const MOUNTED: &str = "mount -p 2>/dev/null | awk -v r=\"$1/\" 'index($2, r) == 1 && $3 != \"devfs\" && $3 != \"fdescfs\" && $3 != \"procfs\" { print $2 }'";

/// Whether a text names a path, or something beneath it.
fn names(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| match text[at + path.len()..].chars().next() {
        None => true,
        Some(next) => next == '/' || !(next.is_ascii_alphanumeric() || "._-".contains(next)),
    })
}

/// A parameter of a jail that would still name its old tree when it has another.
fn left_behind(
    config: &Config,
    guest: &str,
    old: &str,
    new: &str,
) -> std::result::Result<Option<String>, super::super::Wrong> {
    let path = ConfChange::Set("path".to_owned(), values([new.to_owned()]));
    let moved = config.edit(guest, &[path])?.config.effective(guest)?;
    let left = moved.params.into_iter().find(|param| param.values.iter().any(|value| names(value, old)));
    Ok(left.map(|param| format!("{} = {:?}", param.name, param.values.join(", "))))
}

impl Jails {
    /// The definition of a jail's copy.
    pub(super) async fn copied(&self, guest: &str, edit: &DefinitionEdit) -> Result<Definition> {
        let name = edit.name.as_deref().unwrap_or(guest);
        let doing = format!("write a definition of {name} like that of {guest}");
        let bad = |error| wrong(&*doing, error);
        let (texts, config) = self.defined(&doing, guest).await?;
        if texts.definition_of(guest).map_err(bad)?.is_some_and(|text| variables::is_variables(&text)) {
            return Err(Error::refused(doing, "it is defined by jail_ variables of rc.conf")
                .help("write it into a jail.conf first (jail.conf(5)): this host can have both"));
        }
        may_change(&doing, &config, guest)?;
        if let Some(managed) = guests::kept_elsewhere(&texts, &config, guest) {
            return Err(Error::refused(doing, managed.why).help(managed.help));
        }
        let effective = config.effective(guest).map_err(bad)?;
        let new = edit.disks.values().find_map(|edit| match edit {
            DiskEdit::Source(volume) => Some(volume.path.to_string_lossy().into_owned()),
            _ => None,
        });
        let (Some(old), Some(new)) = (effective.text("path"), new) else {
            return Err(Error::refused(doing, "it has no path"));
        };
        if let Some(left) = left_behind(&config, guest, old, &new).map_err(bad)? {
            return Err(Error::refused(doing, format!("{left} names its tree, which will be another"))
                .help("write $path there instead: it follows"));
        }
        if let Some(fstab) = effective.text("mount.fstab") {
            let text = self.shelf.fetch(&doing, &[fstab.to_owned()]).await?.remove(fstab).unwrap_or_default();
            if let Some(line) = text.lines().find(|line| names(line.split('#').next().unwrap_or_default(), old)) {
                let line = crate::host::printable(line.trim());
                return Err(Error::refused(doing, format!("{fstab} mounts into its tree, which will be another: {line}"))
                    .help(format!(
                        "say it in the jail.conf instead, where the tree can be meant: mount += \"/data $path/data nullfs rw 0 0\"; of {guest}"
                    )));
            }
        }
        let command = Command::new(["sh", "-c", MOUNTED, "sh", old]);
        let mounted = self.host.run(&command).await?.checked(&*doing, &command)?.text();
        let said = effective.list("mount");
        let by_it = |place: &&str| said.iter().any(|line| line.split_ascii_whitespace().nth(1) == Some(*place));
        if let Some(place) = mounted.lines().find(|place| !by_it(place)) {
            let why = format!("{} is mounted in its tree, and not by its definition", crate::host::printable(place));
            return Err(Error::refused(doing, why).help(format!(
                "say it in the jail.conf, so that it follows the tree: mount += \"… $path/… nullfs rw 0 0\"; of {guest}"
            )));
        }
        // As promotion will write it.
        let (mark, volume) = (edit.mark.clone(), edit.disks.clone());
        let promoted = DefinitionEdit { mark, disks: volume, ..DefinitionEdit::default() };
        super::edited(config.clone(), guest, &promoted).map_err(bad)?;
        let file = file_for(&texts, name, edit.mark.as_ref().and_then(|mark| mark.as_ref()).map(|mark| mark.role));
        let host = with_file(&texts, &file).map_err(bad)?;
        let changed = addressed(&effective, edit).map_err(bad)?;
        let mut wanted = vec![("path", values([new]))];
        for param in &effective.params {
            let plain = param.name.as_str();
            if OUTSIDE.contains(&plain) || LEFT_OUT.contains(&plain) {
                continue;
            }
            let changed = changed.iter().find(|(family, _)| *family == plain).map(|(_, new)| new.clone());
            match changed {
                Some(new) if new.is_empty() => {}
                Some(new) => wanted.push((plain, Setting::Values(new))),
                None if param.values.is_empty() => wanted.push((plain, Setting::Flag(param.is_true()))),
                None => wanted.push((plain, Setting::Values(param.values.clone()))),
            }
        }
        let mark = edit.mark.as_ref().and_then(|mark| mark.as_ref());
        let text = host.block_for(&NewJail { name, mark, wanted, usual: Vec::new() }).map_err(bad)?;
        Ok(Definition { name: name.to_owned(), text: text.trim_end_matches('\n').to_owned() })
    }
}
