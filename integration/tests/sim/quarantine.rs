//! The clone does nothing that production does: services off, queues set aside; nothing is sent twice, nothing is lost.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::Bench;

const SPOOL: &str = "var/spool/postfix";

/// Messages in the queue, by name.
fn queue(bench: &Bench, volume: &str) -> Vec<String> {
    fn files(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    files(&bench.volume(volume, SPOOL), &mut found);
    let mut names: Vec<String> =
        found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn post(bench: &Bench, volume: &str, id: &str) {
    fs::write(bench.volume(volume, &format!("{SPOOL}/incoming/{id}")), "mail\n").unwrap();
}

fn units(bench: &Bench, guest: &str) -> String {
    let text = fs::read_to_string(bench.path("world/power").join(format!("{guest}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["units"].to_string()
}

#[test]
fn the_clone_is_quarantined_and_the_promoted_guest_is_not() {
    let bench = Bench::new();
    bench.edit_inventory("clone =", "quarantine = { off = [\"nginx\"] }\nclone =");
    bench.good_way_to("cloned");
    let run = bench.run_id();
    let root = format!("{run}-root");
    let masks = ["postfix.service", "cron.service", "nginx.service"];
    for unit in masks {
        let mask = bench.volume(&root, &format!("etc/systemd/system/{unit}"));
        assert_eq!(fs::read_link(&mask).unwrap(), Path::new("/dev/null"), "{unit}");
        assert!(!units(&bench, &run).contains(unit), "{unit} runs in the clone");
        assert!(units(&bench, "mercure").contains(unit), "{unit} does not run in the original");
    }
    assert!(units(&bench, &run).contains("dovecot.service"));
    bench.good("upgrade", "upgraded");
    for unit in masks {
        assert!(!units(&bench, &run).contains(unit), "{unit} runs in the upgraded clone");
    }
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    for unit in masks {
        assert!(!bench.volume(&root, &format!("etc/systemd/system/{unit}")).is_symlink(), "{unit} is still masked");
        assert!(units(&bench, "mercure").contains(unit), "{unit} does not run in the promoted guest");
    }
    bench.good("rollback", "upgraded");
    for unit in masks {
        assert!(!units(&bench, &run).contains(unit), "{unit} runs in the clone after rollback");
    }
}

#[test]
fn services_that_verification_needs_run_for_it_alone() {
    let bench = Bench::new();
    bench.edit_inventory("clone =", "quarantine = { while_verifying = [\"postfix\"] }\nclone =");
    bench.good_way_to("upgraded");
    let run = bench.run_id();
    let said = bench.verb("verify");
    assert_eq!(said.code, 0, "{said}");
    assert!(bench.trace().iter().any(|entry| entry.object.contains("systemctl start postfix")), "it was not started");
    assert!(!units(&bench, &run).contains("postfix.service"), "it runs on");
    let mask = bench.volume(&format!("{run}-root"), "etc/systemd/system/postfix.service");
    assert!(mask.is_symlink(), "it is not masked again");
}

#[test]
fn nothing_is_sent_twice_and_nothing_is_lost() {
    let bench = Bench::new();
    let first = queue(&bench, "mercure");
    assert_eq!(first.len(), 2);
    bench.good_way_to("cloned");
    let clone = format!("{}-root", bench.run_id());
    assert_eq!(queue(&bench, &clone), Vec::<String>::new(), "the clone has mail to send");
    assert_eq!(queue(&bench, "mercure"), first, "the original's queue was touched");

    // The original sends one and accepts another.
    let sent = bench.volume("mercure", &format!("{SPOOL}/deferred/3/{}", first[0]));
    fs::remove_file(sent).unwrap();
    post(&bench, "mercure", "AAAA1");
    bench.good("upgrade", "upgraded");
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    assert_eq!(queue(&bench, &clone), [first[1].clone(), "AAAA1".to_owned()]);

    // The promoted one sends one and accepts two.
    fs::remove_file(bench.volume(&clone, &format!("{SPOOL}/incoming/AAAA1"))).unwrap();
    post(&bench, &clone, "BBBB1");
    post(&bench, &clone, "BBBB2");
    let now = [first[1].clone(), "BBBB1".to_owned(), "BBBB2".to_owned()];
    bench.good("rollback", "upgraded");
    assert_eq!(queue(&bench, "mercure"), now, "after rollback");
    assert!(!units(&bench, &bench.run_id()).contains("postfix"), "the clone could send");

    // And once more.
    fs::remove_file(bench.volume("mercure", &format!("{SPOOL}/incoming/BBBB1"))).unwrap();
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    assert_eq!(queue(&bench, &clone), [first[1].clone(), "BBBB2".to_owned()]);
    post(&bench, &clone, "CCCC1");
    bench.good("abort", "aborted");
    assert_eq!(queue(&bench, "mercure"), [first[1].clone(), "BBBB2".to_owned(), "CCCC1".to_owned()], "after abort");
}

#[test]
fn what_the_original_writes_is_carried_at_the_last_moment() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let run = bench.run_id();
    fs::write(bench.volume("mercure", "home/probe/Maildir/new/late"), "late\n").unwrap();
    fs::remove_file(bench.volume("mercure", "home/probe/Maildir/new/1726000001.M1P1.mercure")).unwrap();
    bench.good("promote", "promoted");
    let new = bench.volume(&format!("{run}-root"), "home/probe/Maildir/new");
    assert_eq!(fs::read_to_string(new.join("late")).unwrap(), "late\n");
    assert!(!new.join("1726000001.M1P1.mercure").exists());
}

#[test]
fn identity_is_given_back() {
    let bench = Bench::new();
    let files = [
        "etc/network/interfaces",
        "etc/hosts",
        "etc/machine-id",
        "etc/fstab",
        "etc/hostname",
        "etc/ssh/ssh_host_ed25519_key.pub",
    ];
    let read = |volume: &str, file: &str| fs::read(bench.volume(volume, file)).ok();
    bench.good_way_to("cloned");
    let clone = format!("{}-root", bench.run_id());
    for file in
        ["etc/network/interfaces", "etc/hosts", "etc/machine-id", "etc/fstab", "etc/ssh/ssh_host_ed25519_key.pub"]
    {
        assert_ne!(read("mercure", file), read(&clone, file), "{file} is the original's");
    }
    bench.good("upgrade", "upgraded");
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    for file in files {
        assert_eq!(read("mercure", file), read(&clone, file), "{file} was not given back");
    }
}
