//! Edits of an xl.cfg that leave every byte alone that they do not name: comments, order, quotes, blanks stay. Pure.
//!
//! An edit is a set of cuts on the original text at positions found by [`super::cfg`]. What comes out is read again: it must say
//! exactly what was asked, and every setting that the edit does not touch must say what it said; otherwise the edit is an error.
//!
//! A new name is a second guest beside the first, so it also lets go of what two guests of one host cannot share: the names
//! that its cards have on the host (`vifname=`; xl then draws them). Hardware passed through to the guest cannot be shared at
//! all: such a guest is refused.
//!
//! Addresses in `ip=` follow the guest's own: by them a hotplug script routes to the guest, or filters what it sends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;

use super::cfg::{Atom, Cfg, Item, List, Value, Wrong};
use super::facts::{self, CfgFacts, MARK, path};
use crate::{DefinitionEdit, Disk, DiskEdit, DiskSource, Mark, VolumeRef};

/// A cut: this span is replaced by that text.
type Cut = (Range<usize>, String);

/// What only one guest can have (xl.cfg(5)).
const EXCLUSIVE: [&str; 11] =
    ["pci", "usbdev", "vtpm", "ioports", "irqs", "iomem", "vscsi", "p9", "pvcalls", "dtdev", "device_tree"];

/// Applies an edit. The error says what could not be done; nothing is ever done in part.
pub fn apply(text: &str, edit: &DefinitionEdit) -> Result<String, Wrong> {
    let cfg = Cfg::parse(text)?;
    let before = facts::of(&cfg, text)?;
    let wanted = expected(&before, edit)?;
    let edited = cut(text, cuts(text, &cfg, &before, edit)?)?;
    let after = Cfg::parse(&edited)?;
    let found = facts::of(&after, &edited)?;
    if found != wanted {
        let words = differences(&wanted, &found).join(", ");
        return Err(Wrong::new(format!("the edited definition does not say what was asked: {words}")));
    }
    match first_other(&cfg, &after, &touched(edit)) {
        Some(name) => Err(Wrong::new(format!("the edit would change {name}, which it does not name"))),
        None => Ok(edited),
    }
}

/// What two sets of facts differ in, in words.
pub fn differences(wanted: &CfgFacts, found: &CfgFacts) -> Vec<String> {
    let mut words = Vec::new();
    let mut compare = |what: &str, wanted: String, found: String| {
        if wanted != found {
            words.push(format!("{what} is {found} instead of {wanted}"));
        }
    };
    compare("name", wanted.name.clone(), found.name.clone());
    compare("uuid", format!("{:?}", wanted.uuid), format!("{:?}", found.uuid));
    compare("memory", wanted.memory_bytes.to_string(), found.memory_bytes.to_string());
    compare("maxmem", format!("{:?}", wanted.maxmem_bytes), format!("{:?}", found.maxmem_bytes));
    compare("vcpus", wanted.vcpus.to_string(), found.vcpus.to_string());
    compare("disk", format!("{:?}", wanted.disks), format!("{:?}", found.disks));
    compare("vif", format!("{:?}", wanted.nics), format!("{:?}", found.nics));
    compare("vifname", format!("{:?}", wanted.vifnames), format!("{:?}", found.vifnames));
    compare("kernel", format!("{:?}", wanted.kernel), format!("{:?}", found.kernel));
    compare("run mark", format!("{:?}", wanted.mark), format!("{:?}", found.mark));
    words
}

/// The facts an edit must lead to.
fn expected(before: &CfgFacts, edit: &DefinitionEdit) -> Result<CfgFacts, Wrong> {
    let mut facts = before.clone();
    if let Some(name) = &edit.name {
        facts.name.clone_from(name);
        if *name != before.name {
            facts.vifnames.iter_mut().for_each(|vifname| *vifname = None);
        }
    }
    if let Some(uuid) = &edit.uuid {
        facts.uuid = Some(uuid.to_ascii_lowercase());
    }
    if let Some(mark) = &edit.mark {
        facts.mark.clone_from(mark);
    }
    for (index, mac) in edit.macs.iter().enumerate().filter(|(_, mac)| mac.is_some()) {
        let cards = facts.nics.len();
        let nic = facts.nics.get_mut(index);
        nic.ok_or_else(|| Wrong::new(format!("there is no network card {}, only {cards}", index + 1)))?.mac = *mac;
    }
    for nic in &mut facts.nics {
        nic.addresses =
            nic.addresses.iter().filter_map(|old| edit.addresses.get(old).copied().unwrap_or(Some(*old))).collect();
    }
    for (name, change) in &edit.disks {
        let mut named = facts.disks.iter_mut().filter(|disk| disk.name == *name);
        let disk = named.next().ok_or_else(|| Wrong::new(format!("there is no disk {name:?}")))?;
        if named.next().is_some() {
            return Err(Wrong::new(format!("there are two disks {name:?}")));
        }
        match change {
            DiskEdit::Source(volume) => disk.source = source(disk, volume)?,
            DiskEdit::Remove => disk.name.clear(),
        }
    }
    facts.disks.retain(|disk| !disk.name.is_empty());
    if !facts.disks.iter().any(|disk| disk.root) && before.disks.iter().any(|disk| disk.root) {
        return Err(Wrong::new("the root disk would be removed"));
    }
    if let Some(bytes) = edit.memory_bytes {
        facts.memory_bytes = bytes;
        facts.maxmem_bytes = facts.maxmem_bytes.map(|_| bytes);
    }
    if let Some(vcpus) = edit.vcpus {
        facts.vcpus = vcpus;
    }
    if edit.kernel.is_some() {
        if before.kernel.is_none() {
            return Err(Wrong::new("it is not started with a kernel of the host"));
        }
        facts.kernel.clone_from(&edit.kernel);
    }
    Ok(facts)
}

/// What a disk's source becomes: a device for a device.
fn source(disk: &Disk, volume: &VolumeRef) -> Result<DiskSource, Wrong> {
    match &disk.source {
        DiskSource::Block(_) if volume.path.starts_with("/dev") => Ok(DiskSource::Block(volume.path.clone())),
        other => Err(Wrong::new(format!("{:?} is {other:?}, which {volume} cannot stand for", disk.name))),
    }
}

/// The settings an edit may touch.
fn touched(edit: &DefinitionEdit) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    if edit.name.is_some() {
        names.extend(["name", "vif"]);
    }
    if edit.uuid.is_some() {
        names.insert("uuid");
    }
    if edit.macs.iter().any(Option::is_some) || !edit.addresses.is_empty() {
        names.insert("vif");
    }
    if !edit.disks.is_empty() {
        names.insert("disk");
    }
    if edit.memory_bytes.is_some() {
        names.extend(["memory", "maxmem"]);
    }
    if edit.vcpus.is_some() {
        names.extend(["vcpus", "maxvcpus"]);
    }
    if edit.kernel.is_some() {
        names.extend(["kernel", "ramdisk", "cmdline"]);
    }
    names
}

/// The first setting that two texts say differently, `except` these.
fn first_other(before: &Cfg, after: &Cfg, except: &BTreeSet<&str>) -> Option<String> {
    let said = |cfg: &Cfg| {
        let kept = cfg.settings().iter().filter(|setting| !except.contains(setting.name.as_str()));
        kept.map(|setting| (setting.name.clone(), setting.add, setting.value.said())).collect::<Vec<_>>()
    };
    let (before, after) = (said(before), said(after));
    let longest = before.len().max(after.len());
    let other = (0..longest).find(|index| before.get(*index) != after.get(*index))?;
    before.get(other).or(after.get(other)).map(|(name, ..)| name.clone())
}

fn cuts(text: &str, cfg: &Cfg, before: &CfgFacts, edit: &DefinitionEdit) -> Result<Vec<Cut>, Wrong> {
    let mut cuts = Vec::new();
    let mut added = Vec::new();
    let second = edit.name.as_ref().is_some_and(|name| *name != before.name);
    if second {
        alone(cfg)?;
    }
    if let Some(name) = &edit.name {
        cuts.extend(content(single(cfg, "name")?, name)?);
    }
    if let Some(uuid) = &edit.uuid {
        if !is_uuid(uuid) {
            return Err(Wrong::new(format!("{uuid:?} is no UUID")));
        }
        match cfg.effective("uuid").is_empty() {
            true => added.push(("uuid", uuid.clone())),
            false => cuts.extend(content(single(cfg, "uuid")?, uuid)?),
        }
    }
    for (index, card) in cfg.strings("vif")?.into_iter().enumerate() {
        let vif = facts::read_vif(card)?;
        if let Some(mac) = edit.macs.get(index).copied().flatten() {
            match &vif.mac {
                Some((old, _)) if *old == mac => {}
                Some((_, at)) => cuts.push((card.place(at.clone()), mac.to_string())),
                None => {
                    let comma = if card.text.trim_matches([' ', ',']).is_empty() { "" } else { "," };
                    cuts.push((card.place(0..0), format!("mac={mac}{comma}")));
                }
            }
        }
        let mut gone: Vec<Range<usize>> = vif.vifname.filter(|_| second).map(|(_, at)| at).into_iter().collect();
        let taken_out = |(address, _): &(IpAddr, Range<usize>)| edit.addresses.get(address) == Some(&None);
        match vif.addresses_at {
            Some(at) if !vif.addresses.is_empty() && vif.addresses.iter().all(taken_out) => gone.push(at),
            _ => {
                for (old, at) in vif.addresses {
                    let Some(new) = edit.addresses.get(&old).filter(|new| **new != Some(old)) else { continue };
                    cuts.push((card.place(at), new.map(|new| new.to_string()).unwrap_or_default()));
                }
            }
        }
        cuts.extend(with_commas(&card.text, gone).into_iter().map(|span| (card.place(span), String::new())));
    }
    cuts.extend(disk_cuts(text, cfg, edit)?);
    if let Some(bytes) = edit.memory_bytes {
        if bytes == 0 || !bytes.is_multiple_of(1 << 20) {
            return Err(Wrong::new(format!("{bytes} bytes are no whole number of MiB, as xl counts memory")));
        }
        cuts.extend(number(cfg, &mut added, "memory", "maxmem", bytes >> 20)?);
    }
    if let Some(vcpus) = edit.vcpus {
        if vcpus == 0 {
            return Err(Wrong::new("a guest needs a processor"));
        }
        cuts.extend(number(cfg, &mut added, "vcpus", "maxvcpus", vcpus.into())?);
    }
    if let (Some(new), Some(old)) = (&edit.kernel, &before.kernel) {
        let initrd = new.initrd.clone().unwrap_or_default();
        let settings = [
            ("kernel", Some(&old.kernel), &new.kernel),
            ("ramdisk", old.initrd.as_ref(), &initrd),
            ("cmdline", old.arguments.as_ref(), new.arguments.as_ref().unwrap_or(&String::new())),
        ]
        .map(|(name, old, new)| (name, old.cloned().unwrap_or_default(), new.clone()));
        for (name, _, new) in settings.into_iter().filter(|(_, old, new)| old != new) {
            match cfg.effective(name).is_empty() {
                true => added.push((name, new)),
                false => cuts.extend(content(single(cfg, name)?, &new)?),
            }
        }
    }
    if !added.is_empty() {
        cuts.push(insert(text, cfg, &added)?);
    }
    if let Some(mark) = &edit.mark {
        cuts.extend(mark_cut(text, mark.as_ref())?);
    }
    Ok(cuts)
}

/// Refuses a guest of which there can be no second.
fn alone(cfg: &Cfg) -> Result<(), Wrong> {
    for name in EXCLUSIVE {
        let Some(setting) = cfg.effective(name).into_iter().find(|setting| !setting.value.is_empty()) else { continue };
        return Err(Wrong::at(setting.line, format!("{name} gives it what only one guest can have"))
            .help("a clone beside it could not start; such a guest is not cloned"));
    }
    Ok(())
}

impl Value {
    fn is_empty(&self) -> bool {
        match self {
            Self::Atom(atom) => atom.text.is_empty(),
            Self::List(list) => list.items.is_empty(),
        }
    }
}

/// The one place of a single value.
fn single<'c>(cfg: &'c Cfg, name: &str) -> Result<&'c Atom, Wrong> {
    match cfg.atoms(name)?.as_slice() {
        [atom] => Ok(atom),
        [] => Err(Wrong::new(format!("it sets no {name}"))),
        [.., last] => Err(Wrong::at(last.line, format!("{name} is put together by +=, which cannot be edited safely"))
            .help("write it in one piece")),
    }
}

/// A number and the maximum it must not exceed, which follows it where it is set.
fn number(
    cfg: &Cfg,
    added: &mut Vec<(&'static str, String)>,
    name: &'static str,
    maximum: &str,
    new: u64,
) -> Result<Vec<Cut>, Wrong> {
    let mut cuts = Vec::new();
    match cfg.effective(name).is_empty() {
        true => added.push((name, new.to_string())),
        false if cfg.number(name)? != Some(new) => cuts.extend(content(single(cfg, name)?, &new.to_string())?),
        false => {}
    }
    if cfg.number(maximum)?.is_some_and(|old| old != new) {
        cuts.extend(content(single(cfg, maximum)?, &new.to_string())?);
    }
    Ok(cuts)
}

/// Settings that were not there, after the name's: in lines of their own, in its quotes.
fn insert(text: &str, cfg: &Cfg, added: &[(&str, String)]) -> Result<Cut, Wrong> {
    let name = *cfg.effective("name").last().ok_or_else(|| Wrong::new("it sets no name"))?;
    let quote = single(cfg, "name")?.quote.unwrap_or('"');
    let written = added.iter().map(|(key, value)| match value.bytes().all(|byte| byte.is_ascii_digit()) {
        true => format!("{key} = {value}"),
        false => format!("{key} = {quote}{value}{quote}"),
    });
    let end = name.span.end;
    let rest = text[end..].split('\n').next().unwrap_or_default();
    if !rest.trim_matches([' ', '\t']).is_empty() && !rest.trim_start_matches([' ', '\t']).starts_with('#') {
        // more stands in this line, perhaps the beginning of a list
        return Ok((end..end, written.map(|setting| format!("; {setting}")).collect()));
    }
    let at = end + rest.len();
    match text[at..].starts_with('\n') {
        true => Ok((at + 1..at + 1, written.map(|setting| format!("{setting}\n")).collect())),
        false => Ok((at..at, written.map(|setting| format!("\n{setting}")).collect())),
    }
}

/// Sets the mark as the first line, changes it where it stands, or removes its line.
fn mark_cut(text: &str, mark: Option<&Mark>) -> Result<Option<Cut>, Wrong> {
    let words = mark.map(|mark| format!("{MARK}{} role {}", mark.run, mark.role.as_str()));
    if words.as_ref().is_some_and(|words| words.contains(['\n', '\r'])) {
        return Err(Wrong::new("a run cannot be named so"));
    }
    Ok(match (facts::mark_line(text)?, words) {
        (None, None) => None,
        (None, Some(words)) => Some((0..0, format!("{words}\n"))),
        (Some((span, _)), None) => Some((span, String::new())),
        (Some((span, _)), Some(words)) => {
            let line = text[span.clone()].trim_ascii_end();
            Some((span.start..span.start + line.len(), words))
        }
    })
}

fn disk_cuts(text: &str, cfg: &Cfg, edit: &DefinitionEdit) -> Result<Vec<Cut>, Wrong> {
    let mut cuts = Vec::new();
    for list in cfg.lists("disk")? {
        let mut gone = BTreeSet::new();
        for (index, item) in list.items.iter().enumerate() {
            let Value::Atom(atom) = &item.value else { continue };
            let spec = facts::read_disk(atom)?;
            match edit.disks.get(&spec.vdev) {
                None => {}
                Some(DiskEdit::Remove) => {
                    gone.insert(index);
                }
                Some(DiskEdit::Source(volume)) => {
                    let (new, at) = (target(&spec, volume, atom)?, spec.target_at.clone());
                    let at = at.ok_or_else(|| Wrong::at(atom.line, "a disk without a target"))?;
                    let old = &atom.text[at.clone()];
                    if path(&DiskSource::Block(std::path::Path::new("/dev").join(old))) != Some(&volume.path) {
                        cuts.push((atom.place(at), new));
                    }
                }
            }
        }
        cuts.extend(removals(text, list, &gone));
    }
    Ok(cuts)
}

/// A volume's path as it can stand in a disk's string.
fn target(spec: &super::spec::DiskSpec, volume: &VolumeRef, atom: &Atom) -> Result<String, Wrong> {
    let path = volume.path.to_str().filter(|_| volume.path.is_absolute());
    let path = path.ok_or_else(|| Wrong::new(format!("{volume} is no absolute path in UTF-8")))?;
    // a positional target ends at a comma, and what looks like a prefix or a parameter would be one
    let bad: &[char] = if spec.named_target { &['\n'] } else { &[',', '=', ':', '\n'] };
    if path.contains(bad) || path.trim_matches(' ') != path || path.ends_with(',') {
        return Err(Wrong::at(atom.line, format!("{path:?} cannot be written as the target of {:?}", spec.vdev))
            .help("write the disk as format=raw,vdev=…,access=w,target=…"));
    }
    written(path, atom.quote)
}

/// Cuts that take items out of a list, each with its comma, and with its line where it has one of its own.
fn removals(text: &str, list: &List, gone: &BTreeSet<usize>) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let end_of = |item: &Item| item.comma.map_or(item.value.span().end, |comma| comma + 1);
    for index in gone {
        let item = &list.items[*index];
        let span = item.value.span().start..end_of(item);
        let line = own_line(text, &span);
        let blanks = text[span.end..].len() - text[span.end..].trim_start_matches([' ', '\t']).len();
        let span = match (line, item.comma) {
            (Some(line), _) => line,
            (None, Some(_)) => span.start..span.end + blanks,
            // the last item, without a comma: the one before it loses its own
            (None, None) => {
                let kept = (0..*index).rev().find(|before| !gone.contains(before));
                let from = kept.and_then(|kept| list.items[kept].comma);
                let start = from.unwrap_or_else(|| list.items.first().map_or(span.start, |i| i.value.span().start));
                // over lines there may be comments between; a comma before the bracket is none too many
                let start = if text[start..span.start].contains('\n') { span.start } else { start };
                cuts.retain(|(cut, _)| cut.end <= start);
                start..span.end
            }
        };
        cuts.push((span, String::new()));
    }
    cuts
}

/// The whole line, if nothing but a span and a comment stands in it.
fn own_line(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = span.end + text[span.end..].find('\n')? + 1;
    let (before, after) = (&text[start..span.start], text[span.end..end].trim_start_matches([' ', '\t']));
    let alone = before.trim_matches([' ', '\t']).is_empty() && (after.starts_with('#') || after == "\n");
    alone.then_some(start..end)
}

/// Parameters, each with a comma of its own: the one before it, or the one after it where all before it go too.
fn with_commas(text: &str, mut parameters: Vec<Range<usize>>) -> Vec<Range<usize>> {
    parameters.sort_by_key(|span| span.start);
    let mut first = 0;
    for span in &mut parameters {
        let before = text[..span.start].trim_end_matches(' ').len();
        if before <= first {
            span.end += usize::from(text[span.end..].starts_with(','));
            first = span.end;
        } else if text[..before].ends_with(',') {
            span.start = before - 1;
        }
    }
    parameters
}

/// Replaces what a string or number says, in its own quotes.
fn content(atom: &Atom, new: &str) -> Result<Option<Cut>, Wrong> {
    if atom.text == new {
        return Ok(None);
    }
    if atom.quote.is_none() && !new.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Some((atom.span.clone(), format!("\"{}\"", written(new, Some('"'))?))));
    }
    Ok(Some((atom.place(0..atom.text.len()), written(new, atom.quote)?)))
}

/// A string's inside, for these quotes.
fn written(value: &str, quote: Option<char>) -> Result<String, Wrong> {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\0' => return Err(Wrong::new(format!("{value:?} cannot be written in an xl.cfg"))),
            c if Some(c) == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.concat().bytes().all(|b| b.is_ascii_hexdigit())
}

/// Makes the cuts. They are on the original's positions and never overlap.
fn cut(text: &str, mut cuts: Vec<Cut>) -> Result<String, Wrong> {
    cuts.sort_by_key(|(span, _)| (span.start, span.end));
    let mut out = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for (span, new) in cuts {
        if span.start < at {
            return Err(Wrong::new("two edits of the same place"));
        }
        out.push_str(&text[at..span.start]);
        out.push_str(&new);
        at = span.end;
    }
    out.push_str(&text[at..]);
    Ok(out)
}
