//! The simulated world and the run's files as a value: read, put back, and looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory(u32),
    Link(PathBuf),
    File(u32, Arc<[u8]>),
}

/// All files below a directory, as they were at an instant. What only tells of the past is left out: the world's trace,
/// the logs of steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World(BTreeMap<PathBuf, Entry>);

/// No part of a state.
fn aside(name: &str) -> bool {
    matches!(name, "trace.jsonl" | "lock" | "faults.json" | "output")
}

/// Of a guest's files, what differs between runs that are alike: keys drawn by lot, logs, what a boot makes anew.
fn incidental(path: &str) -> bool {
    ["/etc/ssh/ssh_host_", "/var/log/", "/run/", "/tmp/"].iter().any(|part| path.contains(part))
}

/// What a promotion that is taken back leaves: the original's own queues, set aside in it, and those that came in their place.
fn queues(path: &str) -> bool {
    ["/var/lib/upgradectl", "/var/spool/postfix"].iter().any(|part| path.contains(part))
}

impl World {
    /// As it is now.
    pub fn read(root: &Path) -> Self {
        let mut world = Self::default();
        world.add(root, Path::new(""));
        world
    }

    fn add(&mut self, root: &Path, below: &Path) {
        let Ok(entries) = fs::read_dir(root.join(below)) else { return };
        for entry in entries {
            let entry = entry.unwrap();
            let name = entry.file_name();
            if name.to_str().is_some_and(aside) {
                continue;
            }
            let (path, place) = (below.join(&name), entry.path());
            let meta = fs::symlink_metadata(&place).unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            let found = if meta.is_symlink() {
                Entry::Link(fs::read_link(&place).unwrap())
            } else if meta.is_dir() {
                self.add(root, &path);
                Entry::Directory(mode)
            } else if meta.is_file() {
                Entry::File(mode, fs::read(&place).unwrap().into())
            } else {
                continue;
            };
            self.0.insert(path, found);
        }
    }

    /// Makes a directory like this again. `now`: how it is.
    pub fn put(&self, root: &Path, now: &World) {
        for (path, entry) in now.0.iter().rev() {
            let wanted = self.0.get(path);
            let stays =
                matches!((entry, wanted), (Entry::Directory(_), Some(Entry::Directory(_)))) || wanted == Some(entry);
            if !stays {
                let place = root.join(path);
                match entry {
                    // What lies aside in it goes with it.
                    Entry::Directory(_) => fs::remove_dir_all(place).unwrap(),
                    _ => fs::remove_file(place).unwrap(),
                }
            }
        }
        for (path, entry) in &self.0 {
            if now.0.get(path) == Some(entry) {
                continue;
            }
            let place = root.join(path);
            let mode = match entry {
                Entry::Link(to) => {
                    symlink(to, place).unwrap();
                    continue;
                }
                Entry::Directory(mode) => {
                    fs::create_dir_all(&place).unwrap();
                    mode
                }
                Entry::File(mode, bytes) => {
                    fs::write(&place, bytes).unwrap();
                    mode
                }
            };
            fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
        }
    }

    fn json_files(&self, directory: &str) -> impl Iterator<Item = (&str, Value)> {
        self.0.iter().filter_map(move |(path, entry)| {
            let name = path.strip_prefix(directory).ok()?.to_str()?.strip_suffix(".json")?;
            match entry {
                Entry::File(_, bytes) if !name.contains('/') => Some((name, serde_json::from_slice(bytes).ok()?)),
                _ => None,
            }
        })
    }

    /// What lies beside the volumes, by name.
    pub fn volumes(&self) -> BTreeMap<&str, Value> {
        self.json_files("world/volumes").collect()
    }

    /// What is known of guests' power, by name.
    pub fn powers(&self) -> BTreeMap<&str, Value> {
        self.json_files("world/power").collect()
    }

    /// Definitions, by name.
    pub fn definitions(&self) -> BTreeMap<&str, Value> {
        self.json_files("world/definitions").collect()
    }

    /// What a volume holds: by path, a sum. Queues are left out, and what is incidental.
    pub fn contents(&self, volume: &str) -> BTreeMap<PathBuf, u64> {
        let root = Path::new("world/volumes").join(volume);
        let below = self.0.iter().filter_map(|(path, entry)| Some((path.strip_prefix(&root).ok()?, entry)));
        let kept = below.filter(|(path, _)| {
            let path = format!("/{}/", path.display());
            !incidental(&path) && !queues(&path)
        });
        kept.map(|(path, entry)| (path.to_owned(), sum(entry, &[]))).collect()
    }

    /// What tells two worlds apart, in which words that belong to one run alone are replaced. `but`: files that are left out.
    pub fn key(&self, words: &[(String, &str)], but: Option<&str>) -> String {
        let mut key = String::new();
        for (path, entry) in &self.0 {
            let Some(path) = path.to_str().filter(|path| path.starts_with("world/")) else { continue };
            let path = replaced(path, words);
            let out = but.is_some_and(|but| path.starts_with(but));
            if path == "world/host.json" || incidental(&path) || queues(&path) || out {
                continue;
            }
            let keys: &[&str] = match path.split('/').collect::<Vec<_>>()[..] {
                ["world", "power", _] => &["power", "autostart", "live", "renamed", "nics", "units", "frozen"],
                ["world", "volumes", name] if name.ends_with(".json") => &[
                    "capacity_bytes",
                    "limit_bytes",
                    "area_bytes",
                    "skip",
                    "inactive",
                    "invalid",
                    "mark",
                    "intent",
                    "nested",
                ],
                _ => &[],
            };
            let _ = match (keys, entry) {
                ([_, ..], Entry::File(_, bytes)) => {
                    let json: Value = serde_json::from_slice(bytes).unwrap_or_default();
                    let says: String = keys.iter().map(|key| format!(" {key}={}", json[*key])).collect();
                    let bits = ["origin", "merging", "swap"].map(|key| u8::from(!json[key].is_null()));
                    writeln!(key, "{path}{} {bits:?}", replaced(&says, words))
                }
                _ => writeln!(key, "{path} {:016x}", sum(entry, words)),
            };
        }
        key
    }
}

/// A text in which some words are replaced.
pub fn replaced(text: &str, words: &[(String, &str)]) -> String {
    words
        .iter()
        .fold(text.to_owned(), |text, (word, by)| if text.contains(word) { text.replace(word, by) } else { text })
}

fn sum(entry: &Entry, words: &[(String, &str)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    match entry {
        Entry::Directory(mode) => (1, mode).hash(&mut hasher),
        Entry::Link(to) => (2, to).hash(&mut hasher),
        Entry::File(mode, bytes) => (3, mode, replaced(&String::from_utf8_lossy(bytes), words)).hash(&mut hasher),
    }
    hasher.finish()
}
