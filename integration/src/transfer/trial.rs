//! What the tests with guests share: a host of jails and a server in a lab of their own, and the product.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::{Said, Upgradectl};
use crate::lab::jails::{self, JAILHOST, SERVER};
use crate::lab::{Lab, Standing, known};
use crate::struck::Stage;
use crate::verb::{Verb, event};
use anyhow::Result;

/// Parked, the server answers there.
pub const PARKED: u8 = SERVER.host + 200;
/// Where the clone answers.
pub const CLONE: u8 = 33;

/// The two machines and the product.
#[derive(Debug)]
pub struct Trial {
    /// Its lab; all of it goes when this does.
    pub lab: Standing,
    /// The product on the lab's inventory and state.
    pub product: Upgradectl,
    told: PathBuf,
}

/// What promotion brings over.
const CARRY: &str = "carry = [{ kind = \"rsync\", path = \"/var/mail/\" }]";

impl Trial {
    /// A lab with both of them, the server of a release; the inventory says nothing of an upgrade.
    ///
    /// # Errors
    /// That failed.
    pub fn new(release: &str) -> Result<Trial> {
        let lab = Lab::numbered(1)?.standing(&[])?;
        jails::up(&lab, release)?;
        jails::declare(&lab, CARRY)?;
        let product = Upgradectl::in_lab(&lab)?.under(known::to(&lab));
        let told = lab.path("told");
        Ok(Trial { lab, product, told })
    }

    /// A lab with three servers of a release, whose base systems are upgraded.
    ///
    /// # Errors
    /// That failed.
    pub fn three(release: &str) -> Result<Trial> {
        let lab = Lab::numbered(1)?.standing(&[])?;
        let servers = [SERVER, jails::MORE[0], jails::MORE[1]];
        jails::up_with(&lab, &servers, release)?;
        let upgrade = "upgrade = { recipe = \"freebsd-world\", src = \"/usr/src\", base = \"/usr/src12\" }";
        jails::declare_with(&lab, &servers, upgrade)?;
        let product = Upgradectl::in_lab(&lab)?.under(known::to(&lab));
        let told = lab.path("told");
        Ok(Trial { lab, product, told })
    }

    /// The guest's base system is upgraded, too, from here on.
    ///
    /// # Errors
    /// That failed.
    pub fn world(&self, keys: &str) -> Result<()> {
        jails::declare(&self.lab, &format!("{CARRY}\nupgrade = {{ recipe = \"freebsd-world\", {keys} }}"))
    }

    /// The server has become a jail: from here on the inventory has that, with an upgrade of its base system.
    ///
    /// # Errors
    /// That failed.
    pub fn is_a_jail(&self, keys: &str) -> Result<()> {
        let upgrade = format!("{CARRY}\nupgrade = {{ recipe = \"freebsd-world\", {keys} }}");
        jails::declare_there(&self.lab, &SERVER, &upgrade)
    }

    /// Types a command; it must end with this exit code.
    ///
    /// # Errors
    /// That failed.
    pub fn says(&self, line: &str, code: i32) -> Result<Said> {
        let said = self.product.run(line.split(' '))?;
        eprintln!("{line}: {}, {:.1} s", said.code, said.took.as_secs_f64());
        said.expect(code)
    }

    /// Begins a verb and ends it as kill -9 does, a while after a step of this kind and title has begun.
    ///
    /// # Errors
    /// That failed.
    pub fn killed(&self, line: &str, kind: &str, title: &str, after: Duration) -> Result<()> {
        let mut verb = Verb::begin(line, self.product.command(line.split(' ')).arg("--json"))?;
        verb.until(event("step_started", kind, title))?;
        std::thread::sleep(after);
        verb.kill()
    }

    /// What a command prints on a machine of the lab.
    ///
    /// # Errors
    /// That failed.
    pub fn on(&self, host: u8, command: &str) -> Result<String> {
        self.lab.ssh(&self.lab.address(host), ["sh", "-c", command])
    }

    /// What there is on the host of jails: definitions, running jails, trees.
    ///
    /// # Errors
    /// That failed.
    pub fn host(&self) -> Result<String> {
        let look = "cd /etc && for f in rc.conf jail.conf jail.*.conf; do test -f $f && { echo \"== $f\"; cat $f; }; done; jls -n name; ls /usr/jails; ls /usr/jails/.upgradectl 2>/dev/null | grep -v '^packages-'; ip -4 -o address show dev eth0 | awk '{ print $4 }'; cat /var/db/jailhost/zfs 2>/dev/null; true";
        self.on(JAILHOST.host, look)
    }

    /// What there is on the server, wherever it is.
    ///
    /// # Errors
    /// That failed.
    pub fn server(&self, host: u8) -> Result<String> {
        let look = "cat /etc/rc.conf; for s in cron sendmail; do service $s onestatus; done | sed 's/pid.*//'; ip -4 -o address show dev eth0 | awk '{ print $4 }'; netstat -rn | tail -1; find -x / /usr -name .snap; ls -A /var/db";
        self.on(host, look)
    }

    /// The name of the run, by its jail's tree.
    ///
    /// # Errors
    /// That failed.
    pub fn tree(&self) -> Result<String> {
        let listed = self.on(JAILHOST.host, "ls /usr/jails")?;
        Ok(format!("/usr/jails/{}", listed.trim()))
    }

    /// What there is on both.
    ///
    /// # Errors
    /// That failed.
    pub fn everything(&self) -> Result<String> {
        Ok(format!("{}\n{}", self.host()?, self.server(SERVER.host)?))
    }
}

impl Stage for Trial {
    fn guest(&self) -> &str {
        "ServerA"
    }
    fn product(&self) -> &Upgradectl {
        &self.product
    }
    fn told(&self) -> &Path {
        &self.told
    }
    fn world(&self) -> Result<String> {
        self.everything()
    }
}
