//! What goes wrong on a platform: what was being attempted, on what, why, and what helps.

use std::fmt;

/// Result of a platform operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed platform operation. Displayed, it reads after "failed to": `doing: cause`.
#[derive(Debug)]
pub struct Error {
    /// What was being attempted, with its object, in the infinitive: `start mercure`.
    pub doing: String,
    /// Why it did not work.
    pub cause: Cause,
    /// What the operator can do, if that is known.
    pub help: Option<String>,
}

/// Why a platform operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The object does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The world is not in a state in which this may be done; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// A command ended with a failure status.
    #[error("{program} exited with {status}: {stderr}")]
    Command {
        /// Program name, without path.
        program: String,
        /// Exit status (128 + signal if killed).
        status: i32,
        /// The last lines it printed on stderr (stdout if stderr was empty), bounded and made printable.
        stderr: String,
    },
    /// The link was lost or time ran out: it may or may not have happened. Look before deciding.
    #[error("{0}")]
    Unknown(String),
    /// The platform cannot do this.
    #[error("{0}")]
    Unsupported(String),
    /// A file system was to be read without writing to it, and its journal would have to be replayed first.
    #[error("{0}")]
    DirtyJournal(String),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The platform's own error text.
    #[error("{0}")]
    Platform(String),
    /// Something read from the world made no sense.
    #[error("{0}")]
    Malformed(String),
}

impl Error {
    /// An error without a hint.
    pub fn new(doing: impl Into<String>, cause: Cause) -> Self {
        Self { doing: doing.into(), cause, help: None }
    }
    /// Adds what the operator can do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// A refusal: nothing was changed.
    pub fn refused(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(doing, Cause::Refused(why.into()))
    }
    /// The object does not exist.
    pub fn not_found(doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(doing, Cause::NotFound(what.into()))
    }
    /// An input/output failure.
    pub fn io(doing: impl Into<String>, error: std::io::Error) -> Self {
        Self::new(doing, Cause::Io(error))
    }
    /// The effect is uncertain.
    pub fn unknown(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(doing, Cause::Unknown(why.into()))
    }
    /// Whether the effect is uncertain, so that the world has to be probed.
    pub fn is_unknown(&self) -> bool {
        matches!(self.cause, Cause::Unknown(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.cause)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Io(error) => Some(error),
            _ => None,
        }
    }
}
