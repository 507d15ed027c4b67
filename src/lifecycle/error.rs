//! Why a verb was not carried out, with its exit code, place and remedy.

use crate::engine::{EngineError, ErrorInfo};
use crate::guest::GuestError;
use crate::journal::JournalError;
use crate::steps::StepError;

/// Exit codes of the program; the table of the interface page.
#[expect(missing_docs, reason = "described by the interface page")]
pub mod exit {
    pub const DONE: u8 = 0;
    pub const UNDONE: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const UNPROVEN: u8 = 3;
    pub const STUCK: u8 = 4;
    pub const LOCKED: u8 = 5;
    pub const UNDECIDED: u8 = 6;
    pub const REFUSED: u8 = 7;
    pub const PARTWAY: u8 = 8;
    pub const STATE: u8 = 9;
    pub const UNTIDY: u8 = 10;
    pub const JOURNAL: u8 = 11;
    pub const SOME_FAILED: u8 = 12;
    pub const BUG: u8 = 70;
}

/// A verb that was not carried out.
#[derive(Debug, Clone)]
pub struct Failure(pub ErrorInfo);

impl Failure {
    /// A failure with its code and what failed.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self(ErrorInfo { code, message: message.into(), ..ErrorInfo::default() })
    }
    /// Adds a cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.0.causes.push(cause.into());
        self
    }
    /// Adds the place.
    #[must_use]
    pub fn place(mut self, place: impl Into<String>) -> Self {
        self.0.place = Some(place.into());
        self
    }
    /// Adds the remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }
    /// Says what was being attempted when this came up.
    #[must_use]
    pub fn during(mut self, message: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.0.message, message.into());
        if !inner.is_empty() {
            self.0.causes.insert(0, inner);
        }
        self
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let code = match &error {
            JournalError::Held(_) | JournalError::Lost(_) => exit::LOCKED,
            JournalError::Open { .. } => exit::STATE,
            _ => exit::JOURNAL,
        };
        let help = match &error {
            JournalError::Held(_) => {
                "wait for it (--wait 10m), or end that process, with all it works on, by --take-over".to_owned()
            }
            JournalError::Lost(_) => "another upgradectl goes on with this run: upgradectl status".to_owned(),
            JournalError::Open { guest, .. } => format!("upgradectl status {guest}"),
            JournalError::Newer { .. } => "use the newer upgradectl that wrote it".to_owned(),
            _ => "look at the state directory (--state DIR): permissions, space, the disk".to_owned(),
        };
        Self::new(code, "use the journal").cause(error.to_string()).help(help)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Journal(error) => error.into(),
            EngineError::Plan(error) => Self::new(exit::JOURNAL, "read a stored plan").cause(error.to_string()),
        }
    }
}

impl From<hypervisors::Error> for Failure {
    fn from(error: hypervisors::Error) -> Self {
        let mut failure = Self::new(exit::REFUSED, error.doing.clone()).cause(error.cause.to_string());
        failure.0.help.clone_from(&error.help);
        failure
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        let mut failure = Self::new(exit::REFUSED, "read the guest's files").cause(error.to_string());
        if let GuestError::Unfit { help, .. } = error {
            failure.0.help = Some(help);
        }
        failure
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Platform(error) => error.into(),
            StepError::Guest(error) => error.into(),
            other => {
                let mut failure = Self::new(exit::REFUSED, "look at the world").cause(other.to_string());
                failure.0.help = other.help().map(str::to_owned);
                failure
            }
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(exit::JOURNAL, "read a stored record").cause(error.to_string())
    }
}
