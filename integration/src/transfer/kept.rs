//! A beginning that is kept: trees and definitions of the host of jails, and what the product knows. The server is not part of it: it is
//! to be as it was when this is gone back to.

use anyhow::Result;

use super::trial::Trial;
use crate::command::run;
use crate::lab::jails::JAILHOST;

/// What there was when it was kept, a clone running or not.
#[derive(Debug)]
pub struct Kept<'a> {
    trial: &'a Trial,
    name: &'a str,
    /// The jail that runs.
    runs: String,
}

impl<'a> Kept<'a> {
    /// Keeps what is there under a name. No verb may be under way.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn of(trial: &'a Trial, name: &'a str) -> Result<Kept<'a>> {
        let runs = trial.on(JAILHOST.host, "jls name")?.trim().to_owned();
        let script = format!(
            "mkdir /kept-{name} && cp -a -x --reflink=always /usr/jails /kept-{name}/jails && cp -a /etc/rc.conf /etc/jail.*conf /kept-{name}"
        );
        trial.on(JAILHOST.host, &script)?;
        let state = trial.lab.path(format!("kept-{name}"));
        run("cp").args(["--archive", "-T"]).arg(trial.lab.state()).arg(state).output()?;
        Ok(Kept { trial, name, runs })
    }

    /// Goes back to it, from wherever no jail runs.
    ///
    /// # Errors
    /// It cannot be copied back, or the jail does not start.
    pub fn back(&self) -> Result<()> {
        let (name, state) = (self.name, self.trial.lab.state());
        run("rm").args(["-rf"]).args([state.join("runs"), state.join("journal.db")]).output()?;
        for beside in ["journal.db-wal", "journal.db-shm"] {
            run("rm").arg("-f").arg(state.join(beside)).output()?;
        }
        // What is in `run` are the sockets of connections that stand.
        run("cp")
            .args(["--archive", "--no-clobber", "-T"])
            .arg(self.trial.lab.path(format!("kept-{name}")))
            .arg(state)
            .output()?;
        let start = match self.runs.as_str() {
            "" => "true".to_owned(),
            jail => format!("service jail onestart {jail} && jls -j {jail} > /dev/null"),
        };
        let script = format!(
            "/bin/rm -rf /usr/jails && cp -a --reflink=always /kept-{name}/jails /usr/jails && cp -a /kept-{name}/*conf /etc && {start}"
        );
        self.trial.on(JAILHOST.host, &script).map(drop)
    }
}
