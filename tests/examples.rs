//! The examples of hooks that operators copy: their syntax, and that each does what its head says, with stand-ins for the
//! commands they call, which write down how they were called.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPTS: [&str; 4] = ["aoe-export", "watcher-pause", "downtime-nagios", "downtime-icinga2"];

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/examples").join(name)
}

/// A directory with stand-ins on the path.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(TempDir::new().unwrap());
        fs::create_dir(bench.path("bin")).unwrap();
        for name in ["systemctl", "telinit", "curl", "vblade"] {
            bench.stand_in(name, "");
        }
        bench
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn stand_in(&self, name: &str, more: &str) {
        let log = self.path("log");
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >> '{}'\n{more}\n", log.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fn try_run(&self, script: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let env = env.iter().map(|(key, value)| (*key, value.replace("DIR", self.0.path().to_str().unwrap())));
        let mut command = Command::new("/bin/sh");
        command.arg(example(script)).args(args).envs(env).env("PATH", path);
        command.output().unwrap()
    }
    #[track_caller]
    fn run(&self, script: &str, args: &[&str], env: &[(&str, &str)]) {
        let output = self.try_run(script, args, env);
        assert!(output.status.success(), "{script} {args:?}: {output:?}");
    }
    /// What the stand-ins were called with since the last time this was asked.
    fn called(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let _ = fs::remove_file(self.path("log"));
        log.lines().map(str::to_owned).collect()
    }
}

#[test]
fn they_are_programs_of_the_posix_shell() {
    for name in SCRIPTS {
        let path = example(name);
        assert!(fs::read_to_string(&path).unwrap().starts_with("#!/bin/sh\n"), "{name}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111, "{name} cannot be run");
        let output = Command::new("/bin/sh").arg("-n").arg(&path).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

#[test]
fn wrong_words_are_refused_before_anything_is_done() {
    let bench = Bench::new();
    for (script, args) in [
        ("aoe-export", &["add", "mercure--k3f9", "vg1"][..]),
        ("aoe-export", &["add", "mercure--k3f9", "vg1", "xvda1", "3.x"]),
        ("aoe-export", &["add", "mercure--k3f9", "../vg1", "xvda1", "3.6"]),
        ("aoe-export", &["remove", "a b"]),
        ("aoe-export", &["frobnicate"]),
        ("watcher-pause", &["pause"]),
        ("watcher-pause", &["pause", "../x"]),
        ("watcher-pause", &["stop", "mercure"]),
        ("downtime-nagios", &["begin", "mercure;x", "mercure--k3f9"]),
        ("downtime-nagios", &["begin", "mercure", "mercure--k3f9", "many"]),
        ("downtime-icinga2", &["begin", "mer\"cure", "mercure--k3f9"]),
        ("downtime-icinga2", &["stop", "mercure", "mercure--k3f9"]),
    ] {
        let output =
            bench.try_run(script, args, &[("AOE_DIR", "DIR/aoe"), ("HELD", "DIR/held"), ("COMMANDS", "DIR/cmd")]);
        assert_eq!(output.status.code(), Some(2), "{script} {args:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(bench.called(), Vec::<String>::new());
    assert!(!bench.path("aoe").exists() && !bench.path("held").exists() && !bench.path("cmd").exists());
}

#[test]
fn volumes_are_exported_by_units_and_taken_back() {
    let bench = Bench::new();
    bench.stand_in("systemd-escape", "echo \"$2\" | tr / .");
    let env = [("AOE_DIR", "DIR/aoe"), ("NETIF", "eth7"), ("HOW", "systemd")];
    let add = ["add", "mercure--k3f9", "vg1", "xvda1", "3.6", "xvda2", "3.7"];
    for _ in 0..2 {
        bench.run("aoe-export", &add, &env);
        let called: Vec<String> = bench.called().into_iter().filter(|line| line.starts_with("systemctl")).collect();
        // Nothing is started: the volumes are not there yet, and their devices will want the units.
        let enable = |disk: &str| format!("systemctl enable aoe-export@.dev.vg1.mercure--k3f9-{disk}.service");
        assert_eq!(called, [enable("xvda1"), enable("xvda2")]);
    }
    let settings = fs::read_to_string(bench.path("aoe/dev/vg1/mercure--k3f9-xvda2.env")).unwrap();
    assert_eq!(settings, "RUN=mercure--k3f9\nSHELF=3\nSLOT=7\nNETIF=eth7\n");
    bench.run("aoe-export", &["add", "venus--aaaa", "vg1", "xvda1", "4.0"], &env);
    bench.called();
    for times in [2, 0] {
        bench.run("aoe-export", &["remove", "mercure--k3f9"], &env);
        let called = bench.called();
        assert_eq!(called.iter().filter(|line| line.starts_with("systemctl disable --now")).count(), times);
    }
    assert!(bench.path("aoe/dev/vg1/venus--aaaa-xvda1.env").exists(), "another run's stays");
}

#[test]
fn volumes_are_exported_by_inittab_which_is_as_it_was_afterwards() {
    let bench = Bench::new();
    let before = "id:2:initdefault:\n# a comment # upgradectl of mercure\n1:2345:respawn:/sbin/getty tty1\n";
    let inittab = bench.path("inittab");
    fs::write(&inittab, before).unwrap();
    fs::set_permissions(&inittab, fs::Permissions::from_mode(0o600)).unwrap();
    let env = [("INITTAB", "DIR/inittab"), ("NETIF", "eth7"), ("HOW", "inittab")];
    let add = ["add", "mercure--k3f9", "vg1", "xvda1", "3.6", "xvda2", "3.7"];
    bench.run("aoe-export", &add, &env);
    assert_eq!(bench.called(), ["telinit q", "telinit q"]);
    let serve = "e36:2345:respawn:/usr/local/sbin/aoe-export serve 3 6 eth7 /dev/vg1/mercure--k3f9-xvda1 # upgradectl mercure--k3f9\n";
    let text = fs::read_to_string(&inittab).unwrap();
    assert!(text.starts_with(&format!("{before}{serve}e37:")), "{text}");
    bench.run("aoe-export", &add, &env);
    assert_eq!((fs::read_to_string(&inittab).unwrap(), bench.called()), (text, vec![]), "once is enough");
    let output = bench.try_run("aoe-export", &["add", "venus--aaaa", "vg1", "xvda1", "3.6"], &env);
    assert_eq!(output.status.code(), Some(2), "the slot is taken: {output:?}");
    bench.run("aoe-export", &["remove", "mercure--k3f"], &env);
    for times in [1, 0] {
        bench.called();
        bench.run("aoe-export", &["remove", "mercure--k3f9"], &env);
        assert_eq!(bench.called().len(), times);
        assert_eq!(fs::read_to_string(&inittab).unwrap(), before);
    }
    assert_eq!(fs::metadata(&inittab).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!bench.path("inittab.upgradectl").exists());
}

#[test]
fn a_watcher_stands_still_until_the_last_guest_is_let_go() {
    let bench = Bench::new();
    let env = [("HELD", "DIR/held"), ("UNIT", "checkdisklink.timer")];
    let does = |verb: &str, guest: &str| {
        bench.run("watcher-pause", &[verb, guest], &env);
        bench.called()
    };
    let (stop, start) = (["systemctl stop checkdisklink.timer"], ["systemctl start checkdisklink.timer"]);
    assert_eq!(does("pause", "mercure"), stop);
    assert_eq!(does("pause", "mercure"), stop);
    assert_eq!(does("pause", "venus"), stop);
    assert_eq!(does("resume", "mercure"), Vec::<String>::new());
    assert_eq!(does("resume", "mercure"), Vec::<String>::new());
    assert_eq!(does("resume", "venus"), start);
    // Without a pause before it, or twice.
    assert_eq!(does("resume", "venus"), start);
}

#[test]
fn nagios_is_told_by_its_command_file() {
    let bench = Bench::new();
    let env = [("COMMANDS", "DIR/cmd")];
    let told = || {
        let text = fs::read_to_string(bench.path("cmd")).unwrap();
        text.trim_end()
            .split_once("] ")
            .map(|(at, command)| (at[1..].parse::<u64>().unwrap(), command.to_owned()))
            .unwrap()
    };
    bench.run("downtime-nagios", &["begin", "mercure", "mercure--k3f9", "30"], &env);
    let (now, command) = told();
    let until = now + 1800;
    assert_eq!(command, format!("SCHEDULE_HOST_SVC_DOWNTIME;mercure;{now};{until};1;0;1800;upgradectl;mercure--k3f9"));
    bench.run("downtime-nagios", &["end", "mercure", "mercure--k3f9"], &env);
    assert_eq!(told().1, "DEL_DOWNTIME_BY_HOST_NAME;mercure;;;mercure--k3f9");
    let nobody =
        bench.try_run("downtime-nagios", &["end", "mercure", "mercure--k3f9"], &[("COMMANDS", "DIR/none/cmd")]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
}

#[test]
fn icinga_is_told_by_its_api_and_its_refusal_is_a_failure() {
    let bench = Bench::new();
    let env = [("API", "https://monitor:5665"), ("CONFIG", "/etc/x.curl")];
    let answer = |status: &str| {
        let say = format!(
            "for word; do [ \"$data\" = 1 ] && echo \"$word\" > '{}'; data=0; [ \"$word\" = --data ] && data=1; done; printf {status}",
            bench.path("sent").display()
        );
        bench.stand_in("curl", &say);
    };
    let sent = || serde_json::from_str::<serde_json::Value>(&fs::read_to_string(bench.path("sent")).unwrap()).unwrap();
    answer("200");
    bench.run("downtime-icinga2", &["begin", "mercure", "mercure--k3f9", "30"], &env);
    let said = sent();
    assert_eq!(said["end_time"].as_u64().unwrap() - said["start_time"].as_u64().unwrap(), 1800);
    assert_eq!((&said["filter_vars"]["guest"], &said["comment"]), (&"mercure".into(), &"mercure--k3f9".into()));
    let called = bench.called().join(" ");
    assert!(
        called.contains("--config /etc/x.curl") && called.contains("https://monitor:5665/v1/actions/schedule-downtime")
    );
    answer("404");
    bench.run("downtime-icinga2", &["end", "mercure", "mercure--k3f9"], &env);
    assert_eq!((&sent()["type"], &sent()["filter_vars"]["run"]), (&"Downtime".into(), &"mercure--k3f9".into()));
    for status in ["404", "401"] {
        answer(status);
        let output = bench.try_run("downtime-icinga2", &["begin", "mercure", "mercure--k3f9"], &env);
        assert_eq!(output.status.code(), Some(1), "{status}: {output:?}");
    }
}

#[test]
fn their_hooks_can_stand_in_an_inventory() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("inventory.toml");
    let head = "version = 1\n[hosts]\nhere = { hypervisor = \"sim\" }\n[guests.mercure]\nhost = \"here\"\n";
    fs::write(&file, format!("{head}{}", fs::read_to_string(example("hooks.toml")).unwrap())).unwrap();
    let inventory = upgradectl::inventory::load(&file).unwrap();
    let hooks = serde_json::to_string(&inventory.guests["mercure"].hooks).unwrap();
    assert_eq!(inventory.guests["mercure"].hooks.len(), 4);
    for script in SCRIPTS.iter().filter(|name| **name != "downtime-icinga2") {
        assert!(hooks.contains(&format!("/usr/local/sbin/{script}")), "{script} is in no hook");
    }
}
