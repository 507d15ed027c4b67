//! A linked clone is upgraded in the machine's stead and takes its place, goes back, and stays. Cards and names are the simulator's word,
//! systems and what they answer the lab's.

use anyhow::{Context as _, Result, ensure};
use hypervisors::machines::NicEdit;
use hypervisors::{MacAddr, Machines as _, Power, Role};
use integration::cli::Said;
use integration::lab::redhat::{NEW, OLD, WEB1};
use integration::struck::{At, BOTH, Stage as _, gives_up, goes_on};
use integration::vcenter::Speaks;

use super::WEB;
use super::trial::{AS_IT_WAS, Trial, flat};

/// The clone's address in the lab.
const CLONE: u8 = 51;

/// What is held in the clone, and what goes over to it in the end.
const LINES: &str = "quarantine = { off = [\"mailer.service\"] }\ncarry = [{ kind = \"rsync\", path = \"/srv/data/\", exclude = [\"*.tmp\"] }]";

/// The clone's hardware address in what `plan` says.
fn mac(said: &Said) -> Result<MacAddr> {
    let line = said.stdout.lines().find(|line| line.trim_start().starts_with("clone "));
    line.and_then(|line| line.split_whitespace().find_map(|word| word.parse().ok())).with_context(|| said.to_string())
}

/// Data, and a letter that waits.
const DATA: &str = "mkdir -p /srv/data /var/spool/postfix/deferred; echo first > /srv/data/first; echo x > /srv/data/x.tmp; \
    echo letter > /var/spool/postfix/deferred/one";

/// The promoted guest has sent one, and accepted another.
const MEANWHILE: &str = "cd /var/spool/postfix/deferred; rm one; echo letter > three";
const LETTERS: &str = "ls /var/spool/postfix/deferred";

/// A service that must not run twice, and one that does not let itself be stopped, as auditd.
const MAILER: &str = "cd /usr/lib/systemd/system; printf '[Unit]\\nRefuseManualStop=yes\\n[Service]\\nExecStart=/bin/sleep infinity\\n\
    [Install]\\nWantedBy=multi-user.target\\n' > watcher.service; \
    printf '[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' > mailer.service; \
    systemctl -q enable --now watcher.service mailer.service";

#[test]
fn needs_root_a_linked_clone_takes_the_place_and_goes_back_and_stays() -> Result<()> {
    let trial = Trial::new(Speaks::Json, &format!("{{ strategy = \"linked\", ip = [\".{CLONE}\"] }}"), LINES)?;
    let machine = |name: &str| trial.machine(name);
    trial.on(MAILER)?;
    trial.on(DATA)?;
    let before = trial.on(AS_IT_WAS)?;
    let original = machine(WEB)?;

    let said = trial.says("plan clone web1", 0)?;
    ensure!(said.stdout.contains(WEB) && machine(WEB)? == original, "looking touches nothing: {said}");
    // A hardware address that somebody else has by now is not drawn.
    let drawn = mac(&said)?;
    let other = machine("/DC0/vm/DC0_H0_VM1")?;
    trial.api(async |platform| {
        platform.power_off(&other.machine.uuid).await?;
        let taken = NicEdit { key: other.nics[0].key, mac: Some(drawn), ..NicEdit::default() };
        platform.edit_nics(&other.machine.uuid, &[taken]).await.map(drop)
    })?;
    ensure!(mac(&trial.says("plan clone web1", 0)?)? != drawn);
    let said = trial.says(&format!("plan clone web1 --mac {drawn}"), 7)?;
    ensure!(said.stderr.contains("DC0_H0_VM1"), "{said}");
    trial.says("clone web1 --yes", 0)?;
    let run = trial.run()?;
    let clone = machine(&run)?;
    ensure!(clone.power == Power::On && clone.mark.as_ref().is_some_and(|mark| mark.role == Role::Clone), "{clone:?}");
    ensure!(clone.nics[0].connected && ![original.nics[0].mac, Some(drawn)].contains(&clone.nics[0].mac), "{clone:?}");
    ensure!(!clone.borrowed().is_empty(), "on disks of differences: {clone:?}");
    ensure!(trial.on(AS_IT_WAS)? == before, "the original was touched");
    ensure!(trial.at(CLONE, "systemctl is-enabled mailer.service || true")?.trim() == "masked");
    ensure!(trial.at(CLONE, "cat /etc/machine-id")? != trial.on("cat /etc/machine-id")?);
    ensure!(trial.at(CLONE, "ls /var/spool/postfix/deferred")?.is_empty(), "a letter waits in both");

    // Given up: both go, and nobody noticed.
    trial.says("abort web1", 0)?;
    ensure!(machine(&run).is_err() && machine(WEB)?.snapshots.is_empty() && trial.on(AS_IT_WAS)? == before);
    let left = machine(WEB)?;
    ensure!((&left.nics, &left.disks, &left.mark) == (&original.nics, &original.disks, &original.mark), "{left:?}");

    trial.says("clone web1 --yes", 0)?;
    let run = trial.run()?;
    trial.says("upgrade web1 --yes", 0)?;
    ensure!(trial.at(CLONE, "uname -r")?.trim() == NEW && trial.kernel()? == OLD);
    trial.says("verify web1", 0)?;
    ensure!(trial.on(AS_IT_WAS)? == before, "the original was touched");

    // It cannot be asked to shut down: it goes on, and its services do.
    trial.vcenter.tell("tools DC0_H0_VM0 off")?;
    let said = trial.says("promote web1 --yes", 1)?;
    ensure!(said.stderr.contains("its tools do not run"), "{said}");
    ensure!(trial.on("systemctl is-active mailer.service watcher.service")? == "active\nactive", "{said}");
    ensure!(trial.on(AS_IT_WAS)? == before && machine(WEB)?.nics == original.nics, "{said}");
    trial.vcenter.tell("tools DC0_H0_VM0 on")?;
    trial.says("verify web1", 0)?;

    trial.on("rm /srv/data/first; echo late > /srv/data/late; echo letter > /var/spool/postfix/deferred/two")?;
    let said = trial.says("promote web1 --yes", 0)?;
    ensure!(trial.kernel()? == NEW, "{said}");
    ensure!(trial.on("cd /srv/data; ls; ls /var/spool/postfix/deferred")? == "late\nx.tmp\none\ntwo", "{said}");
    ensure!(trial.on("systemctl is-enabled mailer.service || true")?.trim() == "enabled");
    let promoted = machine(WEB)?;
    ensure!(promoted.machine.uuid != original.machine.uuid && promoted.nics[0].mac == original.nics[0].mac);
    let old = machine(&format!("{run}.original"))?;
    ensure!(old.power == Power::Off && !old.nics[0].start_connected && old.nics[0].mac == clone.nics[0].mac, "{old:?}");

    // Back, to the original exactly as it was, but for letters: what was sent meanwhile is not sent again, what came is there.
    trial.on(MEANWHILE)?;
    let promoted = machine(WEB)?.machine;
    trial.api(async |platform| platform.rename(&promoted.uuid, "web-new").await.map(drop))?;
    let said = trial.says("rollback web1 --yes", 6)?;
    ensure!(flat(&said.stderr).contains("is called web-new now"), "somebody's name is not overwritten unasked: {said}");
    trial.api(async |platform| platform.rename(&promoted.uuid, &promoted.name).await.map(drop))?;
    let said = trial.says("rollback web1 --yes", 0)?;
    ensure!(trial.on(LETTERS)? == "three\ntwo", "{said}");
    let aside = format!("/var/db/upgradectl-{run}-aside/var/spool/postfix/deferred");
    ensure!(trial.on(&format!("ls {aside}"))? == "one" && flat(&said.stderr).contains(&aside), "{said}");
    ensure!(trial.on("ls -d /var/db/*-queues || true")?.is_empty() && trial.at(CLONE, LETTERS)?.is_empty(), "{said}");
    ensure!(!trial.product.state().join("runs").join(&run).join("queues.tar").exists());
    ensure!(
        trial.kernel()? == OLD
            && trial.on("systemctl is-active mailer.service; ls /srv/data")? == "active\nlate\nx.tmp"
    );
    let files = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    ensure!(files(&trial.on(AS_IT_WAS)?) == files(&before), "but for its start it is as it was");
    let back = machine(WEB)?;
    ensure!((&back.machine, &back.mark) == (&original.machine, &original.mark), "{back:?}");
    ensure!(back.nics == original.nics, "{:?} and were {:?}", back.nics, original.nics);
    ensure!(trial.at(CLONE, "uname -r")?.trim() == NEW && machine(&run)?.power == Power::On);

    trial.says("verify web1", 0)?;
    // The session has expired.
    trial.vcenter.tell("expire")?;
    trial.says("promote web1 --yes", 0)?;
    ensure!(trial.on(LETTERS)? == "three\ntwo");
    trial.vcenter.tell("fail PromoteDisks_Task disk.vmdk")?;
    trial.says("commit web1 --yes", 8)?;
    trial.says("resume web1", 0)?;
    let last = machine(WEB)?;
    ensure!(last.borrowed().is_empty() && last.mark.is_none() && last.snapshots.is_empty(), "{last:?}");
    ensure!(machine(&format!("{run}.original")).is_err() && trial.kernel()? == NEW);
    ensure!(trial.on("grubby --default-kernel")?.trim() == format!("/boot/vmlinuz-{NEW}"));
    ensure!(trial.lab.address(WEB1.host) == trial.on("hostname -I")?.trim());
    Ok(())
}

/// While two machines exchange their names none has production's; and one that started serves, whether or not the journal knows.
#[test]
fn needs_root_an_interrupted_promotion_goes_back_until_the_clone_serves() -> Result<()> {
    let trial = Trial::new(Speaks::Soap, &format!("{{ strategy = \"linked\", ip = [\".{CLONE}\"] }}"), "")?;
    for line in ["clone web1 --yes", "upgrade web1 --yes", "verify web1"] {
        trial.says(line, 0)?;
    }
    let killed = |fault: &str| {
        let fault = format!("{fault} {}", trial.told().display());
        trial.product.clone().env("UPGRADECTL_JOURNAL_FAULT", &fault).run(["promote", "web1", "--yes"])?.expect(-1)
    };
    let said = killed("8 kill-after=intent")?;
    ensure!(trial.machine(WEB).is_err() && trial.machine(&trial.run()?).is_ok(), "nothing has its name now: {said}");
    trial.says("resume --interrupted", 0)?;
    ensure!(trial.kernel()? == OLD && trial.machine(WEB)?.power == Power::On);
    trial.says("verify web1", 0)?;
    let said = killed("10 kill-before=done")?;
    let run = trial.run()?;
    ensure!(trial.machine(WEB)?.power == Power::On && trial.machine(&format!("{run}.original")).is_ok(), "{said}");
    trial.says("resume --interrupted", 0)?;
    ensure!(trial.kernel()? == NEW && trial.machine(&format!("{run}.original"))?.power == Power::Off);
    Ok(())
}

/// In which steps the controller is killed: in every one, by turns behind the intent and behind the effect.
fn by_turns(step: usize) -> Vec<At> {
    vec![BOTH[step % 2]]
}

#[test]
fn needs_root_a_controller_killed_in_every_step_loses_nothing() -> Result<()> {
    let trial = Trial::new(Speaks::Soap, &format!("{{ strategy = \"linked\", ip = [\".{CLONE}\"] }}"), LINES)?;
    trial.on(MAILER)?;
    trial.on(DATA)?;
    let before = trial.world()?;
    // Given up: a kill in every third step.
    let third = |step| if step % 3 == 1 { by_turns(step / 3) } else { Vec::new() };
    gives_up(&trial, "clone web1 --yes", &before, || Ok(()), third)?;
    // Gone on with.
    goes_on(&trial, "clone web1 --yes", by_turns)?;
    trial.says("upgrade web1 --yes", 0)?;
    trial.says("verify web1", 0)?;
    goes_on(&trial, "promote web1 --yes", by_turns)?;
    ensure!(trial.kernel()? == NEW);
    trial.on(MEANWHILE)?;
    goes_on(&trial, "rollback web1 --yes", by_turns)?;
    ensure!(trial.kernel()? == OLD && trial.at(CLONE, "uname -r")?.trim() == NEW);
    ensure!(trial.on(LETTERS)? == "three" && trial.at(CLONE, LETTERS)?.is_empty());
    trial.says("verify web1", 0)?;
    trial.says("promote web1 --yes", 0)?;
    trial.on("mv /var/spool/postfix/deferred/three /var/spool/postfix/deferred/four")?;
    goes_on(&trial, "abort web1 --yes", by_turns)?;
    ensure!(trial.on(LETTERS)? == "four");
    // It was shut down and started.
    let since_its_start = |world: &str| world.lines().filter(|line| line.parse::<u64>().is_err()).collect::<String>();
    let now = trial.world()?;
    ensure!(since_its_start(&now) == since_its_start(&before), "given up from promoted:\n{now}\nand was:\n{before}");
    for line in ["clone web1 --yes", "upgrade web1 --yes", "verify web1", "promote web1 --yes"] {
        trial.says(line, 0)?;
    }
    goes_on(&trial, "commit web1 --yes", |_| BOTH.to_vec())?;
    let last = trial.machine(WEB)?;
    ensure!(last.borrowed().is_empty() && last.mark.is_none() && trial.kernel()? == NEW, "{last:?}");
    Ok(())
}
