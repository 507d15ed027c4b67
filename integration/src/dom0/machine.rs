//! The emulated machine: one qemu process, its console in a file, its monitor on a socket.
//!
//! Invariants: the process runs in the lab's directory and names everything relative to it; it listens on 127.0.0.1
//! alone; its disks are written through qemu at once (`cache=unsafe` on raw files: what the emulated machine has handed
//! to a disk survives the end of the process), so killing it is a power cut that loses exactly what was in the machine's
//! memory.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Dom0, Toolstack, monitor};
use crate::process::Process;

/// Memory, MiB: dom0's own, and two guests of 400 beside it.
const MEMORY: &str = "3000";

/// The hypervisor's command line. dom0 has one of the two processors, guests get the other.
const XEN: &str = "dom0_mem=1500M,max:1500M dom0_max_vcpus=1 com1=115200,8n1 console=com1";

/// dom0's kernel command line; the toolstack's words follow. The name eth0 must not hang on where qemu puts the card;
/// emulated, the mitigations only cost.
const LINUX: &str = "root=/dev/vda ro console=hvc0 net.ifnames=0 mitigations=off";

/// Starts the machine; returns when its monitor answers.
///
/// # Errors
/// qemu could not be started, or ends at once: its words are in the error.
pub fn start(dom0: &Dom0, toolstack: Toolstack) -> Result<()> {
    let log = fs::OpenOptions::new().create(true).append(true).open(dom0.path("qemu.log"))?;
    for stale in ["monitor", "port"] {
        let _ = fs::remove_file(dom0.path(stale));
    }
    // In a session of its own: it outlives the test or command that starts it, and setsid becomes qemu.
    let child = Command::new("setsid")
        .arg("qemu-system-x86_64")
        .args(arguments(toolstack))
        .current_dir(dom0.dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting qemu")?;
    Process::find(child.id())?.note(&dom0.path("process"))?;
    let begun = Instant::now();
    let port = loop {
        let usernet = monitor::human(&dom0.path("monitor"), "info usernet");
        match usernet.map(|printed| monitor::forwarded_port(&printed, 22)) {
            Ok(Some(port)) => break port,
            Ok(None) => bail!("qemu forwards no port"),
            Err(error) if begun.elapsed() > Duration::from_secs(60) || !is_up(dom0) => {
                return Err(error.context(format!("qemu does not run: {}", last_words(dom0, "qemu.log"))));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    Ok(fs::write(dom0.path("port"), port.to_string())?)
}

/// Whether the machine that the lab started is on.
pub fn is_up(dom0: &Dom0) -> bool {
    Process::noted(&dom0.path("process")).is_some_and(|process| process.is_alive())
}

/// Takes the power away.
///
/// # Errors
/// The process does not end.
pub fn cut(dom0: &Dom0) -> Result<()> {
    if let Some(process) = Process::noted(&dom0.path("process")) {
        process.kill()?;
        fs::remove_file(dom0.path("process"))?;
    }
    Ok(())
}

/// The end of one of the lab's logs.
pub fn last_words(dom0: &Dom0, log: &str) -> String {
    let text = fs::read(dom0.path(log)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// qemu's arguments.
fn arguments(toolstack: Toolstack) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |option: &str, value: &str| words.extend([option.to_owned(), value.to_owned()]);
    add("-name", "upgradectl-dom0");
    // Emulated always: /dev/kvm may be there and hang. Westmere: with newer models dom0 crashes (SMAP) or libvirt's Xen
    // driver finds no CPU model.
    // qemu's buffer for translated code is 1 GiB unless it is told otherwise.
    add("-accel", "tcg,thread=multi,tb-size=384");
    add("-cpu", "Westmere");
    add("-m", MEMORY);
    add("-smp", "2");
    add("-display", "none");
    words.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
    let mut add = |option: &str, value: &str| words.extend([option.to_owned(), value.to_owned()]);
    add("-kernel", "xen");
    add("-append", XEN);
    add("-initrd", &format!("vmlinuz {LINUX} {},initrd.img", toolstack.kernel_words()));
    for (id, file, more) in
        [("vda", "root.img", ""), ("vdb", "vg1.img", ",discard=unmap"), ("vdc", "guest.img", ",readonly=on")]
    {
        add("-drive", &format!("if=none,id={id},file={file},format=raw,cache=unsafe{more}"));
        add("-device", &format!("virtio-blk-pci,drive={id},serial={id}"));
    }
    add("-virtfs", "local,id=share,path=share,mount_tag=share,security_model=none,readonly=on");
    add("-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22");
    add("-device", "virtio-net-pci,netdev=net");
    add("-chardev", "file,id=console,path=console.log,append=on");
    add("-serial", "chardev:console");
    add("-qmp", "unix:monitor,server=on,wait=off");
    words
}
