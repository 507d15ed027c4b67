//! Domains with all kinds of things in them that are not ours: read, left alone, edited, edited back. What an edit changes
//! stands in the snapshots.

use crate::libvirt::{edit, xml};
use crate::{DefinitionEdit, DiskEdit, DiskSource, Mark, Role, VolumeKind, VolumeRef};

const CORPUS: [(&str, &str); 3] = [
    ("xen", include_str!("../../../tests/fixtures/corpus/xen.xml")),
    ("lxc", include_str!("../../../tests/fixtures/corpus/lxc.xml")),
    ("qemu", include_str!("../../../tests/fixtures/corpus/qemu.xml")),
];

fn volume(source: &DiskSource) -> Option<VolumeRef> {
    match source {
        DiskSource::Block(path) => Some(VolumeRef { kind: VolumeKind::LvmThick, path: path.clone() }),
        DiskSource::Directory(path) => Some(VolumeRef { kind: VolumeKind::Directory, path: path.clone() }),
        _ => None,
    }
}

/// Every disk elsewhere, another name, UUID, MAC and memory, and a mark.
fn moved(text: &str) -> DefinitionEdit {
    let found = xml::read(text).unwrap();
    let elsewhere = |volume: VolumeRef| {
        DiskEdit::Source(VolumeRef { path: format!("{}--k3f9", volume.path.display()).into(), ..volume })
    };
    DefinitionEdit {
        name: Some("mercure--k3f9".into()),
        uuid: Some("11111111-2222-4333-8444-555555555555".into()),
        mark: Some(Some(Mark { run: "mercure--k3f9".into(), role: Role::Clone })),
        macs: vec![Some("00:16:3e:00:05:40".parse().unwrap()); found.nics.len()],
        disks: found
            .disks
            .iter()
            .filter_map(|disk| Some((disk.name.clone(), elsewhere(volume(&disk.source)?))))
            .collect(),
        memory_bytes: Some(384 << 20),
        ..DefinitionEdit::default()
    }
}

/// The same places as they were.
fn back(text: &str) -> DefinitionEdit {
    let found = xml::read(text).unwrap();
    DefinitionEdit {
        name: Some(found.name.clone()),
        uuid: found.uuid.clone(),
        mark: Some(None),
        macs: found.nics.iter().map(|nic| nic.mac).collect(),
        disks: found
            .disks
            .iter()
            .filter_map(|disk| Some((disk.name.clone(), DiskEdit::Source(volume(&disk.source)?))))
            .collect(),
        ..DefinitionEdit::default()
    }
}

#[test]
fn what_is_not_edited_stays_byte_for_byte() {
    for (name, text) in CORPUS {
        assert_eq!(edit::apply(text, &DefinitionEdit::default()).unwrap(), text, "{name}");
    }
}

#[test]
fn an_edit_changes_what_it_names_and_nothing_else() {
    for (name, text) in CORPUS {
        let edited = edit::apply(text, &moved(text)).unwrap();
        let diff = similar::TextDiff::from_lines(text, edited.as_str());
        insta::assert_snapshot!(name, diff.unified_diff().context_radius(0).to_string());
    }
}

#[test]
fn what_comes_back_leaves_no_trace() {
    for (name, text) in CORPUS {
        let edited = edit::apply(text, &DefinitionEdit { memory_bytes: None, ..moved(text) }).unwrap();
        let again = edit::apply(&edited, &back(text)).unwrap();
        // Hardware addresses are written in small letters.
        assert_eq!(again, text.replace("00:16:3E:00:05:12", "00:16:3e:00:05:12"), "{name}");
    }
}
