//! `world.txt`: a world installed from a built source, what is old removed.

use super::compare::{DROPPED, Rule};
use super::recording::Recording;
use super::stage::Stage;
use super::{NotApplying, replay};

const NOT_APPLYING: &[NotApplying] = &[];

/// "Thousands of lines of install(1) lie between", and of make(1)'s directories; and the dates.
pub(super) const RULES: &[Rule] = &[
    |line| {
        if line.starts_with("install  ") || line.starts_with("===> ") { DROPPED.to_owned() } else { line.to_owned() }
    },
    |line| match line.split_once("everything started on ").or_else(|| line.split_once("everything completed on ")) {
        Some((before, date)) if date.split(' ').count() == 6 => {
            format!("{before} DATE {}", date.split(' ').nth(4).unwrap_or_default())
        }
        _ => line.to_owned(),
    },
];

#[test]
fn worlds_are_installed_as_recorded() {
    let recording = Recording::read("world.txt");
    let stage = Stage::new();
    stage.sh("jailhost lay 13.2-RELEASE && make -C /usr/src buildworld");
    stage.write("/data/jails/ServerA/lib/libedit.so.7", "old");
    stage.write("/data/jails/ServerA/lib/libc.so.7", "the old one");
    stage.sh("chflags schg $J/lib/libc.so.7");
    stage.go("/usr/src");
    replay(&stage, &recording, NOT_APPLYING, RULES, |_, _| {});
    // The files that the recording lists, as far as they are laid.
    let schg = stage.sh("cd $J && find . -type f -exec ls -lo {} + | grep schg");
    for file in ["lib/libc.so.7", "libexec/ld-elf.so.1", "sbin/init", "usr/bin/su", "usr/lib/librt.so.1"] {
        assert!(schg.lines().any(|line| line.ends_with(&format!("./{file}"))), "{file} has no schg:\n{schg}");
    }
    assert_eq!(schg.lines().count(), 8, "{schg}");
    assert!(stage.sh("cat $J/lib/libc.so.7").contains("13.2-RELEASE"), "what schg protected is replaced");
    // Only what installworld makes of it may touch them afterwards.
    stage.sh("! rm -rf $J/lib 2> /dev/null && test -e $J/lib/libc.so.7");
    stage.state("persona", "securelevel = \"2\"\n");
    stage.sh("! chflags noschg $J/lib/libc.so.7 2> /dev/null && ! make installworld DESTDIR=$J > /dev/null 2>&1");
}

#[test]
fn an_unfinished_world_is_not_installed() {
    let stage = Stage::new();
    stage.sh("jailhost lay 13.2-RELEASE");
    stage.state("faults", "make buildworld = die-after 500\n");
    stage.sh("! make -C /usr/src buildworld > /dev/null 2>&1");
    stage.sh("test -e $JAILHOST_ROOT/usr/obj/usr/src/amd64.amd64/world");
    stage.sh("! make -C /usr/src installworld DESTDIR=$J 2> /dev/null && test ! -e $J/bin/sh");
    // Half of one that is finished, in a jail.
    stage.sh("make -C /usr/src buildworld > /dev/null");
    stage.state("faults", "make installworld = die-after 900\n");
    stage.sh("! make -C /usr/src installworld DESTDIR=$J > /dev/null 2>&1 && test -e $J/bin/sh && test ! -e $J/usr/sbin/syslogd");
    stage.sh("make -C /usr/src installworld DESTDIR=$J > /dev/null && test -e $J/usr/sbin/syslogd");
}
