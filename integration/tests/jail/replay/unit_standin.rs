//! The stand-in of the unit tests (`src/steps/world/tests/freebsd.sh`), held to the same recordings as the played host: of each recording
//! the cases that name one of its programs, and of `etcupdate.txt` and `world.txt` all. What is neither replayed nor in a table fails.

use super::recording::{Case, Recording};
use super::stage::Stage;
use super::{NotApplying, etcupdate, replay, world};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/steps/world/tests/freebsd.sh");

/// The programs that it plays and a recording has.
const PROGRAMS: [&str; 13] = [
    "uname",
    "freebsd-version",
    "sysctl",
    "make",
    "etcupdate",
    "pwd_mkdb",
    "cap_mkdb",
    "services_mkdb",
    "mergemaster",
    "jls",
    "jail",
    "mount",
    "freebsd-update",
];

/// A stage with its programs in the place of the played host's; the others are not there.
fn stage() -> Stage {
    let stage = Stage::new();
    stage.directories(&["/fake/jails"]);
    let fake = stage.root().join("fake");
    for program in PROGRAMS {
        let script = format!("FAKE={}; export FAKE; exec sh -c '. {SCRIPT}' {program} \"$@\"", fake.display());
        stage.program(program, &script);
    }
    stage
}

/// Whether a case calls one of them.
fn is_its(case: &Case) -> bool {
    let words = case.command.split([' ', ';', '|']);
    words.clone().any(|word| PROGRAMS.contains(&word))
        && !["service", "jexec"].iter().any(|other| case.command.starts_with(other))
}

/// The cases of a recording that are its.
fn its(name: &str) -> Recording {
    let mut recording = Recording::read(name);
    recording.cases.retain(is_its);
    recording
}

const OTHER_FORM: &str = "the steps do not ask in this form";

#[test]
fn the_unit_tests_stand_in_has_a_hosts_tools_as_recorded() {
    let stage = stage();
    let jail = "/data/jails/ServerA";
    stage.write(&format!("{jail}/etc/master.passwd"), "root::0:0::0:0:Charlie &:/root:/bin/sh\n");
    stage.write(&format!("{jail}/etc/login.conf"), "default:\\\n\t:umask=022:\n");
    stage.write(&format!("{jail}/etc/services"), "ssh 22/tcp\n");
    let not_applying: &[NotApplying] = &[
        ("sysctl kern.securelevel security.jail.jailed kern.osreldate", OTHER_FORM),
        ("freebsd-update --version", "the recorded host has none; nothing of it is recorded"),
    ];
    replay(&stage, &its("host-tools.txt"), not_applying, &[], |_, _| {});

    let not_applying: &[NotApplying] = &[
        ("uname -a", OTHER_FORM),
        ("freebsd-version -kru", OTHER_FORM),
        ("freebsd-version -j ServerA", OTHER_FORM),
        ("mount", OTHER_FORM),
        ("jls", OTHER_FORM),
        ("jls --libxo json", OTHER_FORM),
        ("jls -v", OTHER_FORM),
        ("jls -n", OTHER_FORM),
        ("jls -s", OTHER_FORM),
        ("jls --libxo json,pretty -v", OTHER_FORM),
        ("jail -e :", OTHER_FORM),
        ("jail -c ServerA", OTHER_FORM),
    ];
    replay(&stage, &its("jail-lifecycle.txt"), not_applying, &[], |_, _| {});
}

#[test]
fn the_unit_tests_stand_in_merges_as_recorded() {
    let recording = Recording::read("etcupdate.txt");
    let stage = stage();
    etcupdate::trees(&stage);
    let settles = "nothing of ours answers it: the step installs the file and removes the conflict, as is done here";
    let not_applying: &[NotApplying] = &[
        ("etcupdate resolve -D /data/jails/ServerA </dev/null", "it asks for ever, as the real one"),
        ("printf \"p\\np\\n\" | etcupdate resolve -D /data/jails/ServerA", settles),
        ("printf \"tf\\np\\n\" | etcupdate resolve -D /data/jails/ServerA", settles),
        ("printf \"mf\\n\" | etcupdate resolve -D /data/jails/ServerA", settles),
        ("etcupdate diff -D /data/jails/ServerA", "no step asks for it"),
        ("head -20 $J/var/db/etcupdate/log", "it keeps no log"),
        ("ls /data/jails/ServerA/var/db/etcupdate", "it keeps no log"),
    ];
    replay(&stage, &recording, not_applying, etcupdate::RULES, |stage, case| {
        let settled = |file: &str| stage.sh(&format!("rm $J/var/db/etcupdate/conflicts/etc/{file}"));
        if case.command.starts_with("printf \"tf") {
            stage.sh("cp $JAILHOST_ROOT/data/new/etc/login.conf $J/etc/login.conf");
            settled("login.conf");
        } else if case.command.starts_with("printf \"mf") {
            settled("newsyslog.conf");
        }
    });
    stage.sh("! etcupdate -D $J status > /dev/null 2>&1");
}

#[test]
fn the_unit_tests_stand_in_installs_a_world_as_recorded() {
    let stage = stage();
    for (path, text) in [
        ("Makefile", ""),
        ("sys/conf/newvers.sh", "REVISION=\"13.2\"\nBRANCH=\"RELEASE\"\n"),
        ("sys/sys/param.h", "#define __FreeBSD_version 1302001\n"),
    ] {
        stage.write(&format!("/usr/src/{path}"), text);
    }
    stage.write("/fake/old-files", "/usr/games/fortune\n");
    stage.write("/fake/old-libs", "/lib/libedit.so.7\n");
    stage.write("/fake/securelevel", "-1\n");
    stage.write("/data/jails/ServerA/lib/libedit.so.7", "old");
    stage.go("/usr/src");
    stage.sh("make buildworld > /dev/null");
    replay(&stage, &Recording::read("world.txt"), &[], world::RULES, |_, _| {});
    stage.sh("test -s $J/bin/sh");
}
