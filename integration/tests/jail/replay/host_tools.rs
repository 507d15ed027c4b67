//! `host-tools.txt`: the small programs of a host.

use super::recording::Recording;
use super::stage::Stage;
use super::{NotApplying, replay};

const NOT_APPLYING: &[NotApplying] = &[(
    "freebsd-update --version",
    "the recorded host has none, and there is no stand-in: the words are the shell's, which is another here",
)];

#[test]
fn the_tools_of_a_host_are_as_recorded() {
    let recording = Recording::read("host-tools.txt");
    let stage = Stage::new();
    let jail = "/data/jails/ServerA";
    let rc = "hostname=\"ServerA.example\"\nifconfig_em0=\"inet 192.168.1.10/24\"\nsendmail_enable=\"NONE\"\nsyslogd_flags=\"-ss\"\n";
    stage.write(&format!("{jail}/etc/rc.conf"), rc);
    stage.write(&format!("{jail}/etc/defaults/rc.conf"), "sshd_enable=\"NO\"\njail_list=\"\"\n");
    stage.write(&format!("{jail}/etc/master.passwd"), "root::0:0::0:0:Charlie &:/root:/bin/sh\n");
    stage.write(&format!("{jail}/etc/login.conf"), "default:\\\n\t:umask=022:\n");
    stage.write(&format!("{jail}/etc/services"), "ssh 22/tcp\n");
    stage.directories(&[&format!("{jail}/var/db")]);
    for script in ["DAEMON", "FILESYSTEMS", "LOGIN", "NETWORKING", "SERVERS", "jail", "sshd"] {
        stage.write(&format!("/etc/rc.d/{script}"), "");
    }
    stage.write("/etc/jail.conf", "ServerA { path = /data/jails/ServerA; }\n");
    replay(&stage, &recording, NOT_APPLYING, &[], |_, _| {});
    // What was made of them.
    stage.sh("cd $J && grep -q '^root::0:0:Charlie' etc/passwd && grep -q ^root etc/spwd.db && test -s etc/login.conf.db -a -s var/db/services.db");
}
