//! A mail server: what is quarantined, and what becomes of mail in its queue.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use integration::lab::guest::MERCURE;
use integration::lab::inventory;
use serde_json::Value;

use super::trial::{QUICK, Trial};

/// The mails in a guest's queue by sender, with the number of each.
fn queue(trial: &Trial, address: &str) -> Result<BTreeMap<String, u32>> {
    let mut mails = BTreeMap::new();
    for line in trial.lab.ssh(address, ["postqueue", "-j"])?.lines() {
        let mail: Value = serde_json::from_str(line)?;
        ensure!(mail["queue_name"] == "deferred", "{mail}");
        *mails.entry(mail["sender"].as_str().context("no sender")?.to_owned()).or_insert(0) += 1;
    }
    Ok(mails)
}

fn once_each(senders: &[&str]) -> BTreeMap<String, u32> {
    senders.iter().map(|sender| (format!("{sender}@mercure.lab"), 1)).collect()
}

#[test]
fn a_mail_server_sends_nothing_twice_and_loses_nothing() -> Result<()> {
    let trial = Trial::with(&[MERCURE])?;
    let lab = &trial.lab;
    let (address, clone) = (lab.address(MERCURE.host), lab.address(MERCURE.host + 4));
    let text = inventory::text(lab, &[MERCURE]).replace(r#"upgrade = { recipe = "debian", to = "trixie" }"#, QUICK);
    fs::write(lab.inventory(), text)?;
    // What goes out waits: it is accepted, and stays in the queue.
    lab.ssh(&address, ["postconf", "-e", "defer_transports = smtp"])?;
    lab.ssh(&address, ["systemctl", "reload", "postfix"])?;
    let send = |from: &str| -> Result<()> {
        let mail = format!("echo {from} | sendmail -f {from}@mercure.lab someone@far.example");
        lab.ssh(&address, ["sh", "-c", &mail])?;
        integration::lab::look::until(std::time::Duration::from_secs(20), || {
            ensure!(queue(&trial, &address)?.contains_key(&format!("{from}@mercure.lab")));
            Ok(())
        })
    };
    send("early")?;

    trial.says("clone mercure", 0)?;
    for unit in ["postfix.service", "cron.service"] {
        ensure!(lab.unit(&clone, unit)? == "inactive", "{unit}");
        let enabled = lab.ssh(&clone, ["systemctl", "show", "--property=LoadState", "--value", unit])?;
        ensure!(enabled == "masked", "{unit} is {enabled}");
        ensure!(lab.unit(&address, unit)? == "active", "{unit}");
    }
    // Started by hand it would have nothing to send: the queue was set aside.
    let files = lab.ssh(&clone, ["find", "/var/spool/postfix/deferred", "/var/spool/postfix/active", "-type", "f"])?;
    ensure!(files.is_empty(), "{files}");
    // A reboot does not bring them back.
    trial.says("upgrade mercure", 0)?;
    ensure!(lab.unit(&clone, "postfix.service")? == "inactive" && lab.unit(&clone, "cron.service")? == "inactive");
    send("late")?;
    trial.says("verify mercure", 0)?;

    trial.says("promote mercure --yes", 0)?;
    ensure!(lab.ssh(&address, ["ls", "/root"])? == "upgraded");
    for unit in ["postfix.service", "cron.service"] {
        ensure!(lab.unit(&address, unit)? == "active", "{unit}");
    }
    ensure!(queue(&trial, &address)? == once_each(&["early", "late"]), "{:?}", queue(&trial, &address)?);
    ensure!(lab.messages(&address)? == 3);

    // What the promoted guest accepts goes back with a rollback, and the clone has none of it.
    send("promoted")?;
    trial.says("rollback mercure --yes", 0)?;
    ensure!(lab.ssh(&address, ["ls", "/root"])?.is_empty());
    ensure!(queue(&trial, &address)? == once_each(&["early", "late", "promoted"]), "{:?}", queue(&trial, &address)?);
    ensure!(lab.unit(&clone, "postfix.service")? == "inactive");
    trial.says("abort mercure", 0)?;
    ensure!(queue(&trial, &address)? == once_each(&["early", "late", "promoted"]), "{:?}", queue(&trial, &address)?);
    Ok(())
}
