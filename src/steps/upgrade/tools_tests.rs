#![expect(clippy::unwrap_used, reason = "tests")]
use std::net::Ipv4Addr;
use std::process::Command as Process;

use super::*;

fn hook(init: Init) -> ToolsHook {
    let link = GuestLink {
        name: "web1--k3f9".into(),
        address: Ipv4Addr::LOCALHOST.into(),
        by: None,
        port: 22,
        user: "root".into(),
        key: None,
        sudo: false,
        known_hosts: "/x".into(),
        control_dir: "/x".into(),
        legacy: false,
    };
    ToolsHook {
        host: "cloud".into(),
        link,
        run: "web1--k3f9".into(),
        before: "2.6.18-128.el5".into(),
        init,
        program: ["/usr/sbin/vmware-tools-upgrader", "-p", "-d"].map(str::to_owned).to_vec(),
        modules: ["vmxnet3", "pvscsi"].map(str::to_owned).to_vec(),
        attempts: 3,
    }
}

#[test]
fn the_hook_as_it_stands_in_the_guest() {
    let sysv = hook(Init::Sysv);
    insta::assert_snapshot!("again_sysv", sysv.render(AGAIN, "2.6.18-238.9.1.el5").unwrap());
    insta::assert_snapshot!("unit", hook(Init::Systemd).render(UNIT, "x").unwrap());
    insta::assert_snapshot!("init", sysv.render(INIT, "x").unwrap());
}

/// A guest says what its kernel and its program are called: no word of it is taken for the shell's.
#[test]
fn nothing_of_it_is_the_shells() {
    for init in [Init::Systemd, Init::Sysv, Init::RcLocal] {
        let mut hook = hook(init);
        hook.program = vec!["/bin/x y".into(), "$(touch /tmp/z)".into(), "'".into()];
        hook.modules = vec!["a;b".into()];
        let text = hook.render(AGAIN, "5; reboot").unwrap();
        assert!(text.contains("kernel='5; reboot' most=3") && text.contains("'$(touch /tmp/z)'"), "{text}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        assert!(Process::new("sh").arg("-n").arg(file.path()).status().unwrap().success());
    }
}
