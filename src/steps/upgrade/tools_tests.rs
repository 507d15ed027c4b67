#![expect(clippy::unwrap_used, reason = "tests")]
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
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
    // A unit of this type has no time-out for its start; before systemd 229, "infinity" ended it at once.
    for unit in [
        UNIT,
        include_str!("../leased/change.sh"),
        include_str!("../../../templates/systemd/upgradectl-resume.service"),
    ] {
        assert!(unit.contains("Type=oneshot") && !unit.contains("TimeoutStartSec"), "{unit}");
    }
    insta::assert_snapshot!("init", sysv.render(INIT, "x").unwrap());
}

/// The hook in a root of its own, where `uname` says that the new kernel runs.
struct Guest(tempfile::TempDir);

impl Guest {
    fn new(hook: &ToolsHook) -> Self {
        let guest = Self(tempfile::tempdir().unwrap());
        fs::create_dir(guest.path("bin")).unwrap();
        let kernel = "2.6.18-238.9.1.el5";
        let root = guest.0.path().display().to_string();
        let text = hook.render(AGAIN, kernel).unwrap();
        // What it names of the guest's root is beneath this one; and its programs are ours.
        let text = text.replace(DIRECTORY, &root).replace(" /etc/", &format!(" {root}/etc/"));
        let text = text.replace("PATH=/usr/local/sbin:", &format!("PATH={root}/bin:"));
        let text = text.replace("/lib/modules/", &format!("{root}/modules/")).replace("/run/systemd/", "/nowhere/");
        fs::write(guest.path("again"), text).unwrap();
        fs::write(guest.path("boot"), BOOT).unwrap();
        fs::create_dir_all(guest.path("modules").join(kernel)).unwrap();
        guest.tool("uname", &format!("echo {kernel}"));
        for name in ["depmod", "sync", "systemctl"] {
            guest.tool(name, ":");
        }
        guest.tool("grubby", &format!("echo \"grubby $*\" >> {root}/said"));
        guest.tool("shutdown", &format!("echo reboot >> {root}/said"));
        guest
    }
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
    fn tool(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    /// What a boot does to the loader, and the hook's state.
    fn boots(&self, shell: &str) -> (String, String) {
        let _ = fs::remove_file(self.path("said"));
        assert!(Process::new(shell).arg(self.path("again")).status().unwrap().success());
        let read = |name: &str| fs::read_to_string(self.path(name)).unwrap_or_default();
        (read("said"), read("state"))
    }
}

/// A loader that cannot boot an entry once was told to boot the new kernel from then on: it is told otherwise in the end.
#[test]
fn tools_that_fail_lead_back_to_the_old_kernel() {
    let again = "grubby --set-default /boot/vmlinuz-2.6.18-238.9.1.el5\nreboot\n";
    let back = "grubby --set-default /boot/vmlinuz-2.6.18-128.el5\nreboot\n";
    for shell in ["dash", "bash"] {
        let guest = Guest::new(&ToolsHook { program: vec!["false".into()], attempts: 2, ..hook(Init::Sysv) });
        assert_eq!(guest.boots(shell), (again.into(), String::new()));
        assert_eq!(guest.boots(shell), (back.into(), "failed\n".into()));
        // What brought the machine down in its last attempt.
        fs::remove_file(guest.path("state")).unwrap();
        assert_eq!(guest.boots(shell), (back.into(), "failed\n".into()));
    }
}

/// Without modules to look for, that the program succeeds is enough.
#[test]
fn tools_without_modules_succeed() {
    for shell in ["dash", "bash"] {
        let applies = ToolsHook { program: vec!["true".into()], ..hook(Init::Sysv) };
        let guest = Guest::new(&ToolsHook { modules: Vec::new(), ..applies.clone() });
        assert_eq!(guest.boots(shell).1, "done\n");
        assert_eq!(Guest::new(&applies).boots(shell).1, "", "its modules are not there");
    }
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

/// What cannot be written in whole takes no file's place.
#[test]
fn a_local_script_goes_on_with_the_hook() {
    for shell in ["dash", "bash"] {
        for text in ["#!/bin/sh\ntouch /var/lock/subsys/local\n", "#!/bin/sh\ntouch /var/lock/subsys/local"] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("rc.local");
            fs::write(&file, text).unwrap();
            let full = dir.path().join("bin");
            fs::create_dir(&full).unwrap();
            fs::write(full.join("cat"), "#!/bin/sh\necho half; exit 1\n").unwrap();
            fs::set_permissions(full.join("cat"), fs::Permissions::from_mode(0o755)).unwrap();
            let run = |path: String| {
                let args = ["-c", RC_LOCAL, "sh", DIRECTORY];
                Process::new(shell).args(args).arg(&file).env("PATH", path).status().unwrap().success()
            };
            assert!(!run(format!("{}:/usr/bin:/bin", full.display())));
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
            for _ in 0..2 {
                assert!(run("/usr/bin:/bin".into()));
                let lines = fs::read_to_string(&file).unwrap();
                let lines: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
                assert_eq!(lines[1..], ["touch /var/lock/subsys/local", "sh /var/lib/upgradectl/tools/again"]);
            }
            assert_eq!(fs::read_to_string(dir.path().join("rc.local.upgradectl")).unwrap(), text);
        }
    }
}
