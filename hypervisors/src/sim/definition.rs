//! Definitions of simulated guests: reading one, and editing one without losing what is not understood.
//!
//! ```json
//! {
//!   "name": "mercure",
//!   "uuid": "5f0c…",
//!   "memory_bytes": 536870912,
//!   "vcpus": 1,
//!   "disks": [{ "name": "/", "volume": "mercure", "root": true }],
//!   "nics": [{ "name": "eth0", "mac": "00:16:3e:00:05:0c", "bridge": "br5" }]
//! }
//! ```
//!
//! `volume` is a name below the world's `volumes/`, so that a world can be moved. An edited definition is written
//! in the form of `serde_json`'s pretty printer with its keys in their old order: a definition already in that
//! form keeps every byte that the edit does not name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Cause, DefinitionEdit, Disk, DiskEdit, DiskSource, Error, HostKernel, MacAddr, Mark, Nic, Result};

/// What the sim understands of a definition; other keys are kept and ignored.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Parsed {
    pub name: String,
    pub uuid: Option<String>,
    #[serde(default)]
    pub memory_bytes: u64,
    #[serde(default = "one")]
    pub vcpus: u32,
    #[serde(default)]
    pub disks: Vec<DiskEntry>,
    #[serde(default)]
    pub nics: Vec<NicEntry>,
    mark: Option<String>,
    /// A kernel of the host that it is started with.
    pub kernel: Option<HostKernel>,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct DiskEntry {
    pub name: String,
    pub volume: String,
    #[serde(default)]
    pub root: bool,
    #[serde(default)]
    pub readonly: bool,
    #[serde(default)]
    pub shareable: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct NicEntry {
    pub name: Option<String>,
    pub mac: Option<MacAddr>,
    pub bridge: String,
    pub filter: Option<String>,
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

impl Parsed {
    /// The volume that holds the root file system.
    pub fn root(&self) -> Option<&DiskEntry> {
        self.disks.iter().find(|disk| disk.root).or_else(|| self.disks.iter().find(|disk| disk.name == "/"))
    }
    /// The run mark.
    pub fn mark(&self) -> Option<Mark> {
        self.mark.as_deref().and_then(|text| text.parse().ok())
    }
    /// Disks as facts; `source`: where a volume's bytes are.
    pub fn disks(&self, source: impl Fn(&str) -> Result<DiskSource>) -> Result<Vec<Disk>> {
        let disk = |entry: &DiskEntry| {
            Ok(Disk {
                name: entry.name.clone(),
                source: source(&entry.volume)?,
                root: self.root().is_some_and(|root| root.name == entry.name),
                readonly: entry.readonly,
                shareable: entry.shareable,
            })
        };
        self.disks.iter().map(disk).collect()
    }
    /// Network cards as facts.
    pub fn nics(&self) -> Vec<Nic> {
        let nic = |(index, entry): (usize, &NicEntry)| Nic {
            name: Some(entry.name.clone().unwrap_or_else(|| format!("eth{index}"))),
            mac: entry.mac,
            bridge: entry.bridge.clone(),
            filter: entry.filter.clone(),
            addresses: entry.addresses.clone(),
        };
        self.nics.iter().enumerate().map(nic).collect()
    }
}

/// Reads a definition.
pub(super) fn parse(text: &str) -> Result<Parsed> {
    serde_json::from_str(text).map_err(|error| {
        Error::new("read a simulated definition", Cause::Malformed(format!("it is not a definition: {error}")))
    })
}

/// Applies an edit. `volumes` is the world's directory of volumes.
pub(super) fn derive(text: &str, edit: &DefinitionEdit, volumes: &Path) -> Result<String> {
    let doing = "edit a simulated definition";
    let malformed = |why: String| Error::new(doing, Cause::Malformed(why));
    let original = parse(text)?;
    let mut root: Map<String, Value> = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let unedited = root.clone();

    if let Some(name) = &edit.name {
        root.insert("name".into(), json!(name));
    }
    if let Some(uuid) = &edit.uuid {
        root.insert("uuid".into(), json!(uuid));
    }
    if let Some(kernel) = &edit.kernel {
        root.insert("kernel".into(), json!(kernel));
    }
    if let Some(bytes) = edit.memory_bytes {
        root.insert("memory_bytes".into(), json!(bytes));
    }
    if let Some(count) = edit.vcpus {
        root.insert("vcpus".into(), json!(count));
    }
    match &edit.mark {
        Some(Some(mark)) => {
            root.insert("mark".into(), json!(mark.to_string()));
        }
        Some(None) => {
            root.shift_remove("mark");
        }
        None => {}
    }
    let nics = root.get_mut("nics").and_then(Value::as_array_mut);
    let nic_count = nics.as_ref().map_or(0, |nics| nics.len());
    if edit.macs.len() > nic_count {
        return Err(malformed(format!("the edit names {} network cards, there are {nic_count}", edit.macs.len())));
    }
    for (nic, mac) in nics.into_iter().flatten().zip(&edit.macs) {
        if let (Some(nic), Some(mac)) = (nic.as_object_mut(), mac) {
            nic.insert("mac".into(), json!(mac));
        }
    }
    for (name, change) in &edit.disks {
        let index = original.disks.iter().position(|disk| disk.name == *name);
        let disks = root.get_mut("disks").and_then(Value::as_array_mut);
        let (Some(index), Some(disks)) = (index, disks) else {
            return Err(Error::not_found(doing, format!("{} has no disk {name}", original.name)));
        };
        if let (DiskEdit::Source(volume), Some(disk)) = (change, disks[index].as_object_mut()) {
            disk.insert("volume".into(), json!(volume_name(&volume.path, volumes)?));
        }
    }
    if let Some(disks) = root.get_mut("disks").and_then(Value::as_array_mut) {
        let removed = |disk: &Value| {
            let name = disk.get("name").and_then(Value::as_str).unwrap_or_default();
            edit.disks.get(name) == Some(&DiskEdit::Remove)
        };
        disks.retain(|disk| !removed(disk));
    }
    if root == unedited {
        return Ok(text.to_owned());
    }
    let mut edited = serde_json::to_string_pretty(&root).map_err(|error| malformed(error.to_string()))?;
    edited.push('\n');
    Ok(edited)
}

/// The name of a volume of this world by its path.
pub(super) fn volume_name(path: &Path, volumes: &Path) -> Result<String> {
    let name = path.strip_prefix(volumes).ok().and_then(Path::to_str).filter(|name| plain_name(name));
    name.map(str::to_owned).ok_or_else(|| {
        let at: PathBuf = volumes.join("NAME");
        Error::refused(format!("use volume {}", path.display()), "it is not a volume of the simulated world")
            .help(format!("volumes lie at {}", at.display()))
    })
}

/// Whether a name can be a file name of the world: letters, digits, `.`, `_`, `+`, `-`, no leading dot, at most 200.
pub(super) fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Role, VolumeKind, VolumeRef};

    const TEXT: &str = "{\n  \"name\": \"mercure\",\n  \"zeta\": {\n    \"kept\": [1, 2]\n  },\n  \"uuid\": \"u1\",\n  \"disks\": [{\"name\": \"/\", \"volume\": \"mercure\", \"cache\": \"none\"}, {\"name\": \"/srv\", \"volume\": \"data\"}],\n  \"nics\": [{\"mac\": \"00:16:3e:00:05:0c\", \"bridge\": \"br5\", \"model\": \"virtio\"}]\n}\n";

    #[test]
    fn derive_changes_what_it_is_told_and_keeps_the_rest() {
        let volumes = Path::new("/w/volumes");
        let edit = DefinitionEdit {
            addresses: BTreeMap::new(),
            name: Some("mercure--k3f9".into()),
            uuid: Some("u2".into()),
            mark: Some(Some(Mark { run: "mercure--k3f9".into(), role: Role::Clone })),
            macs: vec![Some("00:16:3e:00:05:10".parse().unwrap())],
            disks: [
                (
                    "/".to_owned(),
                    DiskEdit::Source(VolumeRef { kind: VolumeKind::Sim, path: "/w/volumes/mercure--k3f9-root".into() }),
                ),
                ("/srv".to_owned(), DiskEdit::Remove),
            ]
            .into(),
            memory_bytes: Some(7),
            vcpus: None,
            kernel: None,
        };
        let text = derive(TEXT, &edit, volumes).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["zeta"]["kept"], json!([1, 2]));
        assert_eq!(value["disks"], json!([{"name": "/", "volume": "mercure--k3f9-root", "cache": "none"}]));
        assert_eq!(value["nics"][0], json!({"mac": "00:16:3e:00:05:10", "bridge": "br5", "model": "virtio"}));
        assert_eq!(value["mark"], "mercure--k3f9.clone");
        let keys: Vec<_> = value.as_object().unwrap().keys().take(3).cloned().collect();
        assert_eq!(keys, ["name", "zeta", "uuid"], "the order of keys stays");
        // Taking the mark away again is exact for a text in canonical form.
        let unmarked = derive(&text, &DefinitionEdit { mark: Some(None), ..Default::default() }, volumes).unwrap();
        assert!(!unmarked.contains("mark"));
        assert_eq!(parse(&text).unwrap().mark().unwrap().run, "mercure--k3f9");
    }

    #[test]
    fn an_edit_that_changes_nothing_keeps_the_bytes() {
        let edit = DefinitionEdit { name: Some("mercure".into()), ..Default::default() };
        assert_eq!(derive(TEXT, &edit, Path::new("/w/volumes")).unwrap(), TEXT);
    }

    #[test]
    fn unknown_disks_cards_and_outside_volumes_are_refused() {
        let volumes = Path::new("/w/volumes");
        let edit = DefinitionEdit { disks: [("/x".to_owned(), DiskEdit::Remove)].into(), ..Default::default() };
        assert!(matches!(derive(TEXT, &edit, volumes).unwrap_err().cause, Cause::NotFound(_)));
        let edit = DefinitionEdit { macs: vec![None, None], ..Default::default() };
        assert!(matches!(derive(TEXT, &edit, volumes).unwrap_err().cause, Cause::Malformed(_)));
        for path in ["/etc", "/w/volumes/../x", "/w/volumes/a/b", "/w/volumes/.hidden", "/w/volumes"] {
            assert!(volume_name(Path::new(path), volumes).is_err(), "{path}");
        }
    }
}
