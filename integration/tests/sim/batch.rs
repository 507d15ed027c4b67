//! Batches of simulated guests, as a user drives them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hypervisors::sim::Sim;
use integration::cli::{Said, Upgradectl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A fleet of small guests with the product beside it.
struct Fleet {
    dir: TempDir,
    ctl: Upgradectl,
}

const NIGHT: &str = "verbs = [\"clone\", \"upgrade\", \"verify\"]";

impl Fleet {
    /// So many guests; each of their jobs takes so long.
    fn new(guests: usize, job_ms: u64) -> Self {
        let dir = match tempfile::tempdir_in("/dev/shm") {
            Ok(dir) => dir,
            Err(_) => tempfile::tempdir().unwrap(),
        };
        let ctl = Upgradectl::new(dir.path().join("inventory.toml"), dir.path().join("state")).unwrap();
        let fleet = Self { dir, ctl };
        let said = fleet.ctl.run(["init", "--sim", "--guests", &guests.to_string()]).unwrap();
        assert_eq!(said.code, 0, "{said}");
        fleet.world().configure(|config| config.job_ms = job_ms).unwrap();
        fleet
    }

    fn world(&self) -> Sim {
        Sim::open(&self.dir.path().join("state/fleet/node1")).unwrap()
    }

    /// Writes a batch file: what stands under `[batch]`, and the items.
    fn batch(&self, head: &str, items: &str) -> PathBuf {
        let path = self.dir.path().join("night.toml");
        fs::write(&path, format!("version = 1\n[batch]\nname = \"night\"\n{head}\n{items}")).unwrap();
        path
    }

    fn everybody(&self, head: &str) -> PathBuf {
        self.batch(head, "[[batch.items]]\ntag = \"fleet\"\n")
    }

    fn inventory(&self, from: &str, to: &str) {
        let path = self.dir.path().join("inventory.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from:?} is not in the inventory");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }

    fn run(&self, words: &[&str], code: i32) -> Said {
        let said = self.ctl.run(words.iter().copied()).unwrap();
        assert_eq!(said.code, code, "{said}");
        said
    }

    fn of(&self, verb: &str, file: &Path, more: &[&str], code: i32) -> Said {
        let words = [&["batch", verb, file.to_str().unwrap()], more].concat();
        self.run(&words, code)
    }

    fn spawn(&self, verb: &str, file: &Path) -> Child {
        let mut command = self.ctl.command(["--json", "batch", verb, file.to_str().unwrap(), "--yes"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The batch's items, by guest, as `batch status` tells them.
    fn items(&self, file: &Path) -> BTreeMap<String, Value> {
        let said = self.of("status", file, &["--json"], 0);
        let status: Value = serde_json::from_str(&said.stdout).unwrap();
        let items = status["items"].as_array().unwrap().iter();
        items.map(|item| (item["guest"].as_str().unwrap().to_owned(), item.clone())).collect()
    }

    fn stands(&self, file: &Path) -> Vec<String> {
        self.items(file).into_values().map(|item| item["stands"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until so many items stand like this.
    fn until(&self, file: &Path, many: usize, like: &str) {
        let begun = Instant::now();
        while fs::read_dir(self.ctl.state()).is_err()
            || !self.ctl.state().join("journal.db").exists()
            || self.ctl.run(["batch", "status", file.to_str().unwrap()]).unwrap().code != 0
            || self.stands(file).iter().filter(|stands| *stands == like).count() < many
        {
            assert!(begun.elapsed() < Duration::from_secs(60), "never: {:?}", self.stands(file));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs in the journal, open or closed, of each guest.
    fn states(&self) -> BTreeMap<String, String> {
        let said = self.run(&["--json", "status"], 0);
        let status: Value = serde_json::from_str(&said.stdout).unwrap();
        let runs = status["runs"].as_array().unwrap().iter();
        let word = |run: &Value, key: &str| run[key].as_str().unwrap().to_owned();
        runs.map(|run| (word(run, "guest"), word(run, "state"))).collect()
    }
}

/// The lines of one kind.
fn events(stdout: &[u8], kind: &str) -> Vec<Value> {
    let lines = String::from_utf8_lossy(stdout).into_owned();
    let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|event| event["event"] == kind).collect()
}

#[test]
fn a_fleet_is_planned_done_in_waves_and_reported() {
    let fleet = Fleet::new(4, 0);
    let file = fleet.everybody(&format!("{NIGHT}\nparallel = 3\nwaves = [1, \"rest\"]\nbetween_waves = \"all-well\""));
    let plan = fleet.of("plan", &file, &[], 0);
    assert!(plan.stdout.contains("This plan touches nothing") && plan.stdout.matches("ready").count() == 4, "{plan}");
    assert!(plan.stdout.lines().all(|line| line.chars().count() <= 80), "{plan}");
    fleet.of("status", &file, &[], 9);
    let said = fleet.of("run", &file, &[], 6);
    assert!(said.stderr.contains("--approve"), "{said}");
    fleet.of("run", &file, &["--approve", "000000"], 6);
    let digest = plan.stdout.trim_end().rsplit(' ').next().unwrap().trim_end_matches('.').to_owned();
    let said = fleet.of("run", &file, &["--approve", &digest], 0);
    assert!(said.stdout.contains("4 of 4 ended well"), "{said}");
    assert!(said.stderr.contains("wave 1 has ended: 1 of 1 well"), "{said}");
    assert_eq!(fleet.states().into_values().collect::<Vec<_>>(), ["verified"; 4]);
    // Each is a run like any other.
    assert!(fleet.run(&["log", "g0003"], 0).stdout.contains("verify: done"));
    let report = fleet.of("report", &file, &[], 0);
    assert!(report.stdout.contains("**4 well, 0 failed, 0 left**"), "{report}");
    assert!(report.stdout.contains("upgradectl promote g0002"), "{report}");
    let json: Value = serde_json::from_str(&fleet.of("report", &file, &["--json"], 0).stdout).unwrap();
    assert_eq!((&json["well"], &json["items"][3]["checks"]), (&4.into(), &"4 passed".into()));
    fleet.of("resume", &file, &[], 9);
    // After coffee.
    let file = fleet.everybody("verbs = [\"promote\"]\nparallel = 2");
    let said = fleet.of("run", &file, &["--yes"], 0);
    assert!(said.stderr.contains("production of each guest is interrupted"), "{said}");
    assert_eq!(fleet.states().into_values().collect::<Vec<_>>(), ["promoted"; 4]);
    let told: Value = serde_json::from_str(&fleet.of("report", &file, &["--json"], 0).stdout).unwrap();
    assert!(told["items"][0]["outage_s"].as_f64().unwrap() > 0.0, "{told}");
}

#[test]
fn one_that_fails_stops_what_comes_after_it_and_nobody_else() {
    let fleet = Fleet::new(5, 0);
    // The second clone's address is taken; the fourth one's check fails.
    fleet.inventory("clone = { ip = [\".41\"] }", "clone = { ip = [\".23\"] }");
    fleet.inventory(
        "clone = { ip = [\".43\"] }\nchecks = [{",
        "clone = { ip = [\".43\"] }\nchecks = [{ name = \"lost\", kind = \"http\", status = 404, deadline = \"1s\" }, {",
    );
    let items = "[[batch.items]]\ntag = \"fleet\"\n[[batch.items]]\nguest = \"g0003\"\nafter = [\"g0002\"]\n\
                 [[batch.items]]\nguest = \"g0004\"\non_failure = \"abort\"\n";
    let file = fleet.batch(NIGHT, items);
    let plan = fleet.of("plan", &file, &[], 7);
    assert!(plan.stdout.contains("WILL FAIL"), "{plan}");
    let said = fleet.of("run", &file, &["--yes"], 12);
    assert!(said.stderr.contains("g0003: LEFT: it comes after g0002"), "{said}");
    assert!(said.stderr.contains("g0004: its clone was given up"), "{said}");
    assert_eq!(fleet.stands(&file), ["well", "failed", "left", "failed", "well"]);
    assert_eq!(fleet.states().into_keys().collect::<Vec<_>>(), ["g0001", "g0005"], "the others have no run");
    let report = fleet.of("report", &file, &[], 0);
    assert!(report.stdout.contains("**failed**, given up") && report.stdout.contains("belongs to g0004"), "{report}");
    // Mended, and once more.
    fleet.inventory("clone = { ip = [\".23\"] }", "clone = { ip = [\".41\"] }");
    fleet.inventory("{ name = \"lost\", kind = \"http\", status = 404, deadline = \"1s\" }, ", "");
    let said = fleet.of("resume", &file, &["--failed"], 0);
    assert!(said.stderr.contains("what was approved goes on") || said.code == 0, "{said}");
    assert_eq!(fleet.stands(&file), ["well"; 5]);
}

#[test]
fn a_killed_controller_is_succeeded() {
    let fleet = Fleet::new(6, 150);
    let file = fleet.everybody(&format!("{NIGHT}\nparallel = 3"));
    let mut child = fleet.spawn("run", &file);
    fleet.until(&file, 1, "well");
    child.kill().unwrap();
    child.wait().unwrap();
    let before = fleet.states();
    let status = fleet.of("status", &file, &[], 0);
    assert!(status.stdout.contains("INTERRUPTED in "), "{status}");
    let said = fleet.of("resume", &file, &["--json"], 0);
    assert_eq!(fleet.stands(&file), ["well"; 6]);
    // What had ended is not begun again; everybody has the run he had.
    let begun = events(said.stdout.as_bytes(), "item_started");
    assert!(begun.iter().all(|event| before.get(event["guest"].as_str().unwrap()) != Some(&"verified".to_owned())));
    assert_eq!(fleet.states().into_values().collect::<Vec<_>>(), ["verified"; 6]);
}

#[test]
fn two_controllers_share_the_work_and_keep_to_its_limits() {
    let fleet = Fleet::new(8, 60);
    let file = fleet.everybody(&format!("{NIGHT}\nparallel = 2\nper_host = 4"));
    let one = fleet.spawn("run", &file);
    fleet.until(&file, 1, "working");
    let other = fleet.spawn("resume", &file);
    let (one, other) = (one.wait_with_output().unwrap(), other.wait_with_output().unwrap());
    assert_eq!((one.status.code(), other.status.code()), (Some(0), Some(0)));
    let began = |output: &[u8]| -> Vec<(String, String)> {
        let word = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
        events(output, "item_started").iter().map(|event| (word(event, "guest"), word(event, "verb"))).collect()
    };
    let (mine, theirs) = (began(&one.stdout), began(&other.stdout));
    assert!(!mine.is_empty() && !theirs.is_empty(), "both have worked: {mine:?} {theirs:?}");
    let mut all = [mine, theirs].concat();
    let many = all.len();
    all.sort();
    all.dedup();
    assert_eq!((all.len(), many), (24, 24), "every verb of every guest, once");
    assert_eq!(fleet.stands(&file), ["well"; 8]);
}

#[test]
fn a_wave_waits_for_its_approval_or_stops() {
    let fleet = Fleet::new(4, 0);
    let file = fleet.everybody(&format!("{NIGHT}\nwaves = [1, 2, \"rest\"]"));
    let said = fleet.of("run", &file, &["--yes"], 6);
    assert!(said.stdout.contains("wave 2 waits for an approval"), "{said}");
    assert_eq!(fleet.stands(&file), ["well", "waiting", "waiting", "waiting"]);
    fleet.of("resume", &file, &[], 6);
    fleet.of("resume", &file, &["--yes"], 6);
    assert_eq!(fleet.stands(&file), ["well", "well", "well", "waiting"]);
    fleet.of("resume", &file, &["--yes"], 0);

    let fleet = Fleet::new(4, 0);
    fleet.inventory("clone = { ip = [\".41\"] }", "clone = { ip = [\".23\"] }");
    let file = fleet.everybody(&format!("{NIGHT}\nwaves = [3, \"rest\"]\nbetween_waves = \"all-well\""));
    let said = fleet.of("run", &file, &["--yes"], 12);
    assert!(said.stdout.contains("1 of wave 1 did not end well"), "{said}");
    assert_eq!(fleet.stands(&file), ["well", "failed", "well", "waiting"]);

    // A share of failures, and a failure that stops everything.
    for (head, last) in [("stop_at_failed = \"25%\"", "too many"), ("on_failure = \"stop\"", "stopped the batch")] {
        let fleet = Fleet::new(4, 0);
        fleet.inventory("clone = { ip = [\".40\"] }", "clone = { ip = [\".23\"] }");
        let file = fleet.everybody(&format!("{NIGHT}\nparallel = 1\n{head}"));
        let said = fleet.of("run", &file, &["--yes"], 12);
        assert!(said.stdout.contains(last), "{said}");
        assert_eq!(fleet.stands(&file), ["failed", "waiting", "waiting", "waiting"]);
        fleet.of("resume", &file, &[], 12);
        assert_eq!(fleet.stands(&file), ["failed", "well", "well", "well"]);
    }
}

#[test]
fn nothing_begins_that_does_not_fit_into_the_window() {
    let fleet = Fleet::new(3, 0);
    let clock = |minutes: i64| {
        let output = Command::new("date").args(["-d", &format!("{minutes} minutes"), "+%H:%M"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let items =
        "[[batch.items]]\nguest = \"g0001\"\nexpected = \"5s\"\n[[batch.items]]\ntag = \"fleet\"\nexpected = \"1h\"\n";
    let file = fleet.batch(&format!("{NIGHT}\nwindow = \"{}-{}\"", clock(-120), clock(3)), items);
    let said = fleet.of("run", &file, &["--yes"], 8);
    assert!(said.stdout.contains("does not fit before the window closes"), "{said}");
    assert_eq!(fleet.stands(&file), ["well", "waiting", "waiting"]);

    // What fits into no night is refused, and what has to wait waits.
    let long = fleet.batch(&format!("{NIGHT}\nwindow = \"{}-{}\"", clock(-5), clock(5)), items).clone();
    fs::write(&long, fs::read_to_string(&long).unwrap().replace("\"night\"", "\"long\"")).unwrap();
    let said = fleet.of("run", &long, &["--yes"], 7);
    assert!(said.stderr.contains("is shorter"), "{said}");
    let text = fs::read_to_string(&long).unwrap().replace("\"long\"", "\"later\"");
    let window = format!("window = \"{}-{}\"", clock(-5), clock(5));
    fs::write(&long, text.replace(&window, &format!("window = \"{}-{}\"", clock(120), clock(300)))).unwrap();
    let mut waiting = fleet.ctl.command(["batch", "run", long.to_str().unwrap(), "--yes"]);
    let child = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    fleet.until(&long, 3, "waiting");
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&output.stderr).contains("waiting until"));
    assert_eq!(fleet.stands(&long), ["waiting"; 3]);
}

#[test]
fn guests_are_worked_on_by_hand_in_between() {
    let fleet = Fleet::new(4, 120);
    let file = fleet.everybody(&format!("{NIGHT}\nparallel = 2"));
    let child = fleet.spawn("run", &file);
    fleet.until(&file, 1, "well");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(8), "Ctrl-C ends it after the steps in hand");
    let report = fleet.of("report", &file, &[], 0);
    assert!(report.stdout.contains("0 failed") && !report.stdout.contains("What failed"), "{report}");
    // One that is in the middle is finished by hand, and one that has ended is given up.
    let items = fleet.items(&file);
    let like = |what: &str| items.iter().find(|(_, item)| item["stands"] == what).map(|(guest, _)| guest.clone());
    let (between, well) = (like("between").unwrap(), like("well").unwrap());
    for _ in 0..3 {
        match fleet.states()[&between].as_str() {
            "verified" => break,
            "cloned" => fleet.run(&["upgrade", &between], 0),
            "upgraded" => fleet.run(&["verify", &between], 0),
            _ => fleet.run(&["resume", &between], 0),
        };
    }
    fleet.run(&["abort", &well, "--yes"], 0);
    fleet.of("resume", &file, &[], 0);
    assert_eq!(fleet.stands(&file), ["well"; 4]);
    assert!(!fleet.states().contains_key(&well), "what was given up by hand stays so");

    // And all of it is given up, but for what has been promoted.
    fleet.run(&["promote", &between, "--yes"], 0);
    let said = fleet.of("abort", &file, &["--dry-run"], 0);
    assert!(said.stdout.contains("2 clones given up") && said.stdout.contains("not touched"), "{said}");
    fleet.of("abort", &file, &[], 6);
    fleet.of("abort", &file, &["--yes"], 0);
    assert_eq!(fleet.states().into_iter().collect::<Vec<_>>(), [(between, "promoted".to_owned())]);
}

#[test]
fn nothing_that_production_lived_on_is_given_up_by_itself() {
    let fleet = Fleet::new(3, 0);
    let failing = "promote = { if_check_fails = \"rollback\" }\nclone = { ip = [\".40\"] }\nchecks = [{ name = \"lost\", \
                   kind = \"http\", status = 404, when = \"promoted\", deadline = \"1s\" }, {";
    fleet.inventory("clone = { ip = [\".40\"] }\nchecks = [{", failing);
    // A clone of somebody's own.
    fleet.run(&["clone", "g0003"], 0);
    let verbs = "verbs = [\"clone\", \"upgrade\", \"verify\", \"promote\"]\non_failure = \"abort\"\nparallel = 1";
    let items = "[[batch.items]]\nguest = \"g0001\"\n[[batch.items]]\nguest = \"g0002\"\n";
    let file = fleet.batch(verbs, items);
    let said = fleet.of("run", &file, &["--yes"], 12);
    assert!(!said.stderr.contains("its clone was given up"), "{said}");
    let states = fleet.states();
    assert_eq!((states["g0001"].as_str(), states["g0002"].as_str()), ("upgraded", "promoted"), "{said}");
    let said = fleet.of("abort", &file, &["--dry-run"], 0);
    assert!(said.stdout.contains("0 clones given up") && !said.stdout.contains("g0003"), "{said}");

    // What the batch did not make is not its to give up.
    let file = fleet.batch("verbs = [\"upgrade\"]", "[[batch.items]]\nguest = \"g0003\"\n");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("\"night\"", "\"other\"")).unwrap();
    fleet.of("run", &file, &["--yes"], 0);
    fleet.of("abort", &file, &["--yes"], 0);
    assert_eq!(fleet.states()["g0003"], "upgraded");
    // What it took is remembered without the days in between, and without what was taken back.
    fleet.run(&["abort", "g0003", "--yes"], 0);
    let plan =
        fleet.of("plan", &fleet.batch("verbs = [\"clone\"]", "[[batch.items]]\nguest = \"g0003\"\n"), &["--json"], 0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert!(plan["expected_s"][0].as_f64().unwrap() < 60.0, "{plan}");
}
