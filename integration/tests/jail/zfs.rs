//! A jail that is a dataset of its own is cloned, upgraded and put in the original's place, on the same host: the whole way, the ways back, and the
//! controller killed in steps of each verb. ZFS is played.

use anyhow::{Context as _, Result, ensure};
use integration::lab::jails::{JAILHOST, SERVER};
use integration::lab::worlds::{NEW, OLD};
use integration::struck::{At, BOTH, gives_up, goes_on};
use integration::transfer::trial::{CLONE, Trial};
use integration::transfer::upgraded::is_upgraded;

use super::base_system::BASE;

/// In every third step; in all of them, and twice: `make soak`.
fn now_and_then(step: usize) -> Vec<At> {
    if step % 3 == 1 { vec![BOTH[step / 3 % 2]] } else { Vec::new() }
}

/// Datasets and snapshots below that of the jails: name, origin, mark.
fn datasets(trial: &Trial) -> Result<String> {
    let list = "zfs list -H -t filesystem,snapshot -o name,origin,org.upgradectl:run -r zroot/jails | tr '\\t' ' '";
    trial.on(JAILHOST.host, list)
}

/// The clone's run, by its dataset: the one that has an origin.
fn run(trial: &Trial) -> Result<String> {
    let all = datasets(trial)?;
    let mut lines = all.lines().filter_map(|line| line.strip_prefix("zroot/jails/")?.split_once(' '));
    lines.find(|(_, rest)| rest.contains('@')).map(|(name, _)| name.to_owned()).context("a clone")
}

#[test]
fn needs_root_a_jail_is_cloned_upgraded_and_takes_its_own_place() -> Result<()> {
    let trial = Trial::new(OLD)?;
    trial.on(
        JAILHOST.host,
        "printf 'zroot\\tnone\\t-\\t-\\nzroot/jails\\t/usr/jails\\t-\\t-\\n' > /var/db/jailhost/zfs",
    )?;
    // A server has become a jail, and is upgraded as one.
    for line in ["clone ServerA", "upgrade ServerA", "verify ServerA", "promote ServerA --yes", "commit ServerA --yes"]
    {
        trial.says(line, 0)?;
    }
    let original = trial.on(JAILHOST.host, "ls /usr/jails")?.trim().to_owned();
    let committed = trial.host()?;
    ensure!(committed.contains("ServerA {") && !committed.contains("upgradectl run"), "its mark is gone: {committed}");
    ensure!(trial.on(SERVER.host, "sysctl -n security.jail.jailed")?.trim() == "1");
    trial.is_a_jail(BASE)?;
    trial.on(SERVER.host, "mkdir -p /var/spool/mqueue; echo old > /var/spool/mqueue/qfOld")?;
    let own = format!("zfs set quota=1073741824 zroot/jails/{original}; zfs set lab:note=mine zroot/jails/{original}");
    trial.on(JAILHOST.host, &own)?;
    let (host, inside) = (trial.host()?, trial.server(SERVER.host)?);
    ensure!(host.contains(&format!("path = \"/usr/jails/{original}\"")), "{host}");

    // Looking touches nothing; what cannot be is refused before anything is touched.
    let said = trial.says("plan clone ServerA", 0)?;
    ensure!(said.stdout.contains("a second jail, left stopped") && trial.host()? == host, "{said}");
    ensure!(trial.says("clone ServerA --ip .31", 7)?.stderr.contains("the original's own"));
    ensure!(trial.says("clone ServerA --ip .30", 7)?.stderr.contains("is an address of jailhost itself"));
    ensure!(trial.says("clone ServerA --strategy origin", 7)?.stderr.contains("cloned by snapshot"));
    trial.on(JAILHOST.host, &format!("zfs create zroot/jails/{original}/inner"))?;
    ensure!(trial.says("clone ServerA", 7)?.stderr.contains("dataset within it"));
    trial.on(JAILHOST.host, &format!("zfs destroy zroot/jails/{original}/inner"))?;
    ensure!(trial.says("doctor", 0)?.stdout.contains("unproven") && trial.host()? == host, "{}", trial.host()?);

    // Begun, killed and given up.
    let (points, struck) = gives_up(&trial, "clone ServerA", &format!("{host}\n{inside}"), || Ok(()), now_and_then)?;
    ensure!(points > 2 && struck > 2, "{points} {struck}");

    goes_on(&trial, "clone ServerA", now_and_then)?;
    let run = run(&trial)?;
    let tree = format!("/usr/jails/{run}");
    let all = datasets(&trial)?;
    ensure!(all.contains(&format!("zroot/jails/{run} zroot/jails/{original}@{run} {run}.clone")), "{all}");
    let own =
        trial.on(JAILHOST.host, &format!("zfs get -H -p -s local,received -o property,value all zroot/jails/{run}"))?;
    ensure!(own.contains("quota\t1073741824") && own.contains("lab:note\tmine"), "{own}");
    ensure!(
        trial.on(JAILHOST.host, &format!("ls {tree}/var/spool/mqueue"))?.is_empty(),
        "what waits is the original's"
    );
    ensure!(trial.on(JAILHOST.host, "jls -n name")?.trim() == "name=ServerA", "it is left stopped");
    let said = trial.says("plan upgrade ServerA", 0)?;
    ensure!(said.stdout.contains(&format!("{OLD} to {NEW}")), "from and to: {said}");
    trial.says("upgrade ServerA", 0)?;
    is_upgraded(&trial, &tree)?;
    trial.says("verify ServerA", 0)?;
    // Jails share their host's network.
    let serves = trial.server(SERVER.host)?.replace(&format!("{}/32\n", trial.lab.address(CLONE)), "");
    ensure!(serves == inside, "the original serves as before:\n{serves}");

    trial.on(
        SERVER.host,
        "echo late > /var/mail/late; rm /var/spool/mqueue/qfOld; echo waits > /var/spool/mqueue/qfA; echo sent > /var/spool/mqueue/qfB",
    )?;
    goes_on(&trial, "promote ServerA --yes", now_and_then)?;
    ensure!(
        trial.on(SERVER.host, "freebsd-version -u; cat /var/mail/late; ls /var/spool/mqueue")?.trim()
            == format!("{NEW}\nlate\nqfA\nqfB")
    );
    ensure!(
        trial.on(SERVER.host, "grep ^sendmail_enable /etc/rc.conf | tail -1")? == "sendmail_enable=\"YES\"",
        "out of quarantine"
    );
    let promoted = trial.host()?;
    ensure!(promoted.contains(&format!("path = \"{tree}\"")) && promoted.contains("role production"), "{promoted}");
    ensure!(datasets(&trial)?.contains(&format!("zroot/jails/{original} - {run}.original")), "{}", datasets(&trial)?);
    let said = trial.says("gc --yes", 0)?;
    ensure!(trial.host()? == promoted, "{said}\n{}", trial.host()?);
    trial.on(SERVER.host, "echo promoted > /root/promoted; cd /var/spool/mqueue && rm qfB && echo new > qfC")?;

    goes_on(&trial, "rollback ServerA --yes", now_and_then)?;
    let queue =
        trial.on(SERVER.host, "ls /var/spool/mqueue; freebsd-version -u; ls /root/promoted 2>&1 | grep -c such")?;
    ensure!(queue.trim() == format!("qfA\nqfC\n{OLD}\n1"), "accepted ones came back: {queue}");
    ensure!(
        trial
            .on(CLONE, "cat /root/promoted; grep ^sendmail_enable /etc/rc.conf | tail -1")?
            .starts_with("promoted\nsendmail_enable=\"NONE\""),
        "the clone is back, in quarantine"
    );
    let aside = format!("cd /usr/jails/.upgradectl/{run}.aside && find . -type f && /bin/rm -r $PWD");
    ensure!(trial.on(JAILHOST.host, &aside)?.trim() == "./var/spool/mqueue/qfB", "sent ones are laid aside");
    trial.on(SERVER.host, "rm -rf /var/spool/mqueue/* /var/mail/late; echo old > /var/spool/mqueue/qfOld")?;
    goes_on(&trial, "abort ServerA --yes", now_and_then)?;
    ensure!(trial.host()? == host, "as it was:\n{}", trial.host()?);
    ensure!(trial.server(SERVER.host)? == inside, "as it was:\n{}", trial.server(SERVER.host)?);

    // Once more, to the end. The operator's own snapshots: older ones stay, younger ones go with the original, and are named.
    trial.on(JAILHOST.host, &format!("zfs snapshot zroot/jails/{original}@daily"))?;
    for line in ["clone ServerA", "upgrade ServerA", "verify ServerA", "promote ServerA --yes"] {
        trial.says(line, 0)?;
    }
    let run = self::run(&trial)?;
    trial.on(JAILHOST.host, &format!("zfs snapshot zroot/jails/{original}@late"))?;
    ensure!(trial.says("plan commit ServerA", 0)?.stdout.contains(&format!("zroot/jails/{original}@late")));
    goes_on(&trial, "commit ServerA --yes", |_| BOTH.to_vec())?;
    let all = datasets(&trial)?;
    let (own, daily) = (format!("zroot/jails/{run} - -"), format!("zroot/jails/{run}@daily - -"));
    ensure!(all.lines().count() == 3 && all.contains(&own) && all.contains(&daily), "{all}");
    let host = trial.host()?;
    ensure!(host.contains("ServerA {") && !host.contains("upgradectl run"), "its mark is gone: {host}");
    ensure!(trial.on(SERVER.host, "freebsd-version -u")?.trim() == NEW);
    ensure!(trial.says("status", 0)?.stdout.contains("no open runs"));
    Ok(())
}
