//! Guests of other shapes: a root that is a plain directory; several network cards and IPv6.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::command::run;

use super::picture::{Picture, definition};
use super::trial::Trial;

#[test]
fn a_guest_on_a_plain_directory() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, place) = (&trial.lab, trial.lab.path("pool/plain"));
    let root = place.join("tiny");
    fs::create_dir(&place)?;
    trial.move_to(&root)?;
    let before = Picture::of(lab, "tiny", &root)?;
    let names = || -> Result<usize> { Ok(fs::read_dir(&place)?.count()) };

    trial.all(&["clone tiny", "abort tiny"])?;
    before.still(lab, "tiny")?;
    ensure!(names()? == 1);
    trial.all(&["clone tiny", "upgrade tiny", "verify tiny", "promote tiny --yes", "rollback tiny --yes"])?;
    before.still(lab, "tiny")?;
    trial.all(&["verify tiny", "promote tiny --yes", "commit tiny --yes"])?;
    ensure!(!root.exists() && names()? == 1, "{:?}", fs::read_dir(&place)?.collect::<Vec<_>>());
    ensure!(lab.ssh(&trial.address(), ["ls", "/root"])? == "upgraded");
    Ok(())
}

/// Whether anybody is at an address: a connection to a port nobody serves is refused by its owner.
fn answers(address: &str) -> bool {
    let Ok(ip) = address.parse() else { return false };
    let tried = TcpStream::connect_timeout(&SocketAddr::new(ip, 9), Duration::from_secs(2));
    tried.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn several_cards_and_ipv6() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address, clone) = (&trial.lab, trial.address(), trial.clone_address());
    let bridge = lab.bridge();
    for network in ["fd00:5::1/64", "10.99.5.1/24"] {
        run("ip").args(["address", "add", network, "dev", &bridge]).output()?;
    }
    run("ip").args(["link", "set", &bridge, "up"]).output()?;
    lab.virsh(["destroy", "tiny"])?;
    let interfaces = trial.root().join("etc/network/interfaces");
    let more = "\niface eth0 inet6 static\n    address fd00:5::20/64\n\nauto eth1\niface eth1 inet static\n    address 10.99.5.20\n    netmask 255.255.255.0\n";
    fs::write(&interfaces, fs::read_to_string(&interfaces)? + more)?;
    let card = format!(
        "    <interface type='bridge'>\n      <mac address='00:16:3e:00:06:14'/>\n      <source bridge='{bridge}'/>\n    </interface>\n    <console"
    );
    trial.redefine(|text| text.replacen("    <console", &card, 1))?;
    trial.start()?;
    let theirs = [address.as_str(), "fd00:5::20", "10.99.5.20"];
    let ours = [clone.as_str(), "fd00:5::24", "10.99.5.24"];
    ensure!(theirs.iter().all(|address| answers(address)), "{}", lab.ssh(&address, ["ip", "address"])?);
    let before = Picture::of(lab, "tiny", &trial.root())?;

    let said = trial.says("clone tiny --ip .24", 7)?;
    ensure!(said.stderr.contains("--ip eth0="), "{said}");
    // Asked by neighbour discovery: this machine has it.
    let said = trial.says("clone tiny --ip eth0=.24 --ip eth0=fd00:5::1", 7)?;
    ensure!(said.stderr.contains("fd00:5::1 answers neighbour solicitation"), "{said}");
    let said = trial.says("plan clone tiny --ip eth0=.24", 0)?;
    let text = format!("{}{}", said.stdout, said.stderr);
    ensure!(text.contains("fd00:5::20") && text.contains("10.99.5.20"), "what is taken off is not said: {said}");

    trial.says("clone tiny --ip eth0=.24 --ip eth0=fd00:5::24 --ip eth1=.24", 0)?;
    ensure!(theirs.iter().chain(&ours).all(|address| answers(address)), "{}", lab.ssh(&clone, ["ip", "address"])?);
    let shown = lab.ssh(&clone, ["ip", "address"])?;
    ensure!(!theirs.iter().any(|address| shown.contains(&format!("{address}/"))), "{shown}");
    trial.all(&["upgrade tiny", "verify tiny", "promote tiny --yes"])?;
    ensure!(theirs.iter().all(|address| answers(address)) && !ours.iter().any(|address| answers(address)));
    let promoted = definition(lab, "tiny")?;
    ensure!(promoted.contains("00:16:3e:00:05:14") && promoted.contains("00:16:3e:00:06:14"), "{promoted}");
    ensure!(lab.ssh(&address, ["ls", "/root"])? == "upgraded");
    trial.says("abort tiny --yes", 0)?;
    ensure!(theirs.iter().all(|address| answers(address)));
    before.still(lab, "tiny")
}
