//! The story, act by act.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::cli::Upgradectl;
use integration::lab::guest::MERCURE;
use integration::lab::look::until;
use integration::lab::{Lab, inventory};
use integration::mail::{self, Sender};

use crate::stage::Stage;

/// The messages that were in probe's mailbox before anything happened.
const MESSAGES: u32 = 3;

/// How long a service may take to answer after a verb has returned.
const PATIENCE: Duration = Duration::from_secs(20);

const TAKE_MAINTAINER: &str = r#"[[guests.mercure.hooks]]
name = "the maintainer's dovecot configuration"
at = "before-upgrade"
on = "clone"
run = ["/usr/local/sbin/take-maintainer-dovecot"]
"#;

const DOVECOT_24: &str = r#"[[guests.mercure.hooks]]
name = "dovecot 2.4 configuration"
at = "after-upgrade"
on = "clone"
run = ["/usr/local/sbin/dovecot-24"]
"#;

/// Plays all of it.
pub fn play(lab: Lab) -> Result<()> {
    let mut stage = Stage::new(Upgradectl::in_lab(&lab)?);
    println!("Debian 12 mail server `mercure` becomes Debian 13 under mail traffic, on a lab of this machine.");
    println!("Lines with `ok` are asserted; commands are the real ones.");

    stage.act("The lab", "A libvirt LXC guest with postfix, dovecot, nginx and a data volume, /srv/mail.");
    lab.up(&[MERCURE])?;
    let production = Production { lab: &lab, address: lab.address(MERCURE.host) };
    let clone = lab.address(MERCURE.host + 4);
    production.serves(&mut stage, "bookworm")?;
    let sender = Sender::start(&production.address, "list@mercure.lab")?;
    let archive = lab.path("pool/guests/mercure-mail/archive");
    println!("    from now on, numbered mails go to list@mercure.lab at {}", production.address);

    let id = before_promotion(&mut stage, &production, &clone)?;
    upgrade_until_it_is_right(&mut stage, &production, &clone, &id)?;
    there_and_back_and_there(&mut stage, &production, &clone)?;

    stage.act("The mail", "What production accepted since the first act, and what is in the list's archive.");
    let sent = sender.stop()?;
    let claim = format!(
        "{} mails accepted, every one delivered, once; the longest wait for a mail was {:.0} s",
        sent.accepted.len(),
        sent.longest_gap.as_secs_f64()
    );
    stage.claim(&claim, || {
        ensure!(sent.accepted.len() > 20, "only {} mails were accepted", sent.accepted.len());
        mail::assert_once_each(&sent, &archive, Duration::from_secs(60))
    })?;

    stage.end();
    println!("The lab stays up: ssh -i {} root@{}", lab.key().display(), production.address);
    println!("Remove it: make clean-lab");
    Ok(())
}

/// Plan and clone. Returns production's domain id, which changes with every start of it.
fn before_promotion(stage: &mut Stage, production: &Production, clone: &str) -> Result<String> {
    let lab = production.lab;
    let (id, domains, trees) = (lab.domain_id("mercure")?, lab.domains()?, lab.trees()?);

    stage.act(
        "A plan touches nothing",
        "Look at: the clone's address and MAC, /srv/mail detached, what each step's undo is, the outage.",
    );
    stage.type_("plan clone mercure --ip .16", 0)?;
    stage.claim("no domain and no volume was made", || {
        ensure!(lab.domains()? == domains && lab.trees()? == trees);
        Ok(())
    })?;

    stage.act("The clone", "Look at: outage none. The clone keeps its name, has its own address, and is quarantined.");
    stage.type_("clone mercure --ip .16", 0)?;
    stage.claim(&format!("the clone answers at {clone} and calls itself mercure"), || {
        ensure!(lab.ssh(clone, ["hostname"])? == "mercure");
        Ok(())
    })?;
    stage.claim("in the clone postfix and cron are off, and /srv/mail is empty", || {
        for unit in ["postfix.service", "cron.service"] {
            let state = lab.unit(clone, unit)?;
            ensure!(state == "inactive", "{unit} is {state}");
        }
        ensure!(lab.ssh(clone, ["find", "/srv/mail", "-type", "f"])?.is_empty());
        Ok(())
    })?;
    production.untouched(stage, &id)?;
    Ok(id)
}

/// The upgrade stops, goes on, is found wanting, and is mended.
fn upgrade_until_it_is_right(stage: &mut Stage, production: &Production, clone: &str, id: &str) -> Result<()> {
    let lab = production.lab;

    stage.act("The upgrade, as planned", "Look at: only the clone is named; nothing here stops mercure.");
    stage.type_("plan upgrade mercure", 0)?;

    stage.act(
        "The upgrade stops",
        "dovecot 2.4 does not know the local setting mail_location: its package cannot be configured.
         Look at: exit 8 and the cause in one line.",
    );
    let said = stage.type_("upgrade mercure", 8)?;
    stage.claim("one line says why: dovecot", || {
        let causes = said.stderr.lines().filter(|line| line.trim_start().starts_with("cause:"));
        let causes: Vec<&str> = causes.collect();
        ensure!(causes.len() == 1 && causes[0].contains("dovecot"), "{causes:?}");
        Ok(())
    })?;
    stage.claim("in the clone dovecot-core is half configured", || {
        ensure!(lab.ssh(clone, ["dpkg", "--audit"])?.contains("dovecot-core"));
        Ok(())
    })?;
    production.untouched(stage, id)?;

    stage.act("A hook takes the maintainer's file", "Look at: `upgrade` plans what is left, and goes on to the end.");
    stage.writes(TAKE_MAINTAINER);
    inventory::add(lab, TAKE_MAINTAINER)?;
    stage.type_("upgrade mercure", 0)?;
    stage.claim("the clone runs Debian 13, and every package is configured", || {
        ensure!(lab.release(clone)? == "trixie");
        let audit = lab.ssh(clone, ["dpkg", "--audit"])?;
        ensure!(audit.is_empty(), "{audit}");
        Ok(())
    })?;

    stage.act(
        "The verification catches it",
        "Everything is upgraded, everything runs, and the mailbox is empty: dovecot 2.4 looks elsewhere.
         Look at: FAILED mailbox.",
    );
    let said = stage.type_("verify mercure", 3)?;
    stage.claim("the report names the mailbox", || {
        let failed = said.stdout.lines().any(|line| line.contains("FAILED") && line.contains("mailbox"));
        ensure!(failed, "{said}");
        Ok(())
    })?;
    stage.claim(&format!("by IMAP the clone shows 0 messages and the original {MESSAGES}"), || {
        ensure!(lab.messages(clone)? == 0 && lab.messages(&production.address)? == MESSAGES);
        Ok(())
    })?;
    production.untouched(stage, id)?;

    stage.act("A second hook supplies the 2.4 settings", "Look at: `upgrade` again has only the hook to do.");
    stage.writes(DOVECOT_24);
    inventory::add(lab, DOVECOT_24)?;
    stage.type_("upgrade mercure", 0)?;
    stage.claim(&format!("by IMAP the clone shows {MESSAGES} messages"), || {
        until(PATIENCE, || {
            let found = lab.messages(clone)?;
            ensure!(found == MESSAGES, "{found}");
            Ok(())
        })
    })?;

    stage.act("The verification passes", "Look at: smtp is held, because postfix is quarantined here.");
    stage.type_("verify mercure", 0)?;
    production.untouched(stage, id)
}

/// Promote, rollback, promote, commit.
fn there_and_back_and_there(stage: &mut Stage, production: &Production, clone: &str) -> Result<()> {
    let lab = production.lab;
    let original_tree = lab.path("pool/guests/mercure");

    stage.act("Promote", "Look at: the approval page, and the outage against what was expected.");
    stage.type_("promote mercure --yes", 0)?;
    production.serves(stage, "trixie")?;
    stage.claim("one guest runs, the original's tree is kept, and nobody is at the clone's address", || {
        production.alone(clone)?;
        ensure!(original_tree.is_dir());
        Ok(())
    })?;
    production.takes_mail(stage)?;
    stage.type_("status", 0)?;

    stage.act("Rollback", "Suppose it was a mistake. Look at: what is lost is said; mail in the archive is not.");
    stage.type_("rollback mercure --yes", 0)?;
    production.serves(stage, "bookworm")?;
    production.takes_mail(stage)?;

    stage.act("And again", "A rollback voids the verification, so there is a new one.");
    stage.type_("verify mercure", 0)?;
    stage.type_("promote mercure --yes", 0)?;
    production.serves(stage, "trixie")?;
    production.takes_mail(stage)?;

    stage.act("Commit", "The way back is given up. Look at: no outage here; the old system is gone.");
    stage.type_("commit mercure --yes", 0)?;
    production.serves(stage, "trixie")?;
    stage.claim("one guest is left, the original's tree is gone, the data volume is not", || {
        production.alone(clone)?;
        let (domains, trees) = (lab.domains()?, lab.trees()?);
        ensure!(domains.keys().eq(["mercure"]), "domains: {domains:?}");
        ensure!(!original_tree.exists() && trees.len() == 2, "trees: {trees:?}");
        ensure!(lab.path("pool/guests/mercure-mail/archive").is_dir());
        Ok(())
    })?;
    stage.type_("status", 0).map(drop)
}

/// Whoever is at the production address.
struct Production<'a> {
    lab: &'a Lab,
    address: String,
}

impl Production<'_> {
    /// It serves web and mail, from this release.
    fn serves(&self, stage: &mut Stage, release: &str) -> Result<()> {
        let (lab, address) = (self.lab, self.address.as_str());
        stage.claim(&format!("{address} serves: {release}, the web page, {MESSAGES} messages by IMAP, mail"), || {
            until(PATIENCE, || {
                let found = lab.release(address)?;
                ensure!(found == release, "it runs {found}");
                ensure!(lab.page(address)?.contains("mercure serves"), "the page is another");
                let messages = lab.messages(address)?;
                ensure!(messages == MESSAGES, "{messages} messages");
                let postfix = lab.unit(address, "postfix.service")?;
                ensure!(postfix == "active", "postfix is {postfix}");
                Ok(())
            })
        })
    }

    /// It is the original, never restarted, on Debian 12, with its own dovecot configuration, and serves.
    fn untouched(&self, stage: &mut Stage, id: &str) -> Result<()> {
        self.serves(stage, "bookworm")?;
        stage.claim("the original was neither restarted nor changed", || {
            let now = self.lab.domain_id("mercure")?;
            ensure!(now == id, "its domain was {id} and is {now}");
            let setting = self.lab.ssh(&self.address, ["cat", "/etc/dovecot/conf.d/10-mail.conf"])?;
            ensure!(setting.lines().any(|line| line == "mail_location = maildir:~/Maildir"));
            Ok(())
        })
    }

    /// Mails that are accepted from now on arrive.
    fn takes_mail(&self, stage: &mut Stage) -> Result<()> {
        let archive = self.lab.path("pool/guests/mercure-mail/archive");
        let before = mail::delivered(&archive)?.len();
        stage.claim("mail goes on arriving", || {
            until(PATIENCE, || {
                let arrived = mail::delivered(&archive)?.len() - before;
                ensure!(arrived >= 3, "{arrived} mails arrived");
                Ok(())
            })
        })
    }

    /// No other guest runs, and the clone's address is silent.
    fn alone(&self, clone: &str) -> Result<()> {
        let domains = self.lab.domains()?;
        let running: Vec<_> = domains.iter().filter(|(_, state)| *state == "running").collect();
        ensure!(running.len() == 1, "running: {running:?}");
        ensure!(self.lab.ssh(clone, ["true"]).is_err(), "{clone} answers");
        Ok(())
    }
}
