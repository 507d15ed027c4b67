//! The lab itself: it comes up, serves, and goes without a trace, whatever happened to it.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::command::run;
use integration::lab::Lab;
use integration::lab::guest::{self, MERCURE, TINY};
use integration::mail::{self, Sender};

/// What is in `after` and was not in `before`.
fn new_lines(before: &str, after: &str) -> String {
    after.lines().filter(|line| !before.lines().any(|old| old == *line)).collect::<Vec<_>>().join("\n")
}

/// What a lab could leave on the machine, as the machine's own tools tell it.
fn machine() -> Result<String> {
    let mut all = String::new();
    for (program, args) in [
        ("ip", &["-brief", "link"][..]),
        ("iptables", &["-t", "nat", "-S"]),
        ("iptables", &["-S"]),
        ("findmnt", &["--list", "--noheadings", "--output", "TARGET"]),
        ("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]),
        ("sysctl", &["net.ipv4.ip_forward"]),
        ("ls", &["/run"]),
    ] {
        let only_ours = run(program).args(args).output()?;
        // Another lab may stand beside this one; the register of all labs stays.
        let others = ["ucl-br0", "upgradectl-lab"];
        let lines = only_ours.lines().filter(|line| !others.iter().any(|other| line.contains(other)));
        all.extend(lines.map(|line| format!("{line}\n")));
    }
    Ok(all)
}

#[test]
fn a_lab_serves_mail_and_leaves_nothing() -> Result<()> {
    let lab = Lab::numbered(1)?;
    lab.down()?;
    let before = machine()?;
    let lab = lab.standing(&[MERCURE])?;
    let address = lab.address(MERCURE.host);

    // The same files inside and outside, the data volume's too.
    ensure!(lab.ssh(&address, ["hostname"])? == "mercure");
    lab.ssh(&address, ["touch", "/srv/mail/seen", "/root/seen"])?;
    ensure!(lab.path("pool/guests/mercure-mail/seen").exists() && lab.path("pool/guests/mercure/root/seen").exists());

    // Services: http, and imap with the three messages.
    ensure!(lab.page(&address)?.contains("mercure serves"));
    ensure!(lab.messages(&address)? == 3);
    ensure!(lab.release(&address)? == "bookworm");
    ensure!(lab.unit(&address, "cron.service")? == "active");

    // The mirror is reached through NAT.
    lab.ssh(&address, ["apt-get", "-qq", "update"])?;

    // Mail keeps its promise through an outage.
    let sender = Sender::start(&address, "list@mercure.lab")?;
    std::thread::sleep(Duration::from_secs(3));
    lab.virsh(["destroy", "mercure"])?;
    std::thread::sleep(Duration::from_secs(2));
    guest::start(&lab, "mercure")?;
    guest::wait_for_ssh(&lab, &address, Duration::from_secs(60))?;
    std::thread::sleep(Duration::from_secs(3));
    let sent = sender.stop()?;
    ensure!(sent.accepted.len() >= 8 && sent.longest_gap > Duration::from_secs(2), "{sent:?}");
    mail::assert_once_each(&sent, &lab.path("pool/guests/mercure-mail/archive"), Duration::from_secs(30))?;

    lab.down()?;
    let left = new_lines(&before, &machine()?);
    ensure!(left.is_empty(), "left on the machine:\n{left}");
    Ok(())
}

#[test]
fn what_a_killed_daemon_left_is_taken_down() -> Result<()> {
    let lab = Lab::numbered(1)?;
    lab.down()?;
    let before = machine()?;
    let lab = lab.standing(&[TINY])?;
    let noted = fs::read_to_string(lab.path("libvirtd.process"))?;
    let id = noted.split(' ').next().unwrap_or_default().to_owned();
    run("kill").args(["-KILL", &id]).output()?;
    ensure!(lab.ssh(&lab.address(TINY.host), ["true"]).is_ok(), "a guest outlives the daemon");

    lab.down()?;
    ensure!(lab.leftovers().is_empty());
    let left = new_lines(&before, &machine()?);
    ensure!(left.is_empty(), "left on the machine:\n{left}");
    Ok(())
}

#[test]
fn two_labs_stand_side_by_side() -> Result<()> {
    let (one, two) = (Lab::numbered(1)?, Lab::numbered(2)?);
    let (one, two) = (one.standing(&[TINY])?, two.standing(&[TINY])?);
    ensure!(two.ssh(&two.address(TINY.host), ["hostname"])? == "tiny");
    // The second daemon's namespace was made with the first's pool in it: it must not hold the first's loop device.
    one.down()?;
    ensure!(two.ssh(&two.address(TINY.host), ["true"]).is_ok(), "the second lab lives on");
    ensure!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?.trim() == "1");
    two.down()
}
