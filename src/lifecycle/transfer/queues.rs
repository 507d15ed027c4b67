//! Which queues of a server are brought over at its promotion.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use hypervisors::Host;
use hypervisors::host::Command;

use crate::guest::queues;
use crate::lifecycle::error::Failure;
use crate::lifecycle::preflight::Findings;

/// Arguments: root, then directories in it, which may be links. A line `empty DIRECTORY` or `full DIRECTORY` for each that is there, by
/// its own path below the root (`outside` if it is not below), and `rsync` if that is there. What a service keeps of itself (sendmail's
/// pid, at's `.lockfile`) is no message.
const LOOK: &str = "r=$(cd -P \"$1/\" && pwd -P) || exit 1; r=${r%/}; shift; command -v rsync >/dev/null 2>&1 && echo rsync; for d do \
    test -d \"$r/$d\" || continue; p=$(cd -P \"$r/$d\" && pwd -P) || continue; \
    case $p in \"$r\"/*) ;; *) echo \"outside $d\"; continue;; esac; \
    if test -n \"$(find \"$p\" -type f | grep -v -e '/sm-client[.]' -e '/[.][^/]*$' | head -n 1)\"; then echo \"full ${p#\"$r\"/}\"; \
    else echo \"empty ${p#\"$r\"/}\"; fi; done; exit 0";

struct Seen {
    rsync: bool,
    there: BTreeSet<String>,
    full: BTreeSet<String>,
}

/// A path that can be named below a root.
fn is_plain(path: &str) -> bool {
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
    !path.is_empty() && !path.contains(char::is_control) && Path::new(path).components().all(normal)
}

async fn look(host: &dyn Host, root: &str, directories: &[String]) -> Result<Seen, Failure> {
    let words = ["sh", "-c", LOOK, "sh", root].into_iter();
    let command = Command::new(words.chain(directories.iter().map(String::as_str)));
    let text = host.run(&command).await?.checked("look for queues", &command)?.text();
    let of = |kinds: &[&str]| -> BTreeSet<String> {
        let named = text.lines().filter_map(|line| line.split_once(' '));
        named.filter(|(kind, path)| kinds.contains(kind) && is_plain(path)).map(|(_, path)| path.to_owned()).collect()
    };
    let rsync = text.lines().any(|line| line == "rsync");
    Ok(Seen { rsync, there: of(&["empty", "full"]), full: of(&["full"]) })
}

/// The queues that promotion mirrors: the known ones that the original and the jail both have, by their own paths. Refused if one has something
/// in it and cannot be brought over.
///
/// # Errors
/// One of the machines cannot be asked.
pub async fn mirrored(
    (server, its_root): (&dyn Host, &Path),
    jails: &dyn Host,
    root: &Path,
    findings: &mut Findings,
) -> Result<Vec<String>, Failure> {
    let known: Vec<String> =
        queues::directories()?.iter().map(|directory| directory.to_string_lossy().into_owned()).collect();
    let here = look(server, &its_root.to_string_lossy(), &known).await?;
    let wanted: Vec<String> = here.there.iter().cloned().collect();
    let there = look(jails, &root.to_string_lossy(), &wanted).await?;
    let both = |directory: &&String| there.there.contains(*directory);
    let help = "install rsync on both, or wait until the queue is empty";
    for full in &here.full {
        if !both(&full) {
            let why =
                format!("/{full} of the original has something in it, and the jail has no such directory of its own");
            findings.refuse(
                "queues",
                why,
                "make it in the jail's tree, without a link on its way, or wait until it is empty",
            );
        } else if !here.rsync || !there.rsync {
            let lacks = if here.rsync { jails.name() } else { server.name() };
            let why = format!("/{full} of the original has something in it, and {lacks} has no rsync to bring it over");
            findings.refuse("queues", why, help);
        }
    }
    let able = here.rsync && there.rsync;
    Ok(here.there.iter().filter(|directory| able && both(directory)).cloned().collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use hypervisors::host::LocalHost;

    use super::*;

    #[tokio::test]
    async fn a_queue_is_found_behind_a_link_and_what_is_no_message_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| std::fs::create_dir_all(dir.path().join(path)).unwrap();
        let file = |path: &str| std::fs::write(dir.path().join(path), "x").unwrap();
        ["usr/spool/mqueue", "var/spool/clientmqueue", "var/spool/exim/input", "var/at/jobs"]
            .into_iter()
            .for_each(make);
        std::os::unix::fs::symlink("../../usr/spool/mqueue", dir.path().join("var/spool/mqueue")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("var/spool/cups")).unwrap();
        ["usr/spool/mqueue/qfA", "var/spool/clientmqueue/sm-client.pid", "var/at/jobs/.lockfile"]
            .into_iter()
            .for_each(file);
        let known: Vec<String> =
            queues::directories().unwrap().iter().map(|path| path.to_string_lossy().into_owned()).collect();
        let seen = look(&LocalHost::new("here"), &dir.path().to_string_lossy(), &known).await.unwrap();
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&seen.there), "usr/spool/mqueue var/at/jobs var/spool/clientmqueue var/spool/exim/input");
        assert_eq!(names(&seen.full), "usr/spool/mqueue");
    }

    #[test]
    fn scripts_survive_a_csh_login_shell() {
        assert!(!LOOK.contains(['!', '\n']));
    }
}
