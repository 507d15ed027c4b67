//! What people and programs read: one event stream in, terminal text or JSON lines out.
//!
//! * [`terminal`]: progress and closing words for people; [`json`]: one event a line, one object a query.
//! * [`page`]: plans and approval pages; [`error`]: failures; [`status`], [`log`], [`watch`], [`tidy`]: the tables of the queries;
//!   [`batch`]: many guests at once.
//! * [`format`]: sizes, durations, times, wrapping: the one place for each; [`writer`]: the one place that writes.
//!
//! May not: decide anything, fail, or wait for a reader. A terminal that is gone or held never stops a verb: what cannot
//! be written is dropped, what is not read waits in memory.
//! Text that comes from guests or commands is shown with its control characters replaced, where it is put into a line; what
//! slips through there is replaced by [`neutral`] where it is written. Results go to standard output, progress and errors to
//! standard error; colour never carries meaning alone.

pub mod batch;
pub mod closing;
pub mod error;
pub mod format;
pub mod front;
pub mod json;
pub mod log;
mod neutral;
pub mod page;
pub mod status;
pub mod terminal;
pub mod tidy;
pub mod watch;
pub mod writer;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clap::ColorChoice;

use writer::{Patience, Stream};

/// How long the reader of a finished verb may take nothing while a person can be there, who can also end the wait.
const PERSON: Duration = Duration::from_secs(3600);
/// The same where nobody is: the next run of a boot unit must not wait for the reader of the last.
const NOBODY: Duration = Duration::from_secs(60);
/// How long a program that is ended at once waits for its last words.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Details that were left out of standard error and not told yet.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);
/// The verb changes the world: its reader is not waited for without end.
static CHANGES: AtomicBool = AtomicBool::new(false);

/// Writes to standard output, without waiting; a reader that is gone is no error.
pub fn out(text: &str) {
    writer::put(Stream::Out, text);
}

/// Writes to standard error, without waiting; a terminal that is gone is no error.
pub fn err(text: &str) {
    let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
    if left_out > 0 {
        let why = "not shown: nobody read; upgradectl log has the steps";
        writer::put(Stream::Err, &format!("      ({} {why})\n", format::count(left_out, "line")));
    }
    writer::put(Stream::Err, text);
}

/// Writes a detail to standard error if its reader keeps up; what is left out is counted and told.
pub fn detail(text: &str) {
    if !writer::offer(Stream::Err, text) {
        LEFT_OUT.fetch_add(text.lines().count(), Ordering::Relaxed);
    }
}

/// Standard error for what the program tells of itself: details, all of them.
#[derive(Debug, Default)]
pub struct Details;

impl Write for Details {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        detail(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Says that this invocation changes the world, so that [`drain`] is bounded.
pub fn changes_the_world() {
    CHANGES.store(true, Ordering::Relaxed);
}

/// Waits for the readers: the last thing that is done, when no lease is held any more.
///
/// A query has no purpose but to be read, so its reader may take all the time it wants. What a verb did is in the
/// journal: its reader is waited for as long as it takes something now and then.
pub fn drain() {
    writer::drain(match (CHANGES.load(Ordering::Relaxed), std::fs::File::open("/dev/tty")) {
        (false, _) => Patience::Endless,
        (true, Ok(_)) => Patience::Idle(PERSON),
        (true, Err(_)) => Patience::Idle(NOBODY),
    });
}

/// Ends the program at once, with its last words if they can be said.
pub fn end(code: u8) -> ! {
    writer::drain(Patience::Total(LAST_WORDS));
    std::process::exit(code.into());
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    on: bool,
}

impl Style {
    /// As asked for; `auto` colours a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    pub fn choose(choice: ColorChoice, stream: &impl IsTerminal) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let on = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        if on {
            neutral::allow_colours();
        }
        Self { on }
    }
    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    /// Stands out.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
    /// Something is wrong.
    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }
    /// Worth a look.
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }
    /// All is well.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
