//! The queue of undecided configuration files, as `conffiles` shows it.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::etc::LISTED;
use super::{Tree, UNDECIDED, act, machine, name, shown, with_clone};
use crate::recipe::conffiles::{Conffile, Kind};
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Most files that are kept, and the largest of them in bytes.
const FILES: usize = 1000;
const LARGEST: &str = "1048576";

/// Records the configuration files that the merges left undecided: [`Done::data`] is the list of [`Conffile`], as that of
/// [`crate::steps::upgrade::CollectConffiles`]; their bytes are in the run's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectUndecided {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
}

/// Files that hold secrets: they are listed, and neither kept nor shown.
const SECRET: &[&str] = &["/etc/master.passwd", "/etc/opiekeys", "/etc/ppp/ppp.conf"];

/// Arguments: a directory, a path below it, most bytes. Prints the file, unless it is none or lies behind a link that leads out;
/// then it ends with 3.
pub(super) const FILE: &str = "r=$(cd -P \"$1\" 2>/dev/null && pwd -P) || exit 3; d=$(cd -P \"$r${2%/*}\" 2>/dev/null && pwd -P) || exit 3; \
    case $d in \"$r\"|\"$r\"/*) ;; *) exit 3;; esac; f=$d/${2##*/}; test -L \"$f\" && exit 3; test -f \"$f\" || exit 3; \
    test $(($(wc -c <\"$f\"))) -le \"$3\" || exit 3; cat \"$f\"";

async fn bytes(host: &dyn Host, below: &Path, path: &str) -> Result<Option<Vec<u8>>, StepError> {
    let below = shown(below);
    let mut command = Command::new(["sh", "-c", FILE, "sh", &below, path, LARGEST]).timeout(Duration::from_secs(60));
    command.limit = 2 << 20;
    let output = host.run(&command).await?;
    if output.status == 3 {
        return Ok(None);
    }
    Ok(Some(output.checked(format!("read {path}"), &command)?.stdout))
}

#[async_trait]
impl Step for CollectUndecided {
    fn title(&self) -> String {
        "record the configuration files left undecided".into()
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let aside = shown(&self.tree.scratch.join(UNDECIDED));
        vec![manners.on(&self.tree.host, ["find", &aside, "-type", "f"].map(str::to_owned).to_vec())]
    }
    /// It only looks, so there is nothing of it to find.
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = machine(world, &self.tree.host)?;
        let aside = self.tree.scratch.join(UNDECIDED);
        let listed = act(host.as_ref(), "list what was laid aside", LISTED, &[&shown(&aside)]).await?;
        let text = String::from_utf8_lossy(&listed.stdout);
        let mut paths: Vec<&str> = text.split('\0').filter(|path| path.starts_with('/')).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut files = Vec::new();
        for path in paths.into_iter().take(FILES) {
            let own = bytes(host.as_ref(), &self.tree.root, path).await?;
            let other = bytes(host.as_ref(), &aside, path).await?;
            if own.is_some() && own == other {
                continue;
            }
            let open = !SECRET.contains(&path);
            let keep =
                |bytes: Option<Vec<u8>>| bytes.filter(|_| open).map(|bytes| world.memory.keep(&bytes)).transpose();
            files.push(Conffile {
                path: path.to_owned(),
                beside: format!("{}{path}", aside.display()),
                kind: Kind::Kept,
                package: None,
                in_force: keep(own)?,
                other: keep(other)?,
                older: false,
                secret: !open,
            });
        }
        let done = Done::new(Change::Unchanged).with(json!(files));
        Ok(match files.len() {
            0 => done,
            count => {
                done.warn(format!("configuration files undecided: {count} (upgradectl conffiles list {})", name(world)))
            }
        })
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
