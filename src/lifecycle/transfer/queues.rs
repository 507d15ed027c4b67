//! Which queues of a server are brought over at its promotion.

use std::collections::BTreeSet;
use std::path::Path;

use hypervisors::Host;
use hypervisors::host::Command;

use crate::guest::queues;
use crate::inventory::{CarryRule, GuestSpec};
use crate::lifecycle::error::Failure;
use crate::lifecycle::preflight::Findings;

/// Arguments: root, then directories in it. A line `empty DIRECTORY` or `full DIRECTORY` for each that is there, and `rsync` if that is.
pub(super) const LOOK: &str = "r=$1; shift; command -v rsync >/dev/null 2>&1 && echo rsync; for d do test -L \"$r/$d\" && continue; \
    test -d \"$r/$d\" || continue; if test -n \"$(ls -A \"$r/$d\" | head -n 1)\"; then echo \"full $d\"; else echo \"empty $d\"; fi; done; exit 0";

struct Seen {
    rsync: bool,
    there: BTreeSet<String>,
    full: BTreeSet<String>,
}

async fn look(host: &dyn Host, root: &str, directories: &[String]) -> Result<Seen, Failure> {
    let words = ["sh", "-c", LOOK, "sh", root].into_iter();
    let command = Command::new(words.chain(directories.iter().map(String::as_str)));
    let text = host.run(&command).await?.checked("look for queues", &command)?.text();
    let known = |word: &str| directories.iter().any(|directory| directory == word);
    let of = |kinds: &[&str]| -> BTreeSet<String> {
        let named = text.lines().filter_map(|line| line.split_once(' '));
        named.filter(|(kind, path)| kinds.contains(kind) && known(path)).map(|(_, path)| path.to_owned()).collect()
    };
    let rsync = text.lines().any(|line| line == "rsync");
    Ok(Seen { rsync, there: of(&["empty", "full"]), full: of(&["full"]) })
}

/// The queues that promotion mirrors: the known ones that server and jail both have, and no carry rule covers. Refused if one has
/// something in it and cannot be brought over.
///
/// # Errors
/// One of the machines cannot be asked.
pub async fn mirrored(
    server: &dyn Host,
    jails: &dyn Host,
    root: &Path,
    spec: &GuestSpec,
    findings: &mut Findings,
) -> Result<Vec<String>, Failure> {
    let covered = |directory: &Path| {
        spec.carry.iter().any(|CarryRule::Rsync { path, .. }| Path::new("/").join(directory).starts_with(path))
    };
    let known = queues::directories()?.into_iter().filter(|directory| !covered(directory));
    let known: Vec<String> = known.map(|directory| directory.to_string_lossy().into_owned()).collect();
    let here = look(server, "", &known).await?;
    let there = look(jails, &root.to_string_lossy(), &known).await?;
    let both = |directory: &&String| there.there.contains(*directory);
    if here.rsync && there.rsync {
        for lost in here.full.iter().filter(|directory| !both(directory)) {
            findings
                .warn("queues", format!("/{lost} of the server has something in it, and the jail has no such queue"));
        }
        return Ok(here.there.iter().filter(both).cloned().collect());
    }
    if let Some(full) = here.full.iter().next() {
        let where_ = if here.rsync { "the jail host" } else { "the server" };
        findings.refuse(
            "queues",
            format!("/{full} of the server has something in it, and {where_} has no rsync to bring it over"),
            "install rsync on both, or wait until the queue is empty",
        );
    }
    Ok(Vec::new())
}
