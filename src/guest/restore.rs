//! The way back of clone's edits at promotion: production's values return, what the upgrade changed stays.
//!
//! By the rule *Identity*: a file unchanged since our edit gets its original image. One that the upgrade changed gets
//! production's values merged into the new content: a three-way merge (base: what we wrote; ours: what was there; theirs:
//! what is there now), and where that conflicts only because changes touch, our changes are replayed one by one, each on
//! lines that are there exactly once. What remains is [`GuestError::Ambiguous`]: nothing is guessed. Mode, owner and
//! attributes are merged the same way, value by value. Nothing is written here; restoring what is restored gives nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use similar::{DiffOp, TextDiff};

use super::quarantine::start_link;
use super::tree::{FileImage, shown};
use super::{COMMENT, FileEdit, GuestError, Tree, diff, keys, system};

/// How long two texts are compared before they are too different to be merged.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most comparisons of lines in which our changes are looked for again.
const COMPARISONS: usize = 20_000_000;

/// Edits that give production's identity back, and what people should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// To be applied; in path order.
    pub edits: Vec<FileEdit>,
    /// `/etc/hosts: the upgrade removed it; it stays removed`
    pub notes: Vec<String>,
}

/// Plans the way back of what clone applied. All files that cannot be merged are in one error.
pub fn restore_edits(tree: &Tree, recorded: &[FileEdit]) -> Result<Restored, GuestError> {
    let mut plan = Restored::default();
    let mut conflicts: Vec<(PathBuf, String, String)> = Vec::new();
    let mut gone = BTreeSet::new();
    let mut reversed: Vec<&FileEdit> = recorded.iter().collect();
    // Deepest first: a directory of ours goes when all that is in it goes.
    reversed.sort_by(|a, b| b.path.cmp(&a.path));
    for edit in reversed {
        let current = match tree.image(&edit.path) {
            Err(GuestError::Unfit { why, .. }) => {
                conflicts.push((edit.path.clone(), format!("{why} now"), diff(edit)));
                continue;
            }
            other => other?,
        };
        let wanted = match wanted(edit, current.as_ref()) {
            Ok((wanted, note)) => {
                plan.notes.extend(note.map(|note| format!("{}: {note}", shown(&edit.path))));
                wanted
            }
            Err(why) => {
                let since = FileEdit { before: edit.after.clone(), after: current, ..edit.clone() };
                let text = format!("by the clone:\n{}since then:\n{}", diff(edit), diff(&since));
                conflicts.push((edit.path.clone(), why.to_owned(), text));
                continue;
            }
        };
        if wanted.is_none() && matches!(current, Some(FileImage::Directory { .. })) {
            let names = tree.list(&edit.path)?;
            if !names.iter().all(|name| gone.contains(&edit.path.join(name))) {
                plan.notes.push(format!("{}: is not empty and stays", shown(&edit.path)));
                continue;
            }
        }
        if wanted.is_none() {
            gone.insert(edit.path.clone());
        }
        if current != wanted {
            let why = "as it was before the clone".to_owned();
            plan.edits.push(FileEdit { path: edit.path.clone(), before: current, after: wanted, why });
        }
    }
    start_links(tree, &mut plan)?;
    plan.edits.sort_by(|a, b| a.path.cmp(&b.path));
    plan.notes.sort();
    conflicts.reverse();
    ambiguous(conflicts).map_or(Ok(plan), Err)
}

fn ambiguous(mut conflicts: Vec<(PathBuf, String, String)>) -> Option<GuestError> {
    let diff = conflicts.iter().map(|(_, _, text)| text.as_str()).collect();
    let others = conflicts.len().checked_sub(1)?;
    let (path, why, _) = conflicts.swap_remove(0);
    let why = if others == 0 { why } else { format!("{why} (and {others} more files)") };
    Some(GuestError::Ambiguous { path: shown(&path), why, diff })
}

/// What shall be at a path, with a note, or why that cannot be told.
fn wanted(
    edit: &FileEdit,
    current: Option<&FileImage>,
) -> Result<(Option<FileImage>, Option<&'static str>), &'static str> {
    use FileImage::{Directory, Regular, Symlink};
    let (before, after) = (edit.before.as_ref(), edit.after.as_ref());
    let (keep, original) = (current.cloned(), edit.before.clone());
    if current == after {
        return Ok((original, None));
    }
    if current == before {
        return Ok((keep, None));
    }
    if is_identity(&edit.path) {
        return Ok((original, Some("was changed on the clone; production's own returns")));
    }
    match (before, after, current) {
        (Some(Regular { .. }), Some(Regular { .. }), Some(Regular { .. })) => {
            let merged = merged(before, after, current).ok_or("cannot be merged with what the upgrade made of it")?;
            let left = matches!(&merged, Regular { bytes, .. } if bytes.windows(COMMENT.len()).any(|at| at == COMMENT.as_bytes()));
            let note = if left {
                "still has lines commented out by upgradectl"
            } else {
                "production's values go into the upgraded file"
            };
            Ok((Some(merged), Some(note)))
        }
        (Some(Directory { .. }), Some(Directory { .. }), Some(Directory { .. })) => {
            Ok((merged(before, after, current), Some("was changed by the upgrade as well")))
        }
        // We made the directory; its mode was changed since. Whether it goes depends on what is in it.
        (None, Some(Directory { .. }), Some(Directory { .. })) => Ok((None, None)),
        (Some(_), Some(Regular { .. } | Directory { .. }), None) => {
            Ok((None, Some("was removed by the upgrade and stays removed")))
        }
        (Some(_), Some(Symlink { .. }), None) => Ok((original, Some("had lost its mask; what was there returns"))),
        (None, Some(Symlink { .. }), Some(_)) => Ok((keep, Some("took the place of a mask and stays"))),
        // What we switched off by taking a link away was switched on again.
        (Some(Symlink { .. }), None, Some(Symlink { .. })) => {
            Ok((original, Some("was linked anew; the old link returns")))
        }
        _ => Err("was replaced by something of another kind, or was made anew"),
    }
}

/// Files whose whole content is what the machine is: never merged.
fn is_identity(path: &Path) -> bool {
    path == Path::new(system::MACHINE_ID) || path == Path::new(system::DBUS_MACHINE_ID) || keys::is_host_key(path)
}

/// Three-way merge of files or directories of one kind.
fn merged(before: Option<&FileImage>, after: Option<&FileImage>, current: Option<&FileImage>) -> Option<FileImage> {
    use FileImage::{Directory, Regular};
    match (before?, after?, current?) {
        (
            Regular { bytes: ours, mode: m1, uid: u1, gid: g1, xattrs: x1 },
            Regular { bytes: base, mode: m2, uid: u2, gid: g2, xattrs: x2 },
            Regular { bytes: theirs, mode: m3, uid: u3, gid: g3, xattrs: x3 },
        ) => {
            let bytes = if base == theirs {
                ours.clone()
            } else if base == ours || ours == theirs {
                theirs.clone()
            } else {
                let text = |bytes| std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
                merged_text(text(base)?, text(ours)?, text(theirs)?)?.into_bytes()
            };
            let names: BTreeSet<&String> = x1.keys().chain(x3.keys()).collect();
            let value = |name| value(x1.get(name), x2.get(name), x3.get(name)).cloned();
            let xattrs: BTreeMap<_, _> =
                names.into_iter().filter_map(|name| Some((name.clone(), value(name)?))).collect();
            Some(Regular { bytes, mode: value3(m1, m2, m3), uid: value3(u1, u2, u3), gid: value3(g1, g2, g3), xattrs })
        }
        (
            Directory { mode: m1, uid: u1, gid: g1 },
            Directory { mode: m2, uid: u2, gid: g2 },
            Directory { mode: m3, uid: u3, gid: g3 },
        ) => Some(Directory { mode: value3(m1, m2, m3), uid: value3(u1, u2, u3), gid: value3(g1, g2, g3) }),
        _ => None,
    }
}

/// What the upgrade changed stays, else what was there.
fn value<T: PartialEq>(before: T, after: T, current: T) -> T {
    if current == after { before } else { current }
}

fn value3<T: PartialEq + Copy>(before: &T, after: &T, current: &T) -> T {
    *value(before, after, current)
}

/// Whether two texts differ in so much that comparing them takes long: a merge compares them several times, without an end.
fn too_different(base: &str, text: &str) -> bool {
    let begun = Instant::now();
    TextDiff::configure().timeout(PATIENCE).diff_lines(base, text);
    begun.elapsed() >= PATIENCE
}

/// What a merge gives has to stay what it is when it is merged again, or a repeated promotion would change it.
fn merged_text(base: &str, ours: &str, theirs: &str) -> Option<String> {
    if [ours, theirs].iter().any(|text| too_different(base, text)) {
        return None;
    }
    let merge = |theirs: &str| diffy::merge(base, ours, theirs).ok().or_else(|| replayed(base, ours, theirs));
    merge(theirs).filter(|merged| merge(merged).as_ref() == Some(merged))
}

/// Our changes (base to ours) made again in another text. A block of lines we changed or added has to be there exactly once;
/// where one that we had taken out belongs cannot be told this way. A text in which all of them are back already (and were
/// nowhere in what we wrote) is what it shall be.
fn replayed(base: &str, ours: &str, theirs: &str) -> Option<String> {
    let old: Vec<&str> = base.split_inclusive('\n').collect();
    let new: Vec<&str> = ours.split_inclusive('\n').collect();
    let mut lines: Vec<&str> = theirs.split_inclusive('\n').collect();
    let diff = TextDiff::from_lines(base, ours);
    let changes = diff.ops().iter().filter(|change| !matches!(change, DiffOp::Equal { .. }));
    let changes: Vec<_> = changes
        .map(|change| Some((old.get(change.old_range())?, new.get(change.new_range())?)))
        .collect::<Option<_>>()?;
    let is_back = |(ours_was, original): &(&[&str], &[&str])| {
        let ours_is_gone = ours_was.iter().all(|line| original.contains(line) || !lines.contains(line));
        ours_is_gone && (original.is_empty() || places(&lines, original) == 1) && places(&old, original) == 0
    };
    if changes.len().saturating_mul(lines.len() + old.len()) > COMPARISONS {
        return None;
    }
    if changes.iter().all(is_back) {
        return Some(theirs.to_owned());
    }
    let mut found: Vec<(usize, &[&str], &[&str])> = changes
        .into_iter()
        .map(|(ours_was, original)| Some((once(&lines, ours_was)?, ours_was, original)))
        .collect::<Option<_>>()?;
    found.sort_by_key(|(at, _, _)| *at);
    if found.windows(2).any(|two| two[0].0 + two[0].1.len() > two[1].0) {
        return None;
    }
    for (at, ours_was, original) in found.into_iter().rev() {
        lines.splice(at..at + ours_was.len(), original.iter().copied());
    }
    Some(lines.concat())
}

/// Where a block of lines stands, if exactly once; an empty one stands nowhere.
fn once(lines: &[&str], block: &[&str]) -> Option<usize> {
    (places(lines, block) == 1).then(|| lines.windows(block.len()).position(|window| window == block))?
}

/// How often a block of lines stands there.
fn places(lines: &[&str], block: &[&str]) -> usize {
    if block.is_empty() { 0 } else { lines.windows(block.len()).filter(|window| *window == block).count() }
}

/// Start links that come back: where the upgrade gave the script another start link meanwhile, that one is enough; stop
/// links it made of ours under another number go.
fn start_links(tree: &Tree, plan: &mut Restored) -> Result<(), GuestError> {
    let mut more = Vec::new();
    let mut superfluous = BTreeSet::new();
    for edit in &plan.edits {
        let (Some(directory), Some(name)) = (edit.path.parent(), edit.path.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        let in_runlevel = directory.starts_with("etc") && directory.to_str().is_some_and(|path| path.ends_with(".d"));
        let Some(script) = start_link(name).filter(|_| in_runlevel && edit.after.is_some()) else { continue };
        for other in tree.list(directory)?.into_iter().filter_map(|other| other.into_string().ok()) {
            let path = directory.join(&other);
            if other != name && start_link(&other) == Some(script) {
                superfluous.insert(edit.path.clone());
            }
            let stops = other.strip_prefix('K').and_then(|rest| start_link(&format!("S{rest}")).map(str::to_owned));
            if stops.as_deref() == Some(script) && !plan.edits.iter().any(|edit| edit.path == path) {
                let why = "production starts the service".to_owned();
                more.push(FileEdit { before: tree.image(&path)?, path, after: None, why });
            }
        }
    }
    plan.edits.retain(|edit| !superfluous.contains(&edit.path));
    plan.edits.extend(more);
    Ok(())
}

#[cfg(test)]
mod tests;
