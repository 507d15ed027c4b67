//! Where a recording is replayed: a directory that is the pretended system's root, its state, and the stand-ins on the PATH.

use std::cell::RefCell;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::recording::Case;

/// The directories of the pretended system that recorded commands name. In a command the stage's root comes before them.
const PRETENDED: [&str; 6] = ["/data", "/src", "/etc", "/tmp", "/usr/src", "/mnt2"];

/// A pretended host.
pub struct Stage {
    directory: tempfile::TempDir,
    /// Mount points and loop devices, to be taken down.
    images: RefCell<Vec<(PathBuf, String)>>,
    /// Where commands run.
    working: RefCell<PathBuf>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (at, device) in self.images.borrow().iter().rev() {
            let _ = Command::new("/bin/umount").arg(at).status();
            let _ = Command::new("/usr/sbin/losetup").args(["--detach", device]).status();
        }
    }
}

/// What a command printed and returned; the root is taken out of it.
pub struct Got {
    pub output: String,
    pub left: String,
    pub exits: Vec<i32>,
}

impl Stage {
    /// An empty one.
    pub fn new() -> Self {
        let stage = Self {
            directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"),
            images: RefCell::default(),
            working: RefCell::default(),
        };
        for directory in ["root/etc", "root/tmp", "state", "bin"] {
            std::fs::create_dir_all(stage.at(directory)).expect("a directory");
        }
        stage.go("/");
        let install = Command::new(env!("CARGO_BIN_EXE_jailhost")).arg("install").arg(stage.at("bin")).status();
        assert!(install.is_ok_and(|status| status.success()));
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The pretended root on this machine.
    pub fn root(&self) -> PathBuf {
        self.at("root")
    }

    /// Writes a file of the pretended system.
    pub fn write(&self, path: &str, text: &str) {
        let at = self.root().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(at.parent().unwrap_or(Path::new("/"))).expect("a directory");
        std::fs::write(at, text).expect("a file");
    }

    /// Makes directories of the pretended system.
    pub fn directories(&self, paths: &[&str]) {
        for path in paths {
            std::fs::create_dir_all(self.root().join(path.trim_start_matches('/'))).expect("a directory");
        }
    }

    /// Commands run in that directory of the pretended system from now on.
    pub fn go(&self, path: &str) {
        *self.working.borrow_mut() = self.root().join(path.trim_start_matches('/'));
    }

    /// A small program on the PATH, of the shell, in the place of a stand-in if there is one.
    pub fn program(&self, name: &str, script: &str) {
        let at = self.at("bin").join(name);
        let _ = std::fs::remove_file(&at);
        std::fs::write(&at, format!("#!/bin/sh\n{script}\n")).expect("a program");
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).expect("a program");
    }

    /// Writes a file of the state.
    pub fn state(&self, name: &str, text: &str) {
        let at = self.at("state").join(name);
        std::fs::create_dir_all(at.parent().unwrap_or(Path::new("/"))).expect("a directory");
        std::fs::write(at, text).expect("a file");
    }

    /// An ext4 in a file, mounted at a directory of the pretended system; its loop device. Without hashed directories, whose
    /// entries then stand in the order in which they were made, as in UFS, and without `lost+found`.
    pub fn image(&self, path: &str, mib: u64) -> String {
        self.directories(&[path]);
        let file = self.at(&format!("image{}", path.replace('/', "-")));
        std::fs::File::create(&file).and_then(|image| image.set_len(mib << 20)).expect("an image");
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().expect("a program");
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let file = file.display().to_string();
        run(
            "/usr/sbin/mke2fs",
            &["-q", "-t", "ext4", "-O", "^dir_index,^has_journal", "-E", "lazy_itable_init=0", &file],
        );
        let device = run("/usr/sbin/losetup", &["--find", "--show", &file]);
        let at = self.root().join(path.trim_start_matches('/'));
        run("/bin/mount", &[&device, &at.display().to_string()]);
        self.images.borrow_mut().push((at.clone(), device.clone()));
        std::fs::remove_dir(at.join("lost+found")).expect("lost+found");
        device
    }

    /// Runs a shell's script on the host, which has to succeed.
    pub fn sh(&self, script: &str) -> String {
        let (output, status) = self.shell(script);
        assert_eq!(status, 0, "{script}\n{output}");
        output
    }

    /// A script that may fail: what it printed, and its status.
    pub fn try_sh(&self, script: &str) -> (String, i32) {
        let (output, status) = self.shell(script);
        (output.replace(&self.root().display().to_string(), ""), status)
    }

    /// A command as recorded.
    pub fn run(&self, case: &Case) -> Got {
        let command = self.moved(&case.command);
        let left = self.at("left");
        let is_pipeline = case.exits.len() == 2 && !case.command.ends_with("& wait");
        let script = match command.split_once(" | ").filter(|_| is_pipeline) {
            Some((from, to)) => format!(
                "{{ {from}; }} 2> {left} | {{ {to}; }}; echo \"${{PIPESTATUS[*]}}\" > {left}.exits",
                left = left.display()
            ),
            None => command,
        };
        let (output, status) = self.shell(&script);
        let (mut exits, mut of_left) = (vec![status], String::new());
        if is_pipeline {
            of_left = std::fs::read_to_string(&left).unwrap_or_default();
            let said = std::fs::read_to_string(left.with_extension("exits")).unwrap_or_default();
            exits = said.split_whitespace().filter_map(|exit| exit.parse().ok()).collect();
        }
        let root = self.root().display().to_string();
        Got { output: output.replace(&root, ""), left: of_left.replace(&root, ""), exits }
    }

    /// A script without a terminal; both channels as they come, as when it was recorded.
    fn shell(&self, script: &str) -> (String, i32) {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut run = Command::new("setsid");
        run.args(["--wait", "bash", "-c", script]).env_clear().current_dir(&*self.working.borrow());
        run.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.at("bin").display()));
        run.env("JAILHOST_ROOT", self.root()).env("JAILHOST_STATE", self.at("state"));
        run.env("J", self.root().join("data/jails/ServerA"));
        run.env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
        run.stdout(writer.try_clone().expect("a pipe")).stderr(writer);
        let mut child = run.spawn().expect("a shell");
        drop(run);
        let mut output = Vec::new();
        reader.read_to_end(&mut output).expect("output");
        let status = child.wait().expect("a status").code().unwrap_or(-1);
        (String::from_utf8_lossy(&output).into_owned(), status)
    }

    /// A command with its pretended paths on this machine.
    pub fn moved(&self, command: &str) -> String {
        let root = self.root().display().to_string();
        let mut moved = String::new();
        let mut before = ' ';
        let mut rest = command;
        while let Some(letter) = rest.chars().next() {
            let begins = !before.is_ascii_alphanumeric() && !"./$}".contains(before);
            let ends = |path: &&&str| {
                rest[path.len()..].chars().next().is_none_or(|next| !next.is_ascii_alphanumeric() && next != '.')
            };
            let path = PRETENDED.iter().filter(|path| begins && rest.starts_with(**path)).find(ends);
            let taken = path.map_or(letter.len_utf8(), |path| path.len());
            if path.is_some() {
                moved.push_str(&root);
            }
            moved.push_str(&rest[..taken]);
            before = rest[..taken].chars().last().unwrap_or(' ');
            rest = &rest[taken..];
        }
        moved
    }
}

#[test]
fn paths_are_moved_where_they_begin() {
    let stage = Stage::new();
    let root = stage.root().display().to_string();
    let moved = stage
        .moved("cd /src && dump -0 -f - /dev/vtbd2 > /tmp/a; cat $J/etc/x ./tmp \"/data/x 1\" /data2 DESTDIR=/data/j");
    let expected = format!(
        "cd {root}/src && dump -0 -f - /dev/vtbd2 > {root}/tmp/a; cat $J/etc/x ./tmp \"{root}/data/x 1\" /data2 DESTDIR={root}/data/j"
    );
    assert_eq!(moved, expected);
}
