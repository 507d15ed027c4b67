//! The step vocabulary. A step is data (a kind and its parameters); this module says how a kind is probed,
//! applied and undone. See the contract on [`Step`].
//!
//! Nothing here knows the journal: what a step has to remember goes through [`Memory`].

mod action;
pub mod adopt;
pub mod block;
pub mod carry;
pub mod container;
pub mod detached;
pub mod domain;
pub mod fence;
pub mod files;
pub mod freeze;
pub mod fsck;
pub mod hook;
pub mod jail;
pub mod leased;
pub mod left;
pub mod machine;
pub mod net;
pub mod place;
pub mod queues;
pub mod reduce;
pub mod server;
pub mod services;
pub mod shown;
pub mod storage;
pub mod transfer;
pub mod upgrade;
pub mod verify;
pub mod visible;
pub mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use hypervisors::host::CommandObserver;
use hypervisors::{Change, Host, Hypervisor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use action::Action;
pub use shown::{Act, Manner, Manners, Toolstack};

/// How the world stands with respect to a step, by looking at the world, never at the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Nothing of it is there.
    Absent,
    /// Begun and not finished.
    Partial,
    /// There, whole.
    Present,
    /// Cannot be told now, and why.
    Unknown(String),
}

/// Identifies a step of a stored plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepRef {
    /// Plan number in the journal.
    pub plan: i64,
    /// Index in the plan, from 0.
    pub index: usize,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The kind of change.
    pub change: Change,
    /// What later steps and reports need from it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// Lines for the operator ("3 files still name 10.0.5.12").
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Done {
    /// A change with nothing to tell.
    pub fn new(change: Change) -> Self {
        Self { change, data: Value::Null, warnings: Vec::new() }
    }
    /// Adds data.
    #[must_use]
    pub fn with(mut self, data: Value) -> Self {
        self.data = data;
        self
    }
    /// Adds a warning.
    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

impl From<Change> for Done {
    fn from(change: Change) -> Self {
        Self::new(change)
    }
}

/// Why a step did not work.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The platform refused or failed.
    #[error(transparent)]
    Platform(#[from] hypervisors::Error),
    /// A guest's file could not be read or rewritten.
    #[error(transparent)]
    Guest(#[from] crate::guest::GuestError),
    /// What the plan rests on has changed since it was made; nothing was done.
    #[error("{0}")]
    Changed(String),
    /// Someone else changed an object of ours; `--ours` or `--theirs` decides.
    #[error("{what} was changed by someone else\n{diff}")]
    Foreign {
        /// The object.
        what: String,
        /// Three-way diff for people.
        diff: String,
    },
    /// It failed, with a cause and a hint.
    #[error("{why}")]
    Failed {
        /// The cause in one line.
        why: String,
        /// What the operator can do.
        help: Option<String>,
    },
    /// Uncertain: link lost, time-out.
    #[error("{0}")]
    Unknown(String),
    /// Checks failed (after going live: the run is unproven).
    #[error("{0}")]
    Unproven(String),
    /// The journal could not be read or written.
    #[error("{0}")]
    Memory(String),
}

impl StepError {
    /// A failure with a hint.
    pub fn failed(why: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Failed { why: why.into(), help: Some(help.into()) }
    }
    /// Whether the effect is uncertain, so that the engine has to probe.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Platform(error) => error.is_unknown(),
            _ => false,
        }
    }
    /// What the operator can do, if known.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Platform(error) => error.help.as_deref(),
            Self::Failed { help, .. } => help.as_deref(),
            Self::Foreign { .. } => Some("--ours takes it back all the same; make the change again afterwards"),
            Self::Guest(crate::guest::GuestError::Unfit { help, .. }) => Some(help),
            _ => None,
        }
    }
}

/// What the run remembers: bytes "as it was", what steps found and did, files of the run directory. Implemented by the
/// journal; steps see only this.
pub trait Memory: Send + Sync {
    /// Stores bytes, returns their SHA-256 in hexadecimal.
    fn keep(&self, bytes: &[u8]) -> Result<String, StepError>;
    /// Bytes stored under a SHA-256.
    fn recall(&self, sha256: &str) -> Result<Vec<u8>, StepError>;
    /// What a step found before it was first applied.
    fn found(&self, step: StepRef) -> Result<Option<Value>, StepError>;
    /// What a step's last completed application returned.
    fn done(&self, step: StepRef) -> Result<Option<Value>, StepError>;
}

/// What a step works on: platforms by inventory host name, the run's directory, its memory, and where progress goes.
#[derive(Clone)]
pub struct World {
    /// Platforms by host name of the inventory.
    pub hypervisors: BTreeMap<String, Arc<dyn Hypervisor>>,
    /// The controller's own machine.
    pub controller: Arc<dyn Host>,
    /// The run's directory (`runs/RUNID`).
    pub run_dir: PathBuf,
    /// Run id.
    pub run: String,
    /// The run's memory.
    pub memory: Arc<dyn Memory>,
    /// Progress of the step in hand: what is happening, and how far (0..=1) if known.
    pub progress: Arc<dyn Fn(String, Option<f64>) + Send + Sync>,
    /// Gets the record of every command that a step runs.
    pub observer: CommandObserver,
    /// What the step in hand returned when it was last applied (`{change, data, …}`), for its undo.
    pub last: Value,
    /// What the operator decided about an object that someone else changed.
    pub decision: Option<Side>,
    /// Renews the changes that their own machines take back by themselves.
    pub leased: Arc<leased::Keeper>,
    /// Set when the operator asked to stop after the step in hand.
    pub stop: Arc<std::sync::atomic::AtomicBool>,
}

/// Whose version of an object wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What this program wrote or found.
    Ours,
    /// What someone else made of it.
    Theirs,
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what a step stored in the journal.
pub(crate) fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, StepError> {
    T::deserialize(value).map_err(|error| StepError::Memory(format!("a stored record cannot be read: {error}")))
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("run", &self.run).finish_non_exhaustive()
    }
}

impl World {
    /// The platform of a host.
    pub fn hypervisor(&self, host: &str) -> Result<&Arc<dyn Hypervisor>, StepError> {
        known(&self.hypervisors, host)
    }
    /// Text stored under a SHA-256.
    pub fn recall_text(&self, sha256: &str) -> Result<String, StepError> {
        String::from_utf8(self.memory.recall(sha256)?).map_err(|error| StepError::Memory(error.to_string()))
    }
    /// Reports progress.
    pub fn progress(&self, what: impl Into<String>, fraction: Option<f64>) {
        (self.progress)(what.into(), fraction);
    }
}

/// The platform of a host, among these.
fn known<'a>(
    hypervisors: &'a BTreeMap<String, Arc<dyn Hypervisor>>,
    host: &str,
) -> Result<&'a Arc<dyn Hypervisor>, StepError> {
    hypervisors.get(host).ok_or_else(|| {
        StepError::failed(format!("host {host} is not in the inventory any more"), "put it back into the inventory")
    })
}

/// How a kind of step is probed, applied and undone.
///
/// * `probe` looks at the world, never at the journal.
/// * `capture` reads what undo will need; the engine stores it with the first intent and never asks again.
/// * `apply` brings the world to Present from Absent or Partial; applying twice is harmless.
/// * `undo` brings it to Absent from anything; undoing twice is harmless. It restores what `capture` found.
#[async_trait]
pub trait Step: Send + Sync {
    /// As an operator would say it: `snapshot vg1/mercure as mercure--k3f9-xvda1`.
    fn title(&self) -> String;
    /// What undo does, as an operator would say it: `remove it`; `-` if there is nothing to take back.
    fn undo_title(&self) -> String;
    /// What undo does, in full, where it stands as a step of its own: `remove mercure--k3f9-xvda1`.
    fn taken_back(&self) -> String {
        format!("{} ({})", self.undo_title(), self.title())
    }
    /// The commands it comes down to, for `plan -v` and `--json` (argv each; library calls as the equivalent command), as they
    /// are typed for the hosts concerned.
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        Vec::new()
    }
    /// The change of files it makes, as a unified diff, if it can be told beforehand.
    fn diff(&self) -> Option<String> {
        None
    }
    /// The change that is taken back by its own machine, where nobody is left to do it.
    fn leased(&self) -> Option<leased::Leased> {
        None
    }
    /// What it makes for all guests alike, by host and place: such steps take turns, and the second finds it made. Never of a
    /// step during an outage.
    fn shared(&self) -> Option<String> {
        None
    }
    /// Looks at the world.
    async fn probe(&self, world: &World) -> Result<Probe, StepError>;
    /// Reads what undo will need.
    async fn capture(&self, _world: &World) -> Result<Value, StepError> {
        Ok(Value::Null)
    }
    /// Brings it about.
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError>;
    /// Takes it back.
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError>;
}
