//! Tests of the simulated world as its users see it: through the platform traits.
#![expect(clippy::unwrap_used, reason = "tests")]

mod inside;
mod volumes;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::host::{Command, Job, JobStatus, Output};
use crate::storage::{Access, Snapshot};
use crate::{
    Capabilities, Cause, Change, Definition, DefinitionEdit, DiskEdit, GuestLink, Host, Hypervisor, Mark, Power, Role,
    VolumeKind,
};

const PATIENCE: Duration = Duration::from_secs(5);

fn world() -> (TempDir, Sim) {
    let dir = tempfile::tempdir().unwrap();
    let sim = seed(&dir.path().join("sim")).unwrap();
    (dir, sim)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(sim: &Sim, volume: &str, address: &str) -> GuestLink {
    let known_hosts = sim.dir().join("known_hosts");
    let key = fs::read_to_string(sim.volumes().join(volume).join("etc/ssh/ssh_host_ed25519_key.pub")).unwrap();
    fs::write(&known_hosts, format!("link {key}")).unwrap();
    GuestLink {
        name: "link".into(),
        address: ip(address),
        by: None,
        port: 22,
        user: "root".into(),
        key: None,
        sudo: false,
        known_hosts,
        control_dir: sim.dir().into(),
        legacy: false,
    }
}

fn inside(sim: &Sim) -> Arc<dyn Host> {
    sim.guest(&link(sim, "mercure", "10.0.5.12")).unwrap()
}

async fn run(host: &Arc<dyn Host>, line: &str) -> Output {
    host.run(&Command::new(line.split(' '))).await.unwrap()
}

fn mark(run: &str) -> Mark {
    Mark { run: run.into(), role: Role::Clone }
}

/// The mercure of a run: snapshot, address 10.0.5.16, another MAC, no data volume; not started.
async fn clone(sim: &Sim, run: &str) {
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let target = sim.volume_ref(run);
    storage.snapshot(&sim.volume_ref("mercure"), &target, &mark(run)).await.unwrap();
    let interfaces = storage.open(&target, Access::Write).await.unwrap().path().join("etc/network/interfaces");
    let text = fs::read_to_string(&interfaces).unwrap().replace("10.0.5.12", "10.0.5.16");
    fs::write(interfaces, text).unwrap();
    let edit = DefinitionEdit {
        name: Some(run.into()),
        uuid: Some(format!("uuid-of-{run}")),
        mark: Some(Some(mark(run))),
        macs: vec![Some("00:16:3e:00:05:10".parse().unwrap())],
        disks: [("/".into(), DiskEdit::Source(target)), ("/srv/mail".into(), DiskEdit::Remove)].into(),
        ..Default::default()
    };
    let original = sim.definition("mercure").await.unwrap().unwrap();
    assert_eq!(sim.define(&sim.derive(&original, &edit).unwrap()).await.unwrap(), Change::Created);
}

#[tokio::test]
async fn a_seeded_world_is_found_again() {
    let (_dir, sim) = world();
    let again = Sim::open(sim.dir()).unwrap();
    let facts = again.facts("mercure").await.unwrap().unwrap();
    assert_eq!((facts.power, facts.autostart, facts.disks.len()), (Power::On, true, 2));
    assert!(facts.disks[0].root && !facts.disks[1].root);
    assert_eq!(again.list().await.unwrap(), std::slice::from_ref(&facts));
    let volume = again.volume(&facts.disks[0]).await.unwrap();
    let storage = again.storage(volume.kind).unwrap();
    assert!(storage.open(&volume, Access::Glance).await.unwrap().path().join("etc/hostname").is_file());
    assert!(storage.inspect(&volume).await.unwrap().unwrap().free_bytes > 1 << 30);
    let net = again.net();
    assert_eq!(net.owner(ip("10.0.5.12"), "br5").await.unwrap(), facts.nics[0].mac);
    assert_eq!(net.owner(ip("10.0.5.12"), "br6").await.unwrap(), None);
    assert_eq!(net.owner(ip("10.0.5.1"), "br5").await.unwrap(), Some(again.config().unwrap().mac));
    assert!(seed(sim.dir()).is_err(), "a world is not overwritten");
    assert!(Sim::open(Path::new("/nonexistent")).is_err());
}

#[tokio::test]
async fn a_clone_lives_beside_its_original_and_goes_without_a_trace() {
    let (_dir, sim) = world();
    let before = sim.definition("mercure").await.unwrap().unwrap();
    clone(&sim, "mercure--k3f9").await;
    assert_eq!(sim.start("mercure--k3f9").await.unwrap(), Change::Changed);
    assert_eq!(sim.start("mercure--k3f9").await.unwrap(), Change::Unchanged);
    let net = sim.net();
    assert_eq!(net.owner(ip("10.0.5.16"), "br5").await.unwrap(), Some("00:16:3e:00:05:10".parse().unwrap()));
    assert!(sim.trace().unwrap().iter().all(|entry| entry.conflicts.is_empty()));
    assert_eq!(sim.facts("mercure--k3f9").await.unwrap().unwrap().mark, Some(mark("mercure--k3f9")));

    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let volume = sim.volume_ref("mercure--k3f9");
    assert_eq!(storage.marked(&sim.volumes()).await.unwrap(), [(volume.clone(), mark("mercure--k3f9"))]);
    assert!(matches!(sim.undefine("mercure--k3f9").await.unwrap_err().cause, Cause::Refused(_)));
    assert!(matches!(storage.remove(&volume, "mercure--k3f9").await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(sim.shutdown("mercure--k3f9", PATIENCE).await.unwrap(), Change::Changed);
    assert_eq!(net.owner(ip("10.0.5.16"), "br5").await.unwrap(), None);
    assert_eq!(sim.undefine("mercure--k3f9").await.unwrap(), Change::Removed);
    assert!(matches!(storage.remove(&volume, "other--aaaa").await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(storage.remove(&volume, "mercure--k3f9").await.unwrap(), Change::Removed);
    assert_eq!(storage.remove(&volume, "mercure--k3f9").await.unwrap(), Change::Unchanged);
    assert!(storage.remove(&sim.volume_ref("mercure"), "mercure--k3f9").await.is_err(), "an unmarked volume stays");
    let mut parts: Vec<_> = fs::read_dir(sim.volumes()).unwrap().map(|e| e.unwrap().file_name()).collect();
    parts.sort();
    assert_eq!(parts, ["mercure", "mercure-mail", "mercure-mail.json", "mercure.json"]);
    assert_eq!(sim.definition("mercure").await.unwrap().unwrap(), before);
}

#[tokio::test]
async fn half_a_snapshot_is_partial_and_is_made_again() {
    let (_dir, sim) = world();
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let (source, target) = (sim.volume_ref("mercure"), sim.volume_ref("mercure--k3f9"));
    let ours = mark("mercure--k3f9");
    assert_eq!(storage.probe(&target, &ours).await.unwrap(), Snapshot::Absent);
    sim.inject(Fault { op: "storage.snapshot".into(), object: None, nth: 1, how: How::Partial }).unwrap();
    storage.snapshot(&source, &target, &ours).await.unwrap_err();
    assert!(target.path.is_dir());
    assert_eq!(storage.probe(&target, &ours).await.unwrap(), Snapshot::Partial);
    assert!(matches!(storage.probe(&target, &mark("venus--aaaa")).await.unwrap(), Snapshot::Foreign(_)));
    assert!(storage.open(&target, Access::Write).await.is_err());
    assert!(storage.snapshot(&source, &target, &mark("venus--aaaa")).await.is_err());
    assert_eq!(storage.snapshot(&source, &target, &ours).await.unwrap(), Change::Created);
    assert_eq!(storage.snapshot(&source, &target, &ours).await.unwrap(), Change::Unchanged);
    assert_eq!(storage.probe(&target, &ours).await.unwrap(), Snapshot::Present);
    // Removal cut in half is recognised by its run and ended.
    sim.inject(Fault { op: "storage.remove".into(), object: None, nth: 1, how: How::Partial }).unwrap();
    storage.remove(&target, "mercure--k3f9").await.unwrap_err();
    assert_eq!(storage.probe(&target, &ours).await.unwrap(), Snapshot::Partial);
    assert_eq!(storage.remove(&target, "mercure--k3f9").await.unwrap(), Change::Removed);
    // Another's directory is not touched.
    fs::create_dir(&target.path).unwrap();
    assert!(matches!(storage.probe(&target, &ours).await.unwrap(), Snapshot::Foreign(_)));
    assert!(storage.snapshot(&source, &target, &ours).await.is_err());
    assert!(storage.remove(&target, "mercure--k3f9").await.is_err());
}

#[tokio::test]
async fn a_rename_survives_being_cut() {
    let (_dir, sim) = world();
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let (old, new) = (sim.volume_ref("mercure"), sim.volume_ref("mercure2"));
    assert!(storage.rename(&old, &new).await.is_err(), "its guest runs");
    sim.destroy("mercure").await.unwrap();
    sim.inject(Fault { op: "storage.rename".into(), object: None, nth: 1, how: How::Partial }).unwrap();
    storage.rename(&old, &new).await.unwrap_err();
    assert_eq!(storage.rename(&old, &new).await.unwrap(), Change::Changed);
    assert_eq!(storage.rename(&old, &new).await.unwrap(), Change::Unchanged);
    assert!(storage.inspect(&old).await.unwrap().is_none());
    assert!(matches!(sim.start("mercure").await.unwrap_err().cause, Cause::NotFound(_)), "its volume is missing");
}

#[tokio::test]
async fn a_full_snapshot_is_lost() {
    let (_dir, sim) = world();
    clone(&sim, "mercure--k3f9").await;
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let volume = sim.volume_ref("mercure--k3f9");
    sim.limit_volume("mercure--k3f9", Some(10_000)).unwrap();
    sim.start("mercure--k3f9").await.unwrap();
    let guest = sim.guest(&link(&sim, "mercure", "10.0.5.16")).unwrap();
    guest.write_file(Path::new("/var/log/big"), &[0; 5000], 0o644).await.unwrap();
    let facts = storage.inspect(&volume).await.unwrap().unwrap();
    assert!((40.0..60.0).contains(&facts.fill_percent.unwrap()), "{facts:?}");
    guest.write_file(Path::new("/var/log/big2"), &[0; 6000], 0o644).await.unwrap();
    assert_eq!(storage.inspect(&volume).await.unwrap().unwrap().fill_percent, Some(100.0));
    assert!(guest.run(&Command::new(["true"])).await.is_err());
    assert!(storage.open(&volume, Access::Write).await.is_err());
    // Deleting does not bring it back.
    fs::remove_file(volume.path.join("var/log/big2")).unwrap();
    sim.destroy("mercure--k3f9").await.unwrap();
    assert!(sim.start("mercure--k3f9").await.is_err());
    assert_eq!(storage.remove(&volume, "mercure--k3f9").await.unwrap(), Change::Removed);
}

#[tokio::test]
async fn a_frozen_guest_is_read_and_not_written_until_it_thaws() {
    let (_dir, sim) = world();
    let guest = sim.guest(&link(&sim, "mercure", "10.0.5.12")).unwrap();
    let script = |words: &[&str]| {
        let head = ["sh", "-c", "the script", "upgradectl-freeze"];
        Command::new(head.iter().chain(words).copied())
    };
    let said = async |words: &[&str]| guest.run(&script(words)).await.unwrap().text();
    let writes = async || {
        let touched = guest.run(&Command::new(["touch", "/root/x"])).await.is_ok();
        let written = guest.write_file(Path::new("/root/y"), b"", 0o600).await.is_ok();
        assert_eq!(touched, written);
        touched
    };
    assert_eq!(said(&["can", "-", "30"]).await, "can /\n");
    assert!(writes().await);
    assert_eq!(said(&["freeze", "r", "30", "xvdb1"]).await, "frozen /\n");
    assert!(!writes().await && guest.run(&Command::new(["cat", "/etc/hostname"])).await.unwrap().status == 0);
    assert_eq!(said(&["thaw", "another"]).await, "gone\n");
    assert!(!writes().await);
    assert_eq!(said(&["thaw", "r"]).await, "thawed\n");
    assert!(writes().await);
    // By its own timer.
    assert_eq!(said(&["freeze", "r", "0"]).await, "frozen /\n");
    assert!(writes().await);
    assert!(said(&["thaw", "r"]).await.starts_with("fired "));
    assert_eq!(said(&["thaw", "r"]).await, "gone\n");
}

#[tokio::test]
async fn two_owners_of_an_address_are_traced() {
    let (_dir, sim) = world();
    clone(&sim, "mercure--k3f9").await;
    let interfaces = sim.volumes().join("mercure--k3f9/etc/network/interfaces");
    let text = fs::read_to_string(&interfaces).unwrap().replace("10.0.5.16", "10.0.5.12");
    fs::write(&interfaces, text).unwrap();
    sim.start("mercure--k3f9").await.unwrap();
    let trace = sim.trace().unwrap();
    let last = trace.last().unwrap();
    assert_eq!((last.op.as_str(), last.conflicts.len(), last.running.len()), ("start", 1, 2), "{last:?}");
    assert!(sim.net().owner(ip("10.0.5.12"), "br5").await.unwrap().is_some());
    assert_eq!(sim.trace().unwrap().last().unwrap().op, "net.conflict");
    // A paused guest does not answer.
    sim.pause("mercure").await.unwrap();
    let owner = sim.net().owner(ip("10.0.5.12"), "br5").await.unwrap();
    assert_eq!(owner, Some("00:16:3e:00:05:10".parse().unwrap()));
    assert_eq!(sim.power("mercure").await.unwrap(), Power::Paused);
    assert!(sim.trace().unwrap().last().unwrap().conflicts.is_empty());
    assert_eq!(sim.start("mercure").await.unwrap(), Change::Changed);
    assert_eq!(
        sim.trace().unwrap().last().unwrap().conflicts,
        ["10.0.5.12 on br5 is claimed by mercure and mercure--k3f9"]
    );
    // One volume under two guests.
    sim.destroy("mercure--k3f9").await.unwrap();
    let definition = sim.definition("mercure--k3f9").await.unwrap().unwrap();
    let shared = DiskEdit::Source(sim.volume_ref("mercure"));
    let edit = DefinitionEdit { disks: [("/".into(), shared)].into(), ..Default::default() };
    sim.define(&sim.derive(&definition, &edit).unwrap()).await.unwrap();
    sim.start("mercure--k3f9").await.unwrap();
    let conflicts = sim.trace().unwrap().last().unwrap().conflicts.join(", ");
    assert!(conflicts.contains("volume mercure is claimed by"), "{conflicts}");
}

#[tokio::test]
async fn definitions_are_told_apart_by_uuid() {
    let (_dir, sim) = world();
    let original = sim.definition("mercure").await.unwrap().unwrap();
    assert_eq!(sim.define(&original).await.unwrap(), Change::Unchanged);
    let other_uuid = DefinitionEdit { uuid: Some("x".into()), ..Default::default() };
    assert!(sim.define(&sim.derive(&original, &other_uuid).unwrap()).await.is_err());
    let other_name = DefinitionEdit { name: Some("venus".into()), ..Default::default() };
    assert!(sim.define(&sim.derive(&original, &other_name).unwrap()).await.is_err());
    let bigger = DefinitionEdit { memory_bytes: Some(1 << 30), ..Default::default() };
    let bigger = sim.derive(&original, &bigger).unwrap();
    assert!(bigger.text.contains("keys that the program does not know are kept"));
    assert_eq!(sim.define(&bigger).await.unwrap(), Change::Changed);
    assert_eq!(sim.facts("mercure").await.unwrap().unwrap().memory_bytes, 1 << 30);
    for name in ["../x", "", "a/b", ".x"] {
        let hostile = Definition { name: name.into(), text: format!("{{\"name\": {name:?}}}") };
        assert!(sim.define(&hostile).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_host_reboot_starts_what_has_autostart() {
    let (_dir, sim) = world();
    clone(&sim, "mercure--k3f9").await;
    sim.start("mercure--k3f9").await.unwrap();
    assert_eq!(sim.set_autostart("mercure", true).await.unwrap(), Change::Unchanged);
    let boot = run(&inside(&sim), "cat /proc/sys/kernel/random/boot_id").await.text();
    sim.reboot_host().await.unwrap();
    assert_eq!(sim.power("mercure").await.unwrap(), Power::On);
    assert_eq!(sim.power("mercure--k3f9").await.unwrap(), Power::Off);
    assert_ne!(run(&inside(&sim), "cat /proc/sys/kernel/random/boot_id").await.text(), boot);
}

#[tokio::test]
async fn commands_answer() {
    let (_dir, sim) = world();
    let guest = inside(&sim);
    for (line, status, expected) in [
        ("true", 0, ""),
        ("false", 1, ""),
        ("echo a b", 0, "a b\n"),
        ("hostname", 0, "mercure\n"),
        ("id -u", 0, "0\n"),
        ("uname -s", 0, "Linux\n"),
        ("uname -n", 0, "mercure\n"),
        ("systemctl is-system-running", 0, "running\n"),
        ("systemctl is-active postfix cron.service", 0, "active\nactive\n"),
        ("systemctl is-enabled postfix", 0, "enabled\n"),
        ("systemctl list-units --failed --plain --no-legend --no-pager", 0, ""),
        ("systemctl show -p LoadState,ActiveState --value ssh.service", 0, "loaded\nactive\n"),
        ("systemctl show --property=LoadState nosuch.service", 0, "LoadState=not-found\n"),
        ("dpkg --audit", 0, ""),
        ("apt-mark showhold", 0, ""),
        ("test -e /etc/hosts", 0, ""),
        ("test -e /etc/nothing", 1, ""),
        ("mkdir -p /root/a/b", 0, ""),
        ("touch /root/a/b/c", 0, ""),
        ("cp /etc/hostname /root/a/b", 0, ""),
        ("cat /root/a/b/hostname", 0, "mercure\n"),
        ("rm -f /root/a/b/c /root/a/b/d", 0, ""),
        ("rm /root/a/b/c", 1, ""),
        ("cat /srv/mail/archive/2024.mbox", 0, "From a@example.org\n\nhello\n"),
        ("nft list ruleset", 0, ""),
        ("/usr/bin/env LC_ALL=C hostname", 0, "mercure\n"),
        ("nosuch", 127, ""),
    ] {
        let output = run(&guest, line).await;
        assert_eq!((output.status, output.text().as_str()), (status, expected), "{line}");
    }
    let units = run(&guest, "systemctl list-units --type=service --state=running --plain --no-legend").await.text();
    let names: Vec<_> = units.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["cron.service", "dovecot.service", "nginx.service", "postfix.service", "ssh.service"]);
    let sockets = run(&guest, "ss -H -l -n -t -u").await.text();
    assert!(sockets.contains("tcp LISTEN 0 128 0.0.0.0:143 0.0.0.0:*"), "{sockets}");
    assert!(run(&guest, "ss -Hltn").await.text().starts_with("LISTEN"));
    let packages = Command::new(["dpkg-query", "-W", "-f=${Package}\\t${Version}\\t${db:Status-Abbrev}\\n"]);
    let packages = guest.run(&packages).await.unwrap().text();
    assert!(packages.contains("postfix\t3.7.11-0+deb12\tii \n"), "{packages}");
    let with_processes = run(&guest, "ss -H -l -n -t -u -p").await.text();
    let postfix = with_processes.lines().find(|line| line.contains(":25 ")).unwrap().to_owned();
    let pid = postfix.split("pid=").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let processes = run(&guest, "ps -e -o pid=,unit=").await.text();
    assert!(processes.lines().any(|line| line.trim() == format!("{pid} postfix.service")), "{processes}");
    assert_eq!(run(&guest, "printenv SSH_CONNECTION").await.text(), "10.0.5.1 40022 10.0.5.12 22\n");
    assert!(run(&guest, "ip route get 10.0.5.1").await.text().starts_with("10.0.5.1 dev eth0 "));
    assert_eq!(run(&guest, "ip -4 route replace unreachable 10.0.5.0/25").await.status, 0);
    let boot_id = guest.read_file(Path::new("/proc/sys/kernel/random/boot_id"), 100).await.unwrap().unwrap();
    assert_eq!(run(&guest, "cat /proc/sys/kernel/random/boot_id").await.stdout, boot_id);
    let addresses: serde_json::Value = serde_json::from_str(&run(&guest, "ip -j addr show").await.text()).unwrap();
    assert_eq!(addresses[1]["addr_info"][0]["local"], "10.0.5.12");
    let free: u64 = run(&guest, "df --output=avail -B1 /").await.text().lines().nth(1).unwrap().parse().unwrap();
    assert!(free > 1 << 30);
    assert!(run(&guest, "df -P -B1 /srv/mail").await.text().contains(" /srv/mail\n"));
    let sizes = Command::new(["dpkg-query", "-W", "-f=${db:Status-Abbrev}\t${Package}\t${Installed-Size}\n"]);
    assert!(guest.run(&sizes).await.unwrap().text().contains("ii \tpostfix\t4096\n"));
    let list =
        ["find", "/etc/apt", "-maxdepth", "2", "(", "-type", "f", "-o", "-type", "l", ")", "-printf", "%y %m %p\\0"];
    let listed = guest.run(&Command::new(list)).await.unwrap().text();
    assert_eq!(listed, "f 644 /etc/apt/sources.list\0");
    assert_eq!(run(&guest, "find /etc/nothing").await.status, 1);
    let shell = Command::new(["sh", "-c", "true && hostname && false && echo never"]);
    let shell = guest.run(&shell).await.unwrap();
    assert_eq!((shell.status, shell.text().as_str()), (1, "mercure\n"));
    assert_eq!(guest.run(&Command::new(["sh", "-c", "echo `id`"])).await.unwrap().status, 127);
    let short = Command { limit: 3, ..Command::new(["hostname"]) };
    let short = guest.run(&short).await.unwrap();
    assert_eq!((short.stdout.as_slice(), short.truncated), (b"mer".as_slice(), true));
}

#[tokio::test]
async fn services_are_stopped_masked_and_fail() {
    let (_dir, sim) = world();
    let guest = inside(&sim);
    assert_eq!(run(&guest, "systemctl mask --now postfix").await.status, 0);
    assert_eq!(run(&guest, "systemctl is-active postfix").await.text(), "inactive\n");
    assert_eq!(run(&guest, "systemctl start postfix").await.status, 1);
    assert_eq!(run(&guest, "systemctl is-enabled postfix").await.text(), "masked\n");
    sim.configure(|config| config.failing_units = BTreeSet::from(["nginx".to_owned()])).unwrap();
    assert_eq!(run(&guest, "systemctl reboot").await.status, 0);
    assert_eq!(run(&guest, "systemctl is-active postfix").await.text(), "inactive\n", "a mask outlives a reboot");
    let running = run(&guest, "systemctl is-system-running --wait").await;
    assert_eq!((running.status, running.text().as_str()), (1, "degraded\n"));
    assert!(run(&guest, "systemctl list-units --failed --plain --no-legend").await.text().starts_with("nginx.service"));
    let all =
        run(&guest, "systemctl list-units --type=service --all --plain --no-legend --no-pager --full").await.text();
    for line in
        ["postfix.service masked inactive dead", "nginx.service loaded failed failed", "ssh.service loaded active"]
    {
        assert!(all.contains(line), "{all}");
    }
    let enabled =
        run(&guest, "systemctl list-unit-files --type=service --state=enabled --plain --no-legend").await.text();
    assert!(enabled.contains("nginx.service enabled") && !enabled.contains("postfix"), "{enabled}");
    assert_eq!(run(&guest, "systemctl unmask postfix").await.status, 0);
    assert_eq!(run(&guest, "systemctl start postfix").await.status, 0);
    // Without sshd there is no way in.
    assert_eq!(run(&guest, "systemctl stop ssh").await.status, 0);
    assert!(guest.run(&Command::new(["true"])).await.unwrap_err().is_unknown());
}

#[tokio::test]
async fn a_reboot_from_inside_uses_the_definition_it_runs_by() {
    let (_dir, sim) = world();
    let original = sim.definition("mercure").await.unwrap().unwrap();
    let mac = DefinitionEdit { macs: vec![Some("00:16:3e:00:05:99".parse().unwrap())], ..Default::default() };
    sim.define(&sim.derive(&original, &mac).unwrap()).await.unwrap();
    let owner = async || sim.net().owner(ip("10.0.5.12"), "br5").await.unwrap().unwrap().to_string();
    run(&inside(&sim), "systemctl reboot").await;
    assert_eq!(owner().await, "00:16:3e:00:05:0c");
    let capabilities = Capabilities { reboots_from_memory: false, ..sim.capabilities() };
    sim.configure(|config| config.capabilities = capabilities).unwrap();
    run(&inside(&sim), "systemctl reboot").await;
    assert_eq!(owner().await, "00:16:3e:00:05:99");
}

#[tokio::test]
async fn the_way_in_wants_an_owner_and_its_key() {
    let (_dir, sim) = world();
    let good = link(&sim, "mercure", "10.0.5.12");
    let nobody = GuestLink { address: ip("10.0.5.77"), ..good.clone() };
    assert!(sim.guest(&nobody).unwrap().run(&Command::new(["true"])).await.unwrap_err().is_unknown());
    let other_name = GuestLink { name: "venus".into(), ..good.clone() };
    let error = sim.guest(&other_name).unwrap().run(&Command::new(["true"])).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error}");
    fs::write(&good.known_hosts, "").unwrap();
    let error = sim.guest(&good).unwrap().run(&Command::new(["true"])).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error}");
}

#[tokio::test]
async fn files_of_a_guest_stay_in_it() {
    let (_dir, sim) = world();
    let guest = inside(&sim);
    std::os::unix::fs::symlink("/../../../../etc/hostname", sim.volumes().join("mercure/root/link")).unwrap();
    assert_eq!(guest.read_file(Path::new("/root/link"), 100).await.unwrap().unwrap(), b"mercure\n");
    assert!(guest.read_file(Path::new("/etc/hosts"), 3).await.is_err(), "larger than allowed");
    assert_eq!(guest.read_file(Path::new("/etc/nothing"), 3).await.unwrap(), None);
    let path = Path::new("/root/../root/new");
    assert_eq!(guest.write_file(path, b"x", 0o600).await.unwrap(), Change::Created);
    assert_eq!(guest.write_file(path, b"x", 0o600).await.unwrap(), Change::Unchanged);
    assert_eq!(guest.write_file(path, b"x", 0o644).await.unwrap(), Change::Changed);
    assert_eq!(fs::read(sim.volumes().join("mercure/root/new")).unwrap(), b"x");
}

#[tokio::test]
async fn faults_strike_once_and_are_traced() {
    let (_dir, sim) = world();
    let fault = |op: &str, nth: u32, how: How| Fault { op: op.into(), object: Some("mercure".into()), nth, how };
    sim.destroy("mercure").await.unwrap();
    sim.inject(fault("start", 1, How::Fail)).unwrap();
    sim.inject(fault("start", 2, How::UnknownBefore)).unwrap();
    sim.inject(fault("start", 3, How::UnknownAfter)).unwrap();
    sim.inject(fault("destroy", 1, How::DelayMs(30))).unwrap();
    assert!(matches!(sim.start("mercure").await.unwrap_err().cause, Cause::Platform(_)));
    assert!(sim.start("mercure").await.unwrap_err().is_unknown());
    assert_eq!(sim.power("mercure").await.unwrap(), Power::Off);
    assert!(sim.start("mercure").await.unwrap_err().is_unknown());
    assert_eq!(sim.power("mercure").await.unwrap(), Power::On, "it was done");
    let began = std::time::Instant::now();
    sim.destroy("mercure").await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert_eq!(sim.start("mercure").await.unwrap(), Change::Changed);
    assert!(sim.faults().unwrap().is_empty());
    let trace = sim.trace().unwrap();
    let faults: Vec<_> = trace.iter().filter_map(|entry| entry.fault).collect();
    assert_eq!(faults, [How::Fail, How::UnknownBefore, How::UnknownAfter, How::DelayMs(30)]);
    assert_eq!(trace.iter().map(|entry| entry.seq).collect::<Vec<_>>(), (1..=trace.len() as u64).collect::<Vec<_>>());
    // As the operator writes it.
    let text = r#"[{"op": "power", "how": {"delay_ms": 1}}, {"op": "guest.run", "object": "hostname", "nth": 2, "how": "fail"}]"#;
    fs::write(sim.dir().join("faults.json"), text).unwrap();
    let guest = inside(&sim);
    run(&guest, "hostname").await;
    assert!(guest.run(&Command::new(["hostname"])).await.is_err());
    sim.power("mercure").await.unwrap();
    assert!(sim.faults().unwrap().is_empty());
}

#[tokio::test]
async fn a_shutdown_that_takes_too_long_is_uncertain() {
    let (_dir, sim) = world();
    sim.configure(|config| config.shutdown_ms = 50).unwrap();
    assert!(sim.shutdown("mercure", Duration::from_millis(5)).await.unwrap_err().is_unknown());
    assert_eq!(sim.power("mercure").await.unwrap(), Power::On);
    assert_eq!(sim.shutdown("mercure", PATIENCE).await.unwrap(), Change::Changed);
    assert_eq!(sim.shutdown("mercure", PATIENCE).await.unwrap(), Change::Unchanged);
}

#[tokio::test]
async fn the_machine_has_files_and_hooks() {
    let (_dir, sim) = world();
    let host = sim.host();
    assert!(host.is_local());
    let path = Path::new("/usr/local/bin/hook");
    assert_eq!(host.write_file(path, b"#!/bin/sh\nexit 7\n", 0o755).await.unwrap(), Change::Created);
    assert_eq!(host.run(&Command::new(["/usr/local/bin/hook", "x"])).await.unwrap().status, 7);
    assert_eq!(run(&host, "echo hi").await.text(), "hi\n");
    let error = host.run(&Command::new(["nosuch"])).await.unwrap_err();
    assert!(matches!(error.cause, Cause::NotFound(_)), "{error}");
}

#[test]
fn controllers_take_turns() {
    let (_dir, sim) = world();
    let before = sim.trace().unwrap().len();
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let sim = Sim::open(sim.dir()).unwrap();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                for _ in 0..10 {
                    runtime
                        .block_on(sim.net().announce(ip("10.0.5.12"), "02:00:00:00:00:01".parse().unwrap(), "br5"))
                        .unwrap();
                    sim.inject(Fault { op: format!("never-{worker}"), object: None, nth: 1, how: How::Fail }).unwrap();
                }
            });
        }
    });
    let trace = sim.trace().unwrap();
    assert_eq!(trace.len(), before + 60);
    assert!(trace.iter().zip(1..).all(|(entry, seq)| entry.seq == seq));
    assert_eq!(sim.faults().unwrap().len(), 60);
}

/// Does nothing by itself: what `killed_controllers_leave_a_whole_world` kills. (Not an ignored test: CI counts that as
/// a skipped test.)
#[tokio::test]
async fn victim() {
    let Ok(dir) = std::env::var("SIM_VICTIM") else { return };
    let sim = Sim::open(Path::new(&dir)).unwrap();
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let target = sim.volume_ref("mercure--k3f9");
    storage.snapshot(&sim.volume_ref("mercure"), &target, &mark("mercure--k3f9")).await.unwrap();
}

#[tokio::test]
async fn killed_controllers_leave_a_whole_world() {
    use std::os::unix::process::ExitStatusExt;
    let ours = mark("mercure--k3f9");
    for (how, expected) in
        [(How::KillBefore, Snapshot::Absent), (How::KillMid, Snapshot::Partial), (How::KillAfter, Snapshot::Present)]
    {
        let (_dir, sim) = world();
        sim.inject(Fault { op: "storage.snapshot".into(), object: None, nth: 1, how }).unwrap();
        let victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sim::tests::victim"])
            .env("SIM_VICTIM", sim.dir())
            .output()
            .unwrap();
        assert_eq!(victim.status.signal(), Some(9), "{how:?}");
        let sim = Sim::open(sim.dir()).unwrap();
        let storage = sim.storage(VolumeKind::Sim).unwrap();
        let target = sim.volume_ref("mercure--k3f9");
        assert_eq!(storage.probe(&target, &ours).await.unwrap(), expected, "{how:?}");
        assert!(sim.faults().unwrap().is_empty(), "a resumed controller is not killed again");
        let again = storage.snapshot(&sim.volume_ref("mercure"), &target, &ours).await.unwrap();
        assert_eq!(again, if expected == Snapshot::Present { Change::Unchanged } else { Change::Created });
        assert_eq!(sim.power("mercure").await.unwrap(), Power::On);
    }
}
