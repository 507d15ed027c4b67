//! Files with all that xl.cfg(5) has: read, left alone, edited, edited back. What an edit changes stands in the snapshots.

use super::backend::clone_edit;
use crate::xl::{edit, facts};
use crate::{DefinitionEdit, DiskEdit, DiskSource, Mark, Role, VolumeKind, VolumeRef};

const CORPUS: [(&str, &str); 3] = [
    ("pv", include_str!("../../../tests/fixtures/corpus/pv.cfg")),
    ("hvm", include_str!("../../../tests/fixtures/corpus/hvm.cfg")),
    ("odd", include_str!("../../../tests/fixtures/corpus/odd.cfg")),
];

fn path(source: &DiskSource) -> Option<VolumeRef> {
    match source {
        DiskSource::Block(path) => Some(VolumeRef { kind: VolumeKind::Sim, path: path.clone() }),
        _ => None,
    }
}

/// Every disk elsewhere, another name, UUID, MAC and memory, and a mark.
fn moved(text: &str) -> DefinitionEdit {
    let found = facts::read(text).unwrap();
    let elsewhere = |volume: VolumeRef| {
        DiskEdit::Source(VolumeRef { path: format!("{}--k3f9", volume.path.display()).into(), ..volume })
    };
    let disks = found.disks.iter().filter_map(|disk| Some((disk.name.clone(), elsewhere(path(&disk.source)?))));
    let macs = (0..found.nics.len()).map(|nic| {
        let had = found.nics[nic].mac.is_some();
        had.then(|| format!("00:16:3e:00:05:{:02x}", 0x40 + nic).parse().unwrap())
    });
    DefinitionEdit {
        disks: disks.collect(),
        macs: macs.collect(),
        memory_bytes: Some(384 << 20),
        addresses: Default::default(),
        ..clone_edit()
    }
}

/// The same places as they were.
fn back(text: &str) -> DefinitionEdit {
    let found = facts::read(text).unwrap();
    DefinitionEdit {
        name: Some(found.name.clone()),
        uuid: found.uuid.clone(),
        mark: Some(None),
        macs: found.nics.iter().map(|nic| nic.mac).collect(),
        disks: found
            .disks
            .iter()
            .filter_map(|disk| Some((disk.name.clone(), DiskEdit::Source(path(&disk.source)?))))
            .collect(),
        memory_bytes: Some(found.memory_bytes),
        ..DefinitionEdit::default()
    }
}

#[test]
fn what_is_not_edited_stays_byte_for_byte() {
    for (name, text) in CORPUS {
        assert_eq!(edit::apply(text, &DefinitionEdit::default()).unwrap(), text, "{name}");
        let marked = DefinitionEdit {
            mark: Some(Some(Mark { run: "mercure--k3f9".into(), role: Role::Production })),
            ..DefinitionEdit::default()
        };
        let unmarked = DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() };
        let there = edit::apply(text, &marked).unwrap();
        assert_eq!(edit::apply(&there, &unmarked).unwrap(), text, "{name}");
    }
}

#[test]
fn an_edit_changes_what_it_names_and_nothing_else() {
    for (name, text) in CORPUS {
        let edited = edit::apply(text, &moved(text)).unwrap();
        let diff = similar::TextDiff::from_lines(text, edited.as_str());
        insta::assert_snapshot!(name, diff.unified_diff().context_radius(0).to_string());
        let again = facts::read(&edited).unwrap();
        assert_eq!(again.disks.len(), facts::read(text).unwrap().disks.len(), "{name}");
    }
}

#[test]
fn disks_and_cards_that_come_back_leave_no_trace() {
    for (name, text) in CORPUS {
        let only = |edit: DefinitionEdit| DefinitionEdit { memory_bytes: None, ..edit };
        let edited = edit::apply(text, &only(moved(text))).unwrap();
        let again = edit::apply(&edited, &only(back(text))).unwrap();
        // Hardware addresses are written in small letters.
        assert_eq!(again, text.replace("00:16:3E:00:05:0D", "00:16:3e:00:05:0d"), "{name}");
    }
}
