//! The program: reads the command line, carries it out, ends with its exit code.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;
use upgradectl::cli::Cli;
use upgradectl::lifecycle::error::exit;
use upgradectl::output;

fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        output::err(&format!("error: a bug: please report it with what you did\n  cause: {info}\n"));
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The text is for whoever typed it; a terminal that is gone is no error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    let code = panic::catch_unwind(AssertUnwindSafe(|| cli.run())).unwrap_or(exit::BUG);
    ExitCode::from(code)
}
