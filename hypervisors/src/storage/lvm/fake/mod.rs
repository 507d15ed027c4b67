//! A small LVM in memory that behaves: it takes the commands of the driver, and those of the recordings it is held to
//! ([`super::tests`]), changes its volumes as LVM does, and answers in LVM's words and exit statuses.

mod words;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;

use words::{Words, bytes, lv};

use crate::host::{Command, Job, JobStatus, Output};
use crate::{Change, Error, Host, Result};

pub const EXTENT: u64 = 4 << 20;

/// What a merge into a volume is at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Merging {
    Waiting,
    /// Extents still to be copied.
    Draining(u64),
}

#[derive(Clone, Debug, Default)]
pub struct Volume {
    pub uuid: String,
    pub extents: u64,
    pub origin: Option<String>,
    /// Its name, if it is thin.
    pub pool: Option<String>,
    pub is_pool: bool,
    pub tags: Vec<String>,
    pub active: bool,
    pub skip: bool,
    pub open: bool,
    /// Looks after which it is not open any more.
    pub lets_go: Option<u32>,
    pub invalid: bool,
    pub chunk: u64,
    /// Chunks in use of a thick snapshot, its header and tables left out; bytes mapped of what is thin.
    pub used: u64,
    /// Of the snapshot that is being merged.
    pub merging: Option<Merging>,
    /// What blkid says.
    pub signature: String,
    /// Stands for its content.
    pub content: String,
}

impl Volume {
    fn thick_snapshot(&self) -> bool {
        self.origin.is_some() && self.pool.is_none()
    }
    fn room(&self) -> u64 {
        self.extents * EXTENT / self.chunk
    }
    /// Chunks taken with header and exception tables.
    fn taken(&self) -> u64 {
        2 + self.used + self.used / (self.chunk / 16)
    }
}

/// Where the next command fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crash {
    /// Before it did anything.
    Before,
    /// When it has done the first of what it does.
    Half,
    /// After it has done all.
    After,
}

#[derive(Debug)]
pub struct FakeLvm {
    pub state: Mutex<State>,
}

#[derive(Debug)]
pub struct State {
    pub extents: u64,
    pub shared: bool,
    pub volumes: BTreeMap<String, Volume>,
    uuids: u32,
    /// Every command that was run.
    pub log: Vec<Vec<String>>,
    /// Counts down; the command at 1 crashes.
    pub crash: Option<(usize, Crash)>,
    /// Done to the volumes right before the next command that changes something.
    pub meanwhile: Option<fn(&mut BTreeMap<String, Volume>)>,
}

/// An answer: words and exit status.
struct Said(String, i32);

fn fail(words: impl Into<String>) -> Said {
    Said(words.into(), 5)
}

impl FakeLvm {
    pub fn new(extents: u64) -> Self {
        let state = State {
            extents,
            shared: false,
            volumes: BTreeMap::new(),
            uuids: 0,
            log: Vec::new(),
            crash: None,
            meanwhile: None,
        };
        Self { state: Mutex::new(state) }
    }
    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
    /// Runs a command as people write it.
    pub fn shell(&self, line: &str) -> Output {
        let argv: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.with(|state| state.run(&argv))
    }
}

impl State {
    pub fn run(&mut self, argv: &[String]) -> Output {
        let (program, rest) = argv.split_first().map_or(("", argv), |(first, rest)| (first.as_str(), rest));
        let Said(words, status) = match Words::read(program, rest) {
            Err(said) => said,
            Ok(words) => match program {
                "lvs" => self.lvs(&words),
                "lvcreate" => self.lvcreate(&words, false),
                "lvremove" => self.lvremove(&words),
                "lvextend" => self.lvextend(&words),
                "lvrename" => self.lvrename(&words),
                "lvconvert" => self.lvconvert(&words),
                "lvchange" => self.lvchange(&words),
                "blkid" => match self.volumes.get(&lv(words.plain[0])) {
                    Some(volume) if volume.signature.is_empty() => Said(String::new(), 2),
                    Some(volume) => Said(volume.signature.clone(), 0),
                    None => Said("No such file".into(), 2),
                },
                "mkswap" => self.mkswap(&words),
                _ => Said(format!("{program}: not found"), 127),
            },
        };
        let (stdout, stderr) = if status == 0 { (words, String::new()) } else { (String::new(), words) };
        Output { status, stdout: stdout.into_bytes(), stderr: stderr.into_bytes(), truncated: false }
    }

    fn free(&self) -> u64 {
        let thick = self.volumes.values().filter(|volume| volume.pool.is_none());
        self.extents.saturating_sub(thick.map(|volume| volume.extents).sum())
    }
    fn snapshots(&self, origin: &str) -> Vec<String> {
        let of = |volume: &Volume| volume.origin.as_deref() == Some(origin);
        self.volumes.iter().filter(|(_, volume)| of(volume)).map(|(name, _)| name.clone()).collect()
    }
    fn covering(&self, origin: &str, chunk: u64) -> u64 {
        let data = self.volumes[origin].extents * EXTENT / chunk;
        ((2 + data + data / (chunk / 16)) * chunk).div_ceil(EXTENT)
    }

    /// The ten characters.
    pub fn attr(&self, name: &str) -> String {
        let volume = &self.volumes[name];
        let snapshots = self.snapshots(name);
        let target = snapshots.iter().any(|name| self.volumes[name].merging.is_some());
        let first = match volume {
            Volume { merging: Some(_), .. } => 'S',
            _ if target => 'O',
            Volume { is_pool: true, .. } => 't',
            Volume { pool: Some(_), .. } => 'V',
            Volume { origin: Some(_), .. } => 's',
            _ if snapshots.iter().any(|name| self.volumes[name].pool.is_none()) => 'o',
            _ => '-',
        };
        let state = if volume.invalid {
            'I'
        } else if volume.active {
            'a'
        } else {
            '-'
        };
        // While it drains, the snapshot is open with its origin.
        let drains = matches!(volume.merging, Some(Merging::Draining(_)));
        let below = volume.origin.as_ref().filter(|_| drains).is_some_and(|origin| self.volumes[origin].open);
        let open = if volume.open || volume.is_pool || below { 'o' } else { '-' };
        let seventh = match volume {
            Volume { pool: Some(_), .. } | Volume { is_pool: true, .. } => 't',
            _ if first == '-' => '-',
            _ => 's',
        };
        let zero = if seventh == 't' { 'z' } else { '-' };
        let skip = if volume.skip { 'k' } else { '-' };
        format!("{first}wi-{state}{open}{seventh}{zero}-{skip}")
    }

    pub fn percent(&self, name: &str) -> String {
        let volume = &self.volumes[name];
        let share = |part: u64, whole: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a percentage")]
            let percent = part as f64 * 100.0 / whole as f64;
            format!("{percent:.2}")
        };
        if volume.invalid {
            return "100.00".into();
        }
        if volume.is_pool {
            let mapped =
                self.volumes.values().filter(|thin| thin.pool.as_deref() == Some(name)).map(|thin| thin.used).sum();
            return share(mapped, volume.extents * EXTENT);
        }
        if volume.pool.is_some() {
            return if volume.active { share(volume.used, volume.extents * EXTENT) } else { String::new() };
        }
        for snapshot in self.snapshots(name) {
            if let Some(Merging::Draining(left)) = self.volumes[&snapshot].merging {
                return share(left, self.volumes[&snapshot].extents);
            }
        }
        if volume.thick_snapshot() {
            share(if volume.used == 0 { 0 } else { volume.taken() }, volume.room())
        } else {
            String::new()
        }
    }

    fn lvs(&mut self, words: &Words<'_>) -> Said {
        if lv(words.plain[0]) != "vg1" {
            return fail(format!("  Volume group \"{}\" not found", words.plain[0]));
        }
        for volume in self.volumes.values_mut() {
            if volume.lets_go == Some(0) {
                (volume.open, volume.lets_go) = (false, None);
            }
            volume.lets_go = volume.lets_go.map(|looks| looks - 1);
        }
        let rows: Vec<String> = self
            .volumes
            .keys()
            .map(|name| {
                let volume = &self.volumes[name];
                let hidden = volume.merging.is_some();
                let shown = if hidden { format!("[{name}]") } else { name.clone() };
                let metadata = if volume.is_pool { "10.94" } else { "" };
                let mut row = String::from("{");
                for (key, value) in [
                    ("lv_uuid", volume.uuid.clone()),
                    ("vg_name", "vg1".into()),
                    ("lv_name", shown),
                    ("lv_attr", self.attr(name)),
                    ("lv_size", (volume.extents * EXTENT).to_string()),
                    ("origin", volume.origin.clone().unwrap_or_default()),
                    ("pool_lv", volume.pool.clone().unwrap_or_default()),
                    ("data_percent", self.percent(name)),
                    ("metadata_percent", metadata.into()),
                    ("lv_tags", volume.tags.join(",")),
                    ("chunk_size", volume.chunk.to_string()),
                    ("vg_extent_size", EXTENT.to_string()),
                    ("vg_free", (self.free() * EXTENT).to_string()),
                    ("vg_attr", if self.shared { "wz--ns" } else { "wz--n-" }.into()),
                ] {
                    let _ = write!(row, "{}\"{key}\":{value:?}", if row.len() > 1 { ", " } else { "" });
                }
                row + "}"
            })
            .collect();
        Said(format!("{{\"report\": [{{\"lv\": [{}]}}]}}", rows.join(",\n")), 0)
    }

    fn new_volume(&mut self, name: &str, volume: Volume) {
        self.uuids += 1;
        let uuid = format!("uuid-{:06}", self.uuids);
        self.volumes.insert(name.to_owned(), Volume { uuid, active: true, ..volume });
    }

    pub fn half(&mut self, argv: &[String]) {
        // What LVM writes first for a thick snapshot: a volume with its tags, which is to become the area.
        if let ("lvcreate", Ok(words)) = (argv[0].as_str(), Words::read("lvcreate", &argv[1..])) {
            let _ = self.lvcreate(&words, true);
        }
    }

    fn lvcreate(&mut self, words: &Words<'_>, half: bool) -> Said {
        let tags = words.values("--addtag");
        let source = words.plain.first().copied().unwrap_or_default();
        let name = words.value("-n").map_or_else(|| lv(source), str::to_owned);
        if self.volumes.contains_key(&name) {
            return fail(format!("  Logical Volume \"{name}\" already exists in volume group \"vg1\""));
        }
        let created = Said(format!("  Logical volume \"{name}\" created."), 0);
        if words.has("-T") && !words.has("-V") {
            let extents = bytes(words.value("-L").unwrap_or_default()) / EXTENT;
            self.new_volume(&name, Volume { extents, is_pool: true, chunk: 64 << 10, ..Volume::default() });
            return created;
        }
        if !words.has("-s") {
            let size = words.value("-L").or(words.value("-V")).map(bytes).unwrap_or_default();
            let (extents, free) = (size.div_ceil(EXTENT), self.free());
            let pool = words.has("-V").then(|| lv(source));
            if pool.is_none() && extents > free {
                return fail(format!(
                    "  Volume group \"vg1\" has insufficient free space ({free} extents): {extents} required."
                ));
            }
            self.new_volume(&name, Volume { extents, pool, tags, ..Volume::default() });
            return created;
        }
        let Some(origin) = self.volumes.get(&lv(source)).cloned() else {
            return fail(format!("  Snapshot origin LV {} not found in Volume group vg1.", lv(source)));
        };
        let sized = words.has("-l") || words.has("-L");
        if origin.pool.is_some() && !sized {
            if words.has("-c") {
                return Said("  Command does not accept option: --chunksize.".into(), 3);
            }
            let skip = words.value("-k") != Some("n");
            let snapshot = Volume { origin: Some(lv(source)), skip, tags, ..origin };
            self.new_volume(&name, snapshot);
            if let Some(volume) = self.volumes.get_mut(&name) {
                (volume.active, volume.open) = (!skip, false);
            }
            return created;
        }
        if !sized {
            return Said("  Command does not accept option: --chunksize 4k.".into(), 3);
        }
        if origin.thick_snapshot() {
            return fail("  Snapshots of snapshots are not supported.");
        }
        let chunk = words.value("-c").map_or(4096, bytes);
        let most = self.covering(&lv(source), chunk);
        let extents = match (words.value("-l"), words.value("-L")) {
            (Some("100%ORIGIN"), _) => most,
            (_, Some(size)) => bytes(size).div_ceil(EXTENT).min(most),
            (other, _) => return Said(format!("  {other:?} is not in the recordings"), 3),
        };
        let free = self.free();
        if extents > free {
            return fail(format!(
                "  Volume group \"vg1\" has insufficient free space ({free} extents): {extents} required."
            ));
        }
        let origin_name = (!half).then(|| lv(source));
        self.new_volume(
            &name,
            Volume { extents, chunk, tags, origin: origin_name, content: origin.content, ..Volume::default() },
        );
        created
    }

    fn lvremove(&mut self, words: &Words<'_>) -> Said {
        let mut gone: Vec<String> = match words.value("-S") {
            None => vec![lv(words.plain[0])],
            Some(select) => {
                assert!(select.ends_with(r#"&& lv_attr!~"^[oO]""#), "{select}");
                let matches = |volume: &Volume| {
                    let tag =
                        |tag: &String| select.contains(&format!("(lv_uuid=\"{}\" && lv_tags=\"{tag}\")", volume.uuid));
                    volume.tags.iter().any(tag)
                };
                let names = self.volumes.keys().filter(|name| matches(&self.volumes[*name]));
                names.filter(|name| !self.attr(name).starts_with(['o', 'O'])).cloned().collect()
            }
        };
        for name in gone.clone() {
            let Some(volume) = self.volumes.get(&name) else {
                return fail(format!("  Failed to find logical volume \"vg1/{name}\""));
            };
            if volume.open {
                return fail(format!("  Logical volume vg1/{name} in use."));
            }
            if volume.pool.is_none() {
                gone.extend(self.snapshots(&name));
            }
        }
        for name in gone {
            self.volumes.remove(&name);
            for volume in self.volumes.values_mut().filter(|volume| volume.origin.as_deref() == Some(&name)) {
                volume.origin = None;
            }
        }
        Said("  Logical volume successfully removed.".into(), 0)
    }

    fn lvextend(&mut self, words: &Words<'_>) -> Said {
        let name = lv(words.plain[0]);
        let Some(volume) = self.volumes.get(&name).cloned() else {
            return fail(format!("  Failed to find logical volume \"vg1/{name}\""));
        };
        let origin = volume.origin.clone().unwrap_or_default();
        let plus = words.value("-L").and_then(|size| size.strip_prefix('+')).map(|size| bytes(size).div_ceil(EXTENT));
        let extents = match words.value("-l") {
            None if plus.is_some() => {
                (volume.extents + plus.unwrap_or_default()).min(self.covering(&origin, volume.chunk))
            }
            Some("200%ORIGIN") => self.covering(&origin, volume.chunk),
            Some("100%ORIGIN") => self.volumes[&origin].extents,
            other => return Said(format!("  {other:?} is not in the recordings"), 3),
        };
        if extents.saturating_sub(volume.extents) > self.free() {
            return fail("  Insufficient free space: not enough extents.");
        }
        if let Some(volume) = self.volumes.get_mut(&name) {
            volume.extents = extents;
        }
        Said(format!("  Logical volume vg1/{name} successfully resized."), 0)
    }

    fn lvrename(&mut self, words: &Words<'_>) -> Said {
        let (from, to) = (lv(words.plain[0]), lv(words.plain[1]));
        if self.volumes.contains_key(&to) {
            return fail(format!("  Logical Volume \"{to}\" already exists in volume group \"vg1\""));
        }
        let Some(volume) = self.volumes.remove(&from) else {
            return fail(format!("  Existing logical volume \"{from}\" not found in volume group \"vg1\""));
        };
        self.volumes.insert(to.clone(), volume);
        for volume in self.volumes.values_mut().filter(|volume| volume.origin.as_deref() == Some(&from)) {
            volume.origin = Some(to.clone());
        }
        Said(format!("  Renamed \"{from}\" to \"{to}\" in volume group \"vg1\""), 0)
    }

    fn lvconvert(&mut self, words: &Words<'_>) -> Said {
        for path in &words.plain {
            let name = lv(path);
            let Some(volume) = self.volumes.get(&name).cloned() else {
                return fail(format!("  Failed to find logical volume \"vg1/{name}\""));
            };
            let Some(origin) = volume.origin else { return fail(format!("  vg1/{name} is not a mergeable volume.")) };
            if self.snapshots(&origin).iter().any(|other| self.volumes[other].merging.is_some()) {
                return fail(format!(
                    "  Cannot merge snapshot vg1/{name} into the origin vg1/{origin} with merging snapshot."
                ));
            }
            if let Some(volume) = self.volumes.get_mut(&name) {
                volume.merging = Some(Merging::Waiting);
            }
            self.begin(&origin);
        }
        Said("  Merging started.".into(), 0)
    }

    /// Begins a merge that waits, if everything is closed.
    fn begin(&mut self, origin: &str) {
        for name in self.snapshots(origin) {
            let volume = self.volumes[&name].clone();
            if volume.merging != Some(Merging::Waiting) || volume.open || self.volumes[origin].open {
                continue;
            }
            if let Some(below) = self.volumes.get_mut(origin) {
                below.content = volume.content;
            }
            if volume.pool.is_some() {
                self.volumes.remove(&name);
            } else if let Some(above) = self.volumes.get_mut(&name) {
                above.merging = Some(Merging::Draining(above.taken().div_ceil(EXTENT / above.chunk)));
            }
        }
    }

    /// Copies on; a merge that has nothing left is over.
    pub fn drain(&mut self) {
        for volume in self.volumes.values_mut() {
            if let Some(Merging::Draining(left)) = &mut volume.merging {
                *left = left.saturating_sub(1);
            }
        }
        self.volumes.retain(|_, volume| volume.merging != Some(Merging::Draining(0)));
    }

    fn lvchange(&mut self, words: &Words<'_>) -> Said {
        for path in &words.plain {
            let name = lv(path);
            if !self.volumes.contains_key(&name) {
                return fail(format!("  Failed to find logical volume \"vg1/{name}\""));
            }
            if words.has("--refresh") {
                self.begin(&name);
            }
            let Some(volume) = self.volumes.get_mut(&name) else { continue };
            volume.tags.retain(|tag| !words.values("--deltag").contains(tag));
            for tag in words.values("--addtag") {
                if !volume.tags.contains(&tag) {
                    volume.tags.push(tag);
                }
            }
            if words.value("--setactivationskip") == Some("n") {
                volume.skip = false;
            }
            if words.has("-an") || words.value("-a") == Some("n") {
                volume.active = false;
            }
            if (words.has("-ay") || words.value("-a") == Some("y")) && (!volume.skip || words.has("-K")) {
                volume.active = true;
                self.begin(&name);
            }
        }
        Said(String::new(), 0)
    }

    fn mkswap(&mut self, words: &Words<'_>) -> Said {
        let Some(volume) = self.volumes.get_mut(&lv(words.plain[0])) else { return fail("mkswap: cannot open") };
        let label = words.value("-L").map(|label| format!("LABEL={label}\n")).unwrap_or_default();
        volume.signature = format!("{label}UUID={}\nTYPE=swap\n", words.value("-U").unwrap_or("drawn"));
        Said(String::new(), 0)
    }

    /// A guest (or dd) writes all of a volume.
    pub fn overwrite(&mut self, name: &str) {
        let volume = self.volumes[name].clone();
        let mut touched = self.snapshots(name);
        touched.retain(|snapshot| self.volumes[snapshot].thick_snapshot());
        touched.extend(volume.thick_snapshot().then(|| name.to_owned()));
        for snapshot in touched {
            let origin = self.volumes[&snapshot].origin.clone().unwrap_or_default();
            let all = self.volumes[&origin].extents * EXTENT;
            if let Some(volume) = self.volumes.get_mut(&snapshot) {
                volume.used = all / volume.chunk;
                // The last table ends the list, so it has to fit too.
                volume.invalid |= volume.taken() > volume.room();
            }
        }
    }
}

#[async_trait]
impl Host for FakeLvm {
    fn name(&self) -> &str {
        "trolls"
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        self.with(|state| {
            state.log.push(command.argv.clone());
            let changes = command.program() != "lvs" && command.program() != "blkid";
            if changes && let Some(meanwhile) = state.meanwhile.take() {
                meanwhile(&mut state.volumes);
            }
            let crash = match &mut state.crash {
                Some((left, how)) if changes => {
                    *left -= 1;
                    (*left == 0).then_some(*how)
                }
                _ => None,
            };
            let Some(how) = crash else { return Ok(state.run(&command.argv)) };
            state.crash = None;
            match how {
                Crash::Before => {}
                Crash::Half => state.half(&command.argv),
                Crash::After => drop(state.run(&command.argv)),
            }
            Err(Error::unknown("run it", "the controller died"))
        })
    }
    async fn read_file(&self, _path: &Path, _limit: u64) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    async fn write_file(&self, _path: &Path, _bytes: &[u8], _mode: u32) -> Result<Change> {
        Ok(Change::Unchanged)
    }
    async fn job_start(&self, _job: &Job) -> Result<Change> {
        Ok(Change::Unchanged)
    }
    async fn job_status(&self, _id: &str) -> Result<JobStatus> {
        Ok(JobStatus::Absent)
    }
    async fn job_forget(&self, _id: &str) -> Result<Change> {
        Ok(Change::Unchanged)
    }
    async fn job_output(&self, _id: &str, _from: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}
