//! Commands and files in trolls, by ssh as root over one shared connection: an emulated machine takes seconds for a key
//! exchange.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Dom0, Toolstack, machine};
use crate::cli::Said;
use crate::command::{Run, run};
use crate::ssh;

/// A boot takes one minute on an idle machine, three on one that is shared.
const BOOT: Duration = Duration::from_secs(600);

/// Where the product finds its inventory and keeps its state in trolls.
pub const INVENTORY: &str = "/etc/upgradectl/inventory.toml";
/// See [`INVENTORY`].
pub const STATE: &str = "/var/lib/upgradectl";

impl Dom0 {
    /// Runs a command in trolls to its end: what it said and its exit code, whatever that is.
    ///
    /// # Errors
    /// trolls does not answer.
    pub fn run<'a>(&self, argv: impl IntoIterator<Item = &'a str>) -> Result<Said> {
        self.run_with(argv, Vec::new())
    }

    /// As [`Dom0::run`], with something to read.
    ///
    /// # Errors
    /// As [`Dom0::run`].
    pub fn run_with<'a>(&self, argv: impl IntoIterator<Item = &'a str>, input: Vec<u8>) -> Result<Said> {
        let argv: Vec<&str> = argv.into_iter().collect();
        let begun = Instant::now();
        let output = command(self)?.args(ssh::words(argv.iter().copied())).input(input).finish()?;
        let said = Said::of(argv.join(" "), &output, begun.elapsed());
        // ssh's own failures, ssh(1) EXIT STATUS.
        ensure!(said.code != 255, "{said}\ntrolls does not answer; its console:\n{}", last_words(self));
        Ok(said)
    }

    /// Runs a command that has to exit 0; what it printed, trimmed at the end.
    ///
    /// # Errors
    /// It did not; all it said is in the error.
    pub fn output<'a>(&self, argv: impl IntoIterator<Item = &'a str>) -> Result<String> {
        Ok(self.run(argv)?.expect(0)?.stdout.trim_end().to_owned())
    }

    /// Runs a shell script in trolls that ends at its first failure (`sh -eu`), as [`Dom0::output`].
    ///
    /// # Errors
    /// As [`Dom0::output`].
    pub fn sh(&self, script: &str) -> Result<String> {
        self.output(["sh", "-euc", script])
    }

    /// Writes a file in trolls, mode 0644, its directories as needed. For what is small: see [`Dom0::share`].
    ///
    /// # Errors
    /// It could not be written.
    pub fn upload(&self, path: &str, bytes: impl Into<Vec<u8>>) -> Result<()> {
        self.run_with(["install", "-D", "-m", "644", "/dev/stdin", path], bytes.into())?.expect(0).map(drop)
    }

    /// A file's place in this machine's directory that trolls sees as `/share/NAME` at once, read-only: for large files.
    pub fn share(&self, name: &str) -> PathBuf {
        self.path("share").join(name)
    }

    /// Runs the product in trolls, with inventory [`INVENTORY`] and state directory [`STATE`]; `$UPGRADECTL_BIN` is
    /// brought there if it is not or has changed.
    ///
    /// # Errors
    /// As [`Dom0::run`], or there is no `$UPGRADECTL_BIN`.
    pub fn upgradectl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Said> {
        self.upgradectl_with(&[], args)
    }

    /// As [`Dom0::upgradectl`], with environment variables (`NAME=VALUE`; a failpoint, say).
    ///
    /// # Errors
    /// As [`Dom0::upgradectl`].
    pub fn upgradectl_with<'a>(
        &self,
        environment: &[&'a str],
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<Said> {
        self.install_product()?;
        let args: Vec<&str> = args.into_iter().collect();
        let (inventory, state) = (format!("UPGRADECTL_INVENTORY={INVENTORY}"), format!("UPGRADECTL_STATE={STATE}"));
        let before = ["env", "NO_COLOR=1", &inventory, &state].into_iter().chain(environment.iter().copied());
        let said = self.run(before.chain(["upgradectl"]).chain(args.iter().copied()))?;
        Ok(Said { line: format!("upgradectl {}", args.join(" ")), ..said })
    }

    /// Brings `$UPGRADECTL_BIN` to trolls' /usr/local/bin, without what only a debugger reads, unless it is there.
    ///
    /// # Errors
    /// There is none, or it could not be copied.
    pub fn install_product(&self) -> Result<()> {
        let binary = std::env::var_os("UPGRADECTL_BIN").context("UPGRADECTL_BIN is not set; run this by make")?;
        let found = fs::metadata(&binary).with_context(|| format!("UPGRADECTL_BIN: {}", binary.to_string_lossy()))?;
        let this = format!("{} {} {}.{:09}", binary.to_string_lossy(), found.len(), found.mtime(), found.mtime_nsec());
        let note = self.path("installed");
        if fs::read_to_string(&note).is_ok_and(|that| that == this) {
            return Ok(());
        }
        run("strip").args(["--strip-debug", "-o"]).arg(self.share("upgradectl")).arg(&binary).output()?;
        self.output(["install", "/share/upgradectl", "/usr/local/bin/upgradectl"])?;
        // A power cut must not take it away again: the note below would lie.
        self.output(["sync", "/usr/local/bin/upgradectl", "/usr/local/bin"])?;
        Ok(fs::write(note, this)?)
    }
}

/// The beginning of an ssh command line into trolls; the words of a command follow.
fn command(dom0: &Dom0) -> Result<Run> {
    Ok(options(dom0, ssh::client(&dom0.key()))?.arg("root@127.0.0.1").arg("--"))
}

/// An ssh of the user's own into trolls, with a terminal: options are complete, the host is not named yet.
///
/// # Errors
/// The machine is off.
pub fn shell(dom0: &Dom0) -> Result<std::process::Command> {
    let mut command = std::process::Command::new("ssh");
    command.args(ssh::OPTIONS).arg("-i").arg(dom0.key()).args(["-p", &port(dom0)?]);
    Ok(command)
}

/// The command line with which a person gets in.
///
/// # Errors
/// The machine is off.
pub fn line(dom0: &Dom0) -> Result<String> {
    let key = dom0.key();
    Ok(format!(
        "ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i {} -p {} root@127.0.0.1",
        key.display(),
        port(dom0)?
    ))
}

/// A socket of this machine behind which a port in trolls' network is (`10.0.5.12:22`), while the shared connection lives.
///
/// # Errors
/// The machine is off, or ssh refuses.
pub fn forward(dom0: &Dom0, to: &str) -> Result<SocketAddr> {
    // ssh cannot be asked for a port of its choice over a shared connection: one that was free just now.
    let here = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    options(dom0, ssh::client(&dom0.key()))?
        .args(["-O", "forward", "-L", &format!("{here}:{to}"), "root@127.0.0.1"])
        .output()?;
    Ok(here)
}

/// The command that carries an ssh connection on to a guest, for `ProxyCommand`: over the shared connection.
pub(super) fn proxy(dom0: &Dom0) -> Result<String> {
    let command = options(dom0, ssh::client(&dom0.key()))?.args(["-W", "%h:%p", "root@127.0.0.1"]);
    Ok(command.line())
}

/// What finds trolls: port, and the shared connection.
fn options(dom0: &Dom0, command: Run) -> Result<Run> {
    let control = format!("ControlPath={}", dom0.path("ssh").display());
    Ok(command
        .args(["-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"])
        .args(["-o", "ControlMaster=auto", "-o", "ControlPersist=300", "-o", &control])
        .args(["-p", &port(dom0)?]))
}

/// The port on 127.0.0.1 that is trolls' sshd.
///
/// # Errors
/// The machine is off.
pub fn port(dom0: &Dom0) -> Result<String> {
    ensure!(machine::is_up(dom0), "dom0 lab {} is off: lab dom0 boot", dom0.number());
    fs::read_to_string(dom0.path("port")).context("the port of trolls' sshd")
}

/// Ends the shared connection.
pub(super) fn forget(dom0: &Dom0) {
    let control = format!("ControlPath={}", dom0.path("ssh").display());
    if dom0.path("ssh").exists() {
        run("ssh").args(["-F", "none", "-O", "exit", "-o", &control, "anyone"]).succeeds();
        let _ = fs::remove_file(dom0.path("ssh"));
    }
}

/// Waits until trolls answers.
pub(super) fn wait_for_ssh(dom0: &Dom0) -> Result<()> {
    let begun = Instant::now();
    loop {
        let Err(error) = dom0.output(["true"]) else { return Ok(()) };
        if begun.elapsed() > BOOT || !machine::is_up(dom0) {
            return Err(error.context("trolls does not come up"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Waits until trolls' boot is over and the toolstack answers.
pub(super) fn wait_settled(dom0: &Dom0, toolstack: Toolstack) -> Result<()> {
    let begun = Instant::now();
    loop {
        let state = dom0.run(["systemctl", "is-system-running"])?.stdout;
        match state.trim() {
            "running" => break,
            "degraded" => {
                eprintln!("lab: failed in trolls: {}", dom0.output(["systemctl", "--failed", "--plain", "--quiet"])?);
                break;
            }
            _ if begun.elapsed() > BOOT => bail!("trolls has not settled: {state}"),
            _ => std::thread::sleep(Duration::from_millis(500)),
        }
    }
    dom0.output(["xl", "list"])?;
    if toolstack == Toolstack::Libvirt {
        dom0.output(["virsh", "--quiet", "--connect", "xen:///system", "list"])?;
    }
    Ok(())
}

fn last_words(dom0: &Dom0) -> String {
    machine::last_words(dom0, "console.log")
}
