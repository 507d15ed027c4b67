//! A server that is reached by ssh alone becomes a container of this machine, and takes the server's place. The server is a guest of the
//! lab; the product knows nothing of its domain.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::cli::{Said, Upgradectl};
use integration::lab::guest::{self, Guest, TINY};
use integration::lab::{Lab, Standing, jails, known};
use integration::struck::{At, BOTH, Stage, gives_up, goes_on};

use super::picture::{Picture, definition, subvolumes};

/// Of the container while it is a clone, and of the server while it is parked.
const CLONE: u8 = TINY.host + 4;
const PARKED: u8 = TINY.host + 200;

/// The server in a lab, and the product.
struct Trial {
    lab: Standing,
    product: Upgradectl,
    told: PathBuf,
}

impl Trial {
    /// On a btrfs of its own, by rsync.
    fn by_rsync() -> Result<Trial> {
        let lab = Lab::numbered(1)?.standing(&[TINY])?;
        let root = TINY.root(&lab);
        Trial::of(lab, "method = \"rsync\"", root)
    }

    /// On two ext4, by what the product finds there: dump.
    fn by_dump() -> Result<Trial> {
        let lab = Lab::numbered(1)?.standing(&[])?;
        let server = Guest { image: "freebsd", ..TINY };
        jails::linux(&lab, &server)?;
        let root = jails::server_root(&lab, &server);
        Trial::of(lab, "", root)
    }

    fn of(lab: Standing, method: &str, root: PathBuf) -> Result<Trial> {
        fs::create_dir(lab.path("pool/trees"))?;
        let (key, server) = (lab.key().display().to_string(), lab.address(TINY.host));
        let text = format!(
            "version = 1\n\n[hosts]\nhere = {{ hypervisor = \"libvirt\", uri = \"{}\", trees = \"{}\" }}\n\n\
             [guests.oldmail]\nhost = \"here\"\nclone = {{ strategy = \"transfer\", ip = [\".{CLONE}\"] }}\n\
             upgrade = {{ recipe = \"script\", run = [\"touch\", \"/root/upgraded\"] }}\n\
             carry = [{{ kind = \"rsync\", path = \"/srv/data/\" }}]\n\n\
             [guests.oldmail.source]\nssh = {{ address = \"{server}\", key = \"{key}\" }}\n{method}\nparking = \"{}\"\n",
            lab.uri(),
            lab.path("pool/trees").display(),
            lab.address(PARKED),
        );
        fs::write(lab.inventory(), text)?;
        known::write(&lab, &[(server, root)])?;
        let product = Upgradectl::in_lab(&lab)?.under(known::to(&lab));
        let told = lab.path("told");
        Ok(Trial { lab, product, told })
    }

    fn says(&self, line: &str, code: i32) -> Result<Said> {
        let said = self.product.run(line.split(' '))?;
        eprintln!("{line}: {}, {:.1} s", said.code, said.took.as_secs_f64());
        said.expect(code)
    }

    fn on(&self, host: u8, command: &str) -> Result<String> {
        self.lab.ssh(&self.lab.address(host), ["sh", "-c", command])
    }
}

impl Stage for Trial {
    fn guest(&self) -> &str {
        "oldmail"
    }
    fn product(&self) -> &Upgradectl {
        &self.product
    }
    fn told(&self) -> &Path {
        &self.told
    }
    /// Trees, domains, and what the product left beside them.
    fn world(&self) -> Result<String> {
        let trees: Vec<_> =
            fs::read_dir(self.lab.path("pool/trees"))?.filter_map(Result::ok).map(|e| e.file_name()).collect();
        Ok(format!("{:?} {trees:?} {:?}", self.lab.domains()?.keys(), subvolumes(&self.lab)?))
    }
}

/// Every step of a verb, by turns behind its intent and behind its effect.
fn by_turns(step: usize) -> Vec<At> {
    vec![BOTH[step % 2]]
}

/// An administrator's own service, and what a clone has to leave with the server.
const SERVES: &str = "sed -i '/^ListenAddress/d' /etc/ssh/sshd_config && systemctl restart ssh; \
    printf '[Unit]\\nDescription=app\\n[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/app.service; \
    systemctl daemon-reload; systemctl enable --now app.service; echo 'UUID=0a-1b / ext4 defaults 0 1' > /etc/fstab; \
    echo mine > /root/mine; ln /root/mine /root/mine2; truncate -s 1M /root/hole; echo kept > /var/cache/kept; \
    setfattr -n user.x -v y /root/mine 2>/dev/null; echo first > /srv/data/first";

#[test]
fn a_server_becomes_a_container_and_goes_back_and_stays() -> Result<()> {
    let trial = Trial::by_rsync()?;
    let lab = &trial.lab;
    trial.on(TINY.host, SERVES)?;
    let (world, root) = (trial.world()?, TINY.root(lab));
    let before = Picture::of(lab, TINY.name, &root)?;
    let app = |host: u8| trial.on(host, "systemctl is-active app.service; true");
    let is_container = |host: u8| trial.on(host, "tr '\\000' '\\n' < /proc/1/environ | grep ^LIBVIRT_LXC_NAME=");

    // Files that were put back have other times.
    let configuration = || {
        trial.on(
            TINY.host,
            "cd /etc; find . -printf '%p %m %U:%G %l\n' | sort; find . -type f -print0 | sort -z | xargs -0 md5sum",
        )
    };

    // Looking touches nothing.
    let said = trial.says("plan clone oldmail", 0)?;
    ensure!(said.stdout.contains("by rsync") && said.stdout.contains("goes over") && trial.world()? == world, "{said}");

    // rsync of the server ends in the middle, once: nothing is left.
    let broken = "printf '#!/bin/sh\\nrm -f /usr/local/bin/rsync\\nhead -c 100000 /dev/zero\\nexit 12\\n' > /usr/local/bin/rsync; chmod 755 /usr/local/bin/rsync";
    trial.on(TINY.host, broken)?;
    let said = trial.says("clone oldmail", 1)?;
    ensure!(said.stderr.contains("mirror / of oldmail") && trial.world()? == world, "{said}\n{}", trial.world()?);
    before.still(lab, TINY.name)?;

    goes_on(&trial, "clone oldmail", by_turns)?;
    let seen = trial.on(
        CLONE,
        "cat /root/mine2 /var/cache/kept /etc/fstab; stat -c %h /root/mine; stat -c %b /root/hole; hostname",
    )?;
    ensure!(seen == "mine\nkept\n# upgradectl: UUID=0a-1b / ext4 defaults 0 1\n2\n0\ntiny", "{seen}");
    ensure!(trial.on(CLONE, "cat /etc/machine-id")? != trial.on(TINY.host, "cat /etc/machine-id")?);
    ensure!(app(CLONE)? == "active" && is_container(CLONE)?.contains("oldmail--"));
    trial.says("upgrade oldmail", 0)?;
    trial.says("verify oldmail", 0)?;
    before.still(lab, TINY.name)?;

    trial.on(TINY.host, "echo late > /srv/data/late; rm /srv/data/first")?;
    let configured = configuration()?;
    goes_on(&trial, "promote oldmail --yes", by_turns)?;
    ensure!(is_container(TINY.host)? == "LIBVIRT_LXC_NAME=oldmail", "the container answers in its place");
    ensure!(trial.on(TINY.host, "ls /root /srv/data; cat /etc/machine-id")?.contains("upgraded\n\n/srv/data:\nlate"));
    ensure!(app(TINY.host)? == "active" && app(PARKED)? == "inactive");
    // It comes up there, without its services.
    lab.virsh(["destroy", TINY.name])?;
    guest::start(lab, TINY.name)?;
    guest::wait_for_ssh(lab, &lab.address(PARKED), Duration::from_secs(60))?;
    guest::wait_settled(lab, &lab.address(PARKED), Duration::from_secs(60))?;
    ensure!(app(PARKED)? == "inactive" && is_container(TINY.host)? == "LIBVIRT_LXC_NAME=oldmail");

    goes_on(&trial, "rollback oldmail --yes", by_turns)?;
    ensure!(is_container(TINY.host)? == "LIBVIRT_LXC_NAME=tiny" && app(TINY.host)? == "active", "the server is back");
    ensure!(configuration()? == configured, "as it was");
    ensure!(trial.on(CLONE, "ls /root")?.contains("upgraded"));

    trial.says("verify oldmail", 0)?;
    let said = trial.says("promote oldmail --yes", 0)?;
    ensure!(said.stdout.contains("without its services, at"), "{said}");
    goes_on(&trial, "commit oldmail --yes", by_turns)?;
    ensure!(is_container(TINY.host)? == "LIBVIRT_LXC_NAME=oldmail" && app(PARKED)? == "inactive");
    ensure!(!definition(lab, "oldmail")?.contains("urn:upgradectl"), "its mark is gone");
    ensure!(!lab.path("pool/trees/.upgradectl").exists() && trial.says("gc --dry-run", 0)?.stdout.contains("nothing"));
    Ok(())
}

#[test]
fn what_dump_did_not_bring_is_noticed_and_a_container_goes_as_it_came() -> Result<()> {
    let trial = Trial::by_dump()?;
    let world = trial.world()?;
    // The stream of / is cut; dump's own words are not asked for.
    let cut = "printf '#!/bin/sh\ncase \"$*\" in *\" -f \"*) rm -f \"$0\"; /usr/sbin/dump \"$@\" | head -c 2000000; exit 1;; *) exec /usr/sbin/dump \"$@\";; esac\n' > /usr/local/bin/dump; \
        chmod 755 /usr/local/bin/dump";
    trial.on(TINY.host, cut)?;
    let said = trial.says("clone oldmail", 1)?;
    ensure!(trial.world()? == world, "{said}\n{}", trial.world()?);
    trial.on(
        TINY.host,
        "echo mine > /usr/local/mine; ln /usr/local/mine /usr/local/mine2; test ! -e /usr/local/bin/dump",
    )?;
    let third = |step| if step % 3 == 1 { by_turns(step / 3) } else { Vec::new() };
    gives_up(&trial, "clone oldmail --yes", &world, || Ok(()), third)?;
    let said = trial.says("clone oldmail -v", 0)?;
    ensure!(said.stderr.contains("dump") || said.stdout.contains("dump"), "{said}");
    ensure!(
        trial
            .on(CLONE, "cat /usr/local/mine2; stat -c %h /usr/local/mine; ls -A /restoresymtable 2>&1; true")?
            .starts_with("mine\n2\nls")
    );
    for line in ["upgrade oldmail", "verify oldmail", "abort oldmail --yes"] {
        trial.says(line, 0)?;
    }
    ensure!(trial.world()? == world, "{}", trial.world()?);
    ensure!(
        trial
            .on(TINY.host, "ls -d /var/lib/upgradectl /var/db/upgradectl 2>&1; true")?
            .lines()
            .all(|line| line.contains("No such"))
    );
    Ok(())
}
