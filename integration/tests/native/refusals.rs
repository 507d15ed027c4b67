//! What `clone` refuses before it touches anything, each with its exit code and the word that helps.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use hypervisors::Hypervisor as _;
use hypervisors::host::LocalHost;
use hypervisors::libvirt::Libvirt;
use hypervisors::net::RealNet;
use integration::command::run;

use super::picture::subvolumes;
use super::trial::{QUICK, Trial};

/// A command that has to be refused with this code and these words, and to leave domains and volumes alone.
fn refused(trial: &Trial, line: &str, code: i32, words: &[&str]) -> Result<()> {
    let lab = &trial.lab;
    let before = (lab.domains()?, subvolumes(lab)?);
    let said = trial.says(line, code)?;
    for word in words {
        ensure!(said.stderr.contains(word), "{word:?} is not said:\n{said}");
    }
    ensure!(said.stderr.contains("cause:") && said.stderr.contains("help:"), "no cause or no help:\n{said}");
    ensure!((lab.domains()?, subvolumes(lab)?) == before, "{line} changed something");
    Ok(())
}

/// Changes a file of the guest for as long as something is tried.
fn with_file(path: &Path, content: &[u8], tried: impl FnOnce() -> Result<()>) -> Result<()> {
    let old = fs::read(path)?;
    fs::write(path, content)?;
    let result = tried().with_context(|| format!("with another {}", path.display()));
    fs::write(path, old)?;
    result
}

#[test]
fn what_cannot_be_cloned_is_refused_untouched() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, root) = (&trial.lab, trial.root());

    refused(&trial, "clone tniy", 2, &["tiny"])?;
    refused(&trial, "clone tiny --strategy origin", 7, &["snapshot"])?;
    refused(&trial, "clone tiny --ip .20", 7, &["original's own"])?;
    // Somebody has the address: this machine, and a guest whose definition nobody here knows.
    let bridge = lab.bridge();
    let taken = format!("{}/24", lab.address(77));
    run("ip").args(["address", "add", &taken, "dev", &bridge]).output()?;
    let mac = fs::read_to_string(format!("/sys/class/net/{bridge}/address"))?;
    refused(&trial, "clone tiny --ip .77", 7, &[&lab.address(77), mac.trim()])?;
    run("ip").args(["address", "delete", &taken, "dev", &bridge]).output()?;
    refused(&trial, "clone tiny --mac 00:16:3e:00:05:14", 7, &["00:16:3e:00:05:14"])?;
    refused(&trial, "clone tiny --ip eth7=.24", 7, &["eth0"])?;

    // Hostile and broken files of the guest. The link would lead out of its root, to this machine's file.
    let passwd = fs::read("/etc/passwd")?;
    let hosts = root.join("etc/hosts");
    let text = fs::read(&hosts)?;
    fs::remove_file(&hosts)?;
    symlink("../../../../../../../../../../etc/passwd", &hosts)?;
    let result = refused(&trial, "clone tiny", 7, &["etc/hosts"]);
    fs::remove_file(&hosts)?;
    fs::write(&hosts, text)?;
    result?;
    ensure!(fs::read("/etc/passwd")? == passwd);
    let interfaces = root.join("etc/network/interfaces");
    let text = fs::read_to_string(&interfaces)?;
    let latin = [b"# caf\xe9\n".as_slice(), text.as_bytes()].concat();
    with_file(&interfaces, &latin, || refused(&trial, "clone tiny", 7, &["etc/network/interfaces"]))?;
    with_file(&interfaces, b"auto eth0\niface eth0 inet dhcp\n", || refused(&trial, "clone tiny", 7, &["DHCP"]))?;

    // A state directory that cannot be written, or is no directory.
    let state = trial.product.state().to_owned();
    run("mount").args(["-t", "tmpfs", "-o", "ro", "none"]).arg(&state).output()?;
    let result = refused(&trial, "clone tiny", 11, &["state"]);
    run("umount").arg(&state).output()?;
    result?;

    // ssh: a key the guest does not know; a user without rights.
    let stranger = lab.path("stranger");
    run("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&stranger).output()?;
    let with_key = |user: &str, key: &Path, more: &str| {
        trial.inventory(&format!("user = \"{user}\", key = \"{}\"{more}", key.display()), QUICK)
    };
    fs::write(lab.inventory(), with_key("root", &stranger, ""))?;
    refused(&trial, "clone tiny", 7, &["ssh"])?;
    let address = trial.address();
    lab.ssh(&address, ["useradd", "--create-home", "adam"])?;
    lab.ssh(
        &address,
        ["sh", "-c", "mkdir -m 700 ~adam/.ssh && cp ~/.ssh/authorized_keys ~adam/.ssh/ && chown -R adam ~adam/.ssh"],
    )?;
    fs::write(lab.inventory(), with_key("adam", &lab.key(), ", sudo = true"))?;
    refused(&trial, "clone tiny", 7, &["sudo"])?;
    fs::write(lab.inventory(), with_key("adam", &lab.key(), ""))?;
    refused(&trial, "clone tiny", 7, &["root"])?;
    trial.declare(QUICK)?;

    // Off, or paused.
    lab.virsh(["suspend", "tiny"])?;
    refused(&trial, "clone tiny", 7, &["paused"])?;
    // What a host would end a pause of ours with: twice is harmless.
    let resume = tokio::runtime::Runtime::new()?.block_on(resume_command(&lab.uri()))?.context("there is no virsh")?;
    for _ in 0..2 {
        run(&resume[0]).args(&resume[1..]).output()?;
        ensure!(lab.virsh(["domstate", "tiny"])?.trim() == "running");
    }
    lab.virsh(["destroy", "tiny"])?;
    refused(&trial, "clone tiny", 7, &["not running"])?;
    trial.start()?;

    // After all of that it can be cloned: with line ends of another system, which are kept.
    let dos = text.replace('\n', "\r\n");
    with_file(&interfaces, dos.as_bytes(), || {
        trial.says("clone tiny", 0)?;
        let name = trial.name()?;
        let cloned = fs::read_to_string(lab.path(format!("pool/guests/{name}-root/etc/network/interfaces")))?;
        ensure!(cloned == dos.replace(&address, &trial.clone_address()), "{cloned:?}");
        trial.says("abort tiny", 0).map(drop)
    })
}

#[test]
fn a_copy_that_does_not_fit_is_refused() -> Result<()> {
    let trial = Trial::tiny()?;
    let lab = &trial.lab;
    // The guest moves to a file system of its own, which has room for it and not for another.
    let (small, root) = (lab.path("small"), lab.path("small/tiny"));
    fs::create_dir(&small)?;
    run("mount").args(["-t", "tmpfs", "-o", "size=420m", "none"]).arg(&small).output()?;
    trial.move_to(&root)?;
    refused(&trial, "clone tiny", 7, &["GiB"])?;
    ensure!(fs::read_dir(&small)?.count() == 1);
    Ok(())
}

async fn resume_command(uri: &str) -> Result<Option<Vec<String>>> {
    let libvirt = Libvirt::new(uri, Arc::new(LocalHost::new("here")), Arc::new(RealNet), Vec::new());
    Ok(libvirt.resume_command("tiny").await?)
}
