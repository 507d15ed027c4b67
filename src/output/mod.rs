//! What people and programs read: one event stream in, terminal text or JSON lines out.
//!
//! * [`terminal`]: progress and closing words for people; [`json`]: one event a line, one object a query.
//! * [`page`]: plans and approval pages; [`error`]: failures; [`status`], [`log`], [`tidy`]: the tables of the queries.
//! * [`format`]: sizes, durations, times, wrapping: the one place for each.
//!
//! May not: decide anything, or fail. A terminal that is gone never stops a verb, so what cannot be written is dropped.
//! Text that comes from guests or commands is shown with its control characters replaced. Results go to standard
//! output, progress and errors to standard error; colour never carries meaning alone.

pub mod closing;
pub mod error;
pub mod format;
pub mod front;
pub mod json;
pub mod log;
pub mod page;
pub mod status;
pub mod terminal;
pub mod tidy;

use std::io::{IsTerminal, Write};

use clap::ColorChoice;

/// Writes to standard output; a reader that is gone is no error.
pub fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes to standard error; a terminal that is gone is no error.
pub fn err(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
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
