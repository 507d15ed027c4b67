//! `ssh`: a session in the clone, with the host key that the clone is known by.

use std::io::{IsTerminal, stdin, stdout};

use clap::Args;
use hypervisors::host::SshHost;

use super::context::Context;
use crate::journal::SqliteJournal;
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::{live, query};

/// `ssh`.
#[derive(Debug, Args)]
pub(super) struct Ssh {
    /// Guest, run, or the end of the run's id
    guest: String,
    /// The original instead of the clone
    #[arg(long)]
    original: bool,
    /// Command there; a login shell if left out
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Ssh {
    /// Becomes ssh; returns only if that fails.
    pub(super) fn run(&self, context: &Context) -> u8 {
        match self.become_ssh(context) {
            Ok(never) => match never {},
            Err(failure) => context.fail(&failure.0),
        }
    }

    fn become_ssh(&self, context: &Context) -> Result<std::convert::Infallible, Failure> {
        let run = match SqliteJournal::open_read_only(&context.state)? {
            Some(journal) => query::open_runs(&journal, Some(&self.guest))?.pop(),
            None => None,
        };
        let run = run.ok_or_else(|| {
            Failure::new(exit::STATE, format!("reach the clone of {}", self.guest))
                .cause("no guest or run of that name has an open run")
                .help("upgradectl status names the open runs")
        })?;
        let mut link = live::way_in(&run, self.original)?;
        if link.by.is_some() {
            let app = context.app(context.inventory()?);
            link = context.block_on(app.found(&run, link))??;
        }
        let terminal = stdin().is_terminal() && stdout().is_terminal();
        let argv = SshHost::for_guest(&link).session(&self.command, terminal)?;
        let failed = hypervisors::host::become_command(&argv);
        Err(Failure::new(exit::REFUSED, "start ssh").cause(failed.to_string()).help("install openssh-client"))
    }
}
