//! The volume group vg1: volumes made and looked at with LVM's own tools, and known data in them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Dom0;
use crate::lab::look::until;

/// The volume group of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Vg<'a> {
    dom0: &'a Dom0,
}

/// What `lvs` says of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// `lv_attr`, as `swi-a-s---`.
    pub attr: String,
    /// Size, bytes.
    pub size: u64,
    /// What it is a snapshot of, or empty.
    pub origin: String,
    /// Its thin pool, or empty.
    pub pool: String,
    /// How full its exception store or pool is, as `0.02`, or empty.
    pub data_percent: String,
}

/// Makes the empty volume group on the lab's second disk.
///
/// # Errors
/// As `vgcreate`.
pub fn make(dom0: &Dom0) -> Result<()> {
    dom0.output(["vgcreate", "--quiet", "vg1", "/dev/vdb"]).map(drop)
}

impl Dom0 {
    /// The volume group vg1.
    pub fn vg(&self) -> Vg<'_> {
        Vg { dom0: self }
    }
}

impl Vg<'_> {
    /// A volume's device.
    pub fn device(&self, name: &str) -> String {
        format!("/dev/vg1/{name}")
    }

    /// Makes a thick volume; sizes as LVM reads them (`1g`, `64m`).
    ///
    /// # Errors
    /// As `lvcreate`.
    pub fn thick(&self, name: &str, size: &str) -> Result<()> {
        self.create(&["--size", size, "--name", name, "vg1"])
    }

    /// Makes a thin pool.
    ///
    /// # Errors
    /// As `lvcreate`.
    pub fn pool(&self, name: &str, size: &str) -> Result<()> {
        self.create(&["--type", "thin-pool", "--size", size, "--name", name, "vg1"])
    }

    /// Makes a thin volume in a pool.
    ///
    /// # Errors
    /// As `lvcreate`.
    pub fn thin(&self, name: &str, pool: &str, size: &str) -> Result<()> {
        self.create(&["--virtualsize", size, "--thinpool", pool, "--name", name, "vg1"])
    }

    /// Makes a thick snapshot with room for so many changes.
    ///
    /// # Errors
    /// As `lvcreate`.
    pub fn thick_snapshot(&self, origin: &str, name: &str, size: &str) -> Result<()> {
        self.create(&["--snapshot", "--size", size, "--name", name, &format!("vg1/{origin}")])
    }

    /// Makes a snapshot of a thin volume, and activates it.
    ///
    /// # Errors
    /// As `lvcreate`.
    pub fn thin_snapshot(&self, origin: &str, name: &str) -> Result<()> {
        self.create(&["--snapshot", "--setactivationskip", "n", "--name", name, &format!("vg1/{origin}")])
    }

    fn create(&self, args: &[&str]) -> Result<()> {
        // A signature that an earlier volume left in these extents is not asked about.
        let before = ["lvcreate", "--quiet", "--yes", "--wipesignatures", "y"];
        let before = if args[0] == "--size" { &before[..] } else { &before[..3] };
        self.dom0.output(before.iter().chain(args).copied()).map(drop)
    }

    /// Removes a volume, and the thick snapshots of it.
    ///
    /// # Errors
    /// As `lvremove`.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.dom0.output(["lvremove", "--quiet", "--yes", &format!("vg1/{name}")]).map(drop)
    }

    /// All volumes by name, hidden ones in brackets as `lvs` shows them.
    ///
    /// # Errors
    /// As `lvs`.
    pub fn volumes(&self) -> Result<BTreeMap<String, Volume>> {
        let fields = "lv_name,lv_attr,lv_size,origin,pool_lv,data_percent";
        let report = self.dom0.output([
            "lvs",
            "--all",
            "--reportformat",
            "json",
            "--units",
            "b",
            "--nosuffix",
            "--options",
            fields,
            "vg1",
        ])?;
        parse(&report)
    }

    /// One volume.
    ///
    /// # Errors
    /// There is none of this name, or as `lvs`.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        let all = self.volumes()?;
        all.get(name).cloned().with_context(|| format!("no volume {name} among {:?}", all.keys()))
    }

    /// Waits until the merge of a snapshot has drained: it is gone, not only hidden.
    ///
    /// # Errors
    /// Not within five minutes, or as `lvs`.
    pub fn merged(&self, snapshot: &str) -> Result<()> {
        until(Duration::from_secs(300), || {
            let volumes = self.volumes()?;
            ensure!(!volumes.keys().any(|name| name.trim_matches(['[', ']']) == snapshot), "{volumes:?}");
            Ok(())
        })
    }

    /// Fills the beginning of a volume with known data, written through to the disk: another seed is other data
    /// everywhere, and no part of it repeats. Returns its checksum, as [`Vg::checksum`].
    ///
    /// # Errors
    /// It could not be written.
    pub fn fill(&self, name: &str, seed: u8, mebibytes: u32) -> Result<String> {
        let (first, device) = (u64::from(seed) * 1_000_000_000, self.device(name));
        // `seq` ends by the closed pipe; the data that `tee` passes on is summed up, not read back.
        self.dom0.sh(&format!(
            "seq {first} 999999999999 2> /dev/null | head --bytes={mebibytes}M | tee {device} | sha256sum; sync {device}"
        ))
    }

    /// The checksum of a volume's first mebibytes, read from the disk.
    ///
    /// # Errors
    /// It could not be read.
    pub fn checksum(&self, name: &str, mebibytes: u32) -> Result<String> {
        let device = self.device(name);
        self.dom0.sh(&format!("dd if={device} bs=1M count={mebibytes} iflag=direct status=none | sha256sum"))
    }

    /// Runs a script with a volume mounted at its working directory; what it printed.
    ///
    /// # Errors
    /// It could not be mounted, or the script failed.
    pub fn mounted(&self, name: &str, script: &str) -> Result<String> {
        let at = format!("/mnt/{name}");
        let device = self.device(name);
        self.dom0.output(["mkdir", "-p", &at])?;
        self.dom0.output(["mount", &device, &at])?;
        let said = self.dom0.sh(&format!("cd {at}\n{script}"));
        self.dom0.output(["umount", &at])?;
        said
    }
}

/// Reads `lvs --reportformat json` with the fields of [`Vg::volumes`].
fn parse(report: &str) -> Result<BTreeMap<String, Volume>> {
    let report: Value = serde_json::from_str(report).context("what lvs printed")?;
    let rows = report["report"][0]["lv"].as_array().context("volumes in what lvs printed")?;
    rows.iter()
        .map(|row| {
            let field = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let name = field("lv_name");
            ensure!(!name.is_empty(), "a volume without a name: {row}");
            let size = field("lv_size").parse().with_context(|| format!("size of {name}"))?;
            let volume = Volume {
                attr: field("lv_attr"),
                size,
                origin: field("origin"),
                pool: field("pool_lv"),
                data_percent: field("data_percent"),
            };
            Ok((name, volume))
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read_from_a_report() {
        let report = r#"{"report": [{"lv": [
            {"lv_name":"o", "lv_attr":"owi-a-s---", "lv_size":"268435456", "origin":"", "pool_lv":"", "data_percent":""},
            {"lv_name":"[t]", "lv_attr":"Swi-aos---", "lv_size":"272629760", "origin":"o", "pool_lv":"", "data_percent":"0.02"}
        ]}]}"#;
        let volumes = parse(report).unwrap();
        assert_eq!(volumes["o"].size, 256 << 20);
        assert_eq!((volumes["[t]"].origin.as_str(), volumes["[t]"].data_percent.as_str()), ("o", "0.02"));
        assert!(parse(r#"{"report": []}"#).is_err());
    }
}
