//! The program: reads the command line, carries it out, ends with its exit code.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;
use upgradectl::cli::{self, Cli};
use upgradectl::lifecycle::error::exit;
use upgradectl::output;

fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        output::err(&format!("error: a bug: please report it with what you did\n  cause: {info}\n"));
    }));
    let code = match Cli::try_parse() {
        Ok(cli) => panic::catch_unwind(AssertUnwindSafe(|| cli.run())).unwrap_or(exit::BUG),
        Err(error) => cli::usage(&error),
    };
    output::drain();
    ExitCode::from(code)
}
