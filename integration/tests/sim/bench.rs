//! A simulated world, an inventory and a state directory, and the product that works on them: what every test of this
//! ring stands on.
//!
//! All lies in one directory, on /dev/shm where that can be written. States can be kept and put back at the same place
//! (the journal names absolute paths), so that many ways are tried from one point.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hypervisors::sim::{self, Fault, How, Sim, TraceEntry};
use hypervisors::storage::Copies;
use integration::cli::{Said, Upgradectl};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The guest of the seeded world, as most tests declare it. `WORLD` is replaced.
pub const INVENTORY: &str = r#"version = 1
[hosts]
here = { hypervisor = "sim", state = "WORLD" }
[guests.mercure]
host = "here"
disks = { "/srv/mail" = "detach" }
upgrade = { recipe = "debian", to = "trixie" }
checks = [{ kind = "imap" }, { kind = "http" }, { kind = "smtp", rcpt = "probe@mercure" }]
carry = [{ kind = "rsync", path = "/home/" }]
clone = { ip = [".16"] }
"#;

/// No command of the simulated world takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way from nothing to promoted: verb and the state it leads to.
pub const WAY: [(&str, &str); 4] =
    [("clone", "cloned"), ("upgrade", "upgraded"), ("verify", "verified"), ("promote", "promoted")];

/// A world with the product beside it.
pub struct Bench {
    dir: TempDir,
    in_place: bool,
    /// The product.
    pub ctl: Upgradectl,
}

impl Bench {
    /// The seeded world and [`INVENTORY`].
    pub fn new() -> Self {
        Self::with("")
    }

    /// The same; `more` stands at the end of the inventory (hooks of `mercure`, say).
    pub fn with(more: &str) -> Self {
        let bench = Self::seeded(Copies::Trees);
        bench.inventory(&format!("{INVENTORY}{more}"));
        bench
    }

    /// The same in a world whose volumes are so; other than with trees the guest has swap space.
    pub fn on(copies: Copies, more: &str) -> Self {
        let bench = Self::seeded(copies);
        bench.inventory(&format!("{INVENTORY}{more}"));
        if copies != Copies::Trees {
            bench.edit_inventory("{ \"/srv/mail\" = \"detach\" }", "{ \"/srv/mail\" = \"detach\", xvda2 = \"swap\" }");
        }
        bench
    }

    /// A world whose volumes are like LVM's, thick or thin, with a swap disk.
    pub fn with_copies(copies: Copies, strategy: &str) -> Self {
        let bench = Self { in_place: strategy == "in-place", ..Self::seeded(copies) };
        let clone = format!("clone = {{ ip = [\".16\"], strategy = \"{strategy}\" }}");
        let inventory = INVENTORY
            .replace("\"/srv/mail\" = \"detach\"", "\"/srv/mail\" = \"detach\", xvda2 = \"swap\"")
            .replace("clone = { ip = [\".16\"] }", &clone);
        bench.inventory(&inventory);
        bench
    }

    fn seeded(copies: Copies) -> Self {
        let dir = ["/dev/shm", "/tmp"].iter().find_map(|place| TempDir::with_prefix_in("upgradectl-sim-", place).ok());
        let dir = dir.expect("a writable directory for the world");
        let path = dir.path().canonicalize().unwrap();
        sim::seed_with(&path.join("world"), copies).unwrap();
        let ctl = Upgradectl::new(path.join("inventory.toml"), path.join("state")).unwrap();
        Self { dir, in_place: false, ctl }
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// Writes the inventory.
    pub fn inventory(&self, text: &str) {
        let world = self.path("world");
        fs::write(self.path("inventory.toml"), text.replace("WORLD", world.to_str().unwrap())).unwrap();
    }

    /// Replaces words of the inventory.
    pub fn edit_inventory(&self, from: &str, to: &str) {
        let file = self.path("inventory.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from:?} is not in the inventory");
        fs::write(&file, text.replace(from, to)).unwrap();
    }

    /// The world.
    pub fn sim(&self) -> Sim {
        Sim::open(&self.path("world")).unwrap()
    }

    /// A path in a volume's tree.
    pub fn volume(&self, volume: &str, path: &str) -> PathBuf {
        self.path("world/volumes").join(volume).join(path)
    }

    /// Runs a changing verb on `mercure`, with JSON lines and an approval.
    pub fn verb(&self, verb: &str) -> Said {
        self.verb_with(verb, &[])
    }

    /// The same with more arguments.
    pub fn verb_with(&self, verb: &str, more: &[&str]) -> Said {
        let mut args = self.words(verb);
        if more.iter().any(|word| matches!(*word, "--approve" | "--yes")) {
            args.retain(|word| *word != "--yes");
        }
        args.extend(more);
        self.ctl_run(&args)
    }

    /// A verb with the words that let it begin.
    fn words<'a>(&self, verb: &'a str) -> Vec<&'a str> {
        let mut args = vec!["--json", verb, "mercure"];
        // A clone asks where it stops production, an upgrade where it is production's.
        if matches!(verb, "clone" | "promote" | "rollback" | "abort" | "commit") || self.in_place && verb == "upgrade" {
            args.push("--yes");
        }
        if self.in_place && verb == "clone" {
            args.push("--accept-loss");
        }
        args
    }

    /// Runs the product. One that does not end is ended, and named.
    pub fn ctl_run(&self, args: &[&str]) -> Said {
        self.ran(self.spawn(args), args)
    }

    /// Runs a verb whose journal fails as `src/journal/faults.rs` says. What it was told of that; empty: it did not.
    pub fn verb_with_journal(&self, verb: &str, fault: &str) -> (Said, String) {
        let told = self.path("told");
        let _ = fs::remove_file(&told);
        let args = self.words(verb);
        let mut command = self.command(&args);
        command.env("UPGRADECTL_JOURNAL_FAULT", format!("{fault} {}", told.display()));
        let said = self.ran(command.spawn().unwrap(), &args);
        (said, fs::read_to_string(told).unwrap_or_default())
    }

    /// Starts the product, its output in files.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let file = |name: &str| File::create(self.path(name)).unwrap();
        let mut command = self.ctl.command(args.iter().copied());
        command.stdout(file("stdout")).stderr(file("stderr"));
        command
    }

    fn ran(&self, child: Child, args: &[&str]) -> Said {
        let said = self.ended(child, args);
        assert!(said.took < PATIENCE, "it did not end: {said}");
        said
    }

    /// Waits for what [`Bench::spawn`] started.
    pub fn ended(&self, mut child: Child, args: &[&str]) -> Said {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let read = |name: &str| String::from_utf8_lossy(&fs::read(self.path(name)).unwrap()).into_owned();
        Said {
            line: format!("upgradectl {}", args.join(" ")),
            code: status.code().unwrap_or(-1),
            stdout: read("stdout"),
            stderr: read("stderr"),
            took: begun.elapsed(),
        }
    }

    /// Runs a verb that has to succeed and lead to this state.
    #[track_caller]
    pub fn good(&self, verb: &str, state: &str) -> Said {
        let said = self.verb(verb);
        assert_eq!((said.code, said.state().as_deref()), (0, Some(state)), "{said}");
        said
    }

    /// Goes the good way to this state.
    #[track_caller]
    pub fn good_way_to(&self, state: &str) {
        for (verb, leads_to) in WAY {
            self.good(verb, leads_to);
            if leads_to == state {
                return;
            }
        }
        panic!("the way does not lead to {state}");
    }

    /// The open run of `mercure`, as `status` has it.
    pub fn run(&self) -> Option<Value> {
        let said = self.ctl.run(["--json", "status"]).unwrap().expect(0).unwrap();
        said.json().unwrap()["runs"].as_array().unwrap().iter().find(|run| run["guest"] == "mercure").cloned()
    }

    /// Id of the open run.
    pub fn run_id(&self) -> String {
        self.run().expect("an open run")["run"].as_str().unwrap().to_owned()
    }

    /// State of the open run; `none` without one.
    pub fn state(&self) -> String {
        self.run().map_or_else(|| "none".to_owned(), |run| run["state"].as_str().unwrap().to_owned())
    }

    /// Adds a fault. `object`: part of the object's name, empty for any.
    pub fn fault(&self, op: &str, object: &str, nth: u32, how: How) {
        let object = Some(object.to_owned()).filter(|object| !object.is_empty());
        self.sim().inject(Fault { op: op.to_owned(), object, nth, how }).unwrap();
    }

    /// Takes back what has not struck.
    pub fn no_faults(&self) {
        let _ = fs::remove_file(self.path("world/faults.json"));
    }

    /// Everything done to the world so far.
    pub fn trace(&self) -> Vec<TraceEntry> {
        self.sim().trace().unwrap()
    }

    /// Nothing ever happened that a real world would not survive.
    #[track_caller]
    pub fn no_conflicts(&self, about: &str) {
        for entry in self.trace() {
            assert!(entry.conflicts.is_empty(), "{about}: {entry:?}");
        }
    }

    /// Keeps state and world under a name.
    pub fn keep(&self, name: &str) {
        let kept = self.path("kept").join(name);
        let _ = fs::remove_dir_all(&kept);
        for part in ["state", "world"] {
            copy(&self.path(part), &kept.join(part));
        }
    }

    /// Puts a kept state and world back.
    pub fn back_to(&self, name: &str) {
        for part in ["state", "world"] {
            let _ = fs::remove_dir_all(self.path(part));
            copy(&self.path("kept").join(name).join(part), &self.path(part));
        }
    }

    /// What the world looks like.
    pub fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        let world = self.path("world");
        for part in ["definitions", "hostfs", "volumes"] {
            look(&world.join(part), &world, &mut picture.0);
        }
        // Accounting and job records beside the trees: only marks are the world's.
        for (name, json) in json_files(&world.join("volumes")) {
            picture.0.insert(format!("volumes/{name}"), pick(&json, &["mark", "intent", "nested"]));
        }
        for (name, json) in json_files(&world.join("power")) {
            picture.0.insert(format!("power/{name}"), pick(&json, &["power", "autostart", "live", "nics", "units"]));
        }
        // Which of the world's hosts has a guest, where that is not the first.
        for (name, json) in json_files(&world.join("parts")) {
            picture.0.insert(format!("parts/{name}"), json.to_string());
        }
        picture
    }
}

/// What a verb's last event says.
pub trait Ending {
    /// The last event.
    fn ending(&self) -> Value;
    /// The state it led to.
    fn state(&self) -> Option<String>;
}

impl Ending for Said {
    fn ending(&self) -> Value {
        self.events().unwrap().pop().unwrap()
    }
    fn state(&self) -> Option<String> {
        self.ending()["state"].as_str().map(str::to_owned)
    }
}

/// The world at one moment: by path, what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture(pub BTreeMap<String, String>);

impl Picture {
    /// Insists that nothing differs.
    #[track_caller]
    pub fn assert_same(&self, now: &Picture, about: &str) {
        let differs = self.difference(now);
        assert!(differs.is_empty(), "{about}: the world differs:\n{}", differs.join("\n"));
    }

    /// What differs, one line each.
    pub fn difference(&self, now: &Picture) -> Vec<String> {
        let mut names: Vec<&String> = self.0.keys().chain(now.0.keys()).collect();
        names.sort();
        names.dedup();
        let differs = names.into_iter().filter(|name| self.0.get(*name) != now.0.get(*name));
        differs.map(|name| format!("  {name}: {:?} -> {:?}", self.0.get(name), now.0.get(name))).collect()
    }

    /// Without what a promotion leaves behind when it is taken back: the original's own queues, set aside in it, and the
    /// queues that were carried to the clone.
    #[must_use]
    pub fn after_a_promotion(mut self) -> Self {
        self.0.retain(|name, _| {
            let in_clone = name.starts_with("volumes/mercure--");
            let aside = name.starts_with("volumes/mercure/var/lib/upgradectl");
            !(aside || in_clone && name.contains("/var/spool/postfix/"))
        });
        self
    }
}

fn pick(json: &Value, keys: &[&str]) -> String {
    keys.iter().map(|key| format!("{key}={} ", json[*key])).collect()
}

fn json_files(dir: &Path) -> Vec<(String, Value)> {
    let files = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.to_owned();
        let json = path.is_file().then(|| fs::read(&path).ok()).flatten()?;
        name.ends_with(".json").then(|| Some((name, serde_json::from_slice(&json).ok()?))).flatten()
    });
    files.collect()
}

fn look(dir: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let meta = fs::symlink_metadata(&path).unwrap();
        let mode = meta.permissions().mode();
        if meta.is_symlink() {
            found.insert(name, format!("link to {}", fs::read_link(&path).unwrap().display()));
        } else if meta.is_dir() {
            found.insert(name, format!("{mode:o}"));
            look(&path, root, found);
        } else {
            let sum = Sha256::digest(fs::read(&path).unwrap());
            let sum: String = sum.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            // A definition is stored anew and the clone's identity is written anew; the original's files keep their times.
            let kept = name.starts_with("volumes/mercure/") || name.starts_with("volumes/mercure-mail/");
            let time = if kept { meta.mtime() } else { 0 };
            found.insert(name, format!("{mode:o} {}:{} of {time} {sum}", meta.uid(), meta.gid()));
        }
    }
}

/// Copies a tree with modes, times and links.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    if from.exists() {
        integration::command::run("cp").arg("-a").arg(from).arg(to).output().unwrap();
    }
}
