//! The lab's network: a bridge, and NAT so that its guests reach the package mirror.
//!
//! Invariants: every iptables rule bears the lab's comment, and only such rules are removed. `ip_forward` belongs to
//! all labs together: the first one up remembers what it was, the last one down puts it back ([`Forwarding`]).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use super::Lab;
use crate::command::run;

/// Makes the bridge, the rules, and switches forwarding on.
///
/// # Errors
/// As `ip` and `iptables`.
pub fn up(lab: &Lab) -> Result<()> {
    let (bridge, comment) = (lab.bridge(), lab.comment());
    let net = format!("{}/24", lab.address(0));
    run("ip").args(["link", "add", &bridge, "type", "bridge"]).output()?;
    run("ip").args(["address", "add", &format!("{}/24", lab.address(1)), "dev", &bridge]).output()?;
    run("ip").args(["link", "set", &bridge, "up"]).output()?;
    let mark = ["-m", "comment", "--comment", &comment];
    let iptables = |rule: &[&str]| run("iptables").arg("--wait").args(rule).args(mark).output();
    // First in FORWARD: a firewall of the machine (docker's, say) may drop what it does not know.
    iptables(&["-t", "nat", "-A", "POSTROUTING", "-s", &net, "!", "-o", &bridge, "-j", "MASQUERADE"])?;
    iptables(&["-I", "FORWARD", "-i", &bridge, "-j", "ACCEPT"])?;
    iptables(&["-I", "FORWARD", "-o", &bridge, "-j", "ACCEPT"])?;
    Forwarding::of_this_machine().join(lab.number())
}

/// Removes the bridge, what hangs on it, and the rules; puts forwarding back if no other lab needs it.
///
/// # Errors
/// As `ip` and `iptables`.
pub fn down(lab: &Lab) -> Result<()> {
    let bridge = lab.bridge();
    if bridge_exists(lab) {
        let ports = run("ip").args(["-oneline", "link", "show", "master", &bridge]).output()?;
        for port in ports.lines().filter_map(|line| line.split([' ', '@', ':']).nth(2)) {
            // A dying guest takes its port along; it may be gone by now.
            run("ip").args(["link", "delete", port]).succeeds();
        }
        run("ip").args(["link", "delete", &bridge]).output()?;
    }
    for (table, rule) in rules(lab)? {
        let words = rule.split(' ').map(|word| word.trim_matches('"')).skip(1);
        run("iptables").args(["--wait", "-t", table, "-D"]).args(words).output()?;
    }
    Forwarding::of_this_machine().leave(lab.number())
}

/// Whether the lab's bridge is there.
pub fn bridge_exists(lab: &Lab) -> bool {
    Path::new("/sys/class/net").join(lab.bridge()).exists()
}

/// The rules with the lab's comment: table, and the rule as `iptables -S` prints it.
///
/// # Errors
/// As `iptables -S`.
pub fn rules(lab: &Lab) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for table in ["nat", "filter"] {
        let list = run("iptables").args(["--wait", "-t", table, "-S"]).output()?;
        let ours = |line: &&str| line.split(' ').any(|word| word.trim_matches('"') == lab.comment());
        found.extend(list.lines().filter(ours).map(|line| (table, line.to_owned())));
    }
    Ok(found)
}

/// The machine's `ip_forward` and the labs that need it on. A directory with a file per lab and one, `found`, with the
/// value found; changed under a lock.
#[derive(Debug)]
struct Forwarding {
    directory: PathBuf,
    switch: PathBuf,
}

impl Forwarding {
    fn of_this_machine() -> Forwarding {
        Forwarding {
            // In /run: after a reboot the value is the machine's own again.
            directory: "/run/upgradectl-lab".into(),
            switch: "/proc/sys/net/ipv4/ip_forward".into(),
        }
    }

    fn join(&self, lab: u8) -> Result<()> {
        let _lock = self.lock()?;
        let found = self.directory.join("found");
        if !found.exists() {
            fs::write(&found, fs::read(&self.switch)?)?;
        }
        fs::write(self.directory.join(lab.to_string()), "")?;
        fs::write(&self.switch, "1").context("switching ip_forward on")
    }

    fn leave(&self, lab: u8) -> Result<()> {
        if !self.directory.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let _ = fs::remove_file(self.directory.join(lab.to_string()));
        let others = fs::read_dir(&self.directory)?
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().parse::<u8>().is_ok());
        let found = self.directory.join("found");
        if !others && found.exists() {
            fs::write(&self.switch, fs::read(&found)?).context("putting ip_forward back")?;
            fs::remove_file(&found)?;
        }
        Ok(())
    }

    /// The lock file stays: removing it would let two labs hold "the" lock.
    fn lock(&self) -> Result<Flock<fs::File>> {
        fs::create_dir_all(&self.directory)?;
        let file = fs::File::create(self.directory.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("locking the labs' register")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_last_lab_down_puts_forwarding_back() {
        let place = tempfile::tempdir().unwrap();
        let forwarding = Forwarding { directory: place.path().join("labs"), switch: place.path().join("ip_forward") };
        let value = || fs::read_to_string(&forwarding.switch).unwrap();
        fs::write(&forwarding.switch, "0\n").unwrap();

        forwarding.join(0).unwrap();
        forwarding.join(1).unwrap();
        forwarding.join(1).unwrap();
        assert_eq!(value(), "1");
        forwarding.leave(0).unwrap();
        assert_eq!(value(), "1", "lab 1 still needs it");
        forwarding.leave(1).unwrap();
        assert_eq!(value(), "0\n");
        fs::write(&forwarding.switch, "1\n").unwrap();
        forwarding.leave(1).unwrap();
        assert_eq!(value(), "1\n", "no lab, no change");
    }
}
