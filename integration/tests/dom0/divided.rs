//! A guest whose volume is a whole disk with partitions, `/home` on one of its own, with data that is carried on both.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use integration::cli::Said;
use integration::walk::{Stage, Walk};

use crate::world::World;

const CARRY: &str =
    "carry = [{ kind = \"rsync\", path = \"/home/probe\" }, { kind = \"rsync\", path = \"/var/www/html\" }]\n";

/// The original's sshd, as far as rsync goes: its `/home` and `/var` in the place of this machine's. $@: as for ssh.
const SSH: &str = r#"#!/bin/sh -eu
while [ "$1" != rsync ]; do shift; done
echo carried >> /var/lib/sim/through
cd /var/lib/sim/volumes/mercure
exec unshare --mount sh -euc 'mount --bind home /home; mount --bind var /var; exec "$@"' sh "$@"
"#;

/// The walk's stage. Each write of a guest also goes into what is carried; each read looks whether the right one is there.
struct Carried {
    world: World,
    /// What was written last, by the directory of a root.
    letters: RefCell<BTreeMap<String, String>>,
}

impl Stage for Carried {
    fn ctl(&self, args: &[&str]) -> Result<Said> {
        let before = self.world.root_of("mercure")?;
        let said = self.world.ctl(args)?;
        if args.contains(&"promote") && said.code == 0 {
            let letter = self.letters.borrow().get(&before).cloned().unwrap_or_default();
            self.letters.borrow_mut().insert(self.world.root_of("mercure")?, letter);
        }
        Ok(said)
    }
    fn write(&self, guest: &str, name: &str) -> Result<()> {
        self.world.inside(
            guest,
            &format!(
                "rm -f home/probe/letter-* var/www/html/letter-*
                 for place in home/probe var/www/html; do echo {name} > $place/letter-{name}; done
                 sync -f home"
            ),
        )?;
        self.letters.borrow_mut().insert(self.world.root_of(guest)?, name.to_owned());
        self.world.write(guest, name)
    }
    fn read(&self, guest: &str) -> Result<Vec<String>> {
        if let Some(name) = self.letters.borrow().get(&self.world.root_of(guest)?) {
            let found =
                self.world.inside(guest, "mountpoint -q home; cat home/probe/letter-* var/www/html/letter-*")?;
            ensure!(found == format!("{name}\n{name}"), "{guest} finds {found} where {name} was carried");
        }
        self.world.read(guest)
    }
    fn volumes(&self) -> Result<Vec<String>> {
        self.world.volumes()
    }
    fn definition(&self, guest: &str) -> Result<String> {
        self.world.definition(guest)
    }
    fn around(&self) -> Result<BTreeMap<String, String>> {
        let mut around = self.world.around()?;
        // Written by the walk, with a name that tells when.
        around.retain(|name, _| !name.contains("/letter-") && !name.contains("var/www/html"));
        let own = self.world.dom0.sh("ls -A /home; [ ! -e /var/www ] || find /var/www")?;
        ensure!(own.is_empty(), "this machine's own directories were written to: {own}");
        Ok(around)
    }
}

/// Clone to promote, rollback, to promote again, abort; what is carried is the original's each time.
pub fn divided(thick: bool) -> Result<()> {
    let world = World::divided(thick, CARRY)?;
    world
        .dom0
        .run_with(["install", "-m", "755", "/dev/stdin", "/usr/local/bin/ssh"], SSH.as_bytes().to_vec())?
        .expect(0)?;
    let stage = Carried { world, letters: RefCell::default() };
    let walked = Walk::new(&stage, "snapshot", thick).rollback_and_abort();
    stage.world.dom0.output(["rm", "/usr/local/bin/ssh"])?;
    walked?;
    // In advance, by both rules and both promotions.
    let through = stage.world.dom0.output(["cat", "/var/lib/sim/through"])?;
    ensure!(through.lines().count() == 4, "{through}");
    Ok(())
}
