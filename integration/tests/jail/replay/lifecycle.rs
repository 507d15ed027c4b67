//! `jail-lifecycle.txt`: jails configured, started, shown, entered, stopped.

use super::recording::Recording;
use super::stage::Stage;
use super::{NotApplying, replay};

const NOT_APPLYING: &[NotApplying] = &[
    ("newfs -U /dev/vtbd1", "prepares the recording's machine; nobody makes file systems on a fake host"),
    (
        "jexec 1 ps ax",
        "shows the processes of the recording's own console; what a jail runs is not played without `processes = \"real\"`",
    ),
];

#[test]
fn the_lifecycle_of_jails_is_as_recorded() {
    let recording = Recording::read("jail-lifecycle.txt");
    let stage = Stage::new();
    stage.write("/etc/jail.conf", recording.printed_by("cat /etc/jail.conf"));
    let tree = recording.printed_by("ls /data/jails/ServerA").lines().map(|name| format!("/data/jails/ServerA/{name}"));
    stage.directories(&tree.collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>());
    // The jail's own rc.conf names it after the host, and overrides what jail.conf says.
    stage.write("/data/jails/ServerA/etc/rc.conf", "hostname=\"jailhost\"\n");
    stage.write("/data/jails/ServerA/bin/freebsd-version", "USERLAND_VERSION=\"13.2-RELEASE\"\n");
    let filesystems =
        "/dev/vtbd0p2 / ext2fs local -\ndevfs /dev devfs - -\n/dev/vtbd1 /data ufs local,soft-updates -\n";
    stage.state("filesystems", filesystems);
    replay(&stage, &recording, NOT_APPLYING, &[], |_, _| {});
}
