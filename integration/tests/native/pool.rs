//! Two hosts: lab 1 holds the volumes and runs production, lab 2's daemon runs the clone, beside it or reached by ssh.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration::cli::Upgradectl;
use integration::command::run;
use integration::lab::guest::TINY;
use integration::lab::{Lab, Standing};

use super::picture::{Picture, definition, subvolumes};
use super::trial::{QUICK, Trial};

/// A trial with a second host. What is dropped first holds what the other stands on.
struct Pool {
    _sshd: Option<Sshd>,
    second: Standing,
    trial: Trial,
}

impl Pool {
    /// The second host is called `galaad`; `entry` says how it is reached.
    fn with(entry: impl FnOnce(&Lab) -> Result<(String, Option<Sshd>)>) -> Result<Pool> {
        let trial = Trial::tiny()?;
        // Its namespace is made with the first's pool in it.
        let second = Lab::numbered(2)?.standing(&[])?;
        let (entry, sshd) = entry(&second)?;
        let pool = Pool { _sshd: sshd, second, trial };
        pool.declare(&format!("galaad = {{ {entry} }}"), "")?;
        Ok(pool)
    }

    fn declare(&self, galaad: &str, more: &str) -> Result<()> {
        let text = self.trial.inventory("", &format!("{QUICK}\n{more}"));
        let text = text.replace("\n[guests.tiny]", &format!("{galaad}\n\n[guests.tiny]"));
        let text = text.replace("clone = { ip", "clone = { runs_on = \"galaad\", ip");
        Ok(fs::write(self.trial.lab.inventory(), text)?)
    }

    /// The names of the guests that a host has, running or not.
    fn guests(host: &Lab) -> Result<Vec<String>> {
        Ok(host.domains()?.into_keys().collect())
    }
}

/// An sshd on a loopback port, in the mount namespace of a lab's daemon: that lab as another machine.
struct Sshd {
    daemon: Child,
    port: u16,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The mount namespace of a lab's daemon.
fn inside(lab: &Lab) -> Result<Vec<String>> {
    let noted = fs::read_to_string(lab.path("libvirtd.process"))?;
    let id = noted.split(' ').next().context("no process is noted")?;
    Ok(["nsenter", "--mount", "--target", id].map(str::to_owned).to_vec())
}

impl Sshd {
    fn start(lab: &Lab) -> Result<Sshd> {
        fs::create_dir_all("/run/sshd")?;
        let at = |name: &str| lab.path(format!("sshd/{name}"));
        fs::create_dir_all(lab.path("sshd"))?;
        for key in ["hostkey", "key"] {
            run("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key)).output()?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/hostkey\nAuthorizedKeysFile {0}/key.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n",
            lab.path("sshd").display()
        );
        fs::write(at("config"), config)?;
        // The client's configuration with this host's key in it, to be laid over /etc/ssh.
        let etc = at("etc");
        run("cp").args(["--archive", "-T", "/etc/ssh"]).arg(&etc).output()?;
        let key = fs::read_to_string(at("hostkey.pub"))?;
        fs::write(etc.join("ssh_known_hosts"), format!("[127.0.0.1]:{port} {key}"))?;
        let inside = inside(lab)?;
        let daemon = Command::new(&inside[0])
            .args(&inside[1..])
            .args(["/usr/sbin/sshd", "-D", "-e", "-f"])
            .arg(at("config"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(at("log"))?)
            .spawn()?;
        let sshd = Sshd { daemon, port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "sshd does not come up: {}",
                fs::read_to_string(at("log"))?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(sshd)
    }

    /// The product with this host's key known.
    fn known_to(lab: &Lab, product: Upgradectl) -> Upgradectl {
        let script = "mount --bind \"$1\" /etc/ssh && shift && exec \"$@\"";
        let etc = lab.path("sshd/etc").display().to_string();
        product.under(["unshare", "--mount", "sh", "-c", script, "sh", &etc])
    }
}

/// The whole way with the clone on the second host, and back from promotion; then to the end.
fn whole_way(pool: &Pool, copy: impl Fn(&str) -> String) -> Result<()> {
    let (trial, lab, second) = (&pool.trial, &pool.trial.lab, &*pool.second);
    lab.ssh(&trial.address(), ["sh", "-c", "echo mine > /root/mine"])?;
    let before = Picture::of(lab, TINY.name, &trial.root())?;
    let (domains, volumes, id) = (lab.domains()?, subvolumes(lab)?, lab.domain_id(TINY.name)?);

    let said = trial.says("clone tiny", 0)?;
    let name = trial.name()?;
    ensure!(said.stdout.contains("on galaad"), "{said}");
    ensure!(Pool::guests(second)? == [name.clone()] && lab.domains()? == domains, "{:?}", lab.domains()?);
    ensure!(definition(second, &name)?.contains(&copy(&name)), "{}", definition(second, &name)?);
    ensure!(lab.ssh(&trial.clone_address(), ["cat", "/root/mine"])? == "mine");
    trial.all(&["upgrade tiny", "verify tiny"])?;
    ensure!(lab.domain_id(TINY.name)? == id, "the original was restarted");

    trial.says("promote tiny --yes", 0)?;
    ensure!(Pool::guests(second)?.is_empty() && Pool::guests(lab)? == [TINY.name]);
    ensure!(lab.ssh(&trial.address(), ["ls", "/root/upgraded"])? == "/root/upgraded");
    // Where it holds the volumes, production stands on their own paths.
    ensure!(definition(lab, TINY.name)?.contains(&lab.path(format!("pool/guests/{name}-root")).display().to_string()));

    trial.says("rollback tiny --yes", 0)?;
    before.still(lab, TINY.name)?;
    ensure!(Pool::guests(second)? == std::slice::from_ref(&name));
    ensure!(lab.ssh(&trial.clone_address(), ["ls", "/root"])? == "mine\nupgraded");
    trial.all(&["verify tiny", "promote tiny --yes", "abort tiny --yes"])?;
    before.still(lab, TINY.name)?;
    ensure!(Pool::guests(second)?.is_empty() && subvolumes(lab)? == volumes, "{:?}", subvolumes(lab)?);

    trial.all(&["clone tiny", "upgrade tiny", "verify tiny", "promote tiny --yes", "commit tiny --yes"])?;
    ensure!(lab.ssh(&trial.address(), ["ls", "/root"])? == "mine\nupgraded");
    ensure!(Pool::guests(second)?.is_empty() && lab.domains()? == domains);
    ensure!(trial.run()?.is_none());
    Ok(())
}

#[test]
fn a_clone_on_the_second_daemon() -> Result<()> {
    let pool = Pool::with(|second| Ok((format!("hypervisor = \"libvirt\", uri = \"{}\"", second.uri()), None)))?;
    let root = pool.trial.lab.path("pool/guests").display().to_string();
    whole_way(&pool, |name| format!("'{root}/{name}-root'"))
}

#[test]
fn a_clone_on_a_host_reached_by_ssh_that_knows_the_volumes_by_other_paths() -> Result<()> {
    let mut pool = Pool::with(|second| {
        let sshd = Sshd::start(second)?;
        let key = second.path("sshd/key").display().to_string();
        let entry = format!(
            "hypervisor = \"libvirt\", uri = \"lxc:///system\", ssh = {{ address = \"127.0.0.1\", port = {}, key = \"{key}\" }}",
            sshd.port
        );
        Ok((entry, Some(sshd)))
    })?;
    let inventory = fs::read_to_string(pool.trial.lab.inventory())?;
    let galaad = inventory.lines().find(|line| line.starts_with("galaad")).context("galaad")?.to_owned();
    // Its host key is not known: nothing is touched.
    let said = pool.trial.says("clone tiny", 7)?;
    ensure!(said.stderr.contains("Host key verification failed") || said.stderr.contains("host key"), "{said}");
    pool.trial.product = Sshd::known_to(&pool.second, pool.trial.product.clone());

    // The pool has another place there: what has no such path is refused, and what is another volume.
    let there = pool.second.path("run/shared");
    let pooled = pool.trial.lab.path("pool/guests");
    let (domains, volumes) = (pool.trial.lab.domains()?, subvolumes(&pool.trial.lab)?);
    let inside = inside(&pool.second)?;
    let in_there = |words: &[&str]| run(&inside[0]).args(&inside[1..]).args(words.iter().copied()).output();
    let text = |path: &Path| path.display().to_string();
    in_there(&["mkdir", "-p", &text(&there)])?;
    in_there(&["mount", "--bind", &text(&pooled), &text(&there)])?;
    pool.declare(&galaad, &format!("disks = {{ \"/\" = {{ copy = \"{}/tiny\" }} }}", there.display()))?;
    let said = pool.trial.says("clone tiny", 1)?;
    ensure!(said.stderr.contains("is another volume"), "{said}");
    ensure!(pool.trial.lab.domains()? == domains && subvolumes(&pool.trial.lab)? == volumes);

    pool.declare(&galaad, &format!("disks = {{ \"/\" = {{ copy = \"{}/{{run}}-root\" }} }}", there.display()))?;
    whole_way(&pool, |name| format!("'{}/{name}-root'", there.display()))
}
