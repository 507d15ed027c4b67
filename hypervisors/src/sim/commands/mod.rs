//! What a simulated guest answers to commands: a table of small functions over its files and its state.
//!
//! Only what the lifecycle uses is here. An unknown program has status 127, as from a shell. Shell scripts are not
//! interpreted; `sh -c` takes plain words joined by `&&`.

mod apt;
mod dpkg;
mod files;
mod freeze;
mod network;
mod systemd;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::definition::Parsed;
use super::leased;
use super::tree;
use super::world::{HostConfig, Locked, Runtime, read_bounded};
use crate::host::Output;
use crate::{Error, Power, Result};

/// A command reads no larger file.
const FILE_LIMIT: u64 = 16 << 20;

/// The inside of a running guest, while the world is locked.
#[derive(Debug)]
pub(super) struct Inside<'w> {
    pub world: &'w mut Locked,
    pub guest: String,
    pub parsed: Parsed,
    pub runtime: Runtime,
    pub config: HostConfig,
    /// The guest goes down in the middle of this command: upgrades do half of their work.
    pub half: bool,
}

impl<'w> Inside<'w> {
    /// Enters a guest that is on and whose volumes can be read.
    pub fn enter(world: &'w mut Locked, guest: &str) -> Result<Self> {
        let doing = format!("enter {guest}");
        let runtime = world.runtime(guest)?;
        if runtime.power != Power::On {
            return Err(Error::unknown(doing, "connection timed out"));
        }
        let parsed = runtime.parsed()?;
        for disk in &parsed.disks {
            world.usable(&doing, &disk.volume)?;
        }
        let config = world.sim.config()?;
        Ok(Self { world, guest: guest.to_owned(), parsed, runtime, config, half: false })
    }

    /// Runs a command and keeps what it changed.
    pub fn run(&mut self, argv: &[String]) -> Result<Output> {
        let before = self.runtime.clone();
        let output = self.dispatch(argv)?;
        if self.runtime != before {
            self.world.set_runtime(&self.guest, &self.runtime)?;
        }
        Ok(output)
    }

    fn dispatch(&mut self, argv: &[String]) -> Result<Output> {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        let Some((program, args)) = words.split_first() else { return Ok(fail(127, "empty command")) };
        let program = program.rsplit('/').next().unwrap_or(program);
        Ok(match program {
            "true" | "sync" => out(""),
            "false" => fail(1, ""),
            "echo" => out(args.join(" ") + "\n"),
            "env" => {
                let from = args.iter().position(|word| !word.contains('=')).unwrap_or(args.len());
                return self.dispatch(&args[from..].iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
            }
            "sh" => return self.shell(args),
            "hostname" => out(self.read("/etc/hostname").unwrap_or_else(|_| "localhost\n".into())),
            "uname" => out(match args.first() {
                Some(&"-r") => "6.1.0-25-amd64\n",
                Some(&"-m") => "x86_64\n",
                Some(&"-n") => return self.dispatch(&["hostname".to_owned()]),
                _ => "Linux\n",
            }),
            "printenv" => self.printenv(args),
            "ps" => self.ps(),
            "id" => out("0\n"),
            "nft" | "iptables" | "ip6tables" => out(""),
            "systemctl" => return self.systemctl(args),
            "ss" => self.ss(args),
            "ip" => self.ip(args),
            "dpkg-query" => self.dpkg_query(args),
            "dpkg" => self.dpkg(args),
            "apt-mark" => self.apt_mark(args),
            "apt-get" => return self.apt_get(args),
            "find" => self.find(args),
            "cat" | "df" | "test" | "touch" | "rm" | "rmdir" | "cp" | "mkdir" => self.file_command(program, args)?,
            _ => fail(127, format!("{program}: command not found")),
        })
    }

    /// `sh -c 'A && B'`.
    fn shell(&mut self, args: &[&str]) -> Result<Output> {
        if let Some(words) = freeze::script(args) {
            return Ok(self.freeze(words));
        }
        let ["-c", line] = args else { return Ok(fail(127, "sh: scripts are not interpreted in the simulated world")) };
        if line.contains(['|', ';', '>', '<', '$', '`', '"', '\'', '(', '\n', '\\', '*']) {
            return Ok(fail(127, "sh: only plain words joined by && are understood in the simulated world"));
        }
        let mut all = Output::default();
        for part in line.split("&&") {
            let argv: Vec<String> = part.split_whitespace().map(str::to_owned).collect();
            let output = self.dispatch(&argv)?;
            all.status = output.status;
            all.stdout.extend(output.stdout);
            all.stderr.extend(output.stderr);
            if all.status != 0 {
                break;
            }
        }
        Ok(all)
    }

    /// The root file system's directory.
    pub fn root(&self) -> PathBuf {
        self.world.tree(self.parsed.root().map_or("", |disk| &disk.volume))
    }

    /// The disk a path of the guest lies on, and the path beneath it.
    pub fn mounted<'p>(&self, path: &'p Path) -> (String, &'p Path) {
        let below = |name: &str| path.strip_prefix(name).ok();
        let best = self.parsed.disks.iter().filter(|disk| disk.name.starts_with('/') && !disk.root);
        let best = best.filter(|disk| below(&disk.name).is_some()).max_by_key(|disk| disk.name.len());
        match best.and_then(|disk| Some((disk.volume.clone(), below(&disk.name)?))) {
            Some(found) => found,
            None => (self.parsed.root().map(|disk| disk.volume.clone()).unwrap_or_default(), path),
        }
    }

    /// Where a path of the guest is on this machine.
    pub fn place(&self, path: impl AsRef<Path>, follow: bool) -> io::Result<PathBuf> {
        let (volume, below) = self.mounted(path.as_ref());
        tree::resolve(&self.world.tree(&volume), below, follow)
    }

    /// Text of a file that the kernel or systemd makes up.
    pub fn made_up(&self, path: &Path) -> Option<String> {
        match path.to_str()? {
            "/proc/sys/kernel/random/boot_id" => Some(format!("{}\n", self.runtime.boot_id)),
            "/run/systemd/container" if self.config.capabilities.shares_host_kernel => Some("sim\n".into()),
            _ => None,
        }
    }

    /// A file's text.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let bytes = read_bounded(&self.place(path, true)?, FILE_LIMIT)?;
        Ok(String::from_utf8_lossy(&bytes.ok_or(io::ErrorKind::NotFound)?).into_owned())
    }

    /// Writes a file, keeping the mode of one that exists; its directory is made.
    pub fn write(&self, path: impl AsRef<Path>, text: &str) -> io::Result<()> {
        let place = self.place(path, true)?;
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(place, text)
    }
}

/// Whether a command changes nothing, so that it need not be traced.
pub(super) fn only_looks(argv: &[String]) -> bool {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let Some((program, args)) = words.split_first() else { return true };
    match program.rsplit('/').next().unwrap_or(program) {
        "systemctl" => args.iter().any(|word| word.starts_with("is-") || word.starts_with("list-") || *word == "show"),
        "ip" => !["add", "replace", "del", "flush"].iter().any(|verb| args.contains(verb)),
        "dpkg" => args.contains(&"--audit") || args.contains(&"-C"),
        "apt-get" => args.contains(&"-s") || args.contains(&"--simulate"),
        "sh" if leased::only_looks(argv) => true,
        "sh" if freeze::script(args).is_some_and(|words| words.first() == Some(&"can")) => true,
        "sh" | "env" | "touch" | "rm" | "rmdir" | "cp" | "mkdir" | "nft" | "iptables" | "ip6tables" => false,
        _ => true,
    }
}

/// Success with this output.
fn out(text: impl Into<String>) -> Output {
    Output { stdout: text.into().into_bytes(), ..Output::default() }
}

/// A failure status with this on stderr.
fn fail(status: i32, text: impl Into<String>) -> Output {
    let mut stderr = text.into().into_bytes();
    if !stderr.is_empty() {
        stderr.push(b'\n');
    }
    Output { status, stderr, ..Output::default() }
}

/// The argument and the rest of those that are not options.
fn operands<'a>(args: &[&'a str]) -> Vec<&'a str> {
    args.iter().filter(|word| !word.starts_with('-')).copied().collect()
}

pub(super) use apt::{os_release, progress};
pub(super) use freeze::is_script as is_freeze;
