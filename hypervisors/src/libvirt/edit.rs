//! Edits of a domain XML that leave every byte alone that they do not name: comments, unknown elements, name
//! spaces, order, quotes and entity forms stay. Pure.
//!
//! An edit is a set of cuts on the original text at positions found by `tree`. What comes out is read
//! again and must say exactly what was asked, and nothing else must have changed; otherwise the edit is an error.
//!
//! The run mark's removal gives back the bytes that were there before it was set. For that, an empty `<metadata>`
//! that the mark replaced is kept, as it was written, in the mark's attribute `over`.

use std::ops::Range;

use super::tree::{Element, Tree};
use super::xml::{self, DomainFacts, MARK_NAMESPACE};
use crate::{DefinitionEdit, DiskEdit, DiskSource, Mark, VolumeKind, VolumeRef};

/// A cut: this span is replaced by that text.
type Cut = (Range<usize>, String);

/// Applies an edit. The error says what could not be done; nothing is ever done in part.
pub fn apply(text: &str, edit: &DefinitionEdit) -> Result<String, String> {
    let before = xml::read(text)?;
    let tree = Tree::parse(text)?;
    let wanted = expected(&before, edit)?;
    let edited = cut(text, cuts(text, tree.root(), edit)?)?;
    let after = xml::read(&edited)?;
    if after != wanted {
        return Err(format!(
            "the edited definition does not say what was asked: {}",
            differences(&wanted, &after).join(", ")
        ));
    }
    Ok(edited)
}

/// What two sets of facts differ in, in words.
pub fn differences(wanted: &DomainFacts, found: &DomainFacts) -> Vec<String> {
    let mut words = Vec::new();
    let mut compare = |what: &str, wanted: String, found: String| {
        if wanted != found {
            words.push(format!("{what} is {found} instead of {wanted}"));
        }
    };
    compare("type", wanted.kind.clone(), found.kind.clone());
    compare("name", wanted.name.clone(), found.name.clone());
    compare("uuid", format!("{:?}", wanted.uuid), format!("{:?}", found.uuid));
    compare("memory", wanted.memory_bytes.to_string(), found.memory_bytes.to_string());
    compare(
        "current memory",
        format!("{:?}", wanted.current_memory_bytes),
        format!("{:?}", found.current_memory_bytes),
    );
    compare("vcpu", wanted.vcpus.to_string(), found.vcpus.to_string());
    compare("disks", format!("{:?}", wanted.disks), format!("{:?}", found.disks));
    compare("network cards", format!("{:?}", wanted.nics), format!("{:?}", found.nics));
    compare("kernel", format!("{:?}", wanted.kernel), format!("{:?}", found.kernel));
    compare("run mark", format!("{:?}", wanted.mark), format!("{:?}", found.mark));
    words
}

/// The facts an edit must lead to.
fn expected(before: &DomainFacts, edit: &DefinitionEdit) -> Result<DomainFacts, String> {
    let mut facts = before.clone();
    if let Some(name) = &edit.name {
        facts.name.clone_from(name);
    }
    if let Some(uuid) = &edit.uuid {
        facts.uuid = Some(uuid.clone());
    }
    if let Some(mark) = &edit.mark {
        facts.mark.clone_from(mark);
    }
    for (index, mac) in edit.macs.iter().enumerate().filter(|(_, mac)| mac.is_some()) {
        let cards = facts.nics.len();
        let nic =
            facts.nics.get_mut(index).ok_or_else(|| format!("there is no network card {}, only {cards}", index + 1))?;
        nic.mac = *mac;
    }
    for (name, change) in &edit.disks {
        let mut named = facts.disks.iter_mut().filter(|disk| disk.name == *name);
        let disk = named.next().ok_or_else(|| format!("there is no disk {name:?}"))?;
        if named.next().is_some() {
            return Err(format!("there are two disks {name:?}"));
        }
        match change {
            DiskEdit::Source(volume) => disk.source = source(disk, volume)?,
            DiskEdit::Remove => disk.name.clear(),
        }
    }
    facts.disks.retain(|disk| !disk.name.is_empty());
    if !facts.disks.iter().any(|disk| disk.root) && before.disks.iter().any(|disk| disk.root) {
        return Err("the root disk would be removed".to_owned());
    }
    if let Some(bytes) = edit.memory_bytes {
        facts.memory_bytes = bytes;
        facts.current_memory_bytes = facts.current_memory_bytes.map(|_| bytes);
    }
    if let Some(vcpus) = edit.vcpus {
        facts.vcpus = vcpus;
    }
    if edit.kernel.is_some() {
        if before.kernel.is_none() {
            return Err("it is not started with a kernel of the host".to_owned());
        }
        facts.kernel.clone_from(&edit.kernel);
    }
    Ok(facts)
}

fn source(disk: &crate::Disk, volume: &VolumeRef) -> Result<DiskSource, String> {
    match (&disk.source, volume.kind) {
        (DiskSource::Directory(_), VolumeKind::Btrfs | VolumeKind::Directory | VolumeKind::Sim) => {
            Ok(DiskSource::Directory(volume.path.clone()))
        }
        (DiskSource::Block(_), VolumeKind::LvmThick | VolumeKind::LvmThin) => {
            Ok(DiskSource::Block(volume.path.clone()))
        }
        (other, _) => Err(format!("{:?} is {other:?}, which {volume} cannot stand for", disk.name)),
    }
}

fn cuts(text: &str, domain: Element<'_>, edit: &DefinitionEdit) -> Result<Vec<Cut>, String> {
    let mut cuts = Vec::new();
    let name = domain.child("name").ok_or("the domain has no name")?;
    if let Some(new) = &edit.name {
        cuts.extend(content(text, name, new)?);
    }
    if let Some(new) = &edit.uuid {
        if !is_uuid(new) {
            return Err(format!("{new:?} is no UUID"));
        }
        match domain.child("uuid") {
            Some(uuid) => cuts.extend(content(text, uuid, new)?),
            None => {
                let at = name.span();
                cuts.push((at.end..at.end, format!("{}<uuid>{new}</uuid>", white_before(text, at.start))));
            }
        }
    }
    if let Some(mark) = &edit.mark {
        cuts.extend(mark_cut(text, domain, mark.as_ref())?);
    }
    let cards = xml::devices(domain).filter(|device| device.name() == "interface");
    for (card, mac) in cards.zip(&edit.macs) {
        let Some(mac) = mac else { continue };
        match card.child("mac") {
            Some(element) => cuts.extend(attribute(element, "address", &mac.to_string())?),
            None => {
                let inner = card.inner().ok_or("an empty <interface/>")?;
                let first = card.elements().next().map_or(inner.start, |first| first.span().start);
                let indent = white_before(text, first);
                cuts.push((inner.start..inner.start, format!("{indent}<mac address='{mac}'/>")));
            }
        }
    }
    for device in xml::devices(domain) {
        let Some(change) = xml::disk_name(device).and_then(|name| edit.disks.get(name)) else { continue };
        match change {
            DiskEdit::Remove => cuts.push((with_indent(text, device), String::new())),
            DiskEdit::Source(volume) => {
                let path = volume.path.to_str().filter(|_| volume.path.is_absolute());
                let path = path.ok_or_else(|| format!("{volume} is no absolute path in UTF-8"))?;
                let key = xml::source_attribute(device).ok_or("a disk without a path")?;
                cuts.extend(attribute(device.child("source").ok_or("a disk without a source")?, key, path)?);
            }
        }
    }
    if let Some(bytes) = edit.memory_bytes {
        if domain.child("cpu").is_some_and(|cpu| cpu.child("numa").is_some()) {
            return Err("memory that is split into NUMA cells cannot be changed".to_owned());
        }
        cuts.extend(memory(text, domain.child("memory").ok_or("the domain has no <memory>")?, bytes)?);
        if let Some(current) = domain.child("currentMemory") {
            cuts.extend(memory(text, current, bytes)?);
        }
    }
    if let Some(vcpus) = edit.vcpus {
        if domain.child("vcpus").is_some() || vcpus == 0 {
            return Err(
                "processors that are listed one by one cannot be changed, and none at all is too few".to_owned()
            );
        }
        let vcpu = domain.child("vcpu").ok_or("the domain has no <vcpu>")?;
        cuts.extend(content(text, vcpu, &vcpus.to_string())?);
        if vcpu.attribute("current").is_some() {
            cuts.extend(attribute(vcpu, "current", &vcpus.to_string())?);
        }
    }
    if let Some(kernel) = &edit.kernel {
        let os = domain.child("os").ok_or("the domain has no <os>")?;
        let first = os.child("kernel").ok_or("the domain has no <kernel>")?;
        cuts.extend(content(text, first, &kernel.kernel)?);
        for (name, new) in [("initrd", &kernel.initrd), ("cmdline", &kernel.arguments)] {
            match (os.child(name), new) {
                (Some(old), Some(new)) => cuts.extend(content(text, old, new)?),
                (Some(old), None) => cuts.push((with_indent(text, old), String::new())),
                (None, Some(new)) => {
                    let (at, white) = (first.span().end, white_before(text, first.span().start));
                    cuts.push((at..at, format!("{white}<{name}>{}</{name}>", escape(new)?)));
                }
                (None, None) => {}
            }
        }
    }
    Ok(cuts)
}

/// Sets the mark, or removes it with what setting it had added.
fn mark_cut(text: &str, domain: Element<'_>, mark: Option<&Mark>) -> Result<Vec<Cut>, String> {
    let metadata = domain.child("metadata");
    match (xml::mark(domain)?, metadata, mark) {
        (None, _, None) => Ok(Vec::new()),
        (Some(ours), _, Some(mark)) => {
            let mut cuts = attribute(ours, "id", &mark.run)?;
            cuts.extend(attribute(ours, "role", mark.role.as_str())?);
            Ok(cuts)
        }
        (None, None, Some(mark)) => {
            // libvirt's own order: name, uuid, genid, title, description, metadata
            let head = ["name", "uuid", "genid", "title", "description"];
            let last = head.iter().filter_map(|name| domain.child(name)).max_by_key(|element| element.span().end);
            let last = last.ok_or("the domain has no name")?.span();
            let white = white_before(text, last.start);
            Ok(vec![(last.end..last.end, format!("{white}{}", wrapped(mark, white, None)?))])
        }
        (None, Some(metadata), Some(mark)) => {
            let inner = metadata.inner().map_or("", |inner| &text[inner]);
            let span = metadata.span();
            if inner.trim_ascii().is_empty() {
                let raw = &text[span.clone()];
                return Ok(vec![(span.clone(), wrapped(mark, white_before(text, span.start), Some(raw))?)]);
            }
            let start = metadata.inner().map_or(span.end, |inner| inner.start);
            let white = &inner[..inner.len() - inner.trim_ascii_start().len()];
            Ok(vec![(start..start, format!("{white}{}", element(mark, None)?))])
        }
        (Some(ours), Some(metadata), None) => {
            let inner = metadata.inner().ok_or("an empty <metadata/>")?;
            let (cut, all) = (with_indent(text, ours), metadata.span());
            let rest = format!("{}{}", &text[inner.start..cut.start], &text[cut.end..inner.end]);
            if !rest.trim_ascii().is_empty() {
                return Ok(vec![(cut, String::new())]);
            }
            match ours.attribute("over") {
                Some(raw) => Ok(vec![(all, raw.to_owned())]),
                None => Ok(vec![(with_indent(text, metadata), String::new())]),
            }
        }
        (Some(_), None, None) => Err("a run mark outside of <metadata>".to_owned()),
    }
}

fn wrapped(mark: &Mark, white: &str, over: Option<&str>) -> Result<String, String> {
    let deeper = if white.contains('\n') { format!("{white}  ") } else { String::new() };
    let last = if white.contains('\n') { white } else { "" };
    Ok(format!("<metadata>{deeper}{}{last}</metadata>", element(mark, over)?))
}

/// The mark as libvirt prints it (libxml2: double quotes).
fn element(mark: &Mark, over: Option<&str>) -> Result<String, String> {
    let over = over.map(escape).transpose()?.map(|raw| format!(" over=\"{raw}\"")).unwrap_or_default();
    let (run, role) = (escape(&mark.run)?, mark.role.as_str());
    Ok(format!("<upgradectl:run xmlns:upgradectl=\"{MARK_NAMESPACE}\" id=\"{run}\" role=\"{role}\"{over}/>"))
}

fn memory(text: &str, element: Element<'_>, bytes: u64) -> Result<Vec<Cut>, String> {
    if bytes == 0 || !bytes.is_multiple_of(1024) {
        return Err(format!("{bytes} bytes are no whole number of KiB, as libvirt counts memory"));
    }
    let unit = xml::unit_bytes(element.attribute("unit").unwrap_or("KiB")).ok_or("a memory unit that is not known")?;
    if bytes.is_multiple_of(unit) {
        return content(text, element, &(bytes / unit).to_string());
    }
    let mut cuts = attribute(element, "unit", "KiB")?;
    cuts.extend(content(text, element, &(bytes / 1024).to_string())?);
    Ok(cuts)
}

/// Replaces an element's text, but not the white space around it.
fn content(text: &str, element: Element<'_>, new: &str) -> Result<Vec<Cut>, String> {
    let name = element.name();
    let inner = element.inner().ok_or_else(|| format!("<{name}/> is empty"))?;
    if element.commented() || element.elements().next().is_some() {
        return Err(format!("<{name}> holds more than text"));
    }
    if element.value() == new {
        return Ok(Vec::new());
    }
    let raw = &text[inner.clone()];
    let start = inner.start + raw.len() - raw.trim_ascii_start().len();
    let end = (inner.end - (raw.len() - raw.trim_ascii_end().len())).max(start);
    Ok(vec![(start..end, escape(new)?)])
}

/// Replaces an attribute's value, between its quotes.
fn attribute(element: Element<'_>, name: &str, new: &str) -> Result<Vec<Cut>, String> {
    let span = element.attribute_span(name).ok_or_else(|| format!("<{}> has no attribute {name}", element.name()))?;
    if element.attribute(name) == Some(new) {
        return Ok(Vec::new());
    }
    Ok(vec![(span, escape(new)?)])
}

/// The white space directly before a position.
fn white_before(text: &str, position: usize) -> &str {
    let before = &text[..position];
    &before[before.trim_ascii_end().len()..]
}

/// An element with the white space before it.
fn with_indent(text: &str, element: Element<'_>) -> Range<usize> {
    let span = element.span();
    span.start - white_before(text, span.start).len()..span.end
}

/// Escapes as libvirt does (virBufferEscapeString), for text and for either kind of quote; line ends and tabs as
/// character references, so that a value keeps them. Characters that XML 1.0 cannot hold are refused.
pub(super) fn escape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => return Err(format!("{value:?} cannot be written in XML")),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.concat().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Makes the cuts. They are on the original's positions and never overlap.
fn cut(text: &str, mut cuts: Vec<Cut>) -> Result<String, String> {
    cuts.sort_by_key(|(span, _)| (span.start, span.end));
    let mut out = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for (span, new) in cuts {
        if span.start < at {
            return Err("two edits of the same place".to_owned());
        }
        out.push_str(&text[at..span.start]);
        out.push_str(&new);
        at = span.end;
    }
    out.push_str(&text[at..]);
    Ok(out)
}
