//! What leaves a clone: nothing but what is allowed while it is fenced, nothing at all while it is verified.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::command::run;
use integration::lab::guest::MERCURE;
use integration::lab::{Lab, inventory, look};
use integration::verb::event;

use super::trial::{QUICK, Trial};

/// A machine beside the guests, on the lab's own bridge, that notes who connects. The address goes with the bridge.
struct Listener {
    address: String,
    callers: Arc<Mutex<BTreeSet<IpAddr>>>,
}

impl Listener {
    fn on(lab: &Lab, host: u8, port: u16) -> Result<Listener> {
        let address = lab.address(host);
        run("ip").args(["address", "replace", &format!("{address}/32"), "dev", &lab.bridge()]).output()?;
        let socket = TcpListener::bind((address.as_str(), port))?;
        let callers = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = callers.clone();
        std::thread::spawn(move || {
            for stream in socket.incoming() {
                let Ok(caller) = stream.and_then(|stream| stream.peer_addr()) else { return };
                noted.lock().unwrap_or_else(PoisonError::into_inner).insert(caller.ip());
            }
        });
        Ok(Listener { address, callers })
    }

    /// Who has connected since this was last asked.
    fn since(&self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut *self.callers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until this one connects.
    fn hears(&self, who: &str) -> Result<()> {
        let who: IpAddr = who.parse()?;
        look::until(Duration::from_secs(20), || {
            let callers = self.since();
            ensure!(callers.contains(&who), "{who} does not connect; {callers:?} do");
            Ok(())
        })
    }
}

/// Whether a program of root can connect from a guest.
fn reaches(lab: &Lab, from: &str, to: &str, port: u16) -> bool {
    let line = format!("exec 3<>/dev/tcp/{to}/{port}");
    lab.ssh(from, ["timeout", "3", "bash", "-c", &line]).is_ok()
}

/// Something that calls home as soon as it can and whenever it can, as people's services do.
fn call_home(trial: &Trial, listener: &Listener, port: u16) -> Result<()> {
    let system = trial.root().join("etc/systemd/system");
    let unit = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/bash -c 'while :; do (exec 3<>/dev/tcp/{}/{port}) 2>/dev/null; sleep 0.1; done'\n",
        listener.address
    );
    fs::write(system.join("call-home.service"), unit)?;
    fs::create_dir_all(system.join("sysinit.target.wants"))?;
    symlink("../call-home.service", system.join("sysinit.target.wants/call-home.service"))?;
    let address = trial.address();
    trial.lab.ssh(&address, ["systemctl", "daemon-reload"])?;
    trial.lab.ssh(&address, ["systemctl", "start", "call-home"]).map(drop)
}

#[test]
fn a_fenced_clone_reaches_what_is_allowed_from_its_first_packet_to_promotion() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address, clone) = (&trial.lab, trial.address(), trial.clone_address());
    let of_clone: IpAddr = clone.parse()?;
    let home = Listener::on(lab, 250, 7777)?;
    let relay = Listener::on(lab, 251, 7778)?;
    let _other = Listener::on(lab, 252, 7778)?;
    call_home(&trial, &home, 7777)?;
    let named = |relay: &str| format!("echo '{relay} relay.lab' >> /etc/hosts");
    lab.ssh(&address, ["sh", "-c", &named(&relay.address)])?;
    home.hears(&address)?;

    // An open clone calls home.
    trial.says("clone tiny", 0)?;
    home.hears(&clone)?;
    trial.says("abort tiny", 0)?;
    home.since();

    let fenced = trial
        .inventory("", QUICK)
        .replace("clone = {", "clone = { network = \"fenced\", allow = [\"relay.lab:7778\"],");
    fs::write(lab.inventory(), fenced)?;
    let plan = trial.says("plan clone tiny", 0)?;
    ensure!(plan.stdout.contains("relay.lab:7778"), "{plan}");
    trial.says("clone tiny", 0)?;
    let shut_in = || -> Result<()> {
        ensure!(!reaches(lab, &clone, &home.address, 7777));
        look::until(Duration::from_secs(20), || {
            ensure!(reaches(lab, &clone, &relay.address, 7778), "a name that is allowed");
            Ok(())
        })?;
        // Mirrors by names that root cannot reach: apt's own user does, resolvers are open to all.
        lab.ssh(&clone, ["apt-get", "-qq", "update", "-o", "APT::Update::Error-Mode=any"])?;
        let callers = home.since();
        ensure!(!callers.contains(&of_clone), "the clone called home; {callers:?}");
        Ok(())
    };
    shut_in()?;
    // By its reboot, and by one that nobody of ours asks for.
    trial.says("upgrade tiny", 0)?;
    shut_in()?;
    let boot = || lab.ssh(&clone, ["cat", "/proc/sys/kernel/random/boot_id", "/run/upgradectl-fence"]);
    boot()?;
    lab.virsh(["destroy", &trial.name()?])?;
    lab.virsh(["start", &trial.name()?])?;
    look::until(Duration::from_secs(60), || lab.ssh(&clone, ["systemctl", "is-active", "ssh"]).map(drop))?;
    shut_in()?;

    // A name with another answer: the new way opens, the old one is shut.
    lab.ssh(&clone, ["sh", "-c", "grep -v relay.lab /etc/hosts > /root/hosts; cat /root/hosts > /etc/hosts"])?;
    lab.ssh(&clone, ["sh", "-c", &named(&lab.address(252))])?;
    look::until(Duration::from_secs(40), || {
        ensure!(reaches(lab, &clone, &lab.address(252), 7778), "the name's new address");
        ensure!(!reaches(lab, &clone, &relay.address, 7778), "the name's old address");
        Ok(())
    })?;
    lab.ssh(&clone, ["sh", "-c", "cat /root/hosts > /etc/hosts; rm /root/hosts"])?;
    lab.ssh(&clone, ["sh", "-c", &named(&relay.address)])?;

    trial.says("verify tiny", 0)?;
    home.since();
    trial.says("promote tiny --yes", 0)?;
    home.hears(&address)?;
    ensure!(lab.ssh(&address, ["ls", "/root"])? == "upgraded", "the promoted guest called");
    let rules = lab.ssh(&address, ["ip", "rule", "show"])?;
    ensure!(!rules.contains("unreachable"), "{rules}");
    ensure!(lab.ssh(&address, ["ls", "/etc/upgradectl"]).is_err());

    trial.says("rollback tiny --yes", 0)?;
    home.hears(&address)?;
    shut_in()?;
    trial.all(&["verify tiny", "abort tiny"])
}

/// Run by a check inside the clone: queues a mail for a machine on its own link, and tries to send it.
const DURING: &str = "#!/bin/sh
echo mail | sendmail -f during@mercure.lab someone@[RELAY] && sleep 1 && postqueue -f && sleep \"$(cat /root/wait)\"
test -n \"$(find /var/spool/postfix/deferred /var/spool/postfix/active -type f)\"
";

#[test]
fn what_runs_for_a_verification_runs_for_it_alone_and_sends_nothing() -> Result<()> {
    let trial = Trial::with(&[MERCURE])?;
    let lab = &trial.lab;
    let (address, clone) = (lab.address(MERCURE.host), lab.address(MERCURE.host + 4));
    let relay = Listener::on(lab, 250, 25)?;
    let text = inventory::text(lab, &[MERCURE])
        .replace(r#"upgrade = { recipe = "debian", to = "trixie" }"#, QUICK)
        .replace("quarantine = { ", "quarantine = { while_verifying = [\"postfix\"], ")
        .replace(
            "checks = [",
            "checks = [\n  { name = \"during\", kind = \"command\", run = [\"/root/during\"], when = \"clone\", deadline = \"40s\" },",
        );
    fs::write(lab.inventory(), text)?;
    let root = MERCURE.root(lab).join("root");
    fs::write(root.join("during"), DURING.replace("RELAY", &relay.address))?;
    fs::write(root.join("wait"), "2")?;
    lab.ssh(&address, ["chmod", "755", "/root/during"])?;
    // The mail server takes its time to end; the unit people name is done before it.
    let slow = MERCURE.root(lab).join("etc/systemd/system/postfix@.service.d");
    fs::create_dir_all(&slow)?;
    let stop = "ExecStop=\nExecStop=/bin/sleep 3\nExecStop=/usr/sbin/postmulti -i %i -p stop\n";
    fs::write(slow.join("slow.conf"), format!("[Service]\n{stop}"))?;
    // The original, which nothing fences, sends at once.
    lab.ssh(&address, ["sh", "-c", &format!("echo mail | sendmail someone@[{}]", relay.address)])?;
    relay.hears(&address)?;

    trial.all(&["clone mercure", "upgrade mercure"])?;
    let of_clone: IpAddr = clone.parse()?;
    let routes = || lab.ssh(&clone, ["sh", "-c", "ip rule; ip route; ip -6 rule; ip -6 route"]);
    let units = || lab.ssh(&clone, ["systemctl", "list-unit-files", "--no-legend", "postfix*"]);
    let (routes_before, units_before) = (routes()?, units()?);
    ensure!(units_before.contains("masked"), "{units_before}");
    let as_before = || -> Result<()> {
        ensure!(lab.unit(&clone, "postfix.service")? == "inactive");
        let left = lab.ssh(&clone, ["sh", "-c", "ps -e -o comm= | grep -x master || true"])?;
        ensure!(left.is_empty(), "postfix runs: {left}");
        ensure!(routes()? == routes_before, "{}", routes()?);
        ensure!(units()? == units_before, "{}", units()?);
        ensure!(!relay.since().contains(&of_clone), "a mail left the clone");
        Ok(())
    };

    let said = trial.says("verify mercure", 0)?;
    let passed = |name: &str| said.stdout.lines().any(|line| line.contains("passed") && line.contains(name));
    ensure!(passed("smtp") && passed("during"), "{said}");
    as_before()?;
    // The mail is still there: it did not leave, and was not lost.
    let queued = "find /var/spool/postfix/deferred /var/spool/postfix/active -type f | wc -l";
    ensure!(lab.ssh(&clone, ["sh", "-c", queued])? == "1");

    // The controller dies in mid-verify: the service runs on behind its fence until somebody takes it back.
    let die = || -> Result<()> {
        lab.ssh(&clone, ["sh", "-c", "echo 4 > /root/wait"])?;
        let mut verb = trial.begin("verify mercure")?;
        verb.until(event("step_started", "verify.checks", ""))?;
        std::thread::sleep(Duration::from_secs(2));
        verb.kill()?;
        ensure!(trial.state()? == "verifying" && lab.unit(&clone, "postfix.service")? == "active");
        std::thread::sleep(Duration::from_secs(4));
        ensure!(!relay.since().contains(&of_clone), "a mail left the clone while nobody watched");
        ensure!(!reaches(lab, &clone, &relay.address, 25));
        Ok(())
    };
    die()?;
    trial.says("resume mercure", 0)?;
    ensure!(trial.state()? == "verified");
    as_before()?;

    // And the clone goes down before somebody comes: it comes up without the service, for the fence is gone.
    die()?;
    let name = trial.name()?;
    lab.virsh(["destroy", &name])?;
    lab.virsh(["start", &name])?;
    look::until(Duration::from_secs(60), || lab.ssh(&clone, ["systemctl", "is-active", "ssh"]).map(drop))?;
    std::thread::sleep(Duration::from_secs(5));
    ensure!(lab.unit(&clone, "postfix.service")? == "inactive", "it started by itself");
    ensure!(!relay.since().contains(&of_clone), "a mail left the clone after its reboot");
    // What was started is gone with the boot: the verification fails for it, and tidies up.
    trial.says("resume mercure", 3)?;
    as_before()?;
    trial.says("verify mercure", 0)?;

    die()?;
    let root = lab.path(format!("pool/guests/{}-root", trial.name()?));
    trial.says("abort mercure", 0)?;
    ensure!(!root.exists() && trial.run()?.is_none());
    ensure!(lab.unit(&address, "postfix.service")? == "active");
    ensure!(!relay.since().contains(&of_clone), "a mail left the clone");
    Ok(())
}
