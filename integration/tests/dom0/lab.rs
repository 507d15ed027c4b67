//! The lab itself: a Xen host, the product in it, and the power cut.

use std::net::TcpStream;

use anyhow::{Result, ensure};
use integration::dom0::{Dom0, Toolstack, ring, session};
use integration::process::Process;

#[test]
fn a_lab_leaves_nothing() -> Result<()> {
    let dom0 = Dom0::numbered(2)?;
    dom0.prepare()?;
    dom0.power_on(Toolstack::Libvirt)?;
    let address = format!("127.0.0.1:{}", session::port(&dom0)?);
    ensure!(TcpStream::connect(&address).is_ok() && dom0.leftovers().len() == 2, "{:?}", dom0.leftovers());
    let again = dom0.power_on(Toolstack::Libvirt);
    ensure!(again.is_err_and(|error| error.to_string().contains("is on")), "two machines on one disk");
    let process = Process::noted(&dom0.path("process"));
    ensure!(process.as_ref().is_some_and(Process::is_alive));

    dom0.down()?;
    ensure!(dom0.leftovers().is_empty() && !dom0.dir().exists(), "{:?}", dom0.leftovers());
    ensure!(process.is_some_and(|process| !process.is_alive()) && TcpStream::connect(&address).is_err());
    Ok(())
}

#[test]
fn trolls_is_a_xen_host_with_a_volume_group() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    ensure!(dom0.output(["hostname"])? == "trolls");
    let info = dom0.output(["xl", "info"])?;
    let line = |name: &str| info.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    ensure!(line("xen_major").ends_with(": 4") && line("xen_minor").ends_with(": 17"), "{info}");
    ensure!(dom0.virsh(["uri"])?.trim() == "xen:///system");
    ensure!(dom0.run(["systemctl", "is-active", "xendomains"])?.code != 0, "both toolstacks run");
    let group = dom0.output(["vgs", "--noheadings", "--units", "g", "--options", "vg_name,vg_size,lv_count", "vg1"])?;
    let group: Vec<&str> = group.split_whitespace().collect();
    ensure!(group[0] == "vg1" && group[1].trim_start_matches('<') == "12.00g" && group[2] == "0", "{group:?}");
    Ok(())
}

#[test]
fn commands_and_files_arrive_as_they_are() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let said = dom0.run(["sh", "-c", "echo \"$1\"; echo no >&2; exit 3", "sh", "it's $HOME; *"])?;
    ensure!((said.code, said.stdout.as_str(), said.stderr.as_str()) == (3, "it's $HOME; *\n", "no\n"), "{said}");
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    dom0.upload("/root/lab/bytes", bytes.clone())?;
    std::fs::write(dom0.share("bytes"), &bytes)?;
    dom0.output(["cmp", "/root/lab/bytes", "/share/bytes"])?;
    dom0.output(["rm", "-r", "/root/lab"]).map(drop)
}

#[test]
fn the_product_runs_in_dom0() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let inventory = "version = 1\n\n[hosts]\nhere = { hypervisor = \"libvirt\", uri = \"xen:///system\" }\n";
    dom0.upload(integration::dom0::session::INVENTORY, inventory)?;
    let said = dom0.upgradectl(["status"])?.expect(0)?;
    ensure!(said.stdout.contains("no open runs") || said.stderr.contains("no open runs"), "{said}");
    dom0.upgradectl(["status", "--no-such-option"])?.expect(2).map(drop)
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_loses_memory() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let vg = dom0.vg();
    vg.thick("data", "64m")?;
    let data = vg.fill("data", 3, 48)?;
    vg.thick("files", "64m")?;
    dom0.output(["mkfs.ext4", "-q", "/dev/vg1/files"])?;
    // Stays mounted; one file is synced, the other is only in memory when the power goes.
    dom0.sh("mkdir -p /mnt/files; mount -o commit=600 /dev/vg1/files /mnt/files; cd /mnt/files
        echo kept > synced; sync synced .; echo lost > unsynced; echo lost > /run/lost")?;
    // And a merge is under way.
    vg.thick("o", "64m")?;
    let old = vg.fill("o", 1, 60)?;
    vg.thick_snapshot("o", "s", "68m")?;
    vg.fill("o", 2, 60)?;
    let boot = dom0.output(["cat", "/proc/sys/kernel/random/boot_id"])?;
    // The disk takes a mebibyte a second until the power goes: the merge would be over in one.
    dom0.slow_volumes(1 << 20)?;
    let under_way = dom0.sh("lvconvert --background --merge vg1/s; lvs --all --noheadings --options lv_name vg1")?;
    ensure!(under_way.contains("[s]"), "the merge was over before the power went: {under_way}");

    dom0.power_cycle()?;
    ensure!(dom0.output(["cat", "/proc/sys/kernel/random/boot_id"])? != boot);
    ensure!(vg.checksum("data", 48)? == data);
    let found = vg.mounted("files", "cat synced; [ ! -s unsynced ]; [ ! -e /run/lost ]")?;
    ensure!(found == "kept", "{found}");
    vg.merged("s")?;
    ensure!(vg.checksum("o", 60)? == old, "the merge goes on where it was");
    Ok(())
}
