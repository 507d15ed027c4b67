//! Guests, commands and inventories that are made to break something: nothing they say is run or obeyed by a terminal, and a
//! guest's tree leads nowhere but into itself. What is tried by parts is beside those; here is the built program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hypervisors::host::is_hidden;
use integration::cli::Said;
use serde_json::Value;

use crate::bench::Bench;

/// What a terminal would obey: a title, a cleared screen (with the one-byte form too), text turned round, a line of our own.
const ESCAPES: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}2J\u{202e}live\u{8}\rerror: all is lost";

/// Says that nothing of what was said would be obeyed, in either form.
#[track_caller]
fn harmless(said: &Said) {
    for text in [&said.stdout, &said.stderr] {
        let found = text.char_indices().find(|(_, c)| is_hidden(*c) && *c != '\n');
        let Some((at, c)) = found else { continue };
        let before: Vec<char> = text[..at].chars().collect();
        panic!("{}: {c:?} after {:?}", said.line, before.rchunks(60).next());
    }
    assert!(!said.stdout.lines().chain(said.stderr.lines()).any(|line| line == "error: all is lost"), "{said}");
}

/// The same of `--json`, of which every line is an object.
#[track_caller]
fn harmless_json(said: &Said) -> Vec<Value> {
    harmless(said);
    said.stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// A program that says it, in a file of its own: an inventory is TOML, and this is not about TOML's escapes.
fn program(bench: &Bench, name: &str, status: i32) -> String {
    let words = bench.path(&format!("{name}.words"));
    fs::write(&words, format!("{ESCAPES}\n{ESCAPES}")).unwrap();
    let path = bench.path(name);
    fs::write(&path, format!("#!/bin/sh\ncat {0}\ncat {0} >&2\nexit {status}\n", words.display())).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A guest whose files say it wherever something is shown of them.
fn spoil_words(bench: &Bench) {
    let edit = |path: &str, change: &dyn Fn(String) -> String| {
        let path = bench.volume("mercure", path);
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, change(text)).unwrap();
    };
    let one = ESCAPES.replace('\r', "");
    edit("etc/os-release", &|text| text.replace("PRETTY_NAME=\"", &format!("PRETTY_NAME=\"{one}")));
    edit("etc/hosts", &|text| format!("{text}# {one} mercure 10.0.5.12\n10.0.5.12 alias # {one}\n"));
    edit("etc/network/interfaces", &|text| format!("{text}# {one}\n"));
    edit("etc/apt/sources.list", &|text| {
        format!("{text}deb http://other.example/{} bookworm main\n", one.replace(' ', ""))
    });
    edit("etc/fstab", &|text| format!("{text}/dev/{one} /nowhere{one} none noauto\n").replace("live", "x"));
    edit("var/lib/dpkg/status", &|text| {
        text.replace("Version: 4.13", &format!("Version: 4.13{}", one.replace(' ', "")))
    });
    let unit = bench.volume("mercure", "lib/systemd/system").join(format!("x{}.service", one.replace(['/', ' '], "")));
    fs::write(unit, "[Unit]\nDescription=x\n").unwrap();
}

#[test]
fn no_terminal_obeys_a_guest_or_a_command() {
    let bench = Bench::new();
    spoil_words(&bench);
    let (good, bad) = (program(&bench, "good", 0), program(&bench, "bad", 3));
    let hooks = format!(
        "[[guests.mercure.hooks]]\nname = \"pair\u{202e}\"\naround = [\"clone\", \"upgrade\"]\non = \"controller\"\n\
         before = [\"{good}\"]\nafter = [\"{good}\", \"\\u001b[2J\"]\n\
         [[guests.mercure.hooks]]\nname = \"\\u001b]0;x\\u0007\"\nat = \"after-upgrade\"\non = \"controller\"\nrun = [\"{bad}\"]\n"
    );
    let text = fs::read_to_string(bench.path("inventory.toml")).unwrap();
    bench.inventory(&format!("{text}{hooks}"));
    for args in [
        &["plan", "clone", "mercure", "-v"][..],
        &["doctor"],
        &["clone", "mercure", "--yes", "-vv"],
        &["status", "--live"],
    ] {
        let said = bench.ctl_run(args);
        assert_eq!(said.code, 0, "{said}");
        harmless(&said);
    }
    harmless_json(&bench.ctl_run(&["--json", "plan", "upgrade", "mercure"]));
    // The hook fails with its words as the cause.
    let said = bench.ctl_run(&["upgrade", "mercure", "-v"]);
    assert_eq!(said.code, 8, "{said}");
    assert!(said.stderr.contains("all is lost"), "the cause is told: {said}");
    harmless(&said);
    let said = bench.ctl_run(&["--json", "resume", "mercure"]);
    assert_eq!(said.code, 8, "{said}");
    let events = harmless_json(&said);
    let told = events.iter().map(Value::to_string).collect::<String>();
    assert!(told.contains("all is lost"), "{told}");
    // What the command printed is kept as it was, and shown harmless.
    let mut shown = 0;
    for step in 1..12 {
        for args in [
            &["log", "mercure", "--step", &step.to_string()][..],
            &["--json", "log", "mercure", "--step", &step.to_string()],
        ] {
            let said = bench.ctl_run(args);
            shown += usize::from(said.stdout.contains("all is lost"));
            harmless(&said);
        }
    }
    assert!(shown >= 2, "no step showed what the command printed");
    for args in
        [&["log", "mercure"][..], &["status", "mercure"], &["conffiles", "list", "mercure"], &["gc", "--dry-run"]]
    {
        harmless(&bench.ctl_run(args));
        harmless_json(&bench.ctl_run(&[&["--json"], args].concat()));
    }
    fs::write(bench.path("bad"), "#!/bin/sh\nexit 0\n").unwrap();
    for (verb, code) in [("resume", 0), ("verify", 0), ("promote", 0), ("rollback", 0), ("abort", 0)] {
        let mut args = vec![verb, "mercure", "-v"];
        if !matches!(verb, "resume" | "verify") {
            args.push("--yes");
        }
        let said = bench.ctl_run(&args);
        assert_eq!(said.code, code, "{said}");
        harmless(&said);
    }
}

#[test]
fn no_terminal_obeys_an_inventory_or_a_command_line() {
    let bench = Bench::new();
    bench.edit_inventory("upgrade =", "\"up\u{9b}2J\u{202e}grade\" =");
    let said = bench.ctl_run(&["clone", "mercure"]);
    assert_eq!(said.code, 2, "{said}");
    harmless(&said);
    harmless_json(&bench.ctl_run(&["--json", "clone", "mercure"]));
    for args in [
        &["clone", "\u{1b}[2Jmercure"][..],
        &["cl\u{1b}]0;x\u{7}one", "mercure"],
        &["log", "\u{202e}x"],
        &["clone", "mercure", "--ip", "\u{9b}2J"],
    ] {
        let said = bench.ctl_run(args);
        assert_eq!(said.code, 2, "{said}");
        harmless(&said);
    }
}

/// Everything that a shell would run if it got to see it.
fn sharp(canary: &Path) -> [String; 6] {
    let canary = canary.display();
    [
        format!("$(touch {canary})"),
        format!("`touch {canary}`"),
        format!("; touch {canary} #"),
        format!("' && touch {canary} && '"),
        format!("\"|touch {canary}|\""),
        format!("x\ntouch {canary}\n"),
    ]
}

#[test]
fn nothing_a_guest_or_an_inventory_says_is_run() {
    let bench = Bench::new();
    let canary = bench.path("canary");
    let root = bench.volume("mercure", "");
    let words = sharp(&canary);
    for (number, word) in words.iter().enumerate() {
        let (line, name) = (word.replace('\n', " "), word.replace('/', "+"));
        for (path, text) in [
            ("etc/hosts", format!("10.0.5.12 {line}\n# {line}\n")),
            ("etc/fstab", format!("LABEL={line} /mnt/{line} {line} {line}\n")),
            ("etc/passwd", format!("{line}:x:{}:1000:{line}:/home/{line}:{line}\n", 2000 + number)),
            ("etc/postfix/main.cf", format!("mydestination = {line}\nqueue_directory = /var/spool/{line}\n")),
            ("etc/os-release", format!("PRETTY_NAME=\"{line}\"\nEXTRA={line}\n")),
            ("etc/network/interfaces", format!("iface {} inet manual\n\tup {line}\n", line.split(' ').next().unwrap())),
            ("etc/apt/sources.list", format!("deb http://mirror.example/{} {} {}\n", number, "x", line)),
        ] {
            let before = fs::read_to_string(root.join(path)).unwrap_or_default();
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), before + &text).unwrap();
        }
        for path in [
            "lib/systemd/system",
            "etc/init.d",
            "var/spool/postfix/deferred",
            "var/spool/cron/crontabs",
            "home/probe",
            "srv/mail",
        ] {
            fs::create_dir_all(root.join(path)).unwrap();
            fs::write(root.join(path).join(format!("{name}.service")), &line).unwrap();
        }
    }
    fs::write(bench.volume("mercure-mail", "archive").join(words[0].replace('/', "+")), "x").unwrap();
    // The inventory is trusted with commands, and with nothing else: each of these is one word of a command.
    let toml = |word: &str| serde_json::to_string(word).unwrap();
    let all: Vec<String> = words.iter().map(|word| toml(word)).collect();
    let hooks = format!(
        "tags = [{0}]\n[[guests.mercure.hooks]]\nname = {1}\naround = [\"clone\", \"promote\"]\non = \"controller\"\nbefore = [\"/bin/echo\", {0}]\nafter = [\"/bin/echo\", {0}]\n\
         [[guests.mercure.hooks]]\nname = \"inside\"\nat = \"after-upgrade\"\non = \"clone\"\nrun = [\"echo\", {0}]\n",
        all.join(", "),
        toml(&words[3]),
    );
    let text = fs::read_to_string(bench.path("inventory.toml")).unwrap();
    let text = text.replace("path = \"/home/\"", &format!("path = \"/home/\", exclude = [{}]", all.join(", ")));
    bench.inventory(&format!("{text}{hooks}"));
    for verb in ["clone", "upgrade", "verify", "promote", "rollback", "verify", "promote", "commit"] {
        let said = bench.verb(verb);
        assert_eq!(said.code, 0, "{said}");
        assert!(!canary.exists(), "{verb} ran a word");
        harmless(&said);
    }
}

/// What a guest's root can be made of, by what is put in the place of a file that is looked for there.
const TREES: [(&str, &str); 12] = [
    ("etc/hosts", "out"),
    ("etc/fstab", "fifo"),
    ("etc/network/interfaces", "large"),
    ("etc/hostname", "loop"),
    ("etc/machine-id", "out"),
    ("etc/ssh", "out"),
    ("etc/systemd/system", "out"),
    ("etc/network", "out"),
    ("var/spool/postfix/deferred", "out"),
    ("etc/hosts", "directory"),
    ("etc/ssh/ssh_host_ed25519_key.pub", "fifo"),
    ("etc/passwd", "out"),
];

#[test]
fn a_hostile_tree_is_cloned_within_itself_or_refused() {
    for (path, what) in TREES {
        let bench = Bench::new();
        let about = format!("{what} at {path}");
        let outside = bench.path("outside");
        fs::create_dir_all(outside.join("multi-user.target.wants")).unwrap();
        for name in ["secret", "hosts", "interfaces", "B1", "ssh_host_ed25519_key.pub"] {
            fs::write(outside.join(name), "10.0.5.12 mercure the canary\n").unwrap();
        }
        let at = bench.volume("mercure", path);
        let is_directory = at.is_dir();
        if is_directory {
            fs::remove_dir_all(&at).unwrap()
        } else {
            fs::remove_file(&at).unwrap()
        }
        match what {
            "out" => symlink(if is_directory { outside.clone() } else { outside.join("secret") }, &at).unwrap(),
            "loop" => symlink(at.file_name().unwrap(), &at).unwrap(),
            "fifo" => assert!(Command::new("mkfifo").arg(&at).status().unwrap().success()),
            "large" => fs::File::create(&at).unwrap().set_len(10 << 30).unwrap(),
            _ => fs::create_dir(&at).unwrap(),
        }
        let picture = |place: &Path| {
            let listed = Command::new("find").arg(place).args(["-printf", "%p %m %T@ %C@ %s\n"]).output().unwrap();
            let told = Command::new("sh").args(["-c", "cat \"$1\"/* 2>/dev/null", "sh"]).arg(place).output().unwrap();
            (listed.stdout, told.stdout)
        };
        let before = picture(&outside);
        let begun = Instant::now();
        for args in [&["doctor"][..], &["plan", "clone", "mercure"]] {
            harmless(&bench.ctl_run(args));
        }
        let said = bench.verb("clone");
        assert!(matches!(said.code, 0 | 1 | 7), "{about}: {said}");
        if said.code != 0 {
            let error = said.events().unwrap().pop().unwrap()["error"].clone();
            let told = error.to_string();
            assert!(told.contains(path) || told.contains(path.rsplit('/').next().unwrap()), "{about}: {told}");
            assert!(error["help"].is_string(), "{about}: no remedy in {told}");
        } else {
            assert_eq!(bench.verb("abort").code, 0, "{about}");
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{about}: {:?}", begun.elapsed());
        assert!(!format!("{said}").contains("canary"), "{about}: {said}");
        assert_eq!(picture(&outside), before, "{about}: something outside was touched");
    }
}
