//! `host-tools.txt`: the small programs of a host.

use super::recording::Recording;
use super::stage::Stage;
use super::{NotApplying, replay};

const NOT_APPLYING: &[NotApplying] = &[];

#[test]
fn the_tools_of_a_host_are_as_recorded() {
    let recording = Recording::read("host-tools.txt");
    let stage = Stage::new();
    let jail = "/data/jails/ServerA";
    let rc = "hostname=\"ServerA.example\"\nifconfig_em0=\"inet 192.168.1.10/24\"\nsendmail_enable=\"NONE\"\nsyslogd_flags=\"-ss\"\n";
    stage.write(&format!("{jail}/etc/rc.conf"), rc);
    stage.write(&format!("{jail}/etc/defaults/rc.conf"), "sshd_enable=\"NO\"\njail_list=\"\"\n");
    for script in ["DAEMON", "FILESYSTEMS", "LOGIN", "NETWORKING", "SERVERS", "jail", "sshd"] {
        stage.write(&format!("/etc/rc.d/{script}"), "");
    }
    stage.write("/etc/jail.conf", "ServerA { path = /data/jails/ServerA; }\n");
    replay(&stage, &recording, NOT_APPLYING, &[], |_, _| {});
}
