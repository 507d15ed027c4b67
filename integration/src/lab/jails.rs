//! A host of FreeBSD jails and a server that is to become one, as guests of the native lab. Both are Debians in which the programs of
//! FreeBSD are played by `jailhost` (`integration/jailhost/README.md`).
//!
//! The server's file systems are ext4 in loop files, mounted here and given to it with their devices: its dump is a real one, of real
//! devices, over a real sshd.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::guest::{self, Guest};
use super::{Lab, image, known, worlds};
use crate::command::run;

/// The host of jails.
pub const JAILHOST: Guest = Guest { name: "jailhost", image: "freebsd", host: 30, memory: 512, data: None };
/// A server of its own.
pub const SERVER: Guest = Guest { name: "ServerA", image: "freebsd", host: 31, memory: 384, data: None };

/// Another two, for batches.
pub const MORE: [Guest; 2] =
    [Guest { name: "ServerB", host: 34, ..SERVER }, Guest { name: "ServerC", host: 35, ..SERVER }];
/// How far a clone's address is from its server's.
pub const BESIDE: u8 = 2;

/// Where the stand-ins are in a guest.
const PROGRAMS: &str = "usr/local/jailhost";
/// Sizes of the server's file systems, MiB.
const ROOT_MIB: u32 = 256;
const USR_MIB: u32 = 1024;

/// The program that plays all others: beside the one that runs this, or where `UPGRADECTL_JAILHOST` says.
pub(super) fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("UPGRADECTL_JAILHOST") {
        return Ok(path.into());
    }
    let beside = std::env::current_exe()?;
    let target = beside.ancestors().find(|path| path.join("jailhost").is_file());
    Ok(target.context("jailhost is not built: cargo build -p integration --bin jailhost")?.join("jailhost"))
}

/// Puts the stand-ins into a root, and says what it pretends to be.
fn dress(root: &Path, persona: &str) -> Result<()> {
    let directory = root.join(PROGRAMS);
    fs::create_dir_all(&directory)?;
    let own = root.join("usr/local/libexec/jailhost");
    fs::create_dir_all(root.join("usr/local/libexec"))?;
    fs::copy(program()?, &own)?;
    run(&own).args(["install"]).arg(&directory).output()?;
    // In the guest the directory has another name.
    for entry in fs::read_dir(&directory)?.filter_map(Result::ok).filter(|entry| entry.path().is_symlink()) {
        fs::remove_file(entry.path())?;
        symlink("../libexec/jailhost", entry.path())?;
    }
    fs::create_dir_all(root.join("var/db/jailhost"))?;
    fs::write(root.join("var/db/jailhost/persona"), persona)?;
    Ok(())
}

/// The persona of a machine of the lab, whose card is eth0.
fn persona(name: &str, release: &str, card: &str) -> String {
    format!(
        "hostname = \"{name}\"\nrelease = \"{release}\"\nkernel = \"{release}\"\nnetwork = \"real\"\nprocesses = \"real\"\ninterface.{card} = \"eth0\"\n"
    )
}

/// Brings the host of jails and a server of a release up in a lab that stands, with base systems ([`worlds`]).
///
/// # Errors
/// Whatever could not be built.
pub fn up(lab: &Lab, release: &str) -> Result<()> {
    up_with(lab, &[SERVER], release)
}

/// Brings the host of jails and servers of a release up in a lab that stands, with base systems ([`worlds`]).
///
/// # Errors
/// Whatever could not be built.
pub fn up_with(lab: &Lab, servers: &[Guest], release: &str) -> Result<()> {
    let tar = image::tar(JAILHOST.image)?;
    guest::place(lab, &JAILHOST, &tar)?;
    let root = JAILHOST.root(lab);
    dress(&root, &persona("jailhost", worlds::NEW, "em0"))?;
    fs::write(
        root.join("etc/rc.conf"),
        "hostname=\"jailhost\"\nsshd_enable=\"YES\"\njail_enable=\"YES\"\njail_list=\"\"\n",
    )?;
    // Its file system is this machine's, of no device of its own; nothing is dumped from there.
    fs::write(root.join("var/db/jailhost/filesystems"), "/dev/ada0p2 / ufs local,soft-updates /dev/null\n")?;
    worlds::sources(&root)?;
    for guest in servers {
        server(lab, &tar, guest, release)?;
    }
    let all: Vec<&Guest> = [&JAILHOST].into_iter().chain(servers).collect();
    for guest in &all {
        // libvirt loses a control group now and then to its own clean-up after another guest.
        if guest::start(lab, guest.name).is_err() {
            std::thread::sleep(Duration::from_secs(1));
            guest::start(lab, guest.name)?;
        }
    }
    for guest in &all {
        let address = lab.address(guest.host);
        guest::wait_for_ssh(lab, &address, Duration::from_secs(90))?;
        guest::wait_settled(lab, &address, Duration::from_secs(90))?;
    }
    // What no FreeBSD has: a job is detached as there, by a process of its own.
    fs::remove_file(JAILHOST.root(lab).join("usr/bin/systemd-run"))?;
    for root in servers.iter().map(|guest| server_root(lab, guest)) {
        fs::remove_file(root.join("usr/bin/systemctl"))?;
        fs::remove_file(root.join("usr/bin/systemd-run"))?;
    }
    Ok(())
}

/// A server's file systems, where they are mounted.
pub fn server_root(lab: &Lab, guest: &Guest) -> PathBuf {
    lab.path("servers").join(guest.name)
}

/// The file systems of a server, with a Debian in them: an ext4 for its root, and one for /usr. Where they are mounted, and their devices.
fn on_loops(lab: &Lab, tar: &Path, guest: &Guest) -> Result<(PathBuf, [String; 2])> {
    let (mounted, name) = (server_root(lab, guest), guest.name);
    let mut devices = Vec::new();
    for (part, at, mib) in [("root", mounted.clone(), ROOT_MIB), ("usr", mounted.join("usr"), USR_MIB)] {
        let file = lab.path(format!("{name}-{part}.img"));
        fs::File::create(&file)?.set_len(u64::from(mib) << 20)?;
        run("mkfs.ext4").args(["-q", "-O", "^metadata_csum_seed"]).arg(&file).output()?;
        fs::create_dir_all(&at)?;
        // The device goes with the mount.
        run("mount").args(["-t", "ext4", "-o", "loop"]).arg(&file).arg(&at).output()?;
        devices.push(
            run("findmnt")
                .args(["--noheadings", "--output", "SOURCE", "--mountpoint"])
                .arg(&at)
                .output()?
                .trim()
                .to_owned(),
        );
    }
    run("tar").args(["--numeric-owner", "-xf"]).arg(tar).arg("-C").arg(&mounted).output()?;
    // As under a devfs: a guest of this lab may make no devices.
    fs::remove_dir_all(mounted.join("dev"))?;
    fs::create_dir(mounted.join("dev"))?;
    // What is mounted over them in the guest is no file system that its FreeBSD would know of.
    for directory in ["proc", "sys"] {
        fs::set_permissions(mounted.join(directory), fs::Permissions::from_mode(0o555))?;
    }
    guest::make_it(lab, guest, &mounted)?;
    // It has to answer at its parking address too.
    let config = mounted.join("etc/ssh/sshd_config");
    let own = format!("ListenAddress {}\n", lab.address(guest.host));
    fs::write(&config, fs::read_to_string(&config)?.replace(&own, "#ListenAddress 0.0.0.0\n"))?;
    let devices = <[String; 2]>::try_from(devices).map_err(|_| anyhow::anyhow!("two devices"))?;
    Ok((mounted, devices))
}

/// Defines a server on its file systems, of which it has the devices.
fn define(lab: &Lab, guest: &Guest, mounted: &Path, devices: &[String; 2]) -> Result<()> {
    let blocks = devices.iter().map(|device| {
        format!("    <hostdev mode='capabilities' type='storage'><source><block>{device}</block></source></hostdev>\n")
    });
    let blocks: String = blocks.collect();
    let usr = format!(
        "    <filesystem type='mount'>\n      <source dir='{}'/>\n      <target dir='/usr'/>\n    </filesystem>\n",
        mounted.join("usr").display()
    );
    let definition = guest
        .definition(lab)
        .replace(&guest.root(lab).display().to_string(), &mounted.display().to_string())
        .replace("    <interface", &format!("{usr}{blocks}    <interface"));
    let file = lab.path(format!("{}.xml", guest.name));
    fs::write(&file, definition)?;
    lab.virsh(["define", file.to_str().context("the lab's path is not text")?]).map(drop)
}

/// Brings a Linux server up in a lab that stands: a plain Debian on ext4, with dump(8).
///
/// # Errors
/// Whatever could not be built.
pub fn linux(lab: &Lab, guest: &Guest) -> Result<()> {
    let (mounted, devices) = on_loops(lab, &image::tar(guest.image)?, guest)?;
    let [root, usr] = &devices;
    fs::write(mounted.join("etc/fstab"), format!("{root} / ext4 defaults 0 1\n{usr} /usr ext4 defaults 0 2\n"))?;
    define(lab, guest, &mounted, &devices)?;
    guest::start(lab, guest.name)?;
    let address = lab.address(guest.host);
    guest::wait_for_ssh(lab, &address, Duration::from_secs(90))?;
    guest::wait_settled(lab, &address, Duration::from_secs(90))
}

/// Makes a server of FreeBSD.
fn server(lab: &Lab, tar: &Path, guest: &Guest, release: &str) -> Result<()> {
    let name = guest.name;
    let (mounted, devices) = on_loops(lab, tar, guest)?;
    dress(&mounted, &persona(&format!("{name}.lab"), release, "fxp0"))?;
    worlds::server(&mounted, release)?;
    let address = lab.address(guest.host);
    let [root, usr] = &devices;
    let write =
        |path: &str, text: String| fs::write(mounted.join(path), text).with_context(|| format!("writing /{path}"));
    write(
        "var/db/jailhost/filesystems",
        format!("/dev/ada0p2 / ufs local,soft-updates {root}\n/dev/ada0p3 /usr ufs local,soft-updates {usr}\n"),
    )?;
    write(
        "etc/fstab",
        "/dev/ada0p2 / ufs rw 1 1\n/dev/ada0p3 /usr ufs rw 2 2\n/dev/ada0p1 none swap sw 0 0\n".to_owned(),
    )?;
    write(
        "etc/rc.conf",
        format!(
            "# {name}, since 2004\nhostname=\"{name}.lab\"\nifconfig_fxp0=\"inet {address} netmask 255.255.255.0\"\ndefaultrouter=\"{}\"\n\
             sshd_enable=\"YES\"\ncron_enable=\"YES\"\nsendmail_enable=\"YES\"\nmoused_enable=\"YES\"\nsaver=\"blank\"\n",
            lab.address(1)
        ),
    )?;
    write("etc/motd", format!("{name} serves.\n"))?;
    write("usr/local/etc/app.conf", format!("listen = {address}:8080\n"))?;
    fs::create_dir_all(mounted.join("etc/rc.d"))?;
    for service in ["cron", "sendmail", "sshd"] {
        let script = mounted.join("etc/rc.d").join(service);
        fs::write(&script, format!("#!/bin/sh\nexec service {service} \"$@\"\n"))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o555))?;
    }
    for service in ["cron", "sendmail"] {
        let directory = mounted.join("var/db/jailhost/services");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(service), "")?;
    }
    define(lab, guest, &mounted, &devices)
}

/// Writes the inventory of the two, and a client's configuration in which they are known.
///
/// # Errors
/// A file could not be written.
pub fn declare(lab: &Lab, lines: &str) -> Result<()> {
    declare_with(lab, &[SERVER], lines)
}

/// The same with these servers; each has these lines.
///
/// # Errors
/// A file could not be written.
pub fn declare_with(lab: &Lab, servers: &[Guest], lines: &str) -> Result<()> {
    let key = lab.key().display().to_string();
    let mut text = head(lab);
    let mut machines = vec![(lab.address(JAILHOST.host), JAILHOST.root(lab))];
    for guest in servers {
        let (name, server, parked) = (guest.name, lab.address(guest.host), lab.address(guest.host + 200));
        text += &format!(
            "\n[guests.{name}]\nhost = \"jailhost\"\nclone = {{ strategy = \"transfer\", ip = [\".{}\"], interface = \"em0\" }}\n\
             {lines}\n[guests.{name}.source]\nssh = {{ address = \"{server}\", key = \"{key}\" }}\n\
             filesystems = [\"/\", \"/usr\"]\nparking = \"{parked}\"\n",
            guest.host + BESIDE
        );
        machines.push((server, server_root(lab, guest)));
    }
    fs::write(lab.inventory(), text)?;
    known::write(lab, &machines)
}

/// What an inventory begins with.
fn head(lab: &Lab) -> String {
    let (key, host) = (lab.key().display().to_string(), lab.address(JAILHOST.host));
    format!(
        "version = 1\n\n[defaults]\nssh = {{ user = \"root\", key = \"{key}\" }}\n\n[hosts]\n\
         jailhost = {{ hypervisor = \"jail\", ssh = {{ address = \"{host}\", key = \"{key}\" }}, jails = \"/usr/jails\" }}\n"
    )
}

/// Writes the inventory of a jail that is there, with these lines of its own.
///
/// # Errors
/// A file could not be written.
pub fn declare_there(lab: &Lab, guest: &Guest, lines: &str) -> Result<()> {
    let clone = guest.host + BESIDE;
    let jail = format!("\n[guests.{}]\nhost = \"jailhost\"\nclone = {{ ip = [\".{clone}\"] }}\n{lines}\n", guest.name);
    fs::write(lab.inventory(), head(lab) + &jail)?;
    Ok(())
}
