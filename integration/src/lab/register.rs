//! What all labs of a machine share: who is up, and what the first one found.
//!
//! Labs change three things of the machine: `ip_forward` is switched on, libvirt makes control groups named `machine`
//! that it never removes, and `/run/libvirt` must be there for each lab to lay its own over it. The first lab up writes down how they were; the last one down puts them back. The
//! register is a directory in /run (after a reboot nothing is left to put back), changed under a lock.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

/// The register; see the module.
#[derive(Debug)]
pub struct Register {
    directory: PathBuf,
    forwarding: PathBuf,
    cgroups: PathBuf,
    run: PathBuf,
}

impl Register {
    /// That of this machine.
    pub fn of_this_machine() -> Register {
        Register {
            directory: "/run/upgradectl-lab".into(),
            forwarding: "/proc/sys/net/ipv4/ip_forward".into(),
            cgroups: "/sys/fs/cgroup".into(),
            run: "/run/libvirt".into(),
        }
    }

    /// A lab comes up: forwarding is on from now on.
    ///
    /// # Errors
    /// The register or the switch could not be written.
    pub fn join(&self, lab: u8) -> Result<()> {
        let _lock = self.lock()?;
        let (forwarding, no_groups) = (self.directory.join("ip_forward"), self.directory.join("no-machine-cgroups"));
        if !forwarding.exists() {
            if !self.run.exists() {
                fs::create_dir(&self.run)?;
                fs::write(self.directory.join("no-run"), "")?;
            }
            if self.machine_groups()?.is_empty() {
                fs::write(no_groups, "")?;
            }
            fs::write(&forwarding, fs::read(&self.forwarding)?)?;
        }
        fs::write(self.directory.join(lab.to_string()), "")?;
        fs::write(&self.forwarding, "1").context("switching ip_forward on")
    }

    /// A lab has gone; with the last one, things are put back as the first one found them.
    ///
    /// # Errors
    /// As [`Register::join`].
    pub fn leave(&self, lab: u8) -> Result<()> {
        if !self.directory.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let _ = fs::remove_file(self.directory.join(lab.to_string()));
        let others = fs::read_dir(&self.directory)?
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().parse::<u8>().is_ok());
        let (forwarding, no_groups) = (self.directory.join("ip_forward"), self.directory.join("no-machine-cgroups"));
        if others || !forwarding.exists() {
            return Ok(());
        }
        fs::write(&self.forwarding, fs::read(&forwarding)?).context("putting ip_forward back")?;
        if no_groups.exists() {
            for group in self.machine_groups()? {
                // Only an empty group can be removed: a guest that is not ours keeps it.
                let _ = fs::remove_dir(group);
            }
            fs::remove_file(no_groups)?;
        }
        if self.directory.join("no-run").exists() {
            // Empty unless the machine's own libvirt has been started since.
            let _ = fs::remove_dir(&self.run);
            fs::remove_file(self.directory.join("no-run"))?;
        }
        Ok(fs::remove_file(forwarding)?)
    }

    /// Removes the register itself, when no lab is up and none comes up: this is where its lock file goes.
    ///
    /// # Errors
    /// A lab is up.
    pub fn remove(&self) -> Result<()> {
        if !self.directory.exists() {
            return Ok(());
        }
        let lab = |name: std::ffi::OsString| name.to_string_lossy().parse::<u8>().is_ok();
        let up = fs::read_dir(&self.directory)?.filter_map(Result::ok).any(|entry| lab(entry.file_name()));
        anyhow::ensure!(!up, "a lab of another directory is up: what labs share stays");
        fs::remove_file(self.directory.join("lock"))?;
        fs::remove_dir(&self.directory).context("removing the labs' register")
    }

    /// libvirt's top groups: `machine` in the v2 tree, or in each v1 controller's.
    fn machine_groups(&self) -> Result<Vec<PathBuf>> {
        let mut groups = vec![self.cgroups.join("machine")];
        for entry in fs::read_dir(&self.cgroups)? {
            groups.push(entry?.path().join("machine"));
        }
        groups.retain(|group| group.is_dir() && !group.parent().is_some_and(|parent| parent.ends_with("machine")));
        Ok(groups)
    }

    /// The lock file stays: if it were removed, two labs could hold "the" lock.
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
    fn the_last_lab_down_puts_back_what_the_first_found() {
        let place = tempfile::tempdir().unwrap();
        let (forwarding, cgroups) = (place.path().join("ip_forward"), place.path().join("cgroup"));
        let register = Register {
            directory: place.path().join("labs"),
            forwarding: forwarding.clone(),
            cgroups: cgroups.clone(),
            run: place.path().join("run"),
        };
        let value = || fs::read_to_string(&forwarding).unwrap();
        fs::write(&forwarding, "0\n").unwrap();
        fs::create_dir_all(cgroups.join("cpu")).unwrap();

        register.join(0).unwrap();
        fs::create_dir(cgroups.join("cpu/machine")).unwrap();
        register.join(1).unwrap();
        register.join(1).unwrap();
        assert_eq!(value(), "1");
        register.leave(0).unwrap();
        assert_eq!(value(), "1", "lab 1 still needs it");
        register.leave(1).unwrap();
        assert_eq!(value(), "0\n");
        assert!(!cgroups.join("cpu/machine").exists(), "libvirt's empty group goes");
        assert!(!register.run.exists(), "what was made for the labs goes");

        fs::create_dir(cgroups.join("cpu/machine")).unwrap();
        register.join(0).unwrap();
        register.leave(0).unwrap();
        assert!(cgroups.join("cpu/machine").exists(), "one that was there before stays");
        fs::write(&forwarding, "1\n").unwrap();
        register.leave(0).unwrap();
        assert_eq!(value(), "1\n", "no lab, no change");
    }
}
