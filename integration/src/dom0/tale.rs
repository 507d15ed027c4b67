//! What tests tell of mercure, a guest that boots: who wrote what, and what is there.

use anyhow::{Result, ensure};

use super::guest::{Guest, MERCURE};
use super::session::INVENTORY;
use super::{Dom0, Toolstack};
use crate::cli::Said;

/// The clone's address.
pub const CLONE: &str = "10.0.5.16";

/// The volumes a guest may stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thickness {
    /// An LV, its snapshots thick.
    Thick,
    /// A volume of a pool.
    Thin,
}

/// mercure in trolls, and the product that looks after it.
#[derive(Debug)]
pub struct Tale<'a> {
    /// Where.
    pub dom0: &'a Dom0,
    toolstack: Toolstack,
}

impl<'a> Tale<'a> {
    /// mercure, placed on a volume `mercure` of this size and defined, not started.
    ///
    /// # Errors
    /// No room, or the definition is refused.
    pub fn begin(dom0: &'a Dom0, toolstack: Toolstack, on: Thickness, size: &str) -> Result<Tale<'a>> {
        match on {
            Thickness::Thick => dom0.vg().thick("mercure", size)?,
            Thickness::Thin => {
                dom0.vg().pool("pool", "3g")?;
                dom0.vg().thin("mercure", "pool", size)?;
            }
        }
        dom0.place(&MERCURE, "mercure")?;
        dom0.define_for(toolstack, &MERCURE, "mercure", true)?;
        Ok(Tale::of(dom0, toolstack))
    }

    /// A mercure that is there, whatever it stands on.
    pub fn of(dom0: &'a Dom0, toolstack: Toolstack) -> Tale<'a> {
        Tale { dom0, toolstack }
    }

    /// Gives the product its inventory; `keys` are lines of `[guests.mercure]`.
    ///
    /// # Errors
    /// It could not be written.
    pub fn inventory(&self, keys: &str) -> Result<()> {
        let host = match self.toolstack {
            Toolstack::Libvirt => r#"hypervisor = "libvirt", uri = "xen:///system""#,
            Toolstack::Xl => r#"hypervisor = "xl""#,
        };
        self.inventory_of(host, "", keys)
    }

    /// As [`Tale::inventory`], with other hosts beside trolls: how trolls is driven, and lines of `[hosts]`.
    ///
    /// # Errors
    /// As [`Tale::inventory`].
    pub fn inventory_of(&self, trolls: &str, others: &str, keys: &str) -> Result<()> {
        self.dom0.install_product()?;
        self.dom0.upload(
            INVENTORY,
            format!(
                "version = 1
[defaults]
ssh = {{ user = \"root\", key = \"/root/.ssh/id_ed25519\" }}
[hosts]
trolls = {{ {trolls} }}
{others}
[guests.mercure]
host = \"trolls\"
{keys}
"
            ),
        )
    }

    /// Starts mercure and waits until its boot is over.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&self) -> Result<()> {
        self.dom0.start(MERCURE.name)?;
        self.dom0.wait_for_guest(&MERCURE)
    }

    /// A verb that has to end well.
    ///
    /// # Errors
    /// It did not.
    pub fn verb(&self, name: &str, more: &[&str]) -> Result<Said> {
        let said = self.dom0.upgradectl([name, MERCURE.name].into_iter().chain(more.iter().copied()))?.expect(0)?;
        eprintln!("{name}: {:.0} s\n{}{}", said.took.as_secs_f64(), said.stderr, said.stdout);
        Ok(said)
    }

    /// A file that a side writes, on its disk when this returns.
    ///
    /// # Errors
    /// It does not answer.
    pub fn writes(&self, address: &str, name: &str) -> Result<()> {
        let script = format!("echo {name} > /root/{name}; sync");
        self.dom0.in_guest(address, ["sh", "-c", &script])?.expect(0).map(drop)
    }

    /// The files that a side has of those written.
    ///
    /// # Errors
    /// It does not answer.
    pub fn reads(&self, address: &str) -> Result<String> {
        Ok(words(&self.dom0.in_guest(address, ["ls", "/root"])?.expect(0)?.stdout))
    }

    /// What production has of the files written must be this, and it must be up at its own address.
    ///
    /// # Errors
    /// It is not.
    pub fn production_has(&self, files: &str) -> Result<()> {
        let found = self.reads(&Guest::address(&MERCURE))?;
        ensure!(found == files, "production has {found:?}, not {files:?}");
        Ok(())
    }

    /// The volumes of vg1 must be these, hidden ones included, and bear no tag.
    ///
    /// # Errors
    /// They are not.
    pub fn volumes_are(&self, names: &str) -> Result<()> {
        let listed = self.dom0.output(["lvs", "--all", "--noheadings", "--options", "lv_name,lv_tags", "vg1"])?;
        ensure!(words(&listed) == names, "volumes and tags: {:?}, not {names:?}", words(&listed));
        Ok(())
    }

    /// The definition of mercure as the toolstack keeps it.
    ///
    /// # Errors
    /// There is none.
    pub fn definition(&self) -> Result<String> {
        match self.toolstack {
            Toolstack::Libvirt => self.dom0.virsh(["dumpxml", "--inactive", MERCURE.name]),
            Toolstack::Xl => self.dom0.output(["cat", "/etc/xen/mercure.cfg"]),
        }
    }

    /// What starts with the host.
    ///
    /// # Errors
    /// As [`Dom0::output`].
    pub fn autostart(&self) -> Result<String> {
        match self.toolstack {
            Toolstack::Libvirt => {
                self.dom0.virsh(["list", "--all", "--autostart", "--name"]).map(|names| words(&names))
            }
            Toolstack::Xl => self.dom0.output(["ls", "/etc/xen/auto"]).map(|names| words(&names)),
        }
    }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
