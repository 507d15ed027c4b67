//! The command line: what may be typed, and which part of the program answers. No logic of its own: verbs are the
//! lifecycle's, what is printed is `output`'s.

mod batch;
mod change;
mod context;
mod decide;
mod look;
mod resume;
mod run;
mod signals;
mod ssh;
mod tidy;
mod watch;

use std::io::{stderr, stdout};
use std::path::PathBuf;

use clap::{ArgAction, Args, ColorChoice, Parser, Subcommand};

use change::Changing;
use context::Context;

use crate::lifecycle::error::exit;
use crate::output::{self, Style};

/// Clones a guest, upgrades the clone, verifies it and puts it in the original's place; with a way back at every step.
#[derive(Debug, Parser)]
#[command(name = "upgradectl", version, disable_help_subcommand = true, max_term_width = 80)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every verb takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Inventory of hosts and guests
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "UPGRADECTL_INVENTORY",
        hide_env_values = true,
        default_value = "/etc/upgradectl/inventory.toml"
    )]
    inventory: PathBuf,
    /// State directory: journal, logs, reports [default: /var/lib/upgradectl]
    #[arg(long, global = true, value_name = "DIR", env = "UPGRADECTL_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
    /// Print JSON: queries one object, changing verbs one event a line
    #[arg(long, global = true)]
    json: bool,
    /// Print results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print commands and diffs too (twice: what the program itself does)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write an inventory to start from, or make a simulated world (--sim)
    Init(tidy::Init),
    /// Look for what is missing: on this machine, on the hosts, for each guest
    Doctor(tidy::Doctor),
    /// Show the open runs: state, clone, what is being done, what is possible
    Status(look::Status),
    /// Show the record of a run: plans, who, when, every step with its outcome
    Log(look::Log),
    /// Watch the open runs' snapshots fill, and extend them before they are lost
    Watch(watch::Watch),
    /// Show the plan of a verb; touches nothing (the same as VERB --dry-run)
    Plan(change::PlanOf),
    #[command(flatten)]
    Change(Changing),
    #[command(flatten)]
    Decide(decide::Deciding),
    /// Look at the configuration files that an upgrade left undecided
    #[command(subcommand)]
    Conffiles(look::Conffiles),
    /// Many guests by one file: plan, run, status, resume, abort, report
    #[command(subcommand)]
    Batch(batch::Batch),
    /// Find what closed runs left behind, and remove it after asking
    Gc(tidy::Gc),
    /// Log in to the clone, or run a command there
    Ssh(ssh::Ssh),
}

/// Tells what is wrong with the command line, or what it asked for (`--help`); returns the exit code.
pub fn usage(error: &clap::Error) -> u8 {
    let text = error.render();
    let (write, coloured): (fn(&str), _) = if error.use_stderr() {
        (output::err, Style::choose(ColorChoice::Auto, &stderr()))
    } else {
        (output::out, Style::choose(ColorChoice::Auto, &stdout()))
    };
    write(&if coloured == Style::default() { text.to_string() } else { text.ansi().to_string() });
    u8::try_from(error.exit_code()).unwrap_or(exit::USAGE)
}

impl Cli {
    /// Carries out what was typed; returns the exit code.
    pub fn run(self) -> u8 {
        let plan_only = match &self.command {
            Command::Plan(_) => true,
            Command::Change(verb) => verb.dry_run(),
            _ => false,
        };
        let looks = match &self.command {
            Command::Gc(gc) => gc.dry_run(),
            Command::Batch(batch) => batch.only_looks(),
            Command::Change(_) | Command::Decide(_) => plan_only,
            _ => true,
        };
        if !looks {
            output::changes_the_world();
        }
        let context = Context::new(self.global, plan_only);
        match self.command {
            Command::Init(init) => init.run(&context),
            Command::Doctor(doctor) => doctor.run(&context),
            Command::Status(status) => status.run(&context),
            Command::Log(log) => log.run(&context),
            Command::Watch(watch) => watch.run(&context),
            Command::Conffiles(conffiles) => conffiles.run(&context),
            Command::Batch(batch) => batch.run(&context),
            Command::Gc(gc) => gc.run(&context),
            Command::Ssh(ssh) => ssh.run(&context),
            Command::Plan(plan) => plan.verb.run(&context),
            Command::Change(verb) => verb.run(&context),
            Command::Decide(choice) => choice.run(&context),
        }
    }
}

#[cfg(test)]
mod tests;
