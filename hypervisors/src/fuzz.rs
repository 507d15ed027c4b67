//! The door for fuzzing: every parser of this crate as a function of bytes, which panics where the parser does not keep its
//! word. Not an interface: hidden, and free to change.
//!
//! A target takes whatever it is given. Beyond not panicking it holds a parser to what its callers rely on: what an editor is
//! not asked to change stays, what it was asked for is read again, what is written is read as it was meant, and nothing that
//! is to be a name or an argument can be taken for something else.

mod dumps;
mod jails;

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::host::{is_hidden, job, printable, printable_tail, shell_quote};
use crate::storage::lvm::{name, report};
use crate::storage::{Mark, Role, VolumeKind, VolumeRef, btrfs, disk};
use crate::xl::{cfg, domains, facts, parse, spec};
use crate::{DefinitionEdit, DiskEdit, DiskSource, MacAddr, libvirt, net, sight, xl};

/// A parser, for a fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its corpus.
    pub name: &'static str,
    /// Parses the bytes; may use the directory, which is empty, for files. Panics where a promise is broken.
    pub run: fn(&[u8], &Path),
}

/// Every parser of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "btrfs_list", run: btrfs_list },
    Target { name: "disk_tables", run: disk_tables },
    Target { name: "domain_xml", run: domain_xml },
    Target { name: "dump_said", run: dumps::said },
    Target { name: "dump_tables", run: dumps::tables },
    Target { name: "frames", run: frames },
    Target { name: "host_answers", run: host_answers },
    Target { name: "jail_addresses", run: jails::addresses },
    Target { name: "jail_conf", run: jails::conf },
    Target { name: "jail_rc_conf", run: jails::rc_conf },
    Target { name: "libvirt_uri", run: libvirt_uri },
    Target { name: "lvm_names", run: lvm_names },
    Target { name: "lvm_report", run: lvm_report },
    Target { name: "shell_words", run: shell_words },
    Target { name: "xl_cfg", run: xl_cfg },
    Target { name: "xl_list", run: xl_list },
    Target { name: "xl_specs", run: xl_specs },
];

/// Bytes as the text that a program's output is taken for.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Holds text that is shown to people to be harmless.
pub fn shown(text: &str) {
    assert!(!text.contains(is_hidden), "shown as it is: {text:?}");
}

fn btrfs_list(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let Some(list) = btrfs::parse_list(&text) else { return };
    if let Some(found) = btrfs::descendants(&list, 5) {
        assert!(found.len() <= list.len());
        let mut ids: Vec<u64> = found.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), found.len(), "a subvolume is named twice");
    }
}

fn disk_tables(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let areas = disk::parse(&text);
    if let Err(why) = &areas {
        shown(why);
    }
    disk::parse_export(&text);
    for entry in disk::entries(&text) {
        assert!(entry.point.is_relative(), "{entry:?}");
        assert!(entry.point.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{entry:?}");
        for area in areas.iter().flatten() {
            disk::names(&entry.spec, area);
        }
    }
}

/// An edit of everything that can be edited whatever the guest.
fn moved(macs: usize, disks: impl Iterator<Item = (String, VolumeRef)>) -> DefinitionEdit {
    DefinitionEdit {
        name: Some("mercure--k3f9".into()),
        uuid: Some("11111111-2222-4333-8444-555555555555".into()),
        mark: Some(Some(Mark { run: "mercure--k3f9".into(), role: Role::Clone })),
        macs: (0..macs).map(|_| Some(MacAddr([2, 0, 0, 0, 0, 1]))).collect(),
        disks: disks.map(|(name, volume)| (name, DiskEdit::Source(volume))).collect(),
        memory_bytes: Some(64 << 20),
        ..DefinitionEdit::default()
    }
}

fn domain_xml(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let before = match libvirt::xml::read(&text) {
        Ok(before) => before,
        Err(why) => return drop(why),
    };
    assert!(!before.name.is_empty());
    let untouched = libvirt::edit::apply(&text, &DefinitionEdit::default());
    assert_eq!(untouched.as_deref(), Ok(&*text), "an edit of nothing");
    let volume = |kind| VolumeRef { path: "/srv/vm/copy & <new>".into(), kind };
    let disks = before.disks.iter().filter_map(|disk| match disk.source {
        DiskSource::Directory(_) => Some((disk.name.clone(), volume(VolumeKind::Directory))),
        DiskSource::Block(_) => Some((disk.name.clone(), volume(VolumeKind::LvmThick))),
        _ => None,
    });
    let edit = moved(before.nics.len(), disks);
    let Ok(edited) = libvirt::edit::apply(&text, &edit) else { return };
    match libvirt::xml::read(&edited) {
        Ok(after) => {
            assert_eq!((Some(&after.name), Some(after.memory_bytes)), (edit.name.as_ref(), edit.memory_bytes));
            assert_eq!(after.mark, edit.mark.flatten());
            assert_eq!(after.disks.len(), before.disks.len());
            assert_eq!(after.vcpus, before.vcpus);
        }
        Err(why) => panic!("what was edited is not read again: {why}\n{edited}"),
    }
    assert_eq!(libvirt::edit::apply(&edited, &DefinitionEdit::default()).as_deref(), Ok(&*edited));
}

fn frames(bytes: &[u8], _: &Path) {
    use net::frame;
    let sound = |mac: MacAddr| assert!(mac.0[0] & 1 == 0, "{mac} is no machine's");
    if let Some(mac) = frame::arp_answer(bytes, Ipv4Addr::new(10, 0, 5, 12)) {
        sound(mac);
    }
    if let Some((mac, address)) = frame::arp_sender(bytes) {
        sound(mac);
        assert!(!address.is_unspecified());
    }
    if let Some(mac) = frame::advertisement_answer(bytes, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x12)) {
        sound(mac);
    }
}

fn host_answers(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    job::parse_status(bytes);
    if let Some(sight) = sight::read(&text) {
        assert!(!sight.head.is_empty() && !sight.kind.contains('\n') && !sight.identity.contains('\n'));
    }
    sight::heard(&text, MacAddr([0, 0x16, 0x3e, 0, 5, 12]));
    let tail = printable_tail(bytes, 3);
    shown(&tail);
    assert!(tail.chars().count() <= 3 * 300 + 2 * 3);
    for line in text.lines() {
        shown(&printable(line));
        if let Ok(mac) = line.parse::<MacAddr>() {
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
        if let Ok(mark) = line.parse::<Mark>() {
            assert_eq!(mark.to_string(), line);
        }
    }
}

fn libvirt_uri(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let Ok(uri) = text.parse::<libvirt::uri::Uri>() else { return };
    let again = uri.to_string();
    assert_eq!(again.parse::<libvirt::uri::Uri>().as_ref(), Ok(&uri), "{text:?} is written {again:?}");
    for (key, _) in &uri.query {
        uri.parameter(key);
    }
}

fn lvm_names(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    for line in text.lines() {
        if let Some(volume) = name::LvName::of(Path::new(line)) {
            let path = volume.path();
            assert_eq!(name::LvName::of(&path).as_ref(), Some(&volume), "{line:?}");
            let word = volume.to_string();
            assert!(!word.starts_with('-') && word.matches('/').count() == 1, "{word:?}");
            assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_.-/".contains(&byte)), "{word:?}");
        }
        let mark = Mark { run: line.to_owned(), role: Role::Clone };
        if let Ok(tag) = name::tag("mark it", &mark) {
            assert!(!tag.contains([',', ' ', '\n', '/']), "{tag:?}");
            assert_eq!(name::mark(&tag), Some(mark));
        }
    }
}

fn lvm_report(bytes: &[u8], _: &Path) {
    let Ok(report) = report::parse(&text(bytes)) else { return };
    for volume in &report.volumes {
        volume.marks();
        let _ = (volume.is_thin(), volume.is_volume(), report.snapshots(&volume.name).count());
    }
}

/// Quotes words, which are separated by byte 255, and reads the line as a POSIX shell does.
fn shell_words(bytes: &[u8], _: &Path) {
    let words: Vec<String> = bytes.split(|byte| *byte == 0xff).map(|word| text(word).replace('\0', "")).collect();
    let line = shell_quote(&words);
    assert_eq!(unquoted(&line).as_ref(), Some(&words), "{line}");
}

/// The words of a line (POSIX, Shell Command Language, 2.2): `None` if the shell would find more in it than quoted words.
fn unquoted(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        inside => word.push(inside),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c if c.is_ascii_alphanumeric() || "_@%+:,./-".contains(c) => word.get_or_insert_default().push(c),
            _ => return None,
        }
    }
    words.extend(word);
    Some(words)
}

fn xl_cfg(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    let Ok(read) = cfg::Cfg::parse(&text) else { return };
    for setting in read.settings() {
        assert!(text[setting.span.clone()].starts_with(&setting.name));
        if let cfg::Value::Atom(atom) = &setting.value {
            let place = &text[atom.place(0..atom.text.len())];
            assert!(place == atom.text || place.contains('\\'), "{place:?} {:?}", atom.text);
        }
    }
    let Ok(before) = facts::of(&read, &text) else { return };
    let apply = |text: &str, edit: &DefinitionEdit| xl::edit::apply(text, edit).map_err(|wrong| wrong.to_string());
    assert_eq!(apply(&text, &DefinitionEdit::default()).as_deref(), Ok(&*text), "an edit of nothing");
    let disks = before.disks.iter().filter_map(|disk| match disk.source {
        DiskSource::Block(_) => {
            Some((disk.name.clone(), VolumeRef { path: "/dev/vg/copy".into(), kind: VolumeKind::LvmThick }))
        }
        _ => None,
    });
    let edit = moved(before.nics.len(), disks);
    let Ok(edited) = apply(&text, &edit) else { return };
    let after = match facts::read(&edited) {
        Ok(after) => after,
        Err(wrong) => panic!("what was edited is not read again: {wrong}\n{edited}"),
    };
    assert_eq!((Some(&after.name), Some(after.memory_bytes)), (edit.name.as_ref(), edit.memory_bytes));
    assert_eq!((&after.uuid, &after.mark), (&edit.uuid, &edit.mark.clone().flatten()));
    assert_eq!(apply(&edited, &DefinitionEdit::default()).as_deref(), Ok(&*edited));
    // And back, as far as there is a way: what was not there cannot be taken out again.
    let back = DefinitionEdit {
        name: Some(before.name.clone()),
        uuid: before.uuid.clone(),
        mark: Some(before.mark.clone()),
        macs: before.nics.iter().map(|nic| nic.mac).collect(),
        memory_bytes: Some(before.memory_bytes),
        ..DefinitionEdit::default()
    };
    if let Ok(again) = apply(&edited, &back) {
        assert_eq!(
            facts::read(&again).map(|facts| (facts.name, facts.memory_bytes)),
            Ok((before.name, before.memory_bytes))
        );
    }
}

fn xl_list(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    match domains::table(&text) {
        Ok(domains) => assert!(domains.iter().all(|domain| domain.id != 0 && !domain.name.contains('\n'))),
        Err(why) => assert!(!why.contains('\n'), "{why:?}"),
    }
    let _ = domains::details(&text);
    let (reason, _) = domains::reason(&text);
    shown(&reason);
    parse::free_memory(&text);
}

fn xl_specs(bytes: &[u8], _: &Path) {
    let text = text(bytes);
    for line in text.lines() {
        let _ = (spec::disk(line), spec::vif(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_of_shell_lines_is_strict() {
        assert_eq!(unquoted(r"a 'b c' ''\''x' ''"), Some(vec!["a".into(), "b c".into(), "'x".into(), String::new()]));
        for more in ["a;b", "$x", "`x`", "a\nb", "'open", "a&b", "*", "~", "\"x\"", "#c"] {
            assert_eq!(unquoted(more), None, "{more}");
        }
    }
}
